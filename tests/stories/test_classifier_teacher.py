"""The path to a classifier teacher: train one with ce, give it to a method on logits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import linnet
from linnet.config import DataConfig
from linnet.data.load import load_manifest
from linnet.run import Run

DATA = "aviary:species=4,genus=1,images=48"
OPTIONS = {"student.image_size": 32, "train.batch_size": 16, "train.epochs": 12, "export": False}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return linnet.distill(
        DATA, method="ce", student="test_resnet", out=tmp_path_factory.mktemp("runs") / "teacher",
        options=OPTIONS,
    )  # fmt: skip


@pytest.mark.parametrize(("method", "terms"), [("dkd", ("tckd", "nckd")), ("dist", ("inter", "intra")), ("figkd", ("figkd",))])  # fmt: skip
def test_students_learn_from_a_classifier_and_are_exported(
    method: str, terms: tuple[str, ...], teacher: Run, tmp_path: Path
):
    run = linnet.distill(
        DATA, teacher=f"run:{teacher.folder}", student="test_efficientnet", method=method, out=tmp_path / "run",
        options={**OPTIONS, "export": True},
    )  # fmt: skip
    first, last = run.metrics()[1], run.metrics()[-1]  # dkd's weights still rise in the first epochs
    assert all(last[term] < 0.8 * first[term] for term in terms)
    summary = run.summary()
    assert summary["teacher.test.top1"] == pytest.approx(teacher.summary()["test.top1"])
    assert summary["test.top1"] > 0.7  # chance is a quarter; 0.88 to 1 on ten seeds and two kinds of CPU
    assert summary["onnx.max_difference"] < 1e-3
    image = load_manifest(DataConfig(source=DATA)).paths[0]
    (torch_says,), (onnx_says,) = (list(linnet.load(model).predict([image])) for model in (run.folder, run.onnx))
    assert torch_says.classes == onnx_says.classes
    assert torch_says.probabilities == pytest.approx(onnx_says.probabilities, abs=1e-4)


def test_a_killed_figkd_run_ends_with_the_same_weights(teacher: Run, tmp_path: Path, killed_after: Callable):
    """The order of the classes is part of the checkpoint, and of no file of the student."""
    same = {"data": DATA, "teacher": f"run:{teacher.folder}", "student": "test_resnet", "method": "figkd"}
    options = {**OPTIONS, "train.epochs": 3}
    whole = linnet.distill(**same, out=tmp_path / "whole", options=options)
    with killed_after(2):
        linnet.distill(**same, out=tmp_path / "killed", options=options)
    resumed = linnet.distill(**same, out=tmp_path / "killed", options=options, resume=True)
    assert (resumed.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()
    saved = [torch.load(run.checkpoints / "last.pt", weights_only=True)["task"] for run in (whole, resumed)]
    assert torch.equal(saved[0]["method.order_C"], saved[1]["method.order_C"])
    assert not any("order" in key for key in load_file(whole.model / "model.safetensors"))


def test_the_texts_of_a_vlm_order_the_classes_too(tmp_path: Path):
    run = linnet.distill(
        "aviary:species=6,genus=3,images=16", student="test_resnet", method="figkd", out=tmp_path / "run",
        options={**OPTIONS, "train.epochs": 1, "figkd.class_order": "semantic"},
    )  # fmt: skip
    order = torch.load(run.checkpoints / "last.pt", weights_only=True)["task"]["method.order_C"].tolist()
    assert sorted(order) == list(range(6))
    pairs = [{a // 3, b // 3} for a, b in zip(order[::2], order[1::2], strict=True)]  # genera of the two
    assert sum(len(genera) == 1 for genera in pairs) == 2  # three species a genus: one of each is left for the third
    names = [json.loads((run.model / "classes.json").read_text())[i]["name"] for i in order]
    assert f"classes side by side: {', '.join(names)}" in (run.folder / "train.log").read_text()

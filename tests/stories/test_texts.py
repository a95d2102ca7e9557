"""Texts teach a small encoder on a long tail: whole vlm-kd and ltkd runs."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import linnet
from linnet.commands import distill as pipeline
from linnet.config import DataConfig
from linnet.config_files import write_yaml
from linnet.data.images import eval_pixels, read_image
from linnet.data.load import load_manifest
from linnet.defaults import settings
from linnet.errors import UserError
from linnet.run import Run
from linnet.students.student import Student

DATA = "aviary:species=6,genus=2,images=24,captions=2"
OPTIONS = {
    "student.image_size": 32,
    "train.batch_size": 16,
    "train.epochs": 4,
    "data.long_tail": 8.0,
    "train.logit_adjustment": 1.0,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return linnet.distill(
        DATA, student="test_resnet", method="vlm-kd", out=tmp_path_factory.mktemp("texts") / "run", options=OPTIONS
    )


def test_the_summary_tells_of_texts_and_of_the_groups_of_classes(run: Run):
    summary = run.summary()
    assert summary["text_encoder.id"] == "mini-clip"
    assert (summary["teacher.id"], "teacher.test.top1" in summary) == (None, False)  # nobody looked at the images
    assert summary["texts.count"] == 2 * summary["images.train"]
    assert 0 <= summary["texts.naming"] <= 1
    assert summary["texts.probe_top1"] > summary["texts.probe_chance"]
    assert sum(summary[f"classes.{group}"] for group in ("few", "medium", "many")) == 6
    assert sum(summary[f"images.train.{group}"] for group in ("few", "medium", "many")) == summary["images.train"]
    mean = sum(summary[f"test.{group}"] * summary[f"classes.{group}"] for group in ("few", "medium", "many")) / 6
    assert mean == pytest.approx(summary["test.mean_per_class"])


def test_the_loss_of_the_texts_falls(run: Run):
    terms = [row["text"] for row in run.metrics()]
    assert terms[-1] < terms[0]


def test_the_student_alone_is_saved_predicts_the_same_and_is_exported(run: Run):
    student, manifest = Student.load(run.model), load_manifest(DataConfig(source=DATA))
    assert not [name for name in student.state_dict() if "projection" in name]
    paths = [manifest.paths[row] for row in manifest.rows("test")[:4]]
    pixels = np.stack([eval_pixels(read_image(path), 32, "center") for path in paths]).transpose(0, 3, 1, 2)
    images = pixels.astype(np.float32) / 255
    with torch.no_grad():
        logits = student(torch.from_numpy(images)).logits_BC.numpy()
    session = onnxruntime.InferenceSession(str(run.onnx))
    assert np.allclose(session.run(None, {session.get_inputs()[0].name: images})[0], logits, atol=1e-4)
    named = [prediction.classes[0] for prediction in linnet.load(run.folder).predict(paths)]
    assert named == [manifest.class_names[i] for i in logits.argmax(axis=1)]


def test_a_killed_run_ends_with_the_same_weights(run: Run, tmp_path: Path, killed_after: Callable):
    arguments = {"student": "test_resnet", "method": "vlm-kd", "out": tmp_path / "run", "options": OPTIONS}
    with killed_after(2):
        linnet.distill(DATA, **arguments)
    resumed = linnet.distill(DATA, **arguments, resume=True)
    ours, theirs = (Student.load(own.model).state_dict() for own in (resumed, run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_vision_teacher_that_also_reads_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(id: str) -> None:
        raise AssertionError(f"{id} is loaded a second time")

    monkeypatch.setattr(pipeline, "load_text_encoder", refuse)
    options = {**OPTIONS, "vlm-kd.vision_weight": 1.0, "train.epochs": 1, "export": False}
    summary = linnet.distill(
        DATA, student="test_resnet", method="vlm-kd", out=tmp_path / "run", options=options
    ).summary()
    assert summary["teacher.id"] == summary["text_encoder.id"] == "mini-clip"
    assert {"teacher.test.top1", "teacher.test.few"} <= set(summary)


def test_a_classifier_can_teach_beside_the_texts_and_in_sums(run: Run, tmp_path: Path):
    options = {**OPTIONS, "train.epochs": 1, "export": False}
    for method, more in (("vlm-kd", {"vlm-kd.vision_weight": 1.0}), ("vlm-kd+kd:1", {})):
        made = linnet.distill(
            DATA,
            teacher=f"run:{run.folder}",
            student="test_resnet",
            method=method,
            out=tmp_path / method[-1],
            options=options | more,
        )
        terms = made.metrics()[0]
        assert made.summary()["text_encoder.id"] == "mini-clip"
        assert terms["loss"] == pytest.approx(terms["ce"] + terms["text"] + terms["vision" if more else "kd"], rel=1e-5)


def test_ltkd_learns_and_is_exported(tmp_path: Path):
    made = linnet.distill(
        DATA, student="test_resnet", method="ltkd", out=tmp_path / "run", options={**OPTIONS, "train.epochs": 2}
    )
    losses = [row["loss"] for row in made.metrics()]
    assert losses[-1] < losses[0]
    assert made.summary()["onnx.max_difference"] < 1e-3


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("ce", {"train.logit_adjustment": 1, "train.sampling": "class-balanced"}, "train.logit_adjustment 1 and train.sampling class-balanced would balance the classes twice"),
        ("kd", {"train.class_weights": "inverse", "train.sampling": "square-root"}, "would balance the classes twice: choose one"),
        ("kd", {"teacher.text_encoder": "mini-clip"}, "'kd' reads no texts: leave --text-encoder out"),
        ("vlm-kd", {"teacher.id": "timm:resnet18"}, "the teacher 'timm:resnet18' would have nothing to do"),
        ("vlm-kd", {"teacher.id": "mini-clip", "teacher.text_encoder": "hf:org/name"}, "would have nothing to do"),
        ("vlm-kd", {"teacher.text_encoder": "timm:resnet18"}, "'timm:resnet18' is a classifier, which reads no texts"),
        ("ce", {"data.group_bounds": [100, 20]}, "two numbers of training images, the smaller one first"),
        ("ce", {"data.group_bounds": [20]}, "two numbers of training images"),
        ("ce", {"data.long_tail": 0.5}, "data.long_tail must be at least 1"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(method: str, options: dict, message: str):
    with pytest.raises(UserError, match=message):
        settings("aviary:species=4", method=method, options=options)


@pytest.mark.parametrize("teacher", [None, "mini-clip"])
def test_the_saved_config_starts_the_same_run_and_its_ce_row(teacher: str | None, tmp_path: Path):
    file = tmp_path / "run.yaml"
    config, _ = settings(DATA, method="vlm-kd", teacher=teacher, timed=False)
    write_yaml(config, file)
    assert settings(config=file, timed=False)[0] == config
    for method in ("ce", "kd"):
        row, _ = settings(config=file, method=method, timed=False)
        assert (row.method, row.teacher.text_encoder) == (method, None)


def test_data_without_texts_are_refused_before_a_text_encoder_is_loaded(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("linnet.commands.distill.load_text_encoder", lambda id: pytest.fail("it is loaded"))
    with pytest.raises(UserError, match="vlm-kd needs texts"):
        linnet.distill(
            make_folder(),
            method="vlm-kd",
            student="test_resnet",
            out=tmp_path / "run",
            options={"student.pretrained": False, "teacher.text_encoder": "mini-clip"},
        )


def test_descriptions_of_the_classes_do_on_a_folder(make_folder: Callable[..., Path], tmp_path: Path):
    sentences = tmp_path / "sentences.json"
    sentences.write_text(json.dumps({f"{c}_bird": f"Its whole body is {c}." for c in ("red", "green", "blue")}))
    options = {
        **OPTIONS,
        "data.long_tail": None,
        "train.epochs": 8,
        "student.pretrained": False,
        "data.descriptions": sentences,
        "teacher.text_encoder": "mini-clip",
        "export": False,
    }
    summary = linnet.distill(
        make_folder(images=40), method="vlm-kd", student="test_resnet", out=tmp_path / "run", options=options
    ).summary()
    assert (summary["texts.source"], summary["texts.count"]) == ("class", 3)
    assert summary["test.top1"] > 0.6

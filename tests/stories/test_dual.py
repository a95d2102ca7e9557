"""A dual student from training to names that it never saw, in torch and in its ONNX file."""

from pathlib import Path

import numpy as np
import pytest
import torch

import linnet
from linnet import methods
from linnet.data.load import load_manifest
from linnet.errors import UserError
from linnet.run import Run
from linnet.students.student import Student
from linnet.text.bank import TextBank
from linnet.text.classes import class_table

SOURCE = "aviary:species=6,genus=2,images=24"
OPTIONS = {
    "student.image_size": 32, "train.batch_size": 16, "train.epochs": 10, "train.precision": "fp32",
    "data.novel": 0.34,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return linnet.distill(
        SOURCE, student="test_resnet", method="dual", out=tmp_path_factory.mktemp("dual") / "run", options=OPTIONS
    )


def test_it_learns_both_and_val_chooses_the_mixture(run: Run):
    summary = run.summary()
    assert summary["test.top1"] > 0.4  # chance is a quarter
    assert summary["val.top1"] >= max(summary["val.names.top1"], summary["val.classifier.top1"])
    assert 0 <= summary["student.mix"] <= 1
    assert f"{summary['student.mix']:g} is the classifier's" in (run.folder / "train.log").read_text()
    assert summary["onnx.max_difference"] < 1e-3
    assert summary["id.mean_per_class"] == pytest.approx(summary["test.mean_per_class"])


def test_saved_and_loaded_it_says_the_same_and_timm_can_read_it(run: Run):
    student = Student.load(run.model)
    assert student.dual
    assert student.mix == run.summary()["student.mix"]
    assert student.backbone.num_classes == len(student.classes) + student.bank.rows_CE.shape[1]
    manifest = load_manifest(run.settings().data)
    paths = [manifest.paths[row] for row in manifest.rows("test")[:8]]
    here, there = (linnet.load(place).predict(paths) for place in (run.model, run.onnx))
    for ours, theirs in zip(here, there, strict=True):
        assert ours.classes == theirs.classes
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)


def test_new_names_beside_old_ones_in_torch_and_onnx(run: Run):
    """A trained name keeps its classifier, wherever it stands in the list."""
    student, manifest = Student.load(run.model), load_manifest(run.settings().data)
    trained, novel = [info.name for info in student.classes], [manifest.class_names[i] for i in manifest.novel]
    bank = linnet.embed([trained[2], *novel, trained[0]], run=run.folder)
    assert bank.columns([(name, name) for name in trained]).tolist() == [2, *[-1] * len(novel), 0]
    paths = [manifest.paths[row] for row in manifest.rows("test")[:8]]
    here, there = (linnet.load(place, bank=bank).predict(paths) for place in (run.model, run.onnx))
    for ours, theirs in zip(here, there, strict=True):
        assert set(ours.classes) == {trained[2], *novel, trained[0]}
        assert dict(zip(ours.classes, ours.probabilities, strict=True)) == pytest.approx(
            dict(zip(theirs.classes, theirs.probabilities, strict=True)), abs=1e-4
        )
    student.set_bank(bank)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mixed = student(images).logits_BC.exp()
        _, embedding = student.heads(images)
        names = torch.nn.functional.normalize(embedding, dim=1) @ torch.from_numpy(bank.rows_CE).T / student.temperature
    assert torch.allclose(mixed[:, 1:-1], names.softmax(dim=1)[:, 1:-1], atol=1e-5)
    assert np.isclose(mixed.sum(dim=1), 1).all()


def test_a_sum_teaches_the_classifier_too(tmp_path: Path):
    run = linnet.distill(
        SOURCE, student="test_resnet", method="dual+kd:0.5", out=tmp_path / "r",
        options={**OPTIONS, "train.epochs": 1, "data.novel": None},
    )  # fmt: skip
    assert run.summary()["method"] == "dual+kd:0.5"
    assert run.metrics()[0]["kd"] > 0  # beside "names", the term of its own
    assert Student.load(run.model).dual
    assert run.summary()["onnx.max_difference"] < 1e-3


@pytest.mark.parametrize("method", ["kd+dual", "openvocab+dual", "dual+openvocab", "openvocab+kd"])
def test_only_dual_given_first_has_both_heads(method: str):
    with pytest.raises(UserError, match="different student heads"):
        methods.parse(method)


def test_a_trained_class_is_known_by_the_name_of_its_folder_and_by_that_in_prompts():
    names = ("grey heron", "apple", "king_fisher", "grey_heron")
    bank = TextBank(names, np.eye(4, dtype=np.float32), "t", "0" * 64, ("{}",))
    trained = [(info.name, info.prompt_name) for info in class_table(["grey_heron", "king_fisher"])]
    assert bank.columns(trained).tolist() == [0, -1, 1, 0]


def test_another_students_classifier_is_taken_over_for_the_same_classes_alone(run: Run):
    """Its embedding too; both are one layer."""
    earlier = Student.load(run.model)
    for classes, same in ((earlier.classes, True), (class_table(["a", "b", "c", "d"]), False)):
        student = Student("test_resnet", classes, 32, run.model, bank=earlier.bank, dual=True)
        assert torch.equal(student.backbone.fc.weight, earlier.backbone.fc.weight) == same


def test_settings_that_cannot_be(tmp_path: Path):
    for method, options, message in (
        ("dual", {"dual.ce_weight": 0, "dual.kd_weight": 0, "dual.mse_weight": 0}, "nothing to learn"),
        ("specmatch+kd", {"specmatch.labels": "probe"}, "cannot be part of a sum"),
        ("specmatch", {"teacher.views": "online"}, "use center or replay:4"),
        ("openvocab", {"openvocab.learn_prompts": True, "train.ema": 0.9}, "leave one of both out"),
    ):
        with pytest.raises(UserError, match=message):
            linnet.distill("aviary:species=3,images=4", method=method, out=tmp_path / "r", options=options)


def test_few_shot_finetuning_is_refused(run: Run, tmp_path: Path):
    with pytest.raises(UserError, match="has a classifier: finetune one"):
        linnet.distill(
            SOURCE, student="test_resnet", method="openvocab", out=tmp_path / "r",
            options={**OPTIONS, "shots.count": 2, "shots.use": "finetune", "student.pretrained": run.folder},
        )  # fmt: skip
    with pytest.raises(UserError, match="dual"):
        linnet.distill(
            SOURCE, student="test_resnet", method="dual", out=tmp_path / "r",
            options={**OPTIONS, "shots.count": 2, "shots.use": "finetune", "student.pretrained": "x"},
        )  # fmt: skip

import csv
import dataclasses
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import linnet
from linnet.commands.distill import _fine_tuned
from linnet.config import Config
from linnet.config_files import read_yaml
from linnet.defaults import settings
from linnet.errors import UserError
from linnet.fields import from_dict
from linnet.run import Run
from linnet.teachers import load_teacher
from linnet.teachers.base import ClassifierTeacher


def load(id: str) -> ClassifierTeacher:
    teacher = load_teacher(id)
    assert isinstance(teacher, ClassifierTeacher)
    return teacher


@pytest.fixture
def imagenet_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``timm:test_resnet`` with weights from a file in place of the hub; 1,000 ImageNet classes, as timm has them."""
    torch.manual_seed(0)
    file = tmp_path / "imagenet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    local = dataclasses.replace(timm.get_pretrained_cfg("test_resnet"), file=str(file), hf_hub_id=None, url="")
    monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, "test_resnet.r160_in1k", local)
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path / "cache"))
    return file


def test_a_classifier_of_other_classes_is_fine_tuned_first(
    imagenet_weights: Path, make_folder: Callable[..., Path], tmp_path: Path
):
    options = {"train.epochs": 2, "train.batch_size": 8, "student.image_size": 32, "export": False}
    options |= {"student.pretrained": False}
    same = {
        "teacher": "timm:test_resnet.r160_in1k",
        "student": "test_efficientnet",
        "method": "figkd",
        "options": options,
    }
    data = make_folder()
    first = linnet.distill(data, **same, out=tmp_path / "first")
    told = (first.folder / "train.log").read_text()
    assert "trained on other classes: it is fine-tuned on these first, once, for 2 epochs" in told
    (folder,) = (tmp_path / "cache" / "teachers").glob("[!.]*")
    tuned = Run(folder)
    config = from_dict(Config, read_yaml(folder / "config.yaml"))
    assert (config.method, config.student.name, config.student.pretrained) == ("ce", "test_resnet.r160_in1k", True)
    assert (config.data.source, config.train.epochs) == (str(data), 2)
    assert first.summary()["teacher.val.top1"] == pytest.approx(tuned.summary()["val.top1"])
    start, end = load_file(imagenet_weights), load_file(tuned.model / "model.safetensors")
    first_layer = next(key for key in start if key.endswith("conv1.weight") or key == "conv1.weight")
    assert 0 < (start[first_layer] - end[first_layer]).abs().max() < 0.1  # it started from the weights and moved
    second = linnet.distill(data, **same, seed=1, out=tmp_path / "second")  # another student, the same teacher
    assert "is fine-tuned on these first" not in (second.folder / "train.log").read_text()
    assert json.loads((second.folder / "inputs.json").read_text())["teacher"] == load(f"run:{folder}").fingerprint()


@pytest.mark.parametrize("form", ["timm:test_resnet:{folder}/model.safetensors", "timm:local-dir:{folder}"])
def test_a_teacher_out_of_a_folder_or_file_is_fine_tuned_alike(
    form: str, make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Weights of three other classes, at hand and not in timm's registry: nothing needs the network."""
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    names = {"label_names": ["bee", "ant", "cat"]}
    timm.models.save_for_hf(model, tmp_path / "timm", model_config=names, safe_serialization=True)
    options = {"train.epochs": 1, "train.batch_size": 8, "student.image_size": 32, "export": False, "student.pretrained": False}  # fmt: skip
    same = {"student": "test_efficientnet", "method": "kd", "options": options}
    teacher, data = form.format(folder=tmp_path / "timm"), make_folder()
    first = linnet.distill(data, **same, teacher=teacher, out=tmp_path / "first")
    told = (first.folder / "train.log").read_text()
    assert f"--student test_resnet --student.pretrained {teacher.rpartition(':')[2]} --out runs/teacher" in told
    (folder,) = (tmp_path / "cache" / "teachers").glob("[!.]*")
    assert first.summary()["teacher.val.top1"] == pytest.approx(Run(folder).summary()["val.top1"])
    start, end = model.state_dict()["conv1.0.weight"], load_file(Run(folder).model / "model.safetensors")["conv1.0.weight"]  # fmt: skip
    assert 0 < (start - end).abs().max() < 0.1  # it started from the weights and moved
    (tmp_path / "timm").rename(tmp_path / "moved")  # the same teacher: known by its weights
    linnet.distill(data, **same, teacher=form.format(folder=tmp_path / "moved"), out=tmp_path / "second")
    assert len(list((tmp_path / "cache" / "teachers").glob("[!.]*"))) == 1


def test_of_two_runs_that_need_the_same_teacher_one_tunes_it_and_the_other_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path))
    config, _ = settings(
        "aviary:species=3,images=8", method="kd", options={"student.name": "test_resnet", "train.precision": "fp32"}
    )
    teacher: Any = SimpleNamespace(start=("test_resnet", False), fingerprint=lambda: "weights")
    manifest: Any = SimpleNamespace(content_hash="images")
    told, other = [], threading.Thread(target=lambda: _fine_tuned(config, manifest, teacher))

    def tune(*_: object) -> None:
        told.append("begins")
        if len(told) == 1:
            other.start()
            other.join(1)  # it would be done by now if it did not wait
        told.append("ends")

    monkeypatch.setattr("linnet.commands.distill._fine_tune", tune)
    _fine_tuned(config, manifest, teacher)
    other.join()
    assert told == ["begins", "ends", "begins", "ends"]


def test_a_method_that_needs_texts_refuses_before_fine_tuning(
    imagenet_weights: Path, make_folder: Callable[..., Path], tmp_path: Path
):
    with pytest.raises(UserError, match="'pand' needs a vision-language model as teacher"):
        linnet.distill(make_folder(), teacher="timm:test_resnet.r160_in1k", student="test_vit", method="pand", out=tmp_path / "r",
                       options={"student.pretrained": False, "student.image_size": 32})  # fmt: skip
    assert not (tmp_path / "cache" / "teachers").exists()


def test_what_is_wrong_with_the_data_is_said_counted_and_listed(make_folder: Callable[..., Path], tmp_path: Path):
    data, out = make_folder(images=8, splits=("train", "test")), tmp_path / "run"
    (data / "train/red_bird/notes.txt").write_text("x")
    (data / "train/red_bird/@eaDir").mkdir()
    shutil.copy(data / "train/red_bird/000.jpg", data / "train/red_bird/@eaDir/thumbnail.jpg")
    (data / "train/red_bird/001.jpg").write_bytes(b"no image")
    short = data / "train/blue_bird/001.jpg"
    short.write_bytes(short.read_bytes()[:-2])
    two_classes = shutil.copy(data / "train/red_bird/002.jpg", data / "train/blue_bird/x.jpg")
    leak = shutil.copy(data / "train/green_bird/003.jpg", data / "test/green_bird/x.jpg")
    options = {"train.epochs": 1, "student.pretrained": False, "student.image_size": 32, "export": False}
    options |= {"data.on_error": "skip"}
    run = linnet.distill(data, method="ce", student="test_resnet", out=out, options=options)
    with run.problems.open(newline="") as file:
        listed = {(row["kind"], Path(row["path"]).relative_to(data).as_posix()) for row in csv.DictReader(file)}
    assert listed == {
        ("unused", "train/red_bird/notes.txt"),
        ("unused", "train/red_bird/@eaDir/thumbnail.jpg"),
        ("unreadable", "train/red_bird/001.jpg"),
        ("incomplete", "train/blue_bird/001.jpg"),
        ("two classes", "train/red_bird/002.jpg"),
        ("two classes", "train/blue_bird/x.jpg"),
        ("leak", "test/green_bird/x.jpg"),
    }
    summary, told = run.summary(), (out / "train.log").read_text()
    counted = {key: summary[f"images.{key}"] for key in ("unused", "unreadable", "incomplete", "two_classes", "leak")}
    assert counted == {"unused": 2, "unreadable": 1, "incomplete": 1, "two_classes": 2, "leak": 1}
    assert "2 files were not used: 1 not images (.txt), 1 made by Synology (@eaDir)" in told.replace(
        "1 made by Synology (@eaDir), 1 not images (.txt)", "1 not images (.txt), 1 made by Synology (@eaDir)"
    )
    assert str(leak) in told and str(two_classes) in told and str(short) in told


def test_classes_that_no_image_judges_are_named(make_folder: Callable[..., Path], tmp_path: Path):
    """Their absence raises the mean of the classes, and nothing else in a run's story would tell."""
    data, out = make_folder(images=5, splits=("train", "val", "test")), tmp_path / "run"
    first = sorted(path.name for path in (data / "train").iterdir())[0]
    shutil.rmtree(data / "test" / first)
    options = {"train.epochs": 1, "student.pretrained": False, "student.image_size": 32, "export": False}
    summary = linnet.distill(data, method="ce", student="test_resnet", out=out, options=options).summary()
    total = len(list((data / "train").iterdir()))
    assert f"test has no image of 1 of {total} classes: {first}\n" in (out / "train.log").read_text()
    assert summary["classes.without_images.test"] == [first] and "classes.without_images.val" not in summary

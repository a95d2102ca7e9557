import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import linnet
from linnet.config import Config, from_dict, read_yaml
from linnet.data.images import eval_pixels
from linnet.data.manifest import ClassInfo
from linnet.errors import UserError
from linnet.run import Run
from linnet.students import Student
from linnet.teachers import class_head, load_teacher
from linnet.teachers.base import ClassifierTeacher

CLASSES = tuple(ClassInfo(name, name) for name in ("ant", "bee", "cat"))


@pytest.fixture
def timm_folder(tmp_path: Path) -> Path:
    """A timm classifier in timm's own Hugging Face layout, with label names."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(
        model, tmp_path / "timm", model_config={"label_names": ["bee", "ant", "cat"]}, safe_serialization=True
    )
    return tmp_path / "timm"


def load(id: str) -> ClassifierTeacher:
    teacher = load_teacher(id)
    assert isinstance(teacher, ClassifierTeacher)
    return teacher


def classes(*names: str) -> list[ClassInfo]:
    return [ClassInfo(name, name) for name in names]


def test_logits_are_those_of_timm_itself(timm_folder: Path):
    teacher = load(f"timm:local-dir:{timm_folder}")
    model = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model), is_training=False)
    image = Image.effect_noise((200, 170), 80).convert("RGB")
    with torch.no_grad():
        expected = model(transform(image)[None])
    pixels = teacher.eval_transform(image)
    assert 0 <= pixels.min() <= pixels.max() <= 1
    assert torch.allclose(teacher.logits(pixels[None]), expected, atol=1e-4)


def test_logits_are_put_in_the_order_of_the_data(timm_folder: Path):
    teacher = load(f"timm:local-dir:{timm_folder}")
    head = class_head(teacher, classes("ant", "bee", "cat"), ())
    rows = torch.tensor([[1.0, 2.0, 3.0]])  # bee, ant, cat
    assert head(rows).logits_BC.tolist() == [[2.0, 1.0, 3.0]]


def test_another_class_table_is_refused(timm_folder: Path):
    teacher = load(f"timm:local-dir:{timm_folder}")
    with pytest.raises(UserError, match=r"knows 3 classes .* train a teacher on this data first"):
        class_head(teacher, classes("ant", "bee", "dog"), ())


def test_classes_without_names_are_refused(timm_folder: Path):
    config = json.loads((timm_folder / "config.json").read_text())
    del config["label_names"]
    (timm_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="knows classes without names"):
        class_head(load(f"timm:local-dir:{timm_folder}"), classes("ant", "bee", "cat"), ())


def test_the_student_of_a_run_is_a_teacher(tmp_path: Path):
    torch.manual_seed(0)
    student = Student("test_resnet", CLASSES, image_size=32).eval()
    student.save(tmp_path / "run" / "model")
    teacher = load(f"run:{tmp_path / 'run'}")
    images = torch.rand(4, 3, 32, 32)
    assert teacher.class_names == ("ant", "bee", "cat")
    assert torch.allclose(teacher.logits(images), student(images).logits_BC, atol=1e-5)
    assert teacher.eval_transform(Image.new("RGB", (50, 40))).shape == (3, 32, 32)


def test_the_student_of_a_run_teaches_with_its_own_crop_mode(tmp_path: Path):
    image, teachers = Image.effect_noise((50, 40), 80).convert("RGB"), {}
    for mode in ("center", "squash"):
        torch.manual_seed(0)
        Student("test_resnet", CLASSES, image_size=32, crop_mode=mode).save(tmp_path / mode / "model")
        teachers[mode] = load(f"run:{tmp_path / mode}")
        pixels = teachers[mode].eval_transform(image).permute(1, 2, 0).numpy()
        assert np.allclose(pixels, eval_pixels(image, 32, mode) / 255)
    assert teachers["center"].preprocessing == "linnet eval 32"  # the caches of earlier versions are found
    assert teachers["squash"].preprocessing == "linnet eval 32 squash"


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
    (folder,) = (tmp_path / "cache" / "teachers").iterdir()
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


def test_a_method_that_needs_texts_refuses_before_fine_tuning(
    imagenet_weights: Path, make_folder: Callable[..., Path], tmp_path: Path
):
    with pytest.raises(UserError, match="needs a vlm teacher"):
        linnet.distill(make_folder(), teacher="timm:test_resnet.r160_in1k", student="test_vit", method="pand", out=tmp_path / "r",
                       options={"student.pretrained": False, "student.image_size": 32})  # fmt: skip
    assert not (tmp_path / "cache" / "teachers").exists()


def test_class_weights_are_those_behind_the_logits(timm_folder: Path):
    teacher = load(f"timm:local-dir:{timm_folder}")
    weights = teacher.network.fc.weight
    head = class_head(teacher, classes("ant", "bee", "cat"), ())
    assert head.class_vectors is not None
    assert torch.equal(head.class_vectors, weights[[1, 0, 2]])  # the folder's order is bee, ant, cat


@pytest.mark.parametrize("name", ["test_resnet", "efficientvit_m0", "dla46_c", "test_vit", "mobilenetv3_small_050"])
def test_what_is_watched_is_what_the_teacher_says(name: str, tmp_path: Path):
    """Heads differ: a norm before the last layer, a convolution as the last layer."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True)
    teacher = load(f"timm:local-dir:{tmp_path / 'timm'}")
    images = torch.rand(2, 3, *teacher.image_shape, requires_grad=True)
    for with_maps in (False, True):
        seen = teacher.watch(images, with_maps)
        assert torch.allclose(seen.logits_BC, teacher.logits(images), atol=1e-4)
        assert seen.features_BD.ndim == 2
        assert bool(seen.maps) == with_maps
    (gradient,) = torch.autograd.grad(seen.logits_BC.sum(), images)
    assert gradient.abs().sum() > 0
    assert [info.name for info in teacher.classes] == ["0", "1", "2"]


def test_the_student_of_a_run_is_watched_too(tmp_path: Path):
    torch.manual_seed(0)
    Student("test_resnet", CLASSES, 32).save(tmp_path / "run" / "model")
    teacher, images = load(f"run:{tmp_path / 'run'}"), torch.rand(2, 3, 32, 32)
    seen = teacher.watch(images, with_maps=True)
    assert torch.equal(seen.logits_BC, teacher.logits(images))
    assert torch.equal(seen.features_BD, teacher.network(images).features_BD)
    assert [tuple(stage.shape[1:]) for stage in seen.maps] == list(teacher.network.map_shapes())
    assert teacher.classes == CLASSES


def test_class_names_that_occur_twice_are_told_apart(tmp_path: Path):
    """ImageNet has two cranes."""
    model = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(
        model, tmp_path / "timm", model_config={"label_names": ["crane", "ant", "crane"]}, safe_serialization=True
    )
    names = [info.name for info in load(f"timm:local-dir:{tmp_path / 'timm'}").classes]
    assert names == ["crane 0", "ant", "crane 2"]

import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from linnet.errors import UserError
from linnet.teachers import load_teacher
from linnet.teachers.answers import class_head
from linnet.teachers.base import ClassifierTeacher
from linnet.text.classes import ClassInfo


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


def test_class_names_that_occur_twice_are_told_apart(tmp_path: Path):
    """ImageNet has two cranes."""
    model = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(
        model, tmp_path / "timm", model_config={"label_names": ["crane", "ant", "crane"]}, safe_serialization=True
    )
    names = [info.name for info in load(f"timm:local-dir:{tmp_path / 'timm'}").classes]
    assert names == ["crane 0", "ant", "crane 2"]

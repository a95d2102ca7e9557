from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from linnet.errors import UserError
from linnet.students.network import find_last_part, last_weights
from linnet.students.student import Student
from linnet.text.classes import ClassInfo

CLASSES = tuple(ClassInfo(f"class {i}", f"thing {i}") for i in range(5))


def test_lowres_keeps_the_resolution():
    images = torch.rand(1, 3, 32, 32)
    plain = Student("resnet18", CLASSES, image_size=32).eval()
    lowres = Student("resnet18", CLASSES, image_size=32, stem="lowres").eval()
    assert plain.backbone.forward_features(images).shape[-1] == 1
    assert lowres.backbone.forward_features(images).shape[-1] == 4


def test_pretrained_weights_from_a_saved_model_go_in_without_a_foreign_classifier(tmp_path: Path):
    torch.manual_seed(0)
    Student("test_resnet", CLASSES, image_size=32).save(tmp_path)
    same = Student("test_resnet", CLASSES, image_size=32, pretrained=tmp_path)
    other = Student("test_resnet", CLASSES[:3], image_size=32, pretrained=tmp_path / "model.safetensors")
    saved = Student.load(tmp_path).backbone.state_dict()
    assert torch.equal(same.backbone.get_classifier().weight, saved["fc.weight"])
    assert other.backbone.get_classifier().weight.shape[0] == 3
    assert torch.equal(other.backbone.state_dict()["conv1.0.weight"], saved["conv1.0.weight"])


def test_unknown_or_unusable_students(tmp_path: Path):
    with pytest.raises(UserError, match="timm has no network 'resnet188'. Did you mean 'resnet18'"):
        Student("resnet188", CLASSES, image_size=32)
    with pytest.raises(UserError, match="no weights 'r1' of 'test_resnet': give test_resnet or test_resnet.r160_in1k"):
        Student("test_resnet.r1", CLASSES, image_size=32)
    with pytest.raises(UserError, match="no weights 'a1' of 'vgg8_cifar': give vgg8_cifar$"):
        Student("vgg8_cifar.a1", CLASSES, image_size=32)
    with pytest.raises(UserError, match="no weights at"):
        Student("test_resnet", CLASSES, image_size=32, pretrained=tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="does not start with a convolution of stride 2"):
        Student("test_vit", CLASSES, image_size=32, stem="lowres")
    Student("test_resnet", CLASSES, image_size=32).save(tmp_path)
    for other in ("resnet10t", "test_vit"):
        with pytest.raises(UserError, match="of another architecture"):
            Student(other, CLASSES, image_size=32, pretrained=tmp_path)
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage")
    (tmp_path / "garbage.pth").write_bytes(b"garbage")
    for name in ("garbage.safetensors", "garbage.pth"):
        with pytest.raises(UserError, match="cannot read the weights"):
            Student("test_resnet", CLASSES, image_size=32, pretrained=tmp_path / name)


def test_a_network_that_takes_one_size_says_which():
    with pytest.raises(UserError, match=r"cannot work at 32 pixels .* give --student.image-size 240 or choose another"):
        Student("crossvit_tiny_240", CLASSES, image_size=32)


def test_weights_that_cannot_be_downloaded_are_one_clear_error():
    with pytest.raises(
        UserError,
        match=r"weights of the student 'mobilenetv3_small_100' cannot be downloaded or loaded.*--student.pretrained false",
    ):
        Student("mobilenetv3_small_100", CLASSES, image_size=32, pretrained=True)


@pytest.mark.parametrize("name", ["test_resnet", "resnet10t", "mobilenetv3_small_100", "convnext_atto", "test_vit"])
def test_telling_the_maps_changes_nothing(name: str):
    torch.manual_seed(0)
    student = Student(name, CLASSES, 64).eval()
    images = torch.rand(2, 3, 64, 64)
    plain, told = student(images), student(images, with_maps=True)
    assert torch.allclose(plain.logits_BC, told.logits_BC, atol=1e-5)
    assert torch.allclose(plain.features_BD, told.features_BD, atol=1e-5)
    assert plain.maps == ()
    assert student.map_shapes() == tuple(tuple(stage.shape[1:]) for stage in told.maps)
    assert all(stage.dtype == torch.float32 for stage in told.float().maps)


def encoder(network: Any) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("does not support classification")

    network.forward_head = refuse


def nameless(network: Any) -> None:
    network.pretrained_cfg["classifier"] = None


def deaf(network: Any) -> None:
    """num_classes changed nothing."""
    network.reset_classifier(1000)


def double(network: Any) -> None:
    real = network.forward
    network.forward = lambda images: (real(images), real(images))


def other(network: Any) -> None:
    real = network.forward
    network.forward = lambda images: 2 * real(images)


def picky(network: Any) -> None:
    def forward(images: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor: ...

    network.forward = forward


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (encoder, "'test_resnet' is no image classifier \\(does not support classification\\)"),
        (nameless, "'test_resnet' has no classifier"),
        (deaf, "'test_resnet' does not give 5 numbers per image"),
        (double, "'test_resnet' does not give 5 numbers per image"),
        (other, "'test_resnet' does not give 5 numbers per image"),
        (picky, "'test_resnet' cannot work at 32 pixels .*sizes"),
    ],
)
def test_networks_that_are_no_students(change: Callable[[Any], None], words: str, monkeypatch: pytest.MonkeyPatch):
    def create(name: str, num_classes: int, **_: Any) -> Any:
        network = real(name, num_classes=num_classes)
        change(network)
        return network

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(UserError, match=words):
        Student("test_resnet", CLASSES, image_size=32)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("test_resnet", "fc"),
        ("mobilenetv3_small_050", "classifier"),
        ("efficientvit_m0", "head"),  # around the norm
        ("cpubone_nano", "head.classifier"),
        ("repvit_m0_9", "head"),  # around both heads
        ("dla46_c", ""),
        ("levit_128s", ""),
        ("resnet8", "fc"),
    ],
)
def test_the_part_that_makes_logits_of_features(name: str, part: str):
    assert Student(name, CLASSES, image_size=32).last_part == part


def test_a_last_layer_that_starts_at_zero_is_still_told_apart_from_the_norm_before_it():
    network = timm.create_model("efficientvit_m0", num_classes=5, img_size=32).eval()
    torch.nn.init.zeros_(network.head.linear.weight)
    assert find_last_part(network, torch.rand(1, 3, 32, 32)) == "head"


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("test_resnet", ["fc"]),
        ("dla46_c", ["fc"]),
        ("efficientvit_m0", ["head.linear"]),
        ("deit_tiny_distilled_patch16_224", ["head", "head_dist"]),
        ("repvit_m0_9", ["head.head.l", "head.head_dist.l"]),
        ("efficientvim_m1", ["heads.0", "heads.1", "heads.2", "heads.3"]),
    ],
)
def test_classes_are_told_apart_by_all_last_layers(name: str, layers: list[str], tmp_path: Path):
    student = Student(name, CLASSES, image_size=32)
    rows = [student.backbone.get_submodule(layer).weight.flatten(1) for layer in layers]
    weights = last_weights(student.backbone)
    assert weights is not None
    assert torch.equal(weights, torch.cat(rows, dim=1))
    student.save(tmp_path)  # all of them start anew for other classes, and nothing else does
    fewer = Student(name, CLASSES[:3], image_size=32, pretrained=tmp_path).backbone.state_dict()
    assert {
        key.rpartition(".")[0]
        for key, value in student.backbone.state_dict().items()
        if value.shape != fewer[key].shape
    } == set(layers)
    same = [
        torch.equal(value, fewer[key])
        for key, value in student.backbone.state_dict().items()
        if value.shape == fewer[key].shape
    ]
    assert all(same)

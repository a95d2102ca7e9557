from pathlib import Path

import pytest
import torch

from linnet.errors import UserError
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

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from linnet.data.images import CropMode, eval_pixels
from linnet.errors import UserError
from linnet.students.student import Student
from linnet.text.bank import TextBank
from linnet.text.classes import ClassInfo

CLASSES = tuple(ClassInfo(f"class {i}", f"thing {i}") for i in range(5))


@pytest.mark.parametrize(
    "name", ["resnet10t", "mobilenetv3_small_050", "test_efficientnet", "test_convnext", "test_vit", "lcnet_050"]
)
def test_logits_are_those_of_timm(name: str):
    """features -> classifier must be the whole of timm's head, for each of its head designs."""
    torch.manual_seed(0)
    student = Student(name, CLASSES, image_size=64).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        out = student(images)
        expected = student.backbone(student.normalize(images))
    assert torch.allclose(out.logits_BC, expected, atol=1e-5)
    assert out.features_BD.shape == (2, student.width)


def test_images_in_zero_to_one_are_normalised_inside():
    student = Student("test_resnet", CLASSES, image_size=32).eval()
    settings = timm.data.resolve_data_config(model=student.backbone)
    mean = torch.tensor(settings["mean"]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert torch.allclose(student.normalize(mean), torch.zeros(1, 3, 32, 32), atol=1e-6)


MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


def test_a_chosen_mean_and_deviation_are_kept_and_told_to_timm(tmp_path: Path):
    torch.manual_seed(0)
    student = Student("test_resnet", CLASSES, 32, mean=MEAN, std=STD).eval()
    images = torch.rand(2, 3, 32, 32)
    by_hand = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(student.normalize(images), by_hand)
    student.save(tmp_path / "model")
    loaded = Student.load(tmp_path / "model")
    assert torch.equal(loaded(images).logits_BC, student(images).logits_BC)
    model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    settings = timm.data.resolve_data_config(model=model)
    assert (tuple(settings["mean"]), tuple(settings["std"])) == (MEAN, STD)
    assert torch.allclose(model(by_hand), student(images).logits_BC, atol=1e-5)
    # whoever starts from it takes its own, unless others are chosen
    again = Student("test_resnet", CLASSES, 32, tmp_path / "model")
    assert torch.equal(again.normalize.std.flatten(), torch.tensor(STD))
    other = Student("test_resnet", CLASSES, 32, tmp_path / "model", mean=(0.5, 0.5, 0.5))
    assert other.backbone.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    assert other.backbone.pretrained_cfg["std"] == STD
    assert timm.create_model("test_resnet").pretrained_cfg["mean"] != MEAN  # timm's own entry is as it was


@pytest.mark.parametrize("stem", ["auto", "lowres"])
def test_saved_and_loaded_students_agree_to_the_last_bit(tmp_path: Path, stem):
    torch.manual_seed(0)
    student = Student("resnet10t", CLASSES, image_size=32, stem=stem).eval()
    student.save(tmp_path)
    loaded = Student.load(tmp_path)
    images = torch.rand(3, 3, 32, 32)
    assert torch.equal(student(images).logits_BC, loaded(images).logits_BC)
    assert (loaded.classes, loaded.image_size, loaded.stem, loaded.name) == (CLASSES, 32, stem, "resnet10t")
    assert not loaded.training


def bank(seed: int = 0, classes: int = 5, teacher_hash: str = "hash") -> TextBank:
    rows = np.random.default_rng(seed).normal(size=(classes, 7)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return TextBank(tuple(f"name {i}" for i in range(classes)), rows, "teacher", teacher_hash, ("a {}.",))


def test_an_embedding_head_compares_with_the_bank_and_keeps_it(tmp_path: Path):
    torch.manual_seed(0)
    student = Student("test_resnet", CLASSES, image_size=32, bank=bank(), temperature=0.2).eval()
    images = torch.rand(3, 3, 32, 32)
    out = student(images)
    assert out.embedding_BE is not None
    expected = student.backbone(student.normalize(images))
    assert torch.allclose(out.embedding_BE, expected, atol=1e-5)
    cosine = [[np.dot(e, t) / np.linalg.norm(e) / 0.2 for t in bank().rows_CE] for e in expected.detach().numpy()]
    assert np.allclose(out.logits_BC.detach().numpy(), cosine, atol=1e-5)
    student.save(tmp_path)
    loaded = Student.load(tmp_path)
    assert torch.equal(loaded(images).logits_BC, out.logits_BC)
    assert loaded.bank is not None
    assert (loaded.bank.names, loaded.bank.teacher_hash, loaded.temperature) == (bank().names, "hash", 0.2)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.allclose(model(student.normalize(images)), expected, atol=1e-5)
    other = bank(seed=1, classes=9)
    loaded.set_bank(other)
    assert loaded(images).logits_BC.shape == (3, 9)
    assert loaded.classes == CLASSES
    with pytest.raises(UserError, match=r"made with the teacher 'teacher' \(other\), this student .* from another one"):
        loaded.set_bank(bank(teacher_hash="other"))
    with pytest.raises(UserError, match="cannot name others"):
        Student("test_resnet", CLASSES, image_size=32).set_bank(bank())


def test_an_embedding_head_goes_on_from_an_earlier_one(tmp_path: Path):
    first = Student("test_resnet", CLASSES, image_size=32, bank=bank())
    first.save(tmp_path)
    again = Student("test_resnet", CLASSES[:2], image_size=32, pretrained=tmp_path, bank=bank(classes=2))
    for name, tensor in first.backbone.state_dict().items():
        assert torch.equal(tensor, again.backbone.state_dict()[name]), name


SIZES = [(61, 44), (44, 61), (33, 32), (32, 37), (50, 33), (333, 250), (250, 333), (499, 37), (9, 31), (32, 32)]


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize(
    ("name", "crop_pct"),
    [
        ("test_resnet", 1.0),
        ("resnet10t", 1.0),
        ("mobilenetv3_small_050", 1.0),
        ("test_resnet", 0.9),
        ("resnet10t", 0.875),
    ],
)
def test_timm_shows_a_saved_student_the_same_pixels(name: str, crop_mode: CropMode, crop_pct: float, tmp_path: Path):
    """One rounded side more or less, and every second photo would have other pixels, and some another class."""
    Student(name, CLASSES, image_size=32, crop_mode=crop_mode, crop_pct=crop_pct).save(tmp_path)
    loaded = Student.load(tmp_path)
    assert (loaded.crop_mode, loaded.crop_pct) == (crop_mode, crop_pct)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    for at_test in (False, True):  # timm's own validation asks for the size and crop of tests
        settings = timm.data.resolve_model_data_config(model, use_test_size=at_test)
        theirs = timm.data.create_transform(**{**settings, "mean": (0, 0, 0), "std": (1, 1, 1)}, is_training=False)
        for size in SIZES:
            image = Image.effect_noise(size, 80).convert("RGB")
            ours = eval_pixels(image, 32, crop_mode, crop_pct).transpose(2, 0, 1)
            assert np.array_equal(ours, (theirs(image) * 255).round().numpy()), size


def test_a_student_of_before_there_was_a_share_sees_all_of_the_resized_image(tmp_path: Path):
    Student("test_resnet", CLASSES, image_size=32).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["linnet"]["crop_pct"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Student.load(tmp_path).crop_pct == 1.0


def test_a_student_of_before_jpegs_were_decoded_smaller_sees_them_whole(tmp_path: Path):
    Student("test_resnet", CLASSES, image_size=32, jpeg="scaled").save(tmp_path)
    assert Student.load(tmp_path).jpeg == "scaled"
    config = json.loads((tmp_path / "config.json").read_text())
    del config["linnet"]["jpeg"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Student.load(tmp_path).jpeg == "full"


def test_the_normalisation_of_the_weights_tag_survives(tmp_path: Path):
    """One architecture, weights of another mean: the bare architecture name would normalise wrongly, silently."""
    student = Student("mobilenetv3_large_100.miil_in21k_ft_in1k", CLASSES, image_size=32).eval()
    assert student.normalize.mean.abs().sum() == 0
    student.save(tmp_path)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(Student.load(tmp_path)(images).logits_BC, student(images).logits_BC)


def test_timm_loads_a_saved_student(tmp_path: Path):
    torch.manual_seed(0)
    student = Student("test_resnet", CLASSES, image_size=32).eval()
    student.save(tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(student.normalize(images)), student(images).logits_BC)
    assert model.pretrained_cfg["label_names"] == [info.name for info in CLASSES]
    assert timm.data.resolve_data_config(model=model)["input_size"] == (3, 32, 32)


def test_a_folder_that_is_no_student(tmp_path: Path):
    with pytest.raises(UserError, match="no saved student"):
        Student.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t"}))
    with pytest.raises(UserError, match="no student that linnet can read"):
        Student.load(tmp_path)
    Student("test_resnet", CLASSES, image_size=32).save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="no student that linnet can read"):
        Student.load(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="no saved student"):
        Student.load(tmp_path)

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from linnet.data.images import eval_pixels
from linnet.students.student import Student
from linnet.teachers import load_teacher
from linnet.teachers.base import ClassifierTeacher
from linnet.teachers.cache import TeacherCache
from linnet.text.classes import ClassInfo

CLASSES = tuple(ClassInfo(name, name) for name in ("ant", "bee", "cat"))


def load(id: str) -> ClassifierTeacher:
    teacher = load_teacher(id)
    assert isinstance(teacher, ClassifierTeacher)
    return teacher


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
    assert teachers["center"].preprocessing != teachers["squash"].preprocessing


def test_the_student_of_a_run_teaches_with_its_own_share_of_the_image(tmp_path: Path):
    image = Image.effect_noise((50, 40), 80).convert("RGB")
    Student("test_resnet", CLASSES, image_size=32).save(tmp_path / "whole" / "model")
    Student("test_resnet", CLASSES, image_size=32, crop_pct=0.8).save(tmp_path / "part" / "model")
    whole, part = (load(f"run:{tmp_path / name}") for name in ("whole", "part"))
    pixels = part.eval_transform(image).permute(1, 2, 0).numpy()
    assert np.allclose(pixels, eval_pixels(image, 32, "center", 0.8) / 255)
    assert whole.preprocessing != part.preprocessing


@pytest.mark.parametrize("part", ["mean", "std"])
def test_the_same_weights_behind_another_normalisation_are_another_teacher(tmp_path: Path, part: str):
    """Neither is among the tensors of a network, by which teachers are told apart."""
    spaces = []
    for value in (0.3, 0.4):
        torch.manual_seed(0)
        student = Student("test_resnet", CLASSES, image_size=32, **{part: (value,) * 3})
        student.save(tmp_path / f"{value}" / "model")
        spaces.append(TeacherCache(load(f"run:{tmp_path / str(value)}"), root=tmp_path / "cache").folder)
    assert spaces[0] != spaces[1]


def test_answers_about_other_pixels_are_not_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Student("test_resnet", CLASSES, image_size=32).save(tmp_path / "run" / "model")
    before = load(f"run:{tmp_path / 'run'}").preprocessing
    monkeypatch.setattr("linnet.teachers.run.STORE_VERSION", -1)
    assert load(f"run:{tmp_path / 'run'}").preprocessing != before


def test_the_student_of_a_run_is_watched_too(tmp_path: Path):
    torch.manual_seed(0)
    Student("test_resnet", CLASSES, 32).save(tmp_path / "run" / "model")
    teacher, images = load(f"run:{tmp_path / 'run'}"), torch.rand(2, 3, 32, 32)
    seen = teacher.watch(images, with_maps=True)
    assert torch.equal(seen.logits_BC, teacher.logits(images))
    assert torch.equal(seen.features_BD, teacher.network(images).features_BD)
    assert [tuple(stage.shape[1:]) for stage in seen.maps] == list(teacher.network.map_shapes())
    assert teacher.classes == CLASSES

"""In which precision a teacher looks. There is no GPU here: bf16 is computed by the CPU where it is asked for."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_image

from linnet.data.digests import digest_files
from linnet.data.manifest import Manifest
from linnet.students.student import Student
from linnet.teachers import load_teacher
from linnet.teachers import precision as module
from linnet.teachers.base import Teacher
from linnet.teachers.cache import TeacherCache, center_pixels, live_rows
from linnet.teachers.precision import bf16_cosine, settled_precision
from linnet.text.classes import class_table

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def teacher() -> Teacher:
    return load_teacher("mini-clip")


@pytest.fixture
def images(tmp_path: Path) -> Manifest:
    paths = tuple(write_image(tmp_path / f"{i}.png", (40 * i, 250 - 40 * i, 20), seed=i) for i in range(5))
    return Manifest(paths, np.zeros(5, np.int64), np.array(["val"] * 5), digest_files(paths), class_table(["a"]))


def test_rows_in_bf16_are_near_those_in_fp32_and_come_back_in_fp32(teacher: Teacher, images: Manifest):
    pixels = center_pixels(teacher, images.paths)(range(5))
    exact, cosine = live_rows(teacher, pixels), bf16_cosine(teacher, pixels)
    assert torch.equal(live_rows(teacher, pixels), exact)  # it is put back
    teacher.precision = "bf16"
    rows = live_rows(teacher, pixels)
    assert rows.dtype == torch.float32
    assert not torch.equal(rows, exact)
    assert cosine == pytest.approx(torch.nn.functional.cosine_similarity(rows, exact).min().item(), abs=1e-6)
    assert 0.99 < cosine < 1


def test_a_constant_in_all_logits_hides_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Their cosine would be near 1 whatever the precision does to the rest."""
    torch.manual_seed(0)
    Student("test_resnet", class_table("abcd"), image_size=32).eval().save(tmp_path / "run" / "model")
    teacher = load_teacher(f"run:{tmp_path / 'run'}")
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    answers = iter(100 + noise)
    monkeypatch.setattr(module, "live_rows", lambda *_: next(answers))
    assert bf16_cosine(teacher, torch.zeros(3, 3, 32, 32)) < 0.9


@pytest.mark.parametrize(("cosine", "expected"), [(0.9995, "bf16"), (0.9985, "fp32")])
def test_a_gpu_takes_bf16_if_no_answer_differs_much(
    teacher: Teacher,
    images: Manifest,
    cosine: float,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(module, "computes_bf16", lambda: True)
    monkeypatch.setattr(module, "bf16_cosine", lambda teacher, images: cosine)
    with caplog.at_level(logging.INFO, "linnet"):
        assert settled_precision(teacher, images, "center", GPU) == expected
    assert f"teacher mini-clip: {expected} (in bf16 its answers have a cosine of at least {cosine:.5f}" in caplog.text
    assert "on 5 images" in caplog.text


def test_a_cpu_and_a_gpu_without_bf16_look_in_fp32(teacher: Teacher, images: Manifest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "bf16_cosine", lambda *_: pytest.fail("nothing is to be compared"))
    monkeypatch.setattr(module, "computes_bf16", lambda: False)
    assert settled_precision(teacher, images, "center", GPU) == "fp32"
    monkeypatch.setattr(module, "computes_bf16", lambda: True)
    assert settled_precision(teacher, images, "center", CPU) == "fp32"


def test_rows_of_another_precision_are_another_space(teacher: Teacher, images: Manifest, tmp_path: Path):
    """Mixed, a run could not say how its targets were made."""
    caches = {}
    for precision in ("fp32", "bf16", "fp32"):
        teacher.precision = precision
        cache = caches[precision] = TeacherCache(teacher, root=tmp_path / "c")
        cache.fill(images.digests, center_pixels(teacher, images.paths))
    assert caches["fp32"].computed == 0
    assert caches["bf16"].computed == 5
    rows = [caches[precision].rows(images.digests) for precision in ("fp32", "bf16")]
    assert not torch.equal(*rows)
    spaces = {TeacherCache(teacher, "texts", tmp_path / "c").folder}
    teacher.precision = "bf16"
    assert {TeacherCache(teacher, "texts", tmp_path / "c").folder} == spaces  # texts are always read in fp32

"""What a student makes of images: the same by batches, in memory or on the disk."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_image

from linnet.data.digests import digest_files
from linnet.data.store import Images
from linnet.evaluation import score as module
from linnet.evaluation.score import look, top1
from linnet.metrics import top_k_accuracy
from linnet.students.student import Student
from linnet.text.classes import class_table

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Images:
    folder = tmp_path_factory.mktemp("photos")
    paths = [write_image(folder / f"{i}.png", (7 * i, 50, 20), seed=i) for i in range(10)]
    return Images(paths, digest_files(paths), 32, "eval")


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch) -> Student:
    real = module.eval_batches
    monkeypatch.setattr(module, "eval_batches", lambda images, size: real(images, 4))
    torch.manual_seed(0)
    return Student("test_resnet", class_table(["a", "b", "c"]), 32)


def test_each_image_has_its_row(student: Student, images: Images):
    seen = look(student, images, CPU)
    assert seen.logits_NC.shape == (10, 3) and seen.rows_NE.shape == (10, 0)
    assert seen.logits_NC.dtype == np.float32
    for row in range(10):
        with torch.no_grad():
            one = student.eval()(torch.from_numpy(images[row].copy()).permute(2, 0, 1)[None] / 255).logits_BC
        assert seen.logits_NC[row] == pytest.approx(one[0].numpy(), abs=1e-5)


def test_the_share_of_right_ones_is_that_of_the_table(student: Student, images: Images):
    logits = look(student, images, CPU).logits_NC
    for seed in range(3):
        labels = np.where(
            np.arange(10) < 3 * seed, logits.argmax(axis=1), np.random.default_rng(seed).integers(0, 3, 10)
        )
        assert top1(student, images, labels, CPU) == top_k_accuracy(logits, labels) >= 0.3 * seed


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="tables lie in memory here")
@pytest.mark.parametrize("has_room", [True, False])
def test_a_large_table_lies_on_the_disk_where_there_is_room(
    student: Student, images: Images, has_room: bool, monkeypatch: pytest.MonkeyPatch, cache: Path
):
    expected, before = look(student, images, CPU), sorted(cache.rglob("*"))
    monkeypatch.setattr(module, "LARGE", 0)
    if not has_room:
        monkeypatch.setattr(module.os, "posix_fallocate", full)
    seen = look(student, images, CPU)
    assert all(np.array_equal(own, wanted) for own, wanted in zip(seen, expected, strict=True))
    assert (seen.logits_NC.base is not None) == has_room  # a view of what is mapped
    assert sorted(cache.rglob("*")) == before  # it has no name there

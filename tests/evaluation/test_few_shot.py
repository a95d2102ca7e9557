import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_image
from PIL import Image
from torchvision.transforms import RandAugment

from linnet.config import ShotsConfig
from linnet.data.digests import digest_files
from linnet.data.images import read_image
from linnet.data.manifest import Manifest
from linnet.evaluation.few_shot import choose_alpha, retrieval_logits, support_keys
from linnet.teachers import load_teacher
from linnet.teachers.base import VisionLanguageTeacher
from linnet.text.classes import ClassInfo

N, C, M, E = 300, 3, 4, 5


def unit(*shape: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


IMAGES, BANK, KEYS = unit(N, E, seed=0), unit(C, E, seed=1), unit(C, M, E, seed=2)


@pytest.mark.parametrize("form", ["mean", "released"])
def test_logits_are_the_naive_sum(form: str):
    config = ShotsConfig(form=form, beta=2.0)  # type: ignore[arg-type]
    seen = retrieval_logits(IMAGES, BANK, KEYS, 0.6, config)
    for i in (0, 255, 256, 299):
        for c in range(C):
            text = float(IMAGES[i] @ BANK[c])
            near = [math.exp(-2.0 * (1 - float(IMAGES[i] @ key))) for key in KEYS[c]]
            expected = text + 0.6 * sum(near) if form == "released" else text / 0.07 + 0.6 / 0.07 * sum(near) / M
            assert seen[i, c] == pytest.approx(expected)


def test_without_weight_the_texts_alone_decide():
    assert np.array_equal(
        retrieval_logits(IMAGES, BANK, KEYS, 0.0, ShotsConfig()).argmax(axis=1), (IMAGES @ BANK.T).argmax(axis=1)
    )


def test_alpha_is_chosen_on_val_and_is_the_smallest_of_equals():
    by_text, by_keys = (IMAGES @ BANK.T).argmax(axis=1), KEYS[:, 0]
    assert choose_alpha(IMAGES, by_text, BANK, KEYS, ShotsConfig()) == 0.0
    helpful = np.repeat(by_keys[:, None], M, axis=1)
    labels = (IMAGES @ by_keys.T).argmax(axis=1)  # what the keys say, and the texts do not
    assert choose_alpha(IMAGES, labels, BANK, helpful, ShotsConfig()) >= 1.0


def test_keys_are_the_teachers_views_in_the_order_of_the_classes(tmp_path: Path):
    teacher = load_teacher("mini-clip")
    assert isinstance(teacher, VisionLanguageTeacher)
    paths = [write_image(tmp_path / f"{i}.jpg", (80 * i, 200 - 60 * i, 60), seed=i, size=(70, 66)) for i in range(4)]
    classes = (ClassInfo("a", "a"), ClassInfo("b", "b"))
    support = Manifest(tuple(paths), np.array([1, 0, 1, 0]), np.array(["train"] * 4), digest_files(paths), classes)
    keys = support_keys(teacher, support, 3, 0, tmp_path / "cache", torch.device("cpu"))
    assert keys.shape == (2, 2 * 3, 192)
    assert np.allclose(np.linalg.norm(keys, axis=2), 1, atol=1e-5)
    assert len(np.unique(keys.round(4).reshape(12, -1), axis=0)) > 8  # RandAugment leaves some as they are
    two = support_keys(teacher, support.take(np.array([2, 3])), 3, 0, tmp_path / "other", torch.device("cpu"))
    assert np.allclose(two, keys[:, 3:], atol=1e-3)  # the second of each class: views depend on the image alone
    again = support_keys(teacher, support, 3, 0, tmp_path / "cache", torch.device("cpu"))
    assert np.array_equal(again, keys)
    assert not np.allclose(support_keys(teacher, support, 3, 1, tmp_path / "cache", torch.device("cpu")), keys)


def test_one_key_is_of_the_image_as_it_is_and_the_others_of_randaugment_2_9(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made, real = [], RandAugment.__init__
    monkeypatch.setattr(RandAugment, "__init__", lambda own, *a, **b: (made.append((a, b)), real(own, *a, **b))[1])
    teacher = load_teacher("mini-clip")
    assert isinstance(teacher, VisionLanguageTeacher)
    paths = [write_image(tmp_path / f"{i}.jpg", (80 * i, 200 - 60 * i, 60), seed=i, size=(70, 66)) for i in range(2)]
    classes = (ClassInfo("a", "a"), ClassInfo("b", "b"))
    support = Manifest(tuple(paths), np.array([0, 1]), np.array(["train"] * 2), digest_files(paths), classes)
    keys = support_keys(teacher, support, 10, 0, tmp_path / "cache", torch.device("cpu"))
    plain = teacher.embed_images(torch.stack([teacher.eval_transform(read_image(path)) for path in paths])).numpy()
    assert np.allclose(keys[:, 0], plain, atol=2e-3)
    same = np.isclose(keys[:, 1:], plain[:, None], atol=2e-3).all(axis=2)
    assert same.mean() < 0.5  # some draws change nothing
    assert made == [((2, 9), {})] * 9


def test_a_teacher_that_squashes_sees_keys_so(tmp_path: Path):
    teacher = load_teacher("mini-clip")
    assert isinstance(teacher, VisionLanguageTeacher)
    paths = [write_image(tmp_path / f"{i}.jpg", (80 * i, 200 - 60 * i, 60), seed=i, size=(150, 60)) for i in range(2)]
    classes = (ClassInfo("a", "a"), ClassInfo("b", "b"))
    support = Manifest(tuple(paths), np.array([0, 1]), np.array(["train"] * 2), digest_files(paths), classes)
    center, squash = (
        support_keys(teacher, support, 2, 0, tmp_path / "cache", torch.device("cpu"), still)
        for still in ("center", "squash")
    )
    policy = [json.loads(path.read_text())["policy"] for path in tmp_path.rglob("space.json")]
    size = teacher.image_shape[::-1]
    whole = [np.array(read_image(path).resize(size, Image.Resampling.BICUBIC)) for path in paths]
    pixels = torch.from_numpy(np.stack(whole)).permute(0, 3, 1, 2).float() / 255
    assert np.allclose(squash[:, 0], teacher.embed_images(pixels).numpy(), atol=2e-3)
    assert not np.isclose(squash, center, atol=2e-3).all(axis=2).any()
    assert sorted(words.endswith("|squash") for words in policy) == [False, True]

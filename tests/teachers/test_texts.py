"""Texts about images: embedded once, and what they give away."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from linnet.teachers import load_teacher, load_text_encoder
from linnet.teachers.texts import ImageTexts, embed_cached, told_classes


class CountingEncoder(torch.nn.Module):
    def __init__(self, name: str = "counting"):
        super().__init__()
        self.id, self.asked = name, []

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        self.asked += texts
        return F.normalize(torch.tensor([[len(text), 1.0, ord(text[0])] for text in texts]), dim=1)

    def fingerprint(self) -> str:
        return self.id


def test_each_text_is_embedded_once_ever_by_each_encoder(tmp_path: Path):
    first, again, other = CountingEncoder(), CountingEncoder(), CountingEncoder("other")
    rows = embed_cached(first, ["a", "bb", "ccc"], tmp_path)
    assert torch.equal(embed_cached(again, ["ccc", "a", "new"], tmp_path)[:2], rows[[2, 0]])
    embed_cached(other, ["a"], tmp_path)
    assert (first.asked, again.asked, other.asked) == (["a", "bb", "ccc"], ["new"], ["a"])


def test_images_may_have_any_number_of_texts_and_share_them(tmp_path: Path):
    encoder = CountingEncoder()
    texts = ImageTexts(encoder, [("a", "bb"), (), ("bb",), ("ccc", "a")], tmp_path)
    assert encoder.asked == ["a", "bb", "ccc"]
    rows_BME, has_BM = texts(torch.tensor([3, 1, 2]))
    assert has_BM.tolist() == [[True, True], [False, False], [True, False]]
    expected = encoder.embed_texts(["ccc", "a", "bb"]).half()
    assert torch.equal(torch.stack([*rows_BME[0], rows_BME[2, 0]]), expected)
    assert texts.first().isnan().all(dim=1).tolist() == [False, True, False, False]
    assert torch.equal(texts.first()[3], expected[0].float())


def test_one_text_of_each_image_in_turn(tmp_path: Path):
    texts = ImageTexts(CountingEncoder(), [("a", "bb"), ("ccc",)], tmp_path)
    a, bb, ccc = texts.rows_TE
    for number, first in enumerate([a, bb, a]):
        assert torch.equal(texts.one(torch.tensor([0, 1]), number), torch.stack([first, ccc]))


def test_a_probe_tells_classes_from_texts_that_give_them_away_and_only_from_those():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 50)
    telling = torch.from_numpy(np.eye(8)[labels] + generator.normal(0, 0.1, (200, 8)))
    silent = torch.from_numpy(generator.normal(size=(200, 8)))
    assert told_classes(telling, labels, seed=0)[0] > 0.95
    assert told_classes(silent, labels, seed=0)[0] < 0.5


def test_the_probe_counts_labelled_images_with_texts_and_says_what_guessing_gives():
    labels = np.array([0] * 30 + [1] * 10 + [-1] * 5)
    rows = torch.cat([torch.zeros(40, 2), torch.full((5, 2), 7.0)]).double()
    rows[:3] = torch.nan
    told, chance = told_classes(rows, labels, seed=3)
    assert told == pytest.approx(chance)  # nothing to tell them by
    assert 0.5 < chance < 1
    assert all(np.isnan(told_classes(rows[:9], labels[:9], seed=0)))


def test_the_teachers_text_tower_is_a_text_encoder():
    encoder = load_text_encoder("mini-clip")
    assert torch.equal(encoder.embed_texts(["a bird"]), load_teacher("mini-clip").embed_texts(["a bird"]))

"""Who is mixed with whom, how much, and what it looks like."""

import numpy as np
import pytest
import torch

import linnet
from linnet.data.mixing import Mixed, Mixing, blend
from linnet.defaults import settings
from linnet.errors import UserError
from linnet.losses import cross_entropy, mixed_cross_entropy

DIGESTS = np.random.default_rng(0).integers(0, 256, (50, 16), dtype=np.uint8)


def mixing(kind: str = "mixup", digests: np.ndarray = DIGESTS, alpha: float = 1.0, seed: int = 0) -> Mixing:
    return Mixing(digests, kind, alpha, seed)


def test_in_each_view_every_image_is_somebodys_partner_once_and_never_its_own():
    own = mixing()
    for view in range(5):
        assert sorted(own.partners(view)) == list(range(50))
        assert (own.partners(view) != np.arange(50)).all()
    assert (own.partners(0) != own.partners(1)).mean() > 0.8
    assert (own.partners(0) != mixing(seed=1).partners(0)).mean() > 0.8


def test_partners_and_shares_depend_on_the_images_and_not_on_their_order():
    order = np.random.default_rng(1).permutation(50)
    first, second = mixing("both"), mixing("both", DIGESTS[order])
    assert first.words == second.words
    here, there = first.of(order, 3), second.of(np.arange(50), 3)
    assert (DIGESTS[here.partner_B] == DIGESTS[order][there.partner_B]).all()
    assert np.array_equal(here.share_B, there.share_B)
    assert np.array_equal(here.box_B4, there.box_B4)
    assert mixing("both", DIGESTS[:49]).words != first.words


def test_images_with_the_same_bytes_are_mixed_alike():
    """A cache knows a mixture by the bytes of the image and the number of the view."""
    twice = np.concatenate([DIGESTS, DIGESTS[:7]])
    mixed = mixing("both", twice).of(np.arange(57), 2)
    assert (twice[mixed.partner_B[:7]] == twice[mixed.partner_B[50:]]).all()
    assert np.array_equal(mixed.share_B[:7], mixed.share_B[50:])


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_those_of_the_beta_distribution(alpha: float):
    many = np.random.default_rng(0).integers(0, 256, (5000, 16), dtype=np.uint8)
    share_B = mixing("mixup", many, alpha).of(np.arange(5000), 0).share_B
    assert share_B.mean() == pytest.approx(0.5, abs=0.03)
    assert share_B.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_a_rectangle_has_the_area_that_is_not_its_own():
    mixed = mixing("cutmix").of(np.arange(50), 0)
    left, top, right, bottom = mixed.box_B4.T
    assert np.allclose((right - left) * (bottom - top), 1 - mixed.share_B)
    assert mixed.box_B4.min() >= 0
    assert mixed.box_B4.max() <= 1


def test_both_is_either_by_chance():
    is_cut = mixing("both").of(np.arange(50), 0).box_B4.any(axis=1)
    assert 10 < is_cut.sum() < 40


def test_what_a_mixture_looks_like():
    own, other = torch.zeros(3, 3, 10, 10), torch.ones(3, 3, 10, 10)
    boxes = np.array([[0, 0, 0, 0], [0.2, 0.1, 0.6, 1.0], [0, 0, 0, 0]])
    blend(own, other, Mixed(np.arange(3), np.array([0.75, 0.64, 1.0]), boxes))
    assert torch.allclose(own[0], torch.full((3, 10, 10), 0.25))
    expected = torch.zeros(3, 10, 10)
    expected[:, 1:10, 2:6] = 1
    assert torch.equal(own[1], expected)
    assert torch.equal(own[2], torch.zeros(3, 10, 10))


def test_the_loss_of_a_mixture_by_hand():
    """Two labels, each by its share; what is unlabelled has no part."""
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, others = torch.tensor([0, 1, -1, -1]), torch.tensor([2, -1, 1, -1])
    share = torch.tensor([0.7, 0.6, 0.9, 0.5], dtype=torch.float64)
    log_p = logits.log_softmax(dim=1)
    total = -(0.7 * log_p[0, 0] + 0.3 * log_p[0, 2] + 0.6 * log_p[1, 1] + 0.1 * log_p[2, 1])
    assert mixed_cross_entropy(logits, labels, others, share).item() == pytest.approx(total.item() / 1.7)
    weight, ones = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    for smoothing in (0.0, 0.1):
        whole = mixed_cross_entropy(logits, labels, others, ones, smoothing, weight)  # not mixed at all
        assert whole.item() == pytest.approx(cross_entropy(logits, labels, smoothing, weight).item())
    nobody = torch.full((4,), -1)
    assert mixed_cross_entropy(logits, nobody, nobody, share).item() == 0


@pytest.mark.parametrize(
    ("options", "method", "message"),
    [
        ({"data.mix": "mixup"}, "kd", "the teacher .center. would see whole ones: add --teacher.views replay:4"),
        ({"data.mix": "mixup", "teacher.views": "replay:2"}, "dkd", "'dkd' asks which class an image is of"),
        ({"data.mix": "mixup", "teacher.views": "online"}, "kd+openvocab", "different student heads"),
        ({"data.mix": "mixup", "train.sampling": "class-balanced"}, "ce", "class-balanced balances the batches"),
        ({"data.mix_alpha": 0.2}, "ce", "data.mix_alpha has no effect without data.mix"),
    ],
)
def test_what_cannot_be_mixed_is_refused(options: dict, method: str, message: str):
    with pytest.raises(UserError, match=message):
        settings("aviary:species=3,images=4", method=method, options=options, timed=False)


@pytest.mark.parametrize(("method", "views"), [("ce", "center"), ("kd", "replay:2"), ("vl2lite", "online")])
def test_students_learn_from_mixed_images(method: str, views: str, tmp_path):
    run = linnet.distill(
        "aviary:species=3,genus=1,images=32", student="test_resnet", method=method, out=tmp_path / "run",
        options={
            "student.image_size": 32, "train.batch_size": 16, "train.epochs": 12, "train.precision": "fp32",
            "export": False, "data.mix": "both", "teacher.views": views,
        },
    )  # fmt: skip
    assert run.summary()["test.top1"] > 0.6  # chance is a third

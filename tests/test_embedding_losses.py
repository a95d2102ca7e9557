"""The losses of openvocab against naive loops in float64, their limits and their gradients."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from linnet.losses import caption_contrast, embedding_error, image_contrast, nearest_text_kl

B, C, E = 6, 9, 5
LABELS = torch.tensor([0, 1, 0, 2, -1, -1])


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def student() -> Tensor:
    """Of no particular length, as a network gives it."""
    return 3 * random(B, E, seed=1)


def teacher(seed: int = 2) -> Tensor:
    return F.normalize(random(B, E, seed=seed), dim=1)


def cosine(a: Tensor, b: Tensor) -> float:
    return sum(float(x * y) for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(float(x * x) for x in a) * sum(float(y * y) for y in b)
    )


def naive_cross_entropy(logits: list[float], target: int) -> float:
    return -math.log(math.exp(logits[target]) / sum(math.exp(value) for value in logits))


def test_embedding_error_is_the_naive_sum():
    s, v = student(), teacher()
    expected = 0.0
    for i in range(B):
        length = math.sqrt(sum(float(x) ** 2 for x in s[i]))
        expected += sum((float(x) / length - float(y)) ** 2 for x, y in zip(s[i], v[i], strict=True)) / B
    assert embedding_error(s, v).item() == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(sum(2 - 2 * cosine(s[i], v[i]) for i in range(B)) / B)


def test_image_contrast_is_the_naive_mean_of_rows_and_columns():
    s, v, temperature = student(), teacher(), 0.3
    table = [[cosine(s[i], v[j]) / temperature for j in range(B)] for i in range(B)]
    rows = sum(naive_cross_entropy(table[i], i) for i in range(B)) / B
    columns = sum(naive_cross_entropy([table[j][i] for j in range(B)], i) for i in range(B)) / B
    assert image_contrast(s, v, temperature).item() == pytest.approx((rows + columns) / 2, rel=1e-12)


def test_caption_contrast_leaves_out_other_images_of_the_same_class():
    s, captions = student(), teacher(seed=3)
    for temperature in (None, 0.2):
        expected = 0.0
        for i in range(B):
            kept = [j for j in range(B) if j == i or LABELS[i] < 0 or LABELS[j] != LABELS[i]]
            logits = [cosine(s[i], captions[j]) / (temperature or 1) for j in kept]
            expected += naive_cross_entropy(logits, kept.index(i)) / B
        assert caption_contrast(s, captions, LABELS, temperature).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("texts", [1, 4, C, 256])
@pytest.mark.parametrize("keep", [None, [True, False, True, True, False, False]])
def test_nearest_text_kl_is_the_naive_sum(texts: int, keep: list[bool] | None):
    z, u = random(B, C, seed=4), 2 * random(B, C, seed=5)
    kept = [i for i in range(B) if keep is None or keep[i]]
    expected = 0.0
    for i in kept:
        near = sorted(range(C), key=lambda c: -float(u[i, c]))[:texts]
        p, q = ([math.exp(float(x[i, c])) for c in near] for x in (u, z))
        for a, b in zip(p, q, strict=True):
            expected += a / sum(p) * (math.log(a / sum(p)) - math.log(b / sum(q))) / len(kept)
    value = nearest_text_kl(z, u, texts, None if keep is None else torch.tensor(keep))
    assert value.item() == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert (expected == 0) == (texts == 1)  # one text alone has probability 1 in both


def test_of_equally_near_texts_those_of_lower_ids_are_taken():
    """So that the loss is the same on every device."""
    u = torch.tensor([[1.0, 3.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    z = random(1, 5, seed=6)
    taken = [1, 0, 2]
    assert nearest_text_kl(z, u, 3).item() == pytest.approx(nearest_text_kl(z[:, taken], u[:, taken], 3).item())
    for other in ([1, 0, 3], [1, 2, 3], [1, 3, 4]):
        assert nearest_text_kl(z, u, 3).item() != pytest.approx(nearest_text_kl(z[:, other], u[:, other], 3).item())


def test_a_filter_that_keeps_no_image_gives_zero_and_no_nan():
    z = random(B, C, seed=4).requires_grad_()
    value = nearest_text_kl(z, random(B, C, seed=5), 4, torch.zeros(B, dtype=torch.bool))
    assert value.item() == 0
    value.backward()
    assert z.grad is not None
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_identical_student_and_teacher():
    v, u = teacher(), random(B, C, seed=5)
    assert embedding_error(7 * v, v).item() == pytest.approx(0, abs=1e-15)
    assert nearest_text_kl(u, u, 4).item() == pytest.approx(0, abs=1e-15)
    assert nearest_text_kl(u + 3, u, 4).item() == pytest.approx(0, abs=1e-15)  # of a shift softmax sees nothing
    assert embedding_error(-v, v).item() == pytest.approx(4)


def test_a_batch_of_one_has_nothing_to_contrast():
    assert image_contrast(student()[:1], teacher()[:1], 0.07).item() == 0
    assert caption_contrast(student()[:1], teacher()[:1], LABELS[:1]).item() == 0


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": embedding_error,
    "contrast": lambda s, v: image_contrast(s, v, 0.3),
    "caption": lambda s, v: caption_contrast(s, v, LABELS, 0.3),
    "align": lambda s, v: nearest_text_kl(s, v, 3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_reach_the_student_alone(name: str):
    s, v = student().requires_grad_(), teacher().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, v.detach()), (s,))
    LOSSES[name](s, v).backward()
    assert s.grad is not None
    assert s.grad.abs().sum() > 0
    assert v.grad is None


@pytest.mark.parametrize("name", ["mse", "contrast", "caption"])
def test_the_length_of_an_embedding_does_not_matter(name: str):
    scales = torch.tensor([[0.1], [1.0], [2.0], [5.0], [9.0], [30.0]], dtype=torch.float64)
    assert LOSSES[name](scales * student(), teacher()).item() == pytest.approx(
        LOSSES[name](student(), teacher()).item()
    )

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.losses import cross_entropy, softened_kl


def naive_softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


def logits(seed: int, rows: int = 4, classes: int = 5) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(0.5, 8))
def test_softened_kl_is_the_naive_sum(seed: int, temperature: float):
    student, teacher = logits(seed), logits(seed + 1)
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = naive_softmax([v / temperature for v in t]), naive_softmax([v / temperature for v in s])
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    expected = temperature**2 * total / len(student)
    assert softened_kl(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-9)


def test_softened_kl_invariants():
    student, teacher = logits(0), logits(1)
    value = softened_kl(student, teacher, 2.0)
    assert value > 0
    assert softened_kl(teacher, teacher, 2.0).item() == pytest.approx(0, abs=1e-12)
    shifted = softened_kl(student + torch.arange(4)[:, None], teacher - 5, 2.0)
    assert shifted.item() == pytest.approx(value.item(), rel=1e-9)
    assert torch.isfinite(softened_kl(student * 1e4, teacher * 1e4, 1.0))


def test_softened_kl_reaches_the_student_and_not_the_teacher():
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    softened_kl(student, teacher, 2.0).backward()
    assert teacher.grad is None
    assert student.grad is not None
    # d/dz of T^2 KL is T (softmax(z/T) - softmax(u/T)) / B: by hand
    expected = 2.0 * (torch.softmax(student.detach() / 2, 1) - torch.softmax(teacher.detach() / 2, 1)) / 4
    assert torch.allclose(student.grad, expected)


def test_cross_entropy_is_the_naive_sum_over_labelled_images():
    student, labels = logits(0), torch.tensor([1, -1, 0, 4])
    rows = [(row, label) for row, label in zip(student.tolist(), labels.tolist(), strict=True) if label >= 0]
    expected = sum(-math.log(naive_softmax(row)[label]) for row, label in rows) / 3
    assert cross_entropy(student, labels).item() == pytest.approx(expected, rel=1e-9)
    smoothed = sum(
        -0.9 * math.log(naive_softmax(row)[label]) - sum(0.1 / 5 * math.log(p) for p in naive_softmax(row))
        for row, label in rows
    )
    assert cross_entropy(student, labels, label_smoothing=0.1).item() == pytest.approx(smoothed / 3, rel=1e-9)


def test_cross_entropy_of_no_labels_is_zero_and_not_nan():
    student = logits(0).requires_grad_()
    loss = cross_entropy(student, torch.full((4,), -1))
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert (student.grad == 0).all()

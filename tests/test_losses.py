import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.losses import (
    coefficient_error,
    correlation_loss,
    cross_entropy,
    decoupled_kl,
    nearest_neighbours,
    neighbour_structure,
    relation_losses,
    softened_kl,
    standardize,
)


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


def test_standardize_is_the_naive_z_score_and_survives_constant_logits():
    student = logits(0)
    for row, shown in zip(student.tolist(), standardize(student).tolist(), strict=True):
        mean = sum(row) / len(row)
        variance = sum((v - mean) ** 2 for v in row) / len(row)
        assert shown == pytest.approx([(v - mean) / math.sqrt(variance + 1e-6) for v in row], rel=1e-9)
    constant = torch.full((2, 5), 3.0, requires_grad=True)
    standardize(constant)[:, 0].sum().backward()
    assert constant.grad is not None
    assert torch.isfinite(constant.grad).all()


def naive_neighbour_structure(student: torch.Tensor, teacher: torch.Tensor, neighbours: int) -> float:
    rows, total, pairs = teacher.tolist(), 0.0, 0
    for i, own in enumerate(rows):

        def cosine(j: int, own: list[float] = own) -> float:
            dot = sum(a * b for a, b in zip(own, rows[j], strict=True))
            return dot / math.sqrt(sum(a * a for a in own) * sum(b * b for b in rows[j]))

        for j in sorted((j for j in range(len(rows)) if j != i), key=cosine, reverse=True)[:neighbours]:
            p = naive_softmax((teacher[i] - teacher[j]).tolist())
            q = naive_softmax((student[i] - student[j]).tolist())
            middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
            total += sum(a * math.log(a / m) + b * math.log(b / m) for a, b, m in zip(p, q, middle, strict=True)) / 2
            pairs += 1
    return total / pairs


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 9), st.integers(2, 7))
def test_neighbour_structure_is_the_naive_sum(seed: int, neighbours: int, rows: int):
    student, teacher = logits(seed, rows), logits(seed + 1, rows)
    expected = naive_neighbour_structure(student, teacher, neighbours)
    assert neighbour_structure(student, teacher, neighbours).item() == pytest.approx(expected, rel=1e-9)


def test_neighbour_structure_invariants():
    student, teacher = logits(0, 8), logits(1, 8)
    value = neighbour_structure(student, teacher, 3)
    assert 0 < value <= math.log(2)
    assert neighbour_structure(teacher, teacher, 3).item() == pytest.approx(0, abs=1e-12)
    each = neighbour_structure(student + torch.arange(8)[:, None], teacher, 3)
    assert each.item() == pytest.approx(value.item(), rel=1e-9)  # a constant added to all logits of a sample
    bias = neighbour_structure(student + torch.arange(5), teacher, 3)
    assert bias.item() == pytest.approx(value.item(), rel=1e-9)  # blind to the classifier's bias
    extreme = neighbour_structure(student * 1e4, -teacher * 1e4, 3)  # the direct form underflows to NaN
    assert extreme.item() == pytest.approx(math.log(2), rel=0.3)
    assert extreme <= math.log(2) + 1e-9
    assert neighbour_structure(student, teacher, 100) == neighbour_structure(student, teacher, 7)
    assert neighbour_structure(student[:1], teacher[:1], 3) == 0


def test_the_search_is_not_blind_to_a_shift_of_the_teacher():
    """cos(u_i, u_j) changes when a constant is added to u_i: the reason for the option ``center_teacher``."""
    teacher = logits(1, 12)
    assert not torch.equal(nearest_neighbours(teacher, 3), nearest_neighbours(teacher + 10, 3))


def test_nobody_is_his_own_neighbour_not_even_among_twins():
    teacher = torch.cat([logits(0, 3), logits(0, 3)])
    near = nearest_neighbours(teacher, 5)
    assert all(i not in row for i, row in enumerate(near.tolist()))
    assert near[:, 0].tolist() == [3, 4, 5, 0, 1, 2]


def test_the_search_runs_in_float32_under_bf16():
    teacher = 14.3 * torch.nn.functional.normalize(torch.randn(64, 200, generator=torch.Generator().manual_seed(0)) + 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = nearest_neighbours(teacher, 3)
    assert torch.equal(under_autocast, nearest_neighbours(teacher, 3))
    assert not torch.equal(under_autocast, nearest_neighbours(teacher.bfloat16(), 3))  # or this could not fail


def test_neighbour_structure_reaches_the_student_and_not_the_teacher():
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    neighbour_structure(student, teacher, 2).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert torch.autograd.gradcheck(lambda s: neighbour_structure(s, teacher.detach(), 2), [logits(0).requires_grad_()])


def naive_decoupled(student: torch.Tensor, teacher: torch.Tensor, labels: list[int], t: float) -> tuple[float, float]:
    target = others = 0.0
    known = [i for i, label in enumerate(labels) if label >= 0]
    for i in known:
        p, q = (naive_softmax([v / t for v in row[i].tolist()]) for row in (teacher, student))
        true = labels[i]
        target += p[true] * math.log(p[true] / q[true]) + (1 - p[true]) * math.log((1 - p[true]) / (1 - q[true]))
        for c in range(len(p)):
            if c != true:
                rest_p, rest_q = p[c] / (1 - p[true]), q[c] / (1 - q[true])
                others += rest_p * math.log(rest_p / rest_q)
    return t**2 * target / len(known), t**2 * others / len(known)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(0.5, 8), st.lists(st.integers(-1, 4), min_size=4, max_size=4))
def test_decoupled_kl_is_the_naive_sum_over_labelled_images(seed: int, temperature: float, labels: list[int]):
    student, teacher = logits(seed), logits(seed + 1)
    target, others = decoupled_kl(student, teacher, torch.tensor(labels), temperature)
    if max(labels) < 0:
        assert (target.item(), others.item()) == (0, 0)
        return
    expected = naive_decoupled(student, teacher, labels, temperature)
    assert (target.item(), others.item()) == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_decoupled_kl_puts_the_kl_together_again():
    """KL = TCKD + (1 - p_true) NCKD, the identity that the method is built on."""
    for row in range(4):
        student, teacher = logits(0)[row : row + 1], logits(1)[row : row + 1]
        target, others = decoupled_kl(student, teacher, torch.tensor([row]), 3.0)
        true = torch.softmax(teacher / 3, dim=1)[0, row]
        assert (target + (1 - true) * others).item() == pytest.approx(softened_kl(student, teacher, 3.0).item())


def test_decoupled_kl_survives_certainty_and_two_classes():
    """The direct form takes the logarithm of a probability that has underflowed to 0."""
    sure = torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    target, others = decoupled_kl(sure, -sure.detach(), torch.tensor([0]), 1.0)
    (target + others).backward()
    assert torch.isfinite(target + others)
    assert sure.grad is not None
    assert torch.isfinite(sure.grad).all()
    assert decoupled_kl(logits(0, 4, 2), logits(1, 4, 2), torch.tensor([0, 1, 1, 0]), 4.0)[1] == 0


def naive_correlation(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    over = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return over / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(0.5, 8))
def test_relation_losses_are_the_naive_correlations(seed: int, temperature: float):
    student, teacher = logits(seed), logits(seed + 1)
    p, q = ([naive_softmax([v / temperature for v in row]) for row in x.tolist()] for x in (teacher, student))
    inter = sum(1 - naive_correlation(a, b) for a, b in zip(p, q, strict=True)) / 4
    columns = zip(zip(*p, strict=True), zip(*q, strict=True), strict=True)
    intra = sum(1 - naive_correlation(list(a), list(b)) for a, b in columns) / 5
    shown = relation_losses(student, teacher, temperature)
    assert [v.item() for v in shown] == pytest.approx([temperature**2 * inter, temperature**2 * intra], rel=1e-8)


def test_correlation_knows_no_scale_and_no_mean():
    a, b = logits(0), logits(1)
    value = correlation_loss(a, b)
    assert 0 < value < 2
    assert correlation_loss(7 * a + 3, b).item() == pytest.approx(value.item())
    assert correlation_loss(a, 0.1 * a - 5).item() == pytest.approx(0, abs=1e-12)
    assert correlation_loss(a, -a).item() == pytest.approx(2)
    constant = torch.ones(2, 5, dtype=torch.float64, requires_grad=True)
    correlation_loss(constant, b[:2]).backward()
    assert correlation_loss(constant, b[:2]) == 1
    assert constant.grad is not None
    assert torch.isfinite(constant.grad).all()


def test_coefficient_error_is_the_naive_sum():
    student, teacher = logits(0, 4, 3), logits(1, 4, 3)  # 3 coefficients of 5 classes
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    expected = sum((a - b) ** 2 for a, b in pairs) / 5 / 4
    assert coefficient_error(student, teacher, 5).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t: sum(decoupled_kl(s, t, torch.tensor([0, 1, -1, 4]), 4.0)),
        lambda s, t: sum(relation_losses(s, t, 4.0)),
        lambda s, t: coefficient_error(s, t, 5),
    ],
    ids=["dkd", "dist", "figkd"],
)
def test_gradients_reach_the_student_and_not_the_teacher(loss: Callable[..., torch.Tensor]):
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher.detach()), [logits(0).requires_grad_()])

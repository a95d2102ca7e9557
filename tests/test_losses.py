import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from linnet.losses import (
    caption_contrast,
    class_balance,
    class_weights,
    coefficient_error,
    correlation_loss,
    cross_entropy,
    decoupled_kl,
    divergence,
    embedding_error,
    feature_contrast,
    grouped_kl,
    image_contrast,
    log_prior,
    nearest_neighbours,
    nearest_text_kl,
    neighbour_structure,
    relation_losses,
    softened_kl,
    standardize,
    statistics_distance,
    text_contrast,
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


@pytest.mark.parametrize("correction", [0, 1])
def test_standardize_is_the_naive_z_score_and_survives_constant_logits(correction: int):
    student = logits(0)
    for row, shown in zip(student.tolist(), standardize(student, correction).tolist(), strict=True):
        mean = sum(row) / len(row)
        variance = sum((v - mean) ** 2 for v in row) / (len(row) - correction)
        assert shown == pytest.approx([(v - mean) / math.sqrt(variance + 1e-6) for v in row], rel=1e-9)
    # the released form divides by std(unbiased) + 1e-7
    released = (student - student.mean(1, keepdim=True)) / (student.std(1, correction=1, keepdim=True) + 1e-7)
    assert torch.allclose(standardize(student, 1), released, rtol=1e-6)
    constant = torch.full((2, 5), 3.0, requires_grad=True)
    standardize(constant, correction)[:, 0].sum().backward()
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
        others_p, others_q = (sum(v for c, v in enumerate(row) if c != true) for row in (p, q))  # 1 - p loses digits
        target += p[true] * math.log(p[true] / q[true]) + others_p * math.log(others_p / others_q)
        for c in range(len(p)):
            if c != true:
                rest_p, rest_q = p[c] / others_p, q[c] / others_q
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
    norms = math.sqrt(sum((x - mean_a) ** 2 for x in a)) * math.sqrt(sum((y - mean_b) ** 2 for y in b))
    return over / (norms + 1e-8)  # as the released code has it


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
    assert correlation_loss(a, 0.1 * a - 5).item() == pytest.approx(0, abs=1e-7)
    assert correlation_loss(a, -a).item() == pytest.approx(2)
    # rows so small that the product of their norms is 1e-8 count half, as in the released code
    small = a[:1] * (1e-4 / (a[:1] - a[:1].mean()).norm())
    assert correlation_loss(small, small).item() == pytest.approx(0.5)
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


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_divergence_is_the_naive_sum_and_reaches_both():
    p, q = random(4, 5, seed=1).requires_grad_(), random(4, 5, seed=2).requires_grad_()
    expected = 0.0
    for i in range(4):
        a, b = naive_softmax(p[i].tolist()), naive_softmax(q[i].tolist())
        expected += sum(x * math.log(x / y) for x, y in zip(a, b, strict=True)) / 4
    value = divergence(p, q)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    value.backward()
    assert p.grad.abs().sum() > 0
    assert q.grad.abs().sum() > 0
    assert divergence(p, p + 3.0).item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.gradcheck(divergence, (p, q))
    assert softened_kl(q, p, 1.0).item() == pytest.approx(expected)


def test_feature_contrast_is_the_naive_loop():
    a, b, temperature = random(4, 6, seed=1), random(4, 6, seed=2), 0.3
    vectors = [*a, *b]
    unit = [[float(x) / math.sqrt(sum(float(y) ** 2 for y in v)) for x in v] for v in vectors]
    expected = 0.0
    for i in range(8):
        scores = {
            j: math.exp(sum(x * y for x, y in zip(unit[i], unit[j], strict=True)) / temperature)
            for j in range(8)
            if j != i
        }
        expected -= math.log(scores[(i + 4) % 8] / sum(scores.values())) / 8
    assert feature_contrast(a, b, temperature).item() == pytest.approx(expected, rel=1e-12)
    assert feature_contrast(5 * a, 0.1 * b, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_feature_contrast_at_its_limits():
    a = random(4, 6).requires_grad_()
    assert feature_contrast(a[:1], -a[:1], 0.1).item() == 0  # nothing to choose from
    orthogonal = torch.eye(6, dtype=torch.float64)
    assert feature_contrast(orthogonal, orthogonal, 0.02).item() == pytest.approx(0, abs=1e-12)
    same = torch.ones(5, 6, dtype=torch.float64)
    assert feature_contrast(same, same, 0.1).item() == pytest.approx(math.log(9))  # chance
    b = random(4, 6, seed=1).requires_grad_()
    feature_contrast(a, b, 0.1).backward()
    assert a.grad.abs().sum() > 0
    assert b.grad.abs().sum() > 0
    assert torch.autograd.gradcheck(lambda x, y: feature_contrast(x, y, 0.5), (a, b))


def test_statistics_distance_is_the_naive_loop_with_the_biased_variance():
    maps, mean, var = random(3, 4, 2, 2), random(4, seed=1), random(4, seed=2).abs()
    squares = [0.0, 0.0]
    for c in range(4):
        values = [float(maps[b, c, i, j]) for b in range(3) for i in range(2) for j in range(2)]
        average = sum(values) / 12
        squares[0] += (average - float(mean[c])) ** 2
        squares[1] += (sum((value - average) ** 2 for value in values) / 12 - float(var[c])) ** 2
    expected = math.sqrt(squares[0]) + math.sqrt(squares[1])
    assert statistics_distance(maps, mean, var).item() == pytest.approx(expected, rel=1e-12)
    rows = maps[:, :, 0, 0]
    assert statistics_distance(rows, rows.mean(0), rows.var(0, correction=0)).item() == pytest.approx(0, abs=1e-12)


def test_class_balance_is_lowest_where_all_classes_are_as_frequent():
    confident = 50 * torch.eye(4, dtype=torch.float64)
    assert class_balance(confident).item() == pytest.approx(-math.log(4))
    assert class_balance(confident[[0, 0, 0]]).item() == pytest.approx(0, abs=1e-12)
    logits = random(3, 4)
    mean = [sum(naive_softmax(row)[c] for row in logits) / 3 for c in range(4)]
    assert class_balance(logits).item() == pytest.approx(sum(p * math.log(p) for p in mean), rel=1e-12)


B, C, E = 6, 9, 5


LABELS = torch.tensor([0, 1, 0, 2, -1, -1])


def student_rows() -> Tensor:
    """Of no particular length, as a network gives it."""
    return 3 * random(B, E, seed=1)


def teacher_rows(seed: int = 2) -> Tensor:
    return F.normalize(random(B, E, seed=seed), dim=1)


def cosine(a: Tensor, b: Tensor) -> float:
    return sum(float(x * y) for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(float(x * x) for x in a) * sum(float(y * y) for y in b)
    )


def naive_cross_entropy(logits: list[float], target: int) -> float:
    return -math.log(math.exp(logits[target]) / sum(math.exp(value) for value in logits))


def test_embedding_error_is_the_naive_sum():
    s, v = student_rows(), teacher_rows()
    expected = 0.0
    for i in range(B):
        length = math.sqrt(sum(float(x) ** 2 for x in s[i]))
        expected += sum((float(x) / length - float(y)) ** 2 for x, y in zip(s[i], v[i], strict=True)) / B
    assert embedding_error(s, v).item() == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(sum(2 - 2 * cosine(s[i], v[i]) for i in range(B)) / B)


def test_image_contrast_is_the_naive_mean_of_rows_and_columns():
    s, v, temperature = student_rows(), teacher_rows(), 0.3
    table = [[cosine(s[i], v[j]) / temperature for j in range(B)] for i in range(B)]
    rows = sum(naive_cross_entropy(table[i], i) for i in range(B)) / B
    columns = sum(naive_cross_entropy([table[j][i] for j in range(B)], i) for i in range(B)) / B
    assert image_contrast(s, v, temperature).item() == pytest.approx((rows + columns) / 2, rel=1e-12)


def test_caption_contrast_leaves_out_other_images_of_the_same_class():
    s, captions = student_rows(), teacher_rows(seed=3)
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
    v, u = teacher_rows(), random(B, C, seed=5)
    assert embedding_error(7 * v, v).item() == pytest.approx(0, abs=1e-15)
    assert nearest_text_kl(u, u, 4).item() == pytest.approx(0, abs=1e-15)
    assert nearest_text_kl(u + 3, u, 4).item() == pytest.approx(0, abs=1e-15)  # of a shift softmax sees nothing
    assert embedding_error(-v, v).item() == pytest.approx(4)


def test_a_batch_of_one_has_nothing_to_contrast():
    assert image_contrast(student_rows()[:1], teacher_rows()[:1], 0.07).item() == 0
    assert caption_contrast(student_rows()[:1], teacher_rows()[:1], LABELS[:1]).item() == 0


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": embedding_error,
    "contrast": lambda s, v: image_contrast(s, v, 0.3),
    "caption": lambda s, v: caption_contrast(s, v, LABELS, 0.3),
    "align": lambda s, v: nearest_text_kl(s, v, 3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_reach_the_student_alone(name: str):
    s, v = student_rows().requires_grad_(), teacher_rows().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, v.detach()), (s,))
    LOSSES[name](s, v).backward()
    assert s.grad is not None
    assert s.grad.abs().sum() > 0
    assert v.grad is None


@pytest.mark.parametrize("name", ["mse", "contrast", "caption"])
def test_the_length_of_an_embedding_does_not_matter(name: str):
    scales = torch.tensor([[0.1], [1.0], [2.0], [5.0], [9.0], [30.0]], dtype=torch.float64)
    assert LOSSES[name](scales * student_rows(), teacher_rows()).item() == pytest.approx(
        LOSSES[name](student_rows(), teacher_rows()).item()
    )


# --- the long tail ---


def test_log_prior_is_the_log_of_each_classes_share():
    counts = torch.tensor([300, 20, 0, 80])
    expected = [2 * math.log(n / 401) for n in (300, 20, 1, 80)]  # a class without an image counts as having one
    assert log_prior(counts, 2.0).tolist() == pytest.approx(expected)
    assert log_prior(counts, 0.0).tolist() == [0, 0, 0, 0]


def test_balanced_softmax_is_the_naive_softmax_weighted_by_counts():
    """Ren et al., equation 3: n_y e^z_y / sum_c n_c e^z_c."""
    logits, counts = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64), [7, 1, 30, 2]
    labels = torch.tensor([0, 3, 2, 1, 1])
    naive = -sum(
        math.log(counts[y] * math.exp(row[y]) / sum(n * math.exp(z) for n, z in zip(counts, row, strict=True)))
        for row, y in zip(logits.tolist(), labels.tolist(), strict=True)
    )
    balanced = cross_entropy(logits + log_prior(torch.tensor(counts), 1.0), labels)
    assert balanced.item() == pytest.approx(naive / 5, rel=1e-6)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_class_weights_fall_with_the_counts_and_have_mean_one_over_the_images(power: float):
    counts = torch.tensor([100, 25, 4, 0])
    weights = class_weights(counts, power).double()
    assert (weights[0] / weights[2]).item() == pytest.approx((4 / 100) ** power, rel=1e-5)
    assert (weights * counts.clamp(min=1)).sum().item() == pytest.approx(130, rel=1e-5)


def test_a_weighted_cross_entropy_is_the_naive_sum_over_labelled_images():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels, weights = [2, -1, 0, 2], [3.0, 1.0, 0.25]
    naive = [
        weights[y] * -(row[y] - math.log(sum(math.exp(z) for z in row)))
        for row, y in zip(logits.tolist(), labels, strict=True)
        if y >= 0
    ]
    weighted = cross_entropy(logits, torch.tensor(labels), weight_C=torch.tensor(weights, dtype=torch.float64))
    assert weighted.item() == pytest.approx(sum(naive) / 3)


GROUPS = torch.tensor([0, 2, 1, 2, 0, 1, 2])


def naive_groups(
    student: list[float], teacher: list[float], temperature: float
) -> tuple[float, list[float], list[float]]:
    """KL between the groups, the teacher's mass of each, and the KL inside each, by plain loops."""

    def softmax(row: list[float]) -> list[float]:
        exps = [math.exp(z / temperature) for z in row]
        return [e / sum(exps) for e in exps]

    p, q, groups = softmax(teacher), softmax(student), GROUPS.tolist()
    mass_p, mass_q = (
        [sum(v for v, g in zip(row, groups, strict=True) if g == own) for own in range(3)] for row in (p, q)
    )
    between = sum(a * math.log(a / b) for a, b in zip(mass_p, mass_q, strict=True))
    inner = [
        sum(
            a / mass_p[g] * math.log(a / mass_p[g] / (b / mass_q[g]))
            for a, b, own in zip(p, q, groups, strict=True)
            if own == g
        )
        for g in range(3)
    ]
    return between, mass_p, inner


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_grouped_kl_is_the_naive_decomposition_and_sums_to_the_softened_kl(temperature: float):
    student, teacher = (
        torch.randn(6, 7, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (2, 3)
    )
    naive = [naive_groups(s, t, temperature) for s, t in zip(student.tolist(), (3 * teacher).tolist(), strict=True)]
    between, within = grouped_kl(student, 3 * teacher, GROUPS, temperature)
    factor = temperature**2 / 6
    assert between.item() == pytest.approx(factor * sum(own for own, _, _ in naive))
    assert within.item() == pytest.approx(
        factor * sum(m * kl for _, mass, inner in naive for m, kl in zip(mass, inner, strict=True))
    )
    assert (between + within).item() == pytest.approx(softened_kl(student, 3 * teacher, temperature).item(), rel=1e-12)
    _, equal = grouped_kl(student, 3 * teacher, GROUPS, temperature, equal_within=True)
    assert equal.item() == pytest.approx(factor * sum(kl for _, _, inner in naive for kl in inner))


def test_a_rebalanced_teacher_gives_every_group_the_same_before_each_image_is_renormalised():
    student, teacher = (
        torch.randn(6, 7, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (4, 5)
    )
    masses = [naive_groups(s, t, 2.0)[1] for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    own = [naive_groups(t, s, 2.0)[1] for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]  # the student's
    totals = [sum(mass[g] for mass in masses) for g in range(3)]
    expected = 0.0
    for mass, mine in zip(masses, own, strict=True):
        scaled = [m / total for m, total in zip(mass, totals, strict=True)]
        expected += sum(s / sum(scaled) * math.log(s / sum(scaled) / q) for s, q in zip(scaled, mine, strict=True))
    between, _ = grouped_kl(student, teacher, GROUPS, 2.0, rebalance=True)
    assert between.item() == pytest.approx(4 * expected / 6)


def test_grouped_kl_survives_certainty_and_reaches_the_student_alone():
    student = torch.randn(4, 7, requires_grad=True)
    teacher = (1000 * torch.eye(7)[:4]).requires_grad_()
    sum(grouped_kl(student, teacher, GROUPS, 1.0, rebalance=True, equal_within=True)).backward()
    assert student.grad.isfinite().all() and student.grad.abs().sum() > 0
    assert teacher.grad is None


# --- texts ---


def naive_text_contrast(projected: torch.Tensor, texts: torch.Tensor, labels: list[int], temperature: float) -> float:
    unit = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in projected.tolist()]
    cosine = [
        [sum(a * b for a, b in zip(row, text, strict=True)) / temperature for text in texts.tolist()] for row in unit
    ]
    total, images = 0.0, range(len(labels))
    for i in images:
        kept = [j for j in images if j == i or labels[j] != labels[i] or labels[i] < 0]
        total += math.log(sum(math.exp(cosine[i][j]) for j in kept)) - cosine[i][i]
        total += math.log(sum(math.exp(cosine[j][i]) for j in kept)) - cosine[i][i]
    return total / (2 * len(labels))


@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1], [0, 1, 2, 3, 4], [-1, 0, -1, 0, 1]])
def test_text_contrast_is_the_naive_loop_without_pairs_of_one_class(labels: list[int]):
    projected, texts = (
        torch.randn(5, 3, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (6, 7)
    )
    texts = torch.nn.functional.normalize(texts, dim=1)
    contrast = text_contrast(projected, texts, torch.tensor(labels), 0.07)
    assert contrast.item() == pytest.approx(naive_text_contrast(projected, texts, labels, 0.07))
    assert text_contrast(9 * projected, texts, torch.tensor(labels), 0.07).item() == pytest.approx(contrast.item())


def test_a_batch_of_one_class_has_no_text_to_mistake_and_finite_gradients():
    projected, texts = torch.randn(4, 3, requires_grad=True), torch.nn.functional.normalize(torch.randn(4, 3), dim=1)
    texts.requires_grad_()
    contrast = text_contrast(projected, texts, torch.zeros(4, dtype=torch.long), 0.07)
    contrast.backward()
    assert contrast.item() == 0
    assert projected.grad.abs().sum() == 0
    text_contrast(projected, texts, torch.arange(4), 0.07).backward()
    assert projected.grad.isfinite().all() and projected.grad.abs().sum() > 0
    assert texts.grad is None

"""The losses of dfkd against naive loops in float64, their limits and their gradients."""

import math

import pytest
import torch
from torch import Tensor, nn

from linnet.attention import HighOrderAttention
from linnet.losses import class_balance, divergence, feature_contrast, softened_kl, statistics_distance
from linnet.methods.dfkd import attended_distance, logit_spread
from linnet.teachers.statistics import BatchNormStatistics


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row: Tensor) -> list[float]:
    powers = [math.exp(value) for value in row.tolist()]
    return [power / sum(powers) for power in powers]


def test_divergence_is_the_naive_sum_and_reaches_both():
    p, q = random(4, 5, seed=1).requires_grad_(), random(4, 5, seed=2).requires_grad_()
    expected = 0.0
    for i in range(4):
        a, b = softmax(p[i]), softmax(q[i])
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


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)
    ).double()


def test_the_distance_is_zero_where_the_batch_has_the_running_statistics():
    network, images = net(), random(16, 3, 8, 8)
    found = images
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.copy_(found.mean(dim=(0, 2, 3)))
                layer.running_var.copy_(found.var(dim=(0, 2, 3), correction=0))
            found = layer.eval()(found)
    with BatchNormStatistics(network) as statistics:
        network(images)
    assert len(statistics.layers) == 2
    # the running statistics of linnet's teachers are float32, and so is the comparison
    assert statistics.distance().item() == pytest.approx(0, abs=1e-5)
    with BatchNormStatistics(network) as statistics:
        network(2 * images + 1)
    assert statistics.distance().item() > 1


def test_the_distance_reaches_the_images_and_hooks_do_not_stay():
    network, images = net().eval().requires_grad_(False), random(4, 3, 8, 8).requires_grad_()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with BatchNormStatistics(network) as statistics:
        network(images)
    network(images)  # outside: does not count
    assert len(statistics._distances) == 2
    statistics.distance().backward()
    assert images.grad.abs().sum() > 0
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(not layer._forward_pre_hooks for layer in statistics.layers)


def test_class_balance_is_lowest_where_all_classes_are_as_frequent():
    confident = 50 * torch.eye(4, dtype=torch.float64)
    assert class_balance(confident).item() == pytest.approx(-math.log(4))
    assert class_balance(confident[[0, 0, 0]]).item() == pytest.approx(0, abs=1e-12)
    logits = random(3, 4)
    mean = [sum(softmax(row)[c] for row in logits) / 3 for c in range(4)]
    assert class_balance(logits).item() == pytest.approx(sum(p * math.log(p) for p in mean), rel=1e-12)


def test_attended_distance_is_the_squared_distance_of_unit_vectors():
    torch.manual_seed(0)
    lift, attention = nn.Conv2d(8, 16, 1).double(), HighOrderAttention(16).double()
    student, teacher = random(3, 8, 2, 2, seed=1), random(3, 16, 2, 2, seed=2)
    expected = 0.0
    for i in range(3):
        s, t = (attention(x[i : i + 1]).flatten().tolist() for x in (lift(student), teacher))
        dot = sum(a * b for a, b in zip(s, t, strict=True))
        cosine = dot / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t))
        expected += (2 - 2 * cosine) / 3
    assert attended_distance(student, teacher, lift, attention).item() == pytest.approx(expected, rel=1e-10)
    assert attended_distance(student, 7 * lift(student).detach(), lift, nn.Identity()).item() == pytest.approx(
        0, abs=1e-12
    )


def test_attended_distance_trains_student_lift_and_attention_and_not_the_teacher():
    torch.manual_seed(0)
    lift, attention = nn.Conv2d(8, 16, 1).double(), HighOrderAttention(16).double()
    student, teacher = random(3, 8, 2, 2, seed=1).requires_grad_(), random(3, 16, 2, 2, seed=2).requires_grad_()
    attended_distance(student, teacher, lift, attention).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert all(p.grad.abs().sum() > 0 for module in (lift, attention) for p in module.parameters())


def test_attention_alone_cannot_make_a_student_that_does_not_look_agree():
    """The trivial solutions: attention that fades, or that picks one channel which is constant."""

    def plain(student: Tensor, teacher: Tensor, lift: nn.Module, attention: nn.Module) -> Tensor:
        return (attention(lift(student)) - attention(teacher)).square().mean()

    share = {}
    for distance in (attended_distance, plain):
        torch.manual_seed(0)
        teacher = torch.randn(64, 16, 4, 4).relu()  # differs from image to image
        student = torch.randn(1, 8, 4, 4).relu().expand(64, -1, -1, -1)  # does not
        lift, attention = nn.Conv2d(8, 16, 1), HighOrderAttention(16)
        optimizer = torch.optim.Adam([*lift.parameters(), *attention.parameters()], lr=1e-2)
        losses = []
        for _ in range(400):
            loss = distance(student, teacher, lift, attention)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        share[distance] = min(losses) / losses[0]
    assert share[plain] < 1e-2, "the plain form has lost its trivial solution: this test shows nothing"
    assert share[attended_distance] > 0.4  # what is left below 1 is the teacher's mean map


def test_logit_spread_is_the_share_between_images():
    same = random(1, 6).expand(5, -1)
    assert logit_spread(same).item() == pytest.approx(0, abs=1e-12)
    logits = random(5, 6)
    assert 0 < logit_spread(logits).item() <= 1
    shift = torch.arange(5.0, dtype=torch.float64)[:, None]
    assert logit_spread(logits + shift).item() == pytest.approx(logit_spread(logits).item())
    assert logit_spread(100 * logits).item() == pytest.approx(logit_spread(logits).item())

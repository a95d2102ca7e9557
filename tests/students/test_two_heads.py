"""Two heads in one answer, against probabilities that are added up by hand."""

import numpy as np
import pytest
import torch

from linnet.students.two_heads import mixed_logits

Z = torch.tensor([[2.0, 0.5, -1.0]], dtype=torch.float64)  # what the classifier says about its three classes
NAMES = torch.tensor([[1.0, -0.5, 0.3, 2.0]], dtype=torch.float64)  # cosines with four names


def soft(values: list[float]) -> list[float]:
    total = sum(np.exp(values))
    return [float(np.exp(value) / total) for value in values]


def probabilities(columns: list[int], weight: float, names: torch.Tensor = NAMES) -> list[float]:
    logits = mixed_logits(Z, names[:, : len(columns)], torch.tensor(columns), weight)
    assert logits.exp().sum().item() == pytest.approx(1.0)
    return logits.exp()[0].tolist()


def test_of_the_classes_of_the_training_it_is_the_mixture_of_both_heads():
    q, p = soft(Z[0].tolist()), soft(NAMES[0, :3].tolist())
    expected = [0.3 * a + 0.7 * b for a, b in zip(q, p, strict=True)]
    assert probabilities([0, 1, 2], 0.3) == pytest.approx(expected)


def test_a_new_name_has_what_its_own_head_gives_it():
    """The trained names, in another order and not all of them, share the rest as both heads say."""
    q, p = soft([Z[0, 2].item(), Z[0, 0].item()]), soft(NAMES[0].tolist())
    mass = p[0] + p[3]
    expected = [0.6 * mass * q[0] + 0.4 * p[0], p[1], p[2], 0.6 * mass * q[1] + 0.4 * p[3]]
    assert probabilities([2, -1, -1, 0], 0.6) == pytest.approx(expected)


@pytest.mark.parametrize(("weight", "alone"), [(0.0, NAMES[0, :3]), (1.0, Z[0])])
def test_at_either_end_one_head_is_alone(weight: float, alone: torch.Tensor):
    assert probabilities([0, 1, 2], weight) == pytest.approx(soft(alone.tolist()), abs=1e-7)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_among_new_names_alone_the_classifier_has_no_say(weight: float):
    assert probabilities([-1, -1, -1, -1], weight) == pytest.approx(soft(NAMES[0].tolist()))


def test_nothing_is_lost_where_both_heads_are_very_sure():
    logits = mixed_logits(100 * Z, 100 * NAMES[:, :3], torch.tensor([0, 1, 2]), 0.5)
    assert torch.isfinite(logits).all()
    assert len(set(logits[0].tolist())) == 3

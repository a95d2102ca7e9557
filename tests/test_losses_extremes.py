"""Every public loss on numbers that no training should give, and that some training will."""

import inspect
import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from linnet import losses


def logits(seed: int) -> Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


LABELS, GROUPS = torch.tensor([0, 3, -1, 3]), torch.tensor([0, 0, 1, 1, 2])
Pair = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, Pair] = {  # of a student's and a teacher's (4, 5) numbers: every public loss of the module
    "cross_entropy": lambda s, t: losses.cross_entropy(s, LABELS, 0.1, torch.arange(1.0, 6.0).to(s)),
    "mixed_cross_entropy": lambda s, t: losses.mixed_cross_entropy(
        s, LABELS, LABELS.flip(0), torch.tensor([1.0, 0.7, 0.5, 0.0]), 0.1
    ),
    "divergence": losses.divergence,
    "softened_kl": lambda s, t: losses.softened_kl(s, t, 4.0),
    "standardize": lambda s, t: losses.standardize(s)[:, 0].sum() + losses.standardize(s, 1)[:, 1].sum(),
    "neighbour_structure": lambda s, t: losses.neighbour_structure(s, t, 2),
    "decoupled_kl": lambda s, t: torch.stack(losses.decoupled_kl(s, t, LABELS, 4.0)).sum(),
    "correlation_loss": losses.correlation_loss,
    "relation_losses": lambda s, t: torch.stack(losses.relation_losses(s, t, 1.0)).sum(),
    "coefficient_error": lambda s, t: losses.coefficient_error(s, t, 5),
    "embedding_error": lambda s, t: losses.embedding_error(s, F.normalize(t, dim=1)),
    "image_contrast": lambda s, t: losses.image_contrast(s, F.normalize(t, dim=1), 0.07),
    "nearest_text_kl": lambda s, t: losses.nearest_text_kl(s, t, 3),
    "caption_contrast": lambda s, t: losses.caption_contrast(s, F.normalize(t, dim=1), LABELS),
    "text_contrast": lambda s, t: losses.text_contrast(s, F.normalize(t, dim=1), LABELS, 0.07),
    "grouped_kl": lambda s, t: torch.stack(
        losses.grouped_kl(s, t, GROUPS, 4.0, rebalance=True, equal_within=True)
    ).sum(),
    "statistics_distance": lambda s, t: losses.statistics_distance(s, t.mean(dim=0), t.var(dim=0, correction=0)),
    "feature_contrast": lambda s, t: losses.feature_contrast(s, t, 0.1),
    "class_balance": lambda s, t: losses.class_balance(s),
}
NO_LOSSES = {"log_prior", "class_weights", "nearest_neighbours"}  # of counts, or of what has no gradient
SHAPES: dict[str, Tensor] = {
    "random": logits(0),
    "other": logits(1),
    "zero": torch.zeros(4, 5, dtype=torch.float64),
    "constant rows": torch.tensor([[3.0], [-1.0], [0.0], [7.0]], dtype=torch.float64).expand(4, 5).clone(),
    "one class": torch.eye(5, dtype=torch.float64)[[0, 0, 0, 0]],
    "each its own": torch.eye(5, dtype=torch.float64)[[0, 1, 2, 3]],
    "one against": -torch.eye(5, dtype=torch.float64)[[0, 3, 2, 1]],
    "equal images": logits(2)[[0, 0, 0, 0]],
}
SCALES = [1e-30, 1e-10, 1.0, 100.0, 1e4, 1e8]


def test_every_public_loss_meets_extreme_numbers():
    public = {name for name, value in vars(losses).items() if inspect.isfunction(value) and name[0] != "_"}
    assert public == {*LOSSES, *NO_LOSSES}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", SCALES)
def test_losses_and_gradients_stay_finite_in_float32(name: str, scale: float):
    """Logarithms of probabilities that underflow, unit vectors of zeros, deviations of constants, 0 times infinity."""
    for (first, student), (second, teacher) in itertools.product(SHAPES.items(), SHAPES.items()):
        for other in (1.0, scale):
            ours = (student * scale).float().requires_grad_()
            loss = LOSSES[name](ours, (teacher * other).float())
            (gradient,) = torch.autograd.grad(loss, ours)
            assert loss.isfinite(), (first, second, other)
            assert gradient.isfinite().all(), (first, second, other)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_losses_in_float32_are_those_in_float64(name: str, scale: float):
    # constants correlate as their rounding errors do
    constants = [shape for shape in SHAPES if shape not in ("random", "other")] if "relation" in name else []
    kept = [value for shape, value in SHAPES.items() if shape not in constants]
    for student, teacher in itertools.product(kept, kept):
        pair = (student * scale).float(), (teacher * scale).float()
        exact = LOSSES[name](*(value.double() for value in pair)).item()
        assert LOSSES[name](*pair).item() == pytest.approx(exact, rel=1e-3, abs=2e-5 * scale)


@pytest.mark.parametrize("scale", [1.0, 30.0, 100.0, 200.0, 1e4])
def test_class_balance_of_classes_that_hardly_occur(scale: float):
    """At 200 the probability of the last class is 0 in float32, and the gradient of its logarithm was infinite."""
    values = (logits(0) * scale / 10).float()
    values[:, 4] -= scale
    ours, exact = values.clone().requires_grad_(), values.double().requires_grad_()
    balance, exact_balance = losses.class_balance(ours), losses.class_balance(exact)
    (found,), (expected,) = torch.autograd.grad(balance, ours), torch.autograd.grad(exact_balance, exact)
    assert balance.item() == pytest.approx(exact_balance.item(), abs=1e-4)
    assert expected.isfinite().all()
    assert torch.allclose(found, expected.float(), atol=1e-4)

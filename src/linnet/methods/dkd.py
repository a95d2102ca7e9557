"""``dkd``: decoupled knowledge distillation (Zhao et al., CVPR 2022)."""

from dataclasses import dataclass
from typing import Annotated

import torch

from linnet.fields import Bounds, NonNegative
from linnet.losses import decoupled_kl
from linnet.methods.base import Method, Needs
from linnet.step import Batch, Progress, StudentOutput


@dataclass(frozen=True)
class DKDOptions:
    temperature: Annotated[float, Bounds(0.01, 1000.0)] = 4.0
    """Softens both distributions."""
    alpha: NonNegative = 1.0
    """Weight of the part about the true class against all others."""
    beta: NonNegative = 8.0
    """Weight of the part about the other classes among themselves; in the released settings 2, 6 or 8 by the pair of
    networks."""
    warmup: Annotated[float, Bounds(0.0, 1.0)] = 20 / 240
    """Share of the epochs over which both weights rise linearly."""


class DKD(Method):
    """CE + w * (alpha * TCKD + beta * NCKD), with w = min(1, e / (warmup * N)) in epoch e = 1 .. N.

    TCKD and NCKD are the two parts of the softened KL: see :func:`linnet.losses.decoupled_kl`.

    Reference:
        Zhao et al.: Decoupled Knowledge Distillation, CVPR 2022; weights, temperature and warm-up of its released
        CIFAR-100 settings (20 of 240 epochs).

    Deviation:
        The same settings with a vision-language teacher. Images without a label count in neither part.
    """

    summary = "kd with the true class and the others decoupled (DKD, CVPR 2022)"
    use = "teachers that are very sure of the true class"
    Options = DKDOptions
    needs = Needs(labels=True)

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        assert batch.teacher is not None
        options, rise = self.options, self.options.warmup * progress.epochs
        factor = min(1.0, (progress.epoch + 1) / rise) if rise else 1.0
        target, others = decoupled_kl(student.logits_BC, batch.teacher.logits_BC, batch.labels, options.temperature)
        return {
            "ce": self.cross_entropy(batch, student),
            "tckd": factor * options.alpha * target,
            "nckd": factor * options.beta * others,
        }

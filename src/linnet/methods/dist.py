"""``dist``: correlations instead of divergences (DIST, Huang et al., NeurIPS 2022)."""

from dataclasses import dataclass
from typing import Annotated

import torch

from linnet.fields import Bounds, NonNegative
from linnet.losses import relation_losses
from linnet.methods.base import Method
from linnet.step import Batch, Progress, StudentOutput


@dataclass(frozen=True)
class DISTOptions:
    temperature: Annotated[float, Bounds(0.01, 1000.0)] = 4.0
    """Softens both distributions."""
    inter_weight: NonNegative = 2.0
    """Weight of the correlation over the classes of each image."""
    intra_weight: NonNegative = 2.0
    """Weight of the correlation over the images of the batch for each class."""


class DIST(Method):
    """CE + inter_weight * L_inter + intra_weight * L_intra, see :func:`linnet.losses.relation_losses`.

    Pearson's correlation knows no scale, so the student need not be as sure of itself as a stronger teacher is.

    Reference:
        Huang et al.: Knowledge Distillation from A Stronger Teacher, NeurIPS 2022.

    Deviation:
        Weights and temperature are those reported for CIFAR-100; the released ImageNet code has 1 and 1, and no
        temperature.
    """

    summary = "correlations over classes and over the batch, blind to scale (DIST, NeurIPS 2022)"
    use = "teachers much stronger than the student"
    Options = DISTOptions

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        assert batch.teacher is not None
        inter, intra = relation_losses(student.logits_BC, batch.teacher.logits_BC, self.options.temperature)
        return {
            "ce": self.cross_entropy(batch, student),
            "inter": self.options.inter_weight * inter,
            "intra": self.options.intra_weight * intra,
        }

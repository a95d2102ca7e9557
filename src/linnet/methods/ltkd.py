"""``ltkd``: distillation from a teacher that favours the frequent classes (LTKD, arXiv 2506.18496)."""

from dataclasses import dataclass
from typing import Annotated

import torch

from linnet.data.long_tail import thirds
from linnet.data.manifest import Manifest
from linnet.errors import UserError
from linnet.fields import Bounds, NonNegative
from linnet.losses import grouped_kl
from linnet.methods.base import Context, Method
from linnet.step import Batch, Progress, StudentOutput


@dataclass(frozen=True)
class LTKDOptions:
    temperature: Annotated[float, Bounds(0.01, 1000.0)] = 4.0
    """Softens both distributions."""
    between_weight: NonNegative = 1.0
    """Weight of the divergence between the groups of frequent, medium and rare classes (alpha)."""
    within_weight: NonNegative = 1.0
    """Weight of the divergences among the classes of each group (beta)."""
    rebalance_groups: bool = True
    """Scale the teacher's group probabilities so that the batch gives every group the same."""
    equal_within: bool = True
    """Let every group's inner divergence count alike, not by the teacher's probability of the group."""


class LTKD(Method):
    """CE + between_weight * between + within_weight * within, the two parts of T^2 * KL(teacher || student) over three
    groups of classes: see :func:`linnet.losses.grouped_kl`.

    The classes, in the order of their training images, are cut into thirds. With both fixes off and equal weights the
    sum of the parts is ``kd``'s term.

    Reference:
        LTKD, arXiv 2506.18496, known to us from notes: the decomposition, the groups and the two fixes.

    Deviation:
        Temperature and weights are not known to us. The constant weight of a group's inner divergence is 1.

    Raises:
        UserError: fewer than three classes.
    """

    summary = "kd with the groups of frequent and rare classes apart and balanced (LTKD, arXiv 2506.18496)"
    use = "long tails: few images of many classes"
    Options = LTKDOptions
    group_C: torch.Tensor

    def check_data(self, rows: Manifest) -> None:
        _check_count(len(rows.classes))

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        _check_count(len(context.classes))
        self.register_buffer("group_C", torch.from_numpy(thirds(context.counts_C)), persistent=False)

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        assert batch.teacher is not None
        options = self.options
        between, within = grouped_kl(
            student.logits_BC,
            batch.teacher.logits_BC,
            self.group_C,
            options.temperature,
            options.rebalance_groups,
            options.equal_within,
        )
        return {
            "ce": self.cross_entropy(batch, student),
            "between": options.between_weight * between,
            "within": options.within_weight * within,
        }


def _check_count(classes: int) -> None:
    if classes < 3:
        raise UserError("ltkd cuts the classes into three groups: it needs at least three classes")

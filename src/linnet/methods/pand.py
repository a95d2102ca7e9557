"""``pand``: calibrated prompts, condensed embeddings, and the structure among neighbours (PAND, arXiv 2602.07768)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from linnet.config import Config
from linnet.fields import Count, NonNegative
from linnet.losses import neighbour_structure
from linnet.methods.base import Context, Method, Needs
from linnet.methods.vl2lite import VL2Lite, VL2LiteOptions
from linnet.step import Batch, Progress, StudentOutput


@dataclass(frozen=True)
class PANDOptions(VL2LiteOptions):
    text_weight: NonNegative = 1.0
    """Factor on the softened KL of the class relations."""
    nsd_weight: NonNegative = 1.0
    """Weight of the neighbourhood term, not scheduled; with 0 only the calibrated prompts are at work."""
    neighbours: Count = 3
    """Neighbours of each image (K), searched in the local batch."""
    center_teacher: bool = False
    """Subtract each image's mean teacher logit before the search: cosines are not blind to it."""


class PAND(Method):
    """VL2Lite's terms with calibrated prompts (``teacher.head: prompt``) plus nsd_weight * L_nsd.

    L_nsd is the Jensen-Shannon divergence between teacher and student of softmax(logits_i - logits_j) over the K
    nearest neighbours j of each image i: see :func:`linnet.losses.neighbour_structure`. The teacher's logits there are
    scale * v t_c, without temperature.

    Reference:
        PAND, arXiv 2602.07768, sections 3.2 and 3.3, and its released code.

    Deviation:
        The terms of VL2Lite deviate as VL2Lite's do; ``center_teacher`` is linnet's own.
    """

    summary = "calibrated prompts, condensed embeddings and neighbourhood structure (PAND, arXiv 2602.07768)"
    use = "look-alike classes, by prompts fitted to them"
    Options = PANDOptions
    needs = Needs(teacher="vlm")
    defaults: ClassVar[Mapping[str, Any]] = {"teacher": {"head": "prompt"}}

    def check_settings(self, config: Config) -> None:
        VL2Lite(self.options).check_settings(config)

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.base = VL2Lite(self.options)
        self.base.prepare(context)

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        teacher_BC = self.base.teacher_logits(batch)
        if self.options.center_teacher:
            teacher_BC = teacher_BC - teacher_BC.mean(dim=1, keepdim=True)
        structure = neighbour_structure(student.logits_BC, teacher_BC, self.options.neighbours)
        return {**self.base(batch, student, progress), "nsd": self.options.nsd_weight * structure}

"""``vl2lite``: the student's features follow condensed image and text embeddings of a VLM (VL2Lite, CVPR 2025).

Shapes: B batch, C classes, D student width, E teacher embedding width.
"""

import logging
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import nn

from linnet.config import Config
from linnet.errors import UserError
from linnet.fields import Bounds, NonNegative
from linnet.losses import softened_kl
from linnet.methods.base import Context, Method, Needs
from linnet.step import Batch, Progress, StudentOutput

log = logging.getLogger("linnet")

Schedule = Literal["published", "constant"]


@dataclass(frozen=True)
class VL2LiteOptions:
    schedule: Schedule | None = None
    """Course of the cross-entropy's weight. published: starts at 0 and ends at 1/8, made for pretrained students;
    constant: ce_weight throughout; auto: published for a pretrained student, else constant."""
    ce_weight: NonNegative = 1.0
    """Weight of the cross-entropy under the constant schedule; the other terms' weight is 1."""
    text_weight: NonNegative = 0.5
    """Factor on the softened KL of the class relations; 0.5 is VL2Lite's effective weight, 1 is PAND's."""
    temperature: Annotated[float, Bounds(0.01, 1000.0)] = 2.0
    """Softens both class relations."""
    scale: Annotated[float, Bounds(0.01, 1000.0)] = 1 / 0.07
    """Factor on cosines in place of the one that the teacher learned."""


class VL2Lite(Method):
    """w_cls * CE + w_kd * (L_vis + L_txt) / 2, with two small networks that condense the teacher's space to the
    student's.

    * L_vis: mean absolute difference between the unit features and the condensed image embedding.
    * L_txt: text_weight * T^2 * KL(softmax(s v t_c / T) || softmax(s h tau_c / T)), with h the unit features and tau_c
      the condensed text vector of class c and s the ``scale``.
    * schedule ``published``: w_cls = e / 8N, clipped to [0, 1], in epoch e = 0 .. N - 1, and w_kd = 1 - w_cls.

    Logits come from the features as they are, not from the unit ones.

    Reference:
        VL2Lite, CVPR 2025, and its released code, from which the weights are taken.

    Deviation:
        schedule ``constant`` (w_cls = ``ce_weight``, w_kd = 1), the default for students from scratch, is linnet's own.
        With a probe as the teacher's head its logits stand in for s v t_c.

    Raises:
        UserError: ``ce_weight`` is set under the published schedule.
    """

    summary = "features follow condensed image and text embeddings of a VLM (VL2Lite, CVPR 2025)"
    use = "look-alike classes, by image and text embeddings"
    Options = VL2LiteOptions
    needs = Needs(teacher="vlm")

    def check_settings(self, config: Config) -> None:
        if self._schedule(config) == "published" and self.options.ce_weight != 1:
            raise UserError(
                "ce_weight has no effect under the published schedule: add schedule constant, or leave it out"
            )

    def _schedule(self, config: Config) -> Schedule:
        return self.options.schedule or ("published" if config.student.pretrained else "constant")

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        head, config = context.class_head, context.config
        assert head is not None
        assert head.bank_CE is not None
        self.schedule = self._schedule(config)
        log.info("%s: schedule %s", config.method, self.schedule)
        if self.schedule == "published" and config.train.optimizer != "adamw":
            log.warning(
                "the published schedule gives the classifier at most 1/8 of the loss, which works only with a "
                "scale-free optimiser: use --train.optimizer adamw, or schedule constant"
            )
        self.rescale = self.options.scale / head.scale if head.probe is None else 1.0
        self.register_buffer("bank_CE", head.bank_CE, persistent=False)
        width = head.bank_CE.shape[1]
        self.condense_image = condensation(width, context.student_width)
        self.condense_text = condensation(width, context.student_width)

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        ce_weight, kd_weight = self.guidance(progress)
        vision, text = self.alignment(batch, student)
        return {
            "ce": ce_weight * self.cross_entropy(batch, student),
            "vision": kd_weight / 2 * vision,
            "text": kd_weight / 2 * self.options.text_weight * text,
        }

    def alignment(self, batch: Batch, student: StudentOutput) -> tuple[torch.Tensor, torch.Tensor]:
        """L_vis and T^2 * KL of the class relations, both unweighted."""
        features_BD = F.normalize(student.features_BD, dim=1)
        assert batch.teacher is not None
        assert batch.teacher.embedding_BE is not None
        image_BD = F.normalize(self.condense_image(batch.teacher.embedding_BE.detach()), dim=1)
        text_CD = self.condense_text(self.bank_CE)
        # dividing the products by the norms is cheaper than unit texts: nothing else is as large as C x D
        cosines_BC = features_BD @ text_CD.T / torch.linalg.vector_norm(text_CD, dim=1).clamp(min=1e-12)
        vision = (features_BD - image_BD).abs().mean()
        return vision, softened_kl(
            self.options.scale * cosines_BC, self.teacher_logits(batch), self.options.temperature
        )

    def guidance(self, progress: Progress) -> tuple[float, float]:
        """w_cls and w_kd, the same throughout an epoch."""
        if self.schedule == "constant":
            return self.options.ce_weight, 1.0
        ce_weight = min(1.0, max(0.0, progress.epoch / (8 * progress.epochs)))
        return ce_weight, 1 - ce_weight

    def teacher_logits(self, batch: Batch) -> torch.Tensor:
        """(B, C): s v t_c with the method's own scale."""
        assert batch.teacher is not None
        return self.rescale * batch.teacher.logits_BC


def condensation(teacher_width: int, student_width: int) -> nn.Sequential:
    """E -> D: Linear, ReLU, Linear."""
    return nn.Sequential(nn.Linear(teacher_width, student_width), nn.ReLU(), nn.Linear(student_width, student_width))

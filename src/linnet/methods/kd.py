"""``kd``: knowledge distillation on logits (Hinton et al. 2015)."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from linnet.config import Config
from linnet.errors import UserError
from linnet.fields import Bounds, NonNegative
from linnet.losses import softened_kl, standardize
from linnet.methods.base import Context, Method
from linnet.step import Batch, Progress, StudentOutput


@dataclass(frozen=True)
class KDOptions:
    temperature: Annotated[float, Bounds(0.01, 1000.0)] = 4.0
    """Softens both distributions."""
    alpha: Annotated[float, Bounds(0.0, 1.0)] | None = None
    """Weight of the distillation term; auto: 0.9 with a classifier teacher, 0.5 with a vision-language teacher."""
    weight: NonNegative | None = None
    """Weight of the distillation term beside the whole cross-entropy, in place of alpha (9 in the code of Sun et
    al.)."""
    standardize: bool = False
    """Bring each image's logits to mean 0 and variance 1, the student's and the teacher's, before softening."""
    deviation: Literal["population", "sample"] | None = None
    """What standardize divides by: the root of the squares' sum over C, the number of classes, or over C - 1 (the code
    of Sun et al.); auto: population."""


class KnowledgeDistillation(Method):
    """(1 - alpha) * CE + alpha * T^2 * KL(teacher || student) on softened logits, or CE + weight * T^2 * KL.

    A vision-language teacher's logits are its own learned scale times the cosines with the text bank.

    Reference:
        Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, section 2. Defaults for a classifier
        teacher as in the CIFAR-100 protocol of the mdistiller benchmark. ``standardize``: Sun et al., CVPR 2024, whose
        released code has ``deviation: sample``, T 2 and ``weight`` 9.

    Deviation:
        alpha 0.5 for a vision-language teacher is linnet's own, and so is ``deviation: population``.

    Raises:
        UserError: both ``alpha`` and ``weight``, or a ``deviation`` without ``standardize``.
    """

    summary = "softened logits of the teacher beside the labels (Hinton et al. 2015)"
    use = "the first to try, with any teacher"
    Options = KDOptions

    def check_settings(self, config: Config) -> None:
        if self.options.alpha is not None and self.options.weight is not None:
            raise UserError("kd.alpha and kd.weight both weigh the distillation term: leave one out")
        if self.options.deviation and not self.options.standardize:
            raise UserError("kd.deviation has no effect without kd.standardize true: add it, or leave this out")

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        assert context.teacher is not None
        usual = 0.5 if context.teacher.kind == "vlm" else 0.9
        self.alpha = self.options.alpha if self.options.alpha is not None else usual

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        assert batch.teacher is not None
        student_BC, teacher_BC = student.logits_BC, batch.teacher.logits_BC
        if self.options.standardize:
            correction = 1 if self.options.deviation == "sample" else 0
            student_BC, teacher_BC = standardize(student_BC, correction), standardize(teacher_BC, correction)
        divergence = softened_kl(student_BC, teacher_BC, self.options.temperature)
        entropy = self.cross_entropy(batch, student)
        if self.options.weight is not None:
            return {"ce": entropy, "kd": self.options.weight * divergence}
        return {"ce": (1 - self.alpha) * entropy, "kd": self.alpha * divergence}

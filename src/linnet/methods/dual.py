"""``dual``: a student with two heads, a classifier and an embedding that takes class names (DHO, arXiv 2505.07675).

Shapes: B batch, C classes, E teacher embedding width.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F

from linnet.config import Config
from linnet.errors import UserError
from linnet.fields import Bounds, NonNegative
from linnet.losses import divergence, embedding_error
from linnet.methods.base import Context, Method, Needs
from linnet.step import Batch, Progress, StudentOutput
from linnet.students.student import Student


@dataclass(frozen=True)
class DualOptions:
    ce_weight: NonNegative = 1.0
    """Weight of the classifier's cross-entropy."""
    kd_weight: NonNegative = 1.0
    """Weight of the KL between the teacher's and the embedding's distributions over the class texts."""
    mse_weight: NonNegative = 1.0
    """Weight of the squared distance between the embedding and the teacher's."""
    temperature: Annotated[float, Bounds(0.001, 100.0)] = 0.07
    """Divides cosines, in training and in the student's own logits."""


class DualHead(Method):
    """ce_weight * CE(z, y) + kd_weight * KL(softmax(v t_c / T) || softmax(s t_c / T)) + mse_weight * |s - v|^2.

    z are the classifier's logits, s is the student's unit embedding, v the teacher's and t_c that of a class text. The
    labels reach the classifier, the teacher the embedding; both share the network. Afterwards the two are mixed with
    the weight that val prefers, and the embedding names new classes.

    Reference:
        Kang et al.: Dual-head optimization (DHO), arXiv 2505.07675.

    Deviation:
        Its second head has logits of its own; here it is an embedding in the teacher's space, which ``mse`` keeps near
        the teacher's, so that new names have a meaning. Weights and temperature are linnet's own.
    """

    summary = "a classifier and an embedding in one student, mixed afterwards (DHO, arXiv 2505.07675)"
    use = "trained classes and new names in one student"
    Options = DualOptions
    needs = Needs(teacher="vlm", head="dual")
    bank_CE: torch.Tensor

    def check_settings(self, config: Config) -> None:
        if not (self.options.ce_weight or self.options.kd_weight or self.options.mse_weight):
            raise UserError("every weight of dual is 0: there is nothing to learn")

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        assert context.class_head is not None
        assert context.class_head.bank_CE is not None
        self.register_buffer("bank_CE", context.class_head.bank_CE, persistent=False)

    def hand_over(self, student: Student) -> None:
        student.temperature = self.options.temperature

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        options = self.options
        assert batch.teacher is not None
        assert batch.teacher.embedding_BE is not None
        assert student.embedding_BE is not None
        student_BE, teacher_BE = F.normalize(student.embedding_BE, dim=1), batch.teacher.embedding_BE.detach()
        names_BC, told_BC = (rows_BE @ self.bank_CE.T / options.temperature for rows_BE in (student_BE, teacher_BE))
        return {
            "ce": options.ce_weight * self.cross_entropy(batch, student),
            "names": options.kd_weight * divergence(told_BC, names_BC),
            "mse": options.mse_weight * embedding_error(student_BE, teacher_BE),
        }

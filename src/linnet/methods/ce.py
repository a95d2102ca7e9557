"""``ce``: plain supervised training, the honest row without distillation."""

import torch

from linnet.data.batches import Batch
from linnet.methods.base import Method, Needs, Progress
from linnet.students import StudentOutput


class CrossEntropy(Method):
    """CE(student, labels), nothing else: what every table compares with."""

    summary = "cross-entropy on the labels alone: the row that every gain is measured against"
    needs = Needs(teacher="none")

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        return {"ce": self.cross_entropy(batch, student)}

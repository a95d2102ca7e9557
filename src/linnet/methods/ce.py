"""``ce``: plain supervised training, the honest row without distillation."""

import torch

from linnet.methods.base import Method, Needs
from linnet.step import Batch, Progress, StudentOutput


class CrossEntropy(Method):
    """CE(student, labels), nothing else: what every table compares with."""

    summary = "cross-entropy on the labels, no teacher: the row to compare the others with"
    use = "the row that all others are measured against"
    needs = Needs(teacher="none")

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        return {"ce": self.cross_entropy(batch, student)}

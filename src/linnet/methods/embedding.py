"""``embedding``: features that follow the teacher's image embedding, beside the labels.

Shapes: B batch, D student width, E teacher embedding width.
"""

from dataclasses import dataclass

import torch
from torch import nn

from linnet.fields import NonNegative
from linnet.losses import embedding_error
from linnet.methods.base import Context, Method, Needs
from linnet.step import Batch, Progress, StudentOutput


@dataclass(frozen=True)
class EmbeddingOptions:
    weight: NonNegative = 1.0
    """Weight of the squared distance to the teacher's embedding, which is between 0 and 4."""


class EmbeddingRegression(Method):
    """CE + weight * |P h / |P h| - v|^2, where P is a linear layer from the student's features h to the teacher's space
    and v the teacher's unit embedding of the image.

    P is trained with the student and stays out of it.

    Reference:
        The plain feature loss of FitNets (Romero et al., ICLR 2015), section 2.2, on unit vectors at the last layer.

    Deviation:
        Trained with the labels from the start, not before them; the weight is linnet's own.
    """

    summary = "features follow the teacher's image embedding through a linear layer, beside the labels"
    use = "a VLM's image embeddings, without its texts"
    Options = EmbeddingOptions
    needs = Needs(teacher="vlm")

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        assert context.class_head is not None
        assert context.class_head.bank_CE is not None
        self.project = nn.Linear(context.student_width, context.class_head.bank_CE.shape[1])

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        assert batch.teacher is not None
        assert batch.teacher.embedding_BE is not None
        error = embedding_error(self.project(student.features_BD), batch.teacher.embedding_BE)
        return {"ce": self.cross_entropy(batch, student), "embedding": self.options.weight * error}

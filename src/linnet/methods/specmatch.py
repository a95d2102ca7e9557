"""``specmatch``: features that match the teacher's embedding in each of its principal directions (SpecMatch, Saito and
Ushiku 2026).

Shapes: B batch, N training images, D student width, E teacher embedding width, K principal directions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from torch import nn

from linnet.config import Config
from linnet.errors import UserError
from linnet.fields import Bounds, NonNegative
from linnet.methods.base import Context, Method, Needs
from linnet.step import Batch, Progress, StudentOutput, TeacherOutput

CHUNK = 1024  # embeddings that are read at once


@dataclass(frozen=True)
class SpecMatchOptions:
    weight: NonNegative = 0.02
    """Weight of the spectral error beside the cross-entropy."""
    epsilon: Annotated[float, Bounds(1e-12, 1.0)] = 1e-8
    """Added to each direction's mean squared error (eps) before its cube root is taken."""
    labels: Literal["joint", "probe"] = "joint"
    """joint: the labels train all of the student; probe: only its last layer, the features know the teacher alone."""


class SpecMatch(Method):
    """CE + weight * sum_k (e_k + eps)^(1/3), where e_k is the batch's mean squared error in the k-th principal
    direction of the teacher's embeddings of the training images.

    The directions are those of the first view of each image, as the teacher sees it. A linear layer from the student's
    features tells the coefficients. The cube root makes a direction of little variance count nearly as much as one of
    much: a plain squared error would leave it out.

    Reference:
        Saito and Ushiku: SpecMatch, 2026.

    Deviation:
        The labels train the student, too (``labels: probe`` is the paper's case: features without labels, a classifier
        on top, here learned along and not afterwards); the base is frozen at the start only with ``train.head_warmup``
        (theirs: for 500 steps); eps and weight are linnet's own.
    """

    summary = "features match the teacher's embedding in each principal direction (SpecMatch, 2026)"
    use = "a VLM's image embeddings, rare traits too"
    Options = SpecMatchOptions
    needs = Needs(teacher="vlm")
    mean_E: torch.Tensor
    directions_EK: torch.Tensor

    def __init__(self, options: SpecMatchOptions | None = None):
        super().__init__(options)
        self.needs = replace(type(self).needs, detached=self.options.labels == "probe")  # type: ignore[misc]

    def check_settings(self, config: Config) -> None:
        if config.teacher.views == "online":
            raise UserError(
                "specmatch reads the teacher's embeddings of all training images before the training, and with "
                "--teacher.views online they are not kept: use center or replay:4"
            )

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        assert context.answers is not None
        mean_E, directions_EK = principal_directions(context.answers, len(context.labels_N))
        self.register_buffer("mean_E", mean_E, persistent=False)
        self.register_buffer("directions_EK", directions_EK, persistent=False)
        self.project = nn.Linear(context.student_width, directions_EK.shape[1])

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        assert batch.teacher is not None
        assert batch.teacher.embedding_BE is not None
        teacher_BK = (batch.teacher.embedding_BE.detach() - self.mean_E) @ self.directions_EK
        error = spectral_error(self.project(student.features_BD), teacher_BK, self.options.epsilon)
        return {"ce": self.cross_entropy(batch, student), "spectrum": self.options.weight * error}


def spectral_error(student_BK: torch.Tensor, teacher_BK: torch.Tensor, epsilon: float) -> torch.Tensor:
    """sum_k (e_k + eps)^(1/3), e_k the mean over the batch of the squared error of coefficient k."""
    return ((student_BK - teacher_BK).square().mean(dim=0) + epsilon).pow(1 / 3).sum()


def principal_directions(
    answers: Callable[[np.ndarray, int], TeacherOutput], count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean (E,) of the teacher's embeddings of ``count`` images, and the directions (E, K) in which they vary, the
    largest variance first; those of hardly any (a millionth of the largest) are left out.

    The sign of a direction is arbitrary: its largest entry is positive.
    """
    total_E: torch.Tensor | float = 0.0
    products_EE: torch.Tensor | float = 0.0
    for start in range(0, count, CHUNK):
        rows = answers(np.arange(start, min(start + CHUNK, count)), 0).embedding_BE
        assert rows is not None
        rows_BE = rows.double().cpu()
        total_E, products_EE = total_E + rows_BE.sum(dim=0), products_EE + rows_BE.T @ rows_BE
    mean_E = torch.as_tensor(total_E) / count
    variances_E, directions_EE = torch.linalg.eigh(torch.as_tensor(products_EE) / count - torch.outer(mean_E, mean_E))
    directions_EK = directions_EE[:, variances_E > 1e-6 * variances_E[-1]].flip(1)
    largest_K = directions_EK.gather(0, directions_EK.abs().argmax(dim=0, keepdim=True))
    return mean_E.float(), (directions_EK * largest_K.sign()).float()

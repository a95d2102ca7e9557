"""``figkd``: only the detail of the logits is transferred (FiGKD, arXiv 2505.11897).

Shapes: B batch, C classes, M wavelet coefficients.
"""

import logging
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch

from linnet.config import Config
from linnet.data.manifest import Manifest
from linnet.errors import UserError
from linnet.fields import Bounds, Count, NonNegative, Pattern
from linnet.losses import coefficient_error, softened_kl, standardize
from linnet.methods.base import Context, Method
from linnet.methods.figkd.class_order import semantic_order
from linnet.methods.figkd.wavelets import ORTHOGONAL, filters, max_levels, wavedec
from linnet.step import Batch, Progress, StudentOutput

log = logging.getLogger("linnet")


@dataclass(frozen=True)
class FiGKDOptions:
    weight: NonNegative = 10.0
    """Weight of the distillation term beside the cross-entropy."""
    wavelet: Annotated[str, Pattern(ORTHOGONAL, "haar, db1 to db38, sym2 to sym20 or coif1 to coif17")] = "haar"
    """An orthogonal wavelet of PyWavelets (dmey, which reconstructs badly, is not among them)."""
    levels: Count = 1
    """Levels of the transform; with each, the detail takes in coarser contrasts."""
    band: Literal["high", "low", "both"] = "high"
    """high: the details of all levels; low: what they leave over; both."""
    class_order: Literal["dataset", "semantic", "random"] = "random"
    """Order of the logits before the transform. random: drawn from the seed; semantic: classes that the teacher finds
    alike side by side."""
    standardize: bool = True
    """Bring each image's logits to mean 0 and variance 1 before the transform: teacher and student differ in scale."""
    metric: Literal["mse", "kl"] = "mse"
    """Distance of the coefficients: squared differences, or the softened KL between their softmaxes."""
    temperature: Annotated[float, Bounds(0.01, 1000.0)] | None = None
    """Temperature of metric kl; auto: 4. Metric mse has none."""


class FiGKD(Method):
    """CE + weight * distance between the detail coefficients of the student's and the teacher's logits.

    Details are the high-frequency coefficients of a wavelet transform along the class axis, of all levels. At one level
    of Haar's they are the differences (z_2k - z_2k+1) / sqrt(2) within pairs of classes, so the order of the classes
    says which contrasts are transferred. What is common to a pair is left to the labels.

    Reference:
        FiGKD, arXiv 2505.11897, of which we know that the logits are transformed, that only their detail is
        transferred, and that the cross-entropy stays.

    Deviation:
        Wavelet, levels, distance, standardisation, weight and the order of the classes are linnet's own.

    Raises:
        UserError: more levels than the classes can be halved, a temperature that the metric ignores, or
            ``class_order: semantic`` with a teacher whose classes have no vectors.
    """

    summary = "the detail of the logits along the classes, by a wavelet transform (FiGKD, arXiv 2505.11897)"
    use = "classifiers, by wavelet detail of logits"
    Options = FiGKDOptions
    order_C: torch.Tensor
    filters_2F: torch.Tensor

    def check_settings(self, config: Config) -> None:
        if self.options.temperature is not None and self.options.metric == "mse":
            raise UserError("figkd.temperature has no effect on the metric mse: add metric kl, or leave it out")

    def check_data(self, rows: Manifest) -> None:
        self._check_count(len(rows.classes))

    def _check_count(self, classes: int) -> None:
        if self.options.levels > max_levels(classes):
            raise UserError(f"figkd.levels must be at most {max_levels(classes)} for {classes} classes")

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self._check_count(len(context.classes))
        options = self.options
        self.register_buffer("order_C", torch.from_numpy(_class_order(options, context)))
        self.register_buffer("filters_2F", filters(options.wavelet), persistent=False)
        if options.class_order == "semantic":
            names = [context.classes[i].name for i in self.order_C.tolist()]
            log.info("figkd: classes side by side: %s%s", ", ".join(names[:6]), " ..." if len(names) > 6 else "")

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        assert batch.teacher is not None
        student_BM, teacher_BM = self.coefficients(student.logits_BC), self.coefficients(batch.teacher.logits_BC)
        if self.options.metric == "kl":
            distance = softened_kl(student_BM, teacher_BM, self.options.temperature or 4.0)
        else:
            distance = coefficient_error(student_BM, teacher_BM, student.logits_BC.shape[1])
        return {"ce": self.cross_entropy(batch, student), "figkd": self.options.weight * distance}

    def coefficients(self, logits_BC: torch.Tensor) -> torch.Tensor:
        """(B, M): the coefficients of the band, of logits in the chosen order."""
        if self.options.standardize:
            logits_BC = standardize(logits_BC)
        low, *details = wavedec(logits_BC[:, self.order_C], self.filters_2F, self.options.levels)
        bands = {"low": [low], "high": details, "both": [low, *details]}
        return torch.cat(bands[self.options.band], dim=1)


def _class_order(options: FiGKDOptions, context: Context) -> np.ndarray:
    if options.class_order == "semantic":
        vectors = context.class_head.class_vectors if context.class_head else None
        if vectors is None:
            raise UserError(
                "the teacher's classifier is not a single linear layer, so its classes cannot be compared: "
                "use --figkd.class-order random"
            )
        return semantic_order(vectors.numpy(), options.levels)
    if options.class_order == "random":
        return np.random.default_rng(context.config.seed).permutation(len(context.classes))
    return np.arange(len(context.classes))

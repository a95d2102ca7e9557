"""In which precision a teacher looks at images: fp32, or bf16 on a GPU if its answers are nearly the same.

Shapes: B images, E width of what a teacher says of one.
"""

import logging

import torch
import torch.nn.functional as F

from linnet.config import Still
from linnet.data.manifest import Manifest
from linnet.environment import computes_bf16
from linnet.students.precision import Precision
from linnet.teachers.base import Teacher
from linnet.teachers.cache import live_rows, still_pixels

log = logging.getLogger("linnet")

COMPARED = 32  # images that are looked at in both
ALIKE = 0.999  # cosine between the answers, of the image on which they differ most


def settled_precision(teacher: Teacher, images: Manifest, still: Still, device: torch.device) -> Precision:
    """bf16 on a GPU that computes it, if on the first images every answer has a cosine of at least 0.999 with the one
    in fp32. On a CPU fp32, always.

    Args:
        teacher: on ``device``. still: how it sees images whole.
    """
    if device.type != "cuda" or not computes_bf16():
        return "fp32"
    rows = range(min(COMPARED, len(images)))
    cosine = bf16_cosine(teacher, still_pixels(teacher, images.paths, still)(rows))
    precision: Precision = "bf16" if cosine >= ALIKE else "fp32"
    words = "teacher %s: %s (in bf16 its answers have a cosine of at least %.5f with those in fp32, on %d images)"
    log.info(words, teacher.id, precision, cosine, len(rows))
    return precision


def bf16_cosine(teacher: Teacher, images: torch.Tensor) -> float:
    """The smallest cosine, over (B, 3, height, width) images in [0, 1], between what a teacher says in bf16 and in
    fp32; of logits without their mean, which tells nothing."""
    images = images.to(next(teacher.parameters()).device)
    before, answers = teacher.precision, list[torch.Tensor]()
    try:
        for precision in ("fp32", "bf16"):
            teacher.precision = precision
            rows_BE = live_rows(teacher, images).float()
            answers.append(rows_BE if teacher.kind == "vlm" else rows_BE - rows_BE.mean(dim=1, keepdim=True))
    finally:
        teacher.precision = before
    return float(F.cosine_similarity(answers[0], answers[1]).min())

"""Class names to unit vectors: the text bank of a vision-language teacher."""

import torch
import torch.nn.functional as F

from linnet.errors import UserError
from linnet.teachers.base import VisionLanguageTeacher


def text_bank(teacher: VisionLanguageTeacher, names: list[str], templates: tuple[str, ...]) -> torch.Tensor:
    """One vector per class: the mean of its template sentences' unit embeddings, unit length again (CLIP, section
    3.1.4).

    Args:
        names: C prompt names. templates: sentences with one ``{}`` each.

    Returns:
        (C, E) float32.

    Raises:
        UserError: no template, or one without ``{}``.
    """
    bad = [template for template in templates if template.count("{}") != 1]
    if bad or not templates:
        raise UserError(
            f"teacher.templates must be sentences with one {{}} for the class name, not {list(bad) or 'empty'}"
        )
    sentences = [template.replace("{}", name) for template in templates for name in names]
    embedded = teacher.embed_texts(sentences).view(len(templates), len(names), -1)
    return F.normalize(embedded.mean(dim=0), dim=1).cpu()

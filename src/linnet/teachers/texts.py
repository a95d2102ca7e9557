"""Class names to unit vectors: the text bank of a vision-language teacher.

Shapes: C classes, E teacher embedding width, P context vectors, W token width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from linnet.teachers.base import VisionLanguageTeacher
from linnet.text.bank import TextBank
from linnet.text.classes import ClassInfo, class_sentences


def text_vectors(
    teacher: VisionLanguageTeacher,
    classes: Sequence[ClassInfo],
    templates: Sequence[str],
    context_PW: torch.Tensor | None = None,
) -> torch.Tensor:
    """One vector per class: the mean of its sentences' unit embeddings, unit length again (CLIP, section 3.1.4).

    A sentence that is too long for the text tower loses its end.

    Args:
        context_PW: token vectors before a class's first sentence, which then stands alone and has to fit (see
            :meth:`VisionLanguageTeacher.embed_texts`).

    Returns:
        (C, E) float32, on the teacher's device, differentiable in ``context_PW``.

    Raises:
        UserError: no template, or one without ``{}``, or no room for the context.
    """
    sentences = [class_sentences(info, templates)[: None if context_PW is None else 1] for info in classes]
    embedded = teacher.embed_texts([sentence for own in sentences for sentence in own], context_PW)
    means = [part.mean(dim=0) for part in embedded.split([len(own) for own in sentences])]
    return F.normalize(torch.stack(means), dim=1)


def text_bank(
    teacher: VisionLanguageTeacher,
    classes: Sequence[ClassInfo],
    templates: Sequence[str],
    context_PW: torch.Tensor | None = None,
) -> TextBank:
    """The same vectors as a bank, as a student carries it and ``linnet embed`` writes it."""
    with torch.no_grad():
        rows_CE = text_vectors(teacher, classes, templates, context_PW).cpu().numpy()
    context = None if context_PW is None else context_PW.detach().cpu().numpy()
    names = tuple(info.name for info in classes)
    return TextBank(names, rows_CE, teacher.id, teacher.fingerprint(), tuple(templates), context)


def bank_like(teacher: VisionLanguageTeacher, bank: TextBank, classes: Sequence[ClassInfo]) -> TextBank:
    """A bank of other classes, made as ``bank`` was: with its templates and its learned context, if it has one.

    Raises:
        UserError: ``bank`` is of another teacher.
    """
    context = None
    if bank.context_PW is not None:
        context = torch.from_numpy(bank.context_PW).to(next(teacher.parameters()).device)
    made = text_bank(teacher, classes, bank.templates, context)
    bank.check_teacher(made.teacher_hash, f"'{teacher.id}'")
    return made

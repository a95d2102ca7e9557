"""Teachers by id."""

from collections.abc import Sequence
from pathlib import Path

import torch

from linnet.data.manifest import ClassInfo
from linnet.errors import UserError, did_you_mean
from linnet.teachers.base import ClassHead, ClassifierTeacher, Teacher, TeacherOutput, VisionLanguageTeacher

MINI_CLIP = "mini-clip"
KINDS = {
    "mini-clip": "the CLIP that ships with linnet; it knows drawn birds",
    "open_clip:ARCH/TAG": "open_clip architecture and weights, as in open_clip:ViT-B-16-SigLIP2/webli",
    "open_clip:local-dir:PATH": "a folder with open_clip_config.json and open_clip_model.safetensors",
    "open_clip:hf-hub:ORG/NAME": "an open_clip model on the Hugging Face hub",
    "timm:NAME": "a timm classifier, fine-tuned first if its classes are others",
    "timm:local-dir:PATH": "a folder in timm's layout, of these classes (also timm:hf-hub:ORG/NAME)",
    "run:PATH": "the student of an earlier linnet run",
}

__all__ = [
    "KINDS",
    "MINI_CLIP",
    "ClassHead",
    "ClassifierTeacher",
    "Teacher",
    "TeacherOutput",
    "VisionLanguageTeacher",
    "class_head",
    "knows",
    "load_teacher",
]


def load_teacher(id: str) -> Teacher:
    """A frozen teacher by its id.

    Raises:
        UserError: unknown kind or name (with a suggestion), or weights that cannot be had.
    """
    from linnet.teachers.open_clip import OpenClipTeacher
    from linnet.teachers.timm import RunTeacher, TimmTeacher

    kind, _, name = id.partition(":")
    if id == MINI_CLIP:
        return OpenClipTeacher(id, f"local-dir:{Path(__file__).parents[1] / 'data' / 'mini_clip'}")
    if kind == "open_clip" and name:
        return OpenClipTeacher(id, name)
    if kind == "timm" and name:
        return TimmTeacher(id, name)
    if kind == "run" and name:
        return RunTeacher(id, Path(name))
    raise UserError(
        f"unknown teacher '{id}': expected {', '.join(KINDS)}."
        + did_you_mean(kind, ["mini-clip", "open_clip", "timm", "run"])
    )


def knows(teacher: ClassifierTeacher, names: list[str]) -> bool:
    """Whether a classifier's classes are these, in any order."""
    return teacher.class_names is not None and sorted(teacher.class_names) == sorted(names)


def class_head(teacher: Teacher, classes: Sequence[ClassInfo], templates: tuple[str, ...]) -> ClassHead:
    """How this teacher's rows become logits over the data's classes.

    Raises:
        UserError: a classifier whose class table is not the data's.
    """
    if isinstance(teacher, VisionLanguageTeacher):
        from linnet.teachers.text import text_vectors

        return ClassHead(bank_CE=text_vectors(teacher, classes, templates).cpu(), scale=teacher.logit_scale)
    assert isinstance(teacher, ClassifierTeacher)
    own, names = teacher.class_names, [info.name for info in classes]
    if own is None or not knows(teacher, names):
        shown = "classes without names" if own is None else f"{len(own)} classes ({', '.join(own[:3])} ...)"
        raise UserError(
            f"the teacher '{teacher.id}' knows {shown}, the data has {len(names)} ({', '.join(names[:3])} ...): "
            "train a teacher on this data first, as in 'linnet distill DATA --method ce --student resnet34 "
            "--out runs/teacher', then '--teacher run:runs/teacher'"
        )
    order_C, weights = torch.tensor([own.index(name) for name in names]), teacher.class_weights
    return ClassHead(order_C=order_C, weights_CD=None if weights is None else weights[order_C])

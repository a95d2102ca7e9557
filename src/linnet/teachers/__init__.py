"""KINDS: every kind of teacher. A kind is one file here and one line in this dictionary."""

import os

from linnet.errors import UserError, did_you_mean
from linnet.teachers import hf, mini_clip, open_clip, run, timm
from linnet.teachers.base import KIND_WORDS, Kind, Teacher, TextEncoder, VisionLanguageTeacher

KINDS: dict[str, Kind] = {
    "mini-clip": mini_clip.KIND,
    "open_clip": open_clip.KIND,
    "hf": hf.KIND,
    "timm": timm.KIND,
    "run": run.KIND,
}


def find_kind(id: str | None) -> Kind:
    """The kind of teacher that an id names; nothing is loaded.

    Raises:
        UserError: no id, or an unknown kind (with a suggestion).
    """
    if not id:
        raise UserError("no teacher given: name one of 'linnet list teachers'")
    kind, colon, name = id.partition(":")
    if colon and not id.rpartition(":")[2].strip():  # a path that is empty is the current folder
        raise UserError(f"nothing stands behind the last colon of the teacher '{id}' (an unset variable of the shell?)")
    if kind not in KINDS or bool(name) != KINDS[kind].named:
        suggestion = "" if kind in KINDS else did_you_mean(kind, KINDS)
        if os.path.exists(id):
            suggestion = f" Did you mean 'run:{id}', or another kind before the path?"
        forms = ", ".join(form for own in KINDS.values() for form in own.forms)
        raise UserError(f"unknown teacher '{id}': expected {forms}.{suggestion}")
    return KINDS[kind]


def check_teacher(id: str, reads_texts: bool = False) -> None:
    """
    Args:
        reads_texts: it only has to read texts.

    Raises:
        UserError: it can be seen without the network that there is no such teacher, or that an extra is missing.
    """
    find_kind(id).check(id, id.partition(":")[2], reads_texts)


def load_teacher(id: str | None) -> Teacher:
    """A frozen teacher by its id.

    Raises:
        UserError: an unknown kind or name (with a suggestion), or weights that cannot be loaded.
    """
    return find_kind(id).load(str(id), str(id).partition(":")[2])


def load_text_encoder(id: str | None) -> TextEncoder:
    """What reads texts, by its id: the text tower of a vision-language teacher, or a sentence encoder.

    Raises:
        UserError: as :func:`load_teacher`, or a teacher that reads no texts.
    """
    kind = find_kind(id)
    if kind.text_encoder is not None:
        return kind.text_encoder(str(id), str(id).partition(":")[2])
    if kind.gives != "vlm":
        raise UserError(f"'{id}' is a {KIND_WORDS['classifier']}, which reads no texts: see --text-encoder")
    teacher = load_teacher(id)
    assert isinstance(teacher, VisionLanguageTeacher)
    return teacher


__all__ = ["KINDS", "check_teacher", "find_kind", "load_teacher", "load_text_encoder"]

"""METHODS: every method by its id. An id never changes its meaning."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from linnet.config import GROUPS, from_dict, merge
from linnet.data.batches import Batch
from linnet.errors import UserError, did_you_mean
from linnet.methods.base import Context, Method, Needs, Progress, StudentHead, TeacherNeed
from linnet.methods.ce import CrossEntropy
from linnet.methods.dfkd import DataFree
from linnet.methods.dist import DIST
from linnet.methods.dkd import DKD
from linnet.methods.figkd import FiGKD
from linnet.methods.kd import KnowledgeDistillation
from linnet.methods.openvocab import OpenVocabulary
from linnet.methods.pand import PAND
from linnet.methods.vl2lite import VL2Lite
from linnet.students import Student, StudentOutput

METHODS: dict[str, type[Method]] = {
    "ce": CrossEntropy,
    "kd": KnowledgeDistillation,
    "dkd": DKD,
    "dist": DIST,
    "figkd": FiGKD,
    "vl2lite": VL2Lite,
    "pand": PAND,
    "openvocab": OpenVocabulary,
    "dfkd": DataFree,
}


def parse(method: str) -> list[tuple[str, float]]:
    """``"kd+other:0.5"`` -> ``[("kd", 1.0), ("other", 0.5)]``.

    Raises:
        UserError: an unknown id (with a suggestion), a weight that is no number, a method named twice.
    """
    parts = []
    for part in method.split("+"):
        id, _, weight = part.partition(":")
        if id not in METHODS:
            raise UserError(f"unknown method '{id}' (known: {', '.join(METHODS)}).{did_you_mean(id, METHODS)}")
        try:
            parts.append((id, float(weight) if weight else 1.0))
        except ValueError:
            parts.append((id, math.nan))
        if not 0 <= parts[-1][1] < math.inf:
            raise UserError(f"the weight in '{part}' must be a number of at least 0, as in {id}:0.5")
    if len({id for id, _ in parts}) < len(parts):
        raise UserError(f"'{method}' names a method twice")
    if parts[0][1] != 1.0:
        raise UserError(f"the first method of '{method}' has weight 1: put weights on the others")
    if len(parts) > 1 and (alone := [id for id, _ in parts if not METHODS[id].needs.data]):
        raise UserError(f"'{alone[0]}' makes its own images and stands alone: it cannot be part of '{method}'")
    if len({METHODS[id].needs.head for id, _ in parts}) > 1:
        raise UserError(f"'{method}' mixes methods with different student heads")
    return parts


def defaults(method: str) -> dict[str, Any]:
    """The settings that travel with a method; of a sum: the first method's, and what the others want of the teacher."""
    first, *others = [METHODS[id].defaults for id, _ in parse(method)]
    return merge(*({"teacher": own.get("teacher", {})} for own in others), first)


def needs_teacher(method: str) -> set[TeacherNeed]:
    """Which kinds of teacher the parts of a method need; empty if none does."""
    return {METHODS[id].needs.teacher for id, _ in parse(method)} - {"none"}


def needs_data(method: str) -> bool:
    """Whether a method is trained on images that are given to it."""
    return all(METHODS[id].needs.data for id, _ in parse(method))


def student_head(method: str) -> StudentHead:
    """The head that a method's student ends in."""
    return METHODS[parse(method)[0][0]].needs.head


def check_options(method: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every option of each part of a method, those not given at their defaults.

    Raises:
        UserError: unknown method, options of a method that is not part of it, or bad values.
    """
    ids = [id for id, _ in parse(method)]
    for id in options:
        if id not in ids:
            known = [*GROUPS, *ids]
            raise UserError(f"unknown settings '{id}.*': the method is '{method}'.{did_you_mean(id, known)}")
    return {id: asdict(from_dict(METHODS[id].Options, options.get(id, {}), f"{id}.")) for id in ids}


def build(method: str, options: Mapping[str, Mapping[str, Any]]) -> Method:
    """The method with its options, which are checked (see :func:`check_options`)."""
    checked = check_options(method, options)
    built = [(METHODS[id](METHODS[id].Options(**checked[id])), weight) for id, weight in parse(method)]
    return built[0][0] if len(built) == 1 else MethodSum(built)


class MethodSum(Method):
    """The first method's terms plus, for each other one, its weight times its terms other than "ce"."""

    def __init__(self, parts: list[tuple[Method, float]]):
        super().__init__()
        self.parts = nn.ModuleList([part for part, _ in parts])
        self.weights = [weight for _, weight in parts]
        self.needs = Needs(maps=any(part.needs.maps for part, _ in parts))  # type: ignore[misc]

    def prepare(self, context: Context) -> None:
        for part in self.parts:
            part.prepare(context)  # type: ignore[operator]

    def hand_over(self, student: Student) -> None:
        for part in self.parts:
            part.hand_over(student)  # type: ignore[operator]

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        terms = dict(self.parts[0](batch, student, progress))
        for part, weight in zip(self.parts[1:], self.weights[1:], strict=True):
            for name, term in part(batch, student, progress).items():
                if name != "ce":
                    terms[name] = terms.get(name, 0.0) + weight * term
        return terms


__all__ = [
    "METHODS",
    "Context",
    "Method",
    "MethodSum",
    "Needs",
    "build",
    "check_options",
    "defaults",
    "needs_data",
    "needs_teacher",
    "parse",
    "student_head",
]

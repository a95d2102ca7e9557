"""METHODS: every method by its id. An id never changes its meaning."""

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from linnet.config import GROUPS, Config
from linnet.config_files import merge
from linnet.errors import UserError, did_you_mean
from linnet.fields import field_sentences, from_dict
from linnet.methods.base import Context, Method, Needs, StudentHead, TeacherNeed
from linnet.methods.ce import CrossEntropy
from linnet.methods.dfkd.dfkd import DataFree
from linnet.methods.dist import DIST
from linnet.methods.dkd import DKD
from linnet.methods.dual import DualHead
from linnet.methods.embedding import EmbeddingRegression
from linnet.methods.figkd.figkd import FiGKD
from linnet.methods.kd import KnowledgeDistillation
from linnet.methods.ltkd import LTKD
from linnet.methods.openvocab import OpenVocabulary
from linnet.methods.pand import PAND
from linnet.methods.specmatch import SpecMatch
from linnet.methods.sum import MethodSum
from linnet.methods.vl2lite import VL2Lite
from linnet.methods.vlm_kd import VLMKD
from linnet.teachers.base import KIND_WORDS, TeacherKind

METHODS: dict[str, type[Method]] = {
    "ce": CrossEntropy,
    "kd": KnowledgeDistillation,
    "dkd": DKD,
    "dist": DIST,
    "figkd": FiGKD,
    "vl2lite": VL2Lite,
    "pand": PAND,
    "embedding": EmbeddingRegression,
    "specmatch": SpecMatch,
    "openvocab": OpenVocabulary,
    "dual": DualHead,
    "vlm-kd": VLMKD,
    "ltkd": LTKD,
    "dfkd": DataFree,
}


def parse(method: str) -> list[tuple[str, float]]:
    """``"kd+other:0.5"`` -> ``[("kd", 1.0), ("other", 0.5)]``.

    Raises:
        UserError: an unknown id (with a suggestion), a weight that is not a number, a method named twice.
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
        raise UserError(f"the first method of '{method}' always has weight 1: give weights to the others")
    if len(parts) > 1 and (alone := [id for id, _ in parts if not METHODS[id].needs.data]):
        raise UserError(f"'{alone[0]}' makes its own images: it cannot be part of '{method}'")
    own = METHODS[parts[0][0]].needs.head
    if {METHODS[id].needs.head for id, _ in parts} - {own, *(["classifier"] if own == "dual" else [])}:
        raise UserError(f"'{method}' mixes methods with different student heads (only dual, given first, has both)")
    return parts


def defaults(method: str) -> dict[str, Any]:
    """The settings that travel with a method; of a sum: the first method's, and what the others want of the teacher."""
    first, *others = [METHODS[id].defaults for id, _ in parse(method)]
    return merge(*({"teacher": own.get("teacher", {})} for own in others), first)


def needs_teacher(method: str, options: Mapping[str, Mapping[str, Any]] | None = None) -> set[TeacherNeed]:
    """Which kinds of teacher the parts of a method need, with these options; empty if none does."""
    parts = [(METHODS[id], (options or {}).get(id, {})) for id, _ in parse(method)]
    return {kind.teacher_need(kind.Options(**own)) for kind, own in parts} - {"none"}


def reads_logits_alone(method: str, options: Mapping[str, Mapping[str, Any]] | None = None) -> bool:
    """Whether a method reads nothing of a teacher but its logits, wherever they come from."""
    return needs_teacher(method, options) == {"any"} and not takes_names(method)


def needs_texts(method: str) -> bool:
    """Whether a part of a method reads texts with a text encoder."""
    return any(METHODS[id].needs.texts for id, _ in parse(method))


def needs_class_texts(config: Config) -> bool:
    """Whether a vision-language teacher names the classes by their texts: not with a probe, unless a method reads them
    beside its logits."""
    return config.teacher.head != "probe" or "vlm" in needs_teacher(config.method, config.options)


def needs_data(method: str) -> bool:
    """Whether a method is trained on images that are given to it."""
    return all(METHODS[id].needs.data for id, _ in parse(method))


def student_head(method: str) -> StudentHead:
    """The head that a method's student ends in."""
    return METHODS[parse(method)[0][0]].needs.head


def reads_labels(method: str) -> list[str]:
    """The parts of a method that read labels beyond the cross-entropy, and cannot cope with mixed images."""
    return [id for id, _ in parse(method) if METHODS[id].needs.labels]


def takes_names(method: str) -> bool:
    """Whether a method's student names classes by their texts."""
    return student_head(method) != "classifier"


def check_options(method: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every option of each part of a method, those not given at their defaults.

    Raises:
        UserError: unknown method, options of a method that is not part of it, or bad values.
    """
    ids = [id for id, _ in parse(method)]
    for id in options:
        if id in METHODS:
            _check_names(id, options[id])
        if id in METHODS and id not in ids:
            raise UserError(
                f"--{id}.* are options of {id}, but the method is {method}: add --method {id}, or leave them out"
            )
        if id not in ids:
            raise UserError(f"unknown settings '{id}.*': the method is '{method}'.{did_you_mean(id, [*GROUPS, *ids])}")
    return {id: asdict(from_dict(METHODS[id].Options, options.get(id, {}), f"{id}.")) for id in ids}


def _check_names(id: str, given: Mapping[str, Any]) -> None:
    """Papers call options by one letter; where an option's sentence gives it in brackets, it is suggested."""
    known = [spec.name for spec in fields(METHODS[id].Options)]
    for name in given:
        if (plain := str(name).replace("-", "_")) in known:
            continue
        sentences = field_sentences(METHODS[id].Options)
        symbol = next((own for own, words in sentences.items() if f"({plain.lower()})" in words.lower()), None)
        suggestion = f" Did you mean '{symbol}'?" if symbol else did_you_mean(plain, known)
        raise UserError(
            f"unknown setting '{id}.{name}'.{suggestion} The options of {id}: {', '.join(known) or 'it has none'}"
        )


def check_teacher(config: Config, kind: TeacherKind) -> None:
    """
    Raises:
        UserError: a method or a teacher's head that does not suit the kind of teacher.
    """
    method, id, head = config.method, config.teacher.id, config.teacher.head
    needs = needs_teacher(method, config.options)
    for need in needs - {"any"}:
        if kind != need:
            raise UserError(
                f"the method '{method}' needs a {KIND_WORDS[need]} as teacher; '{id}' is a {KIND_WORDS[kind]}"
            )
    if needs and kind == "classifier" and head != "zero-shot":
        raise UserError(f"--teacher.head {head} needs a vision-language teacher; '{id}' is a classifier")
    if needs and head == "val" and not reads_logits_alone(method, config.options):
        raise UserError(
            f"the method '{method}' reads more than the teacher's logits, so val cannot choose between its heads: use "
            f"--teacher.head zero-shot{' or prompt' if takes_names(method) else ', prompt or probe'}"
        )
    if takes_names(method) and head == "probe":
        raise UserError(f"the method '{method}' needs class texts, which --teacher.head probe does not use")


def build(method: str, options: Mapping[str, Mapping[str, Any]]) -> Method:
    """The method with its options, as :func:`check_options` gives them; those not given have their defaults."""
    built = [(METHODS[id](METHODS[id].Options(**options.get(id, {}))), weight) for id, weight in parse(method)]
    return built[0][0] if len(built) == 1 else MethodSum(built)


__all__ = [
    "METHODS",
    "Context",
    "Method",
    "MethodSum",
    "Needs",
    "build",
    "check_options",
    "check_teacher",
    "defaults",
    "needs_class_texts",
    "needs_data",
    "needs_teacher",
    "needs_texts",
    "parse",
    "reads_labels",
    "reads_logits_alone",
    "student_head",
    "takes_names",
]

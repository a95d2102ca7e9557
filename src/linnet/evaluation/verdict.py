"""Whether a teacher is worth learning from, said before training; and what the student gained, said after it.

Shapes: N images, C classes.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from linnet import methods
from linnet.config import Config, difference
from linnet.data.manifest import Manifest
from linnet.errors import UserError
from linnet.evaluation.intervals import Difference, over_images, wilson_interval
from linnet.files import readable
from linnet.metrics import near_chance, right
from linnet.run import Run
from linnet.teachers.answers import Answers
from linnet.teachers.probe import quick_probe
from linnet.teachers.prompts import Embedded

log = logging.getLogger("linnet")

FEW = 100  # images below which an interval is so wide that the log says so
PROBED = 50  # training images of each class that a quick probe is fitted to, fewer of many classes
# what two runs must share for their difference to be that of their methods
EQUAL = ("student.name", "student.pretrained", "student.image_size", "train.epochs", "train.batch_size", "seed")
BE_BETTER = "a teacher should be clearly better than the student alone"


class Named(NamedTuple):
    """Which images of a split a model names right: (file name, class) of each image, and (N,) bool. The former tell
    whether two of these are about the same images."""

    images: list[tuple[str, str]]
    right_N: np.ndarray

    def minus(self, other: "Named | None") -> Difference | None:
        """The difference of the two accuracies; None where they are not about the same images."""
        if other is None or self.images != other.images:
            return None
        return over_images(self.right_N, other.right_N)


def read_named(file: Path, column: str = "prediction") -> Named | None:
    """From the predictions of a run; None if they are not there, or damaged."""
    import pyarrow.parquet

    try:
        with file.open("rb") as opened:
            table = pyarrow.parquet.read_table(opened)
    except (OSError, pyarrow.ArrowException):
        return None
    if column not in table.column_names:
        return None
    paths, labels, named = (table[name].to_pylist() for name in ("path", "label", column))
    images = [(Path(path).name, label) for path, label in zip(paths, labels, strict=True)]
    return Named(images, np.array(named) == np.array(labels))


def find_labels_only(run: Run, config: Config, same_student: bool = False) -> Run | None:
    """The finished ``ce`` run of the same data that lies beside ``run`` and is not its teacher: one of the same student
    if there is one, and of several the best on val.

    Args:
        same_student: no other one will do.
    """
    found = []
    for other, summary in _all_labels_only(run, config):
        same = summary.get("student.name") == config.student.name
        found.append((same, summary.get("val.top1", 0.0), str(other.folder)))
    same, _, best = max(found, default=(False, 0.0, ""))
    return Run(Path(best)) if found and (same or not same_student) else None


def nearest_labels_only(run: Run, config: Config) -> tuple[Run, list[str]] | None:
    """Of the ``ce`` runs beside ``run`` the one whose student, budget and seed are most like its own, of several the
    best on val; and ``train.epochs 30 (here 60)`` for each of those in which it differs."""
    found = []
    for other, summary in _all_labels_only(run, config):
        changed = [line.partition(": ") for line in difference(other.settings(), config)]
        apart = [f"{name} {values.replace(' -> ', ' (here ')})" for name, _, values in changed if name in EQUAL]
        found.append((-len(apart), summary.get("val.top1", 0.0), str(other.folder), apart))
    *_, best, apart = max(found, default=(0, 0.0, "", []))
    return (Run(Path(best)), apart) if found else None


def _all_labels_only(run: Run, config: Config) -> Iterator[tuple[Run, dict[str, Any]]]:
    """The finished ``ce`` runs of the same data that lie beside ``run`` and are not its teacher, with their numbers."""
    not_these = {run.folder.resolve(), Path(str(config.teacher.id).removeprefix("run:")).resolve()}
    for file in run.folder.parent.glob(f"*/{run.summary_file.name}"):
        other = Run(file.parent)
        try:
            summary, same_data = other.summary(), _data(other) == _data(run)
            other.settings()
        except (UserError, OSError, ValueError):  # what cannot be read is no run to compare with
            continue
        if summary.get("method") == "ce" and same_data and file.parent.resolve() not in not_these:
            yield other, summary


def _data(run: Run) -> str:
    """The hash of a run's data."""
    return json.loads(run.inputs.read_text(encoding="utf-8")).get("data", "")


# --- before training ---


def judge_teacher(config: Config, run: Run, answers: Answers, train: Manifest, val: Manifest) -> dict[str, Any]:
    """Warn of a teacher that is near chance, below a linear probe on its own embeddings, or no better than the labels
    alone. Nothing is asked of the teacher again.

    Returns:
        What the summary says about it.
    """
    id, right_N = str(config.teacher.id), right(answers.logits["val"], val.labels)
    shown = ", ".join(f"{name} {_percent(value)} %" for name, value in answers.val_top1.items())
    interval = _interval(*wilson_interval(int(right_N.sum()), len(val)))
    few = "; so few images say little" if len(val) < FEW else ""
    log.info("teacher %s: val top-1 %s (%s, %d images%s)", id, shown, interval, len(val), few)
    facts, warnings = judge_accuracy(id, answers.logits["val"], val.labels)
    if (probed_N := _probed(answers, train, val)) is not None:
        facts["teacher.quick_probe.val.top1"] = float(probed_N.mean())
        above, low, *_ = over_images(probed_N, right_N)
        if low > 0:
            remedy = "describe the classes with --data.descriptions FILE, or choose other --teacher.templates"
            if methods.student_head(config.method) != "embedding":
                remedy = f"use --teacher.head probe, or {remedy}"
            warnings.append(
                f"the class texts make little of what the teacher {id} sees: a quick linear probe on its embeddings of "
                f"the training images is {_percent(above)} points better on val: {remedy}"
            )
    if alone := find_labels_only(run, config):
        named = Named(
            [(Path(readable(path)).name, val.class_names[i]) for path, i in zip(val.paths, val.labels, strict=True)],
            right_N,
        )
        if apart := named.minus(read_named(alone.predictions_of("val"))):
            words = f"on val the teacher {id} is {in_words(apart)} {_labels_only(alone, config)}"
            if apart[0] > 0:
                log.info("%s%s", words, "" if apart[1] > 0 else f"; {BE_BETTER}")
            else:
                warnings.append(f"{words}: {BE_BETTER}")
    return said(facts, warnings)


def judge_accuracy(id: str, logits_NC: np.ndarray, labels_N: np.ndarray) -> tuple[dict[str, Any], list[str]]:
    """The interval of a teacher's val accuracy, and a warning where it may as well guess."""
    count, classes = len(labels_N), logits_NC.shape[1]
    right_count = int(right(logits_NC, labels_N).sum())
    low, high = wilson_interval(right_count, count)
    guessed = max(1 / classes, float(np.bincount(labels_N[labels_N >= 0]).max()) / count)
    facts: dict[str, Any] = {"teacher.val.top1_interval": [low, high], "teacher.val.guessing": guessed}
    if low > guessed and not near_chance(right_count / count, classes):
        return facts, []
    told = "is near chance" if count >= FEW else "cannot be told from chance"
    return facts, [
        f"the teacher {id} {told} on val: {_percent(right_count / count)} % of {count} images "
        f"({_interval(low, high)}), where guessing gives {_percent(guessed)} %; {BE_BETTER}: choose another one"
    ]


def said(facts: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """The warnings are logged, and are facts, too."""
    for warning in warnings:
        log.warning("%s", warning)
    return facts | ({"teacher.warnings": warnings} if warnings else {})


def _probed(answers: Answers, train: Manifest, val: Manifest) -> np.ndarray | None:
    """(N,) bool, the val images that a quick probe names right; None beside a full probe, for a classifier, and for a
    teacher whose embeddings of the training images are not kept."""
    most = min(PROBED, 20_000_000 // len(train.classes) ** 2)  # bounds time and memory
    if answers.val_NE is None or answers.head_name == "probe" or not answers.is_cached or not most:
        return None
    rows = [np.flatnonzero(train.labels == label)[:most] for label in range(len(train.classes))]
    some = np.sort(np.concatenate(rows))
    embedding_NE = answers.train(some, 0).embedding_BE
    assert embedding_NE is not None
    return quick_probe(Embedded(embedding_NE, torch.from_numpy(train.labels[some])), answers.val_NE) == val.labels


# --- after training ---


def verdict(run: Run, config: Config, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The student beside its teacher, and beside the same student on the labels alone: on test, else on val. The block
    at the end of a run says it (:mod:`linnet.commands.ending`).

    Returns:
        What the summary says about it, one sentence under ``verdict``; nothing if there is nothing to compare with.
    """
    part = "test" if "test.top1" in summary else "val"
    student = read_named(run.predictions_of(part))
    if student is None or config.method == "ce":
        return {}
    facts: dict[str, Any] = {"verdict.part": part}
    words = []
    if over_teacher := student.minus(read_named(run.predictions_of(part), "teacher_prediction")):
        facts["verdict.minus_teacher"] = list(over_teacher[:3])
        words.append(f"{in_words(over_teacher)} its teacher")
    alone = find_labels_only(run, config, same_student=True)
    if alone and (over_labels := student.minus(read_named(alone.predictions_of(part)))):
        facts |= {"verdict.minus_labels_only": list(over_labels[:3]), "verdict.labels_only": str(alone.folder)}
        words.append(f"{in_words(over_labels)} {_labels_only(alone, config)}")
    if not words:
        return {}
    sentence = f"on {len(student.right_N)} {part} images the student is {' and '.join(words)}"
    over_labels_alone = facts.get("verdict.minus_labels_only", [0.0])[0]
    if over_teacher and over_teacher[0] > 0 >= over_labels_alone:  # one who gained by it may well be above it
        sentence += f"; {BE_BETTER}"
    return {"verdict": sentence, **facts}


def is_loss(summary: Mapping[str, Any]) -> bool:
    """Whether the verdict is one that nobody should overlook."""
    return BE_BETTER in summary.get("verdict", "") or summary.get("verdict.minus_labels_only", [0.0])[0] < 0


def in_words(apart: Difference) -> str:
    """``2.3 points (95 % interval 0.4 to 4.2) above``."""
    value, low, high, _ = apart
    if value == 0:
        return f"as good (95 % interval {_percent(low)} to {_percent(high)} points) as"
    side, low, high = ("above", low, high) if value > 0 else ("below", -high, -low)
    chance = ", which may be chance" if low <= 0 else ""
    return f"{_percent(abs(value))} points ({_interval(low, high)}{chance}) {side}"


def _labels_only(alone: Run, config: Config) -> str:
    """What a ``ce`` run is, and in which settings of the training it differs."""
    own = alone.settings()
    changed = [line.partition(":")[0] for line in difference(own, config)]
    shown = ", ".join(name for name in changed if name.startswith(("train.", "student.")) and name != "student.name")
    differing = f"; other settings: {shown}" if shown else ""
    return f"{own.student.name} on the labels alone ({alone.folder}{differing})"


def _interval(low: float, high: float) -> str:
    return f"95 % interval {_percent(low)} to {_percent(high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"

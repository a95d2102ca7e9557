"""Whether a teacher is worth learning from, said before training; and what the student gained, said after it.

Shapes: N images, C classes.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from linnet import methods
from linnet.config import Config
from linnet.config_files import difference
from linnet.data.manifest import Manifest
from linnet.errors import UserError
from linnet.files import read_json, readable
from linnet.metrics import near_chance, right
from linnet.metrics.intervals import Difference, over_images, wilson_interval
from linnet.run import Run
from linnet.teachers.answers import Answers

log = logging.getLogger("linnet")

FEW = 100  # images below which an interval is so wide that the log says so
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
            whole = pyarrow.parquet.ParquetFile(opened)
            if not {"path", "label", column} <= set(whole.schema_arrow.names):
                return None
            table = whole.read(columns=["path", "label", column])  # the logits would be the most of it
    except (OSError, pyarrow.ArrowException):
        return None
    paths, labels, named = (table[name].to_pylist() for name in ("path", "label", column))
    images = [(Path(str(path)).name, str(label)) for path, label in zip(paths, labels, strict=True)]
    return Named(images, np.array(named) == np.array(labels))


class Baseline(NamedTuple):
    """A ``ce`` run beside a run: in which settings of :data:`EQUAL` it differs, and if in none, by how much the run is
    above it. Without a difference nothing is known about a gain; where nothing differs they were scored on other
    images."""

    run: Run
    differing: list[str]
    difference: Difference | None


def find_baseline(run: Run, config: Config, part: str) -> Baseline | None:
    """Of the ``ce`` runs beside ``run`` the one whose student, budget and seed are most like its own, of several the
    best on val; ``differing`` says ``train.epochs 30 (here 60)``. None for ``ce`` itself and for a method without data.

    Args:
        part: the split on which they are compared.
    """
    if config.method == "ce" or not methods.needs_data(config.method):
        return None
    found = []
    for other, settings, val in _all_labels_only(run, config):
        changed = [line.partition(": ") for line in difference(settings, config)]
        apart = [f"{name} {values.replace(' -> ', ' (here ')})" for name, _, values in changed if name in EQUAL]
        found.append((-len(apart), val, str(other.folder), apart))
    if not found:
        return None
    *_, best, apart = max(found)
    alone, own = Run(Path(best)), None if apart else read_named(run.predictions_of(part))
    return Baseline(alone, apart, own and own.minus(read_named(alone.predictions_of(part))))


def find_labels_only(run: Run, config: Config) -> Run | None:
    """The ``ce`` run beside ``run`` that a teacher is compared with: one of the same student if there is one, and of
    several the best on val."""
    found = [
        (settings.student.name == config.student.name, val, str(other.folder))
        for other, settings, val in _all_labels_only(run, config)
    ]
    return Run(Path(max(found)[-1])) if found else None


def _all_labels_only(run: Run, config: Config) -> Iterator[tuple[Run, Config, float]]:
    """The finished ``ce`` runs of the same data that lie beside ``run`` and are not its teacher, with their settings
    and their val top-1 (0 without val images)."""
    not_these = {run.folder.resolve(), Path(str(config.teacher.id).removeprefix("run:")).resolve()}
    for file in run.folder.parent.glob(f"*/{run.summary_file.name}"):
        other = Run(file.parent)
        try:
            summary = other.summary()
            if summary.get("method") != "ce" or other.folder.resolve() in not_these or _data(other) != _data(run):
                continue
            found = other, other.settings(), float(summary.get("val.top1", 0.0))
        except (UserError, OSError, ValueError, TypeError):  # what cannot be read is no run to compare with
            continue
        yield found


def _data(run: Run) -> str:
    """The hash of a run's data."""
    return str(read_json(run.inputs, dict, "train again").get("data", ""))


def other_settings(alone: Run, config: Config) -> list[str]:
    """The names of the settings of data, student and training in which a ``ce`` run differs."""
    changed = [line.partition(":")[0] for line in difference(alone.settings(), config)]
    unlike = [name for name in changed if name.startswith(("train.", "student.", "data."))]
    return [name for name in unlike if name not in ("student.name", "data.source")]


# --- before training ---


def judge_teacher(config: Config, run: Run, answers: Answers, val: Manifest) -> dict[str, Any]:
    """Warn of a teacher that is near chance, below a linear probe on its own embeddings, or no better than the labels
    alone. Nothing is asked of the teacher again.

    Returns:
        What the summary says about it.
    """
    id, right_N = str(config.teacher.id), right(answers.logits["val"], val.labels)
    shown = ", ".join(f"{name} {_percent(value)} %" for name, value in answers.settled.val_top1.items())
    interval = _interval(*wilson_interval(int(right_N.sum()), len(val)))
    few = "; so few images say little" if len(val) < FEW else ""
    log.info("teacher %s: val top-1 %s (%s, %d images%s)", id, shown, interval, len(val), few)
    facts, warnings = judge_accuracy(id, answers.logits["val"], val.labels)
    if answers.settled.probed_N is not None:
        facts["teacher.quick_probe.val.top1"] = float(answers.settled.probed_N.mean())
        above, low, *_ = over_images(answers.settled.probed_N, right_N)
        if low > 0:
            remedy = "describe the classes with --data.descriptions FILE, or choose other --teacher.templates"
            if not methods.takes_names(config.method):
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


# --- after training ---


def verdict(run: Run, config: Config, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The student beside its teacher, and beside the same student on the labels alone at equal budget: on test, else on
    val. The block at the end of a run (:mod:`linnet.commands.ending`) shows the same.

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
    alone = find_baseline(run, config, part)
    if alone and alone.difference:
        facts["verdict.minus_labels_only"] = list(alone.difference[:3])
        facts["verdict.labels_only"] = str(alone.run.folder)
        words.append(f"{in_words(alone.difference)} {_labels_only(alone.run, config)}")
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
    others = other_settings(alone, config)
    shown = f"; other settings: {', '.join(others)}" if others else ""
    return f"{alone.settings().student.name} on the labels alone ({readable(alone.folder)}{shown})"


def _interval(low: float, high: float) -> str:
    return f"95 % interval {_percent(low)} to {_percent(high)}"


def _percent(share: float) -> str:
    return f"{100 * share:z.1f}"  # no -0.0

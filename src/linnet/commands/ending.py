"""The end of every run: a block that a person can decide from, on the terminal and in train.log."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from linnet import methods
from linnet.config import Config
from linnet.data.manifest import Manifest
from linnet.deploy.latency import image_ms
from linnet.errors import UserError
from linnet.evaluation import base_novel
from linnet.evaluation.confusion import confused_pairs
from linnet.evaluation.score import Seen
from linnet.evaluation.verdict import BE_BETTER, Baseline, find_baseline, in_words, other_settings, read_named
from linnet.files import cache_folder, on_one_line
from linnet.metrics.intervals import MOST_SEEDS, Difference, wilson_interval
from linnet.progress import WIDTH
from linnet.run import Run
from linnet.timing import duration

LABEL = 13  # of these are the label's

Summary = Mapping[str, Any]
TITLE = "result of"  # how the block begins
Rows = Iterator[tuple[str, str]]  # (label, words); without a label the row goes on with the one above


def is_resolved(difference: Difference) -> bool:
    return difference.low > 0 or difference.high < 0


def measured(run: Run, summary: Summary) -> dict[str, Any]:
    """What the summary says beside the scores: their intervals, the size of model.onnx, and the time of an image on
    this machine's CPU."""
    facts: dict[str, Any] = {}
    for part in ("val", "test"):
        if f"{part}.top1" in summary:
            count = summary[f"images.{part}"]
            facts[f"{part}.top1_interval"] = list(wilson_interval(round(summary[f"{part}.top1"] * count), count))
    is_exported = "onnx.max_difference" in summary
    if is_exported:
        facts["onnx.bytes"] = run.onnx.stat().st_size
    model = run.onnx if is_exported else run.model
    with suppress(UserError):  # no runtime for it is here: then it is not timed
        facts |= {"latency.one_thread_ms": round(image_ms(model, 1), 3), "latency.ms": round(image_ms(model), 3)}
    return facts


def confused_on_val(val: Manifest, seen: Seen) -> list[str]:
    """The pairs of classes that are confused most: on val, because nothing is chosen by looking at test."""
    names = list(map(on_one_line, val.class_names))
    return [
        f"{names[pair.label]} taken for {names[pair.named]}: {len(pair.rows)} of {pair.of}"
        for pair in confused_pairs(val.labels, seen.logits_NC.argmax(axis=1))
    ]


def ending(run: Run, config: Config, summary: Summary, confused: Sequence[str]) -> str:
    """The block.

    Args:
        summary: with what :func:`linnet.evaluation.verdict.verdict` and :func:`measured` say.
        confused: see :func:`confused_on_val`.
    """
    part = "test" if "test.top1" in summary else "val"
    baseline = find_baseline(run, config, part)
    rows = [*_networks(summary), *_scores(config, summary), *_gain(run, config, summary, part, baseline)]
    rows += [("confused" if not i else "", f"on val {words}") for i, words in enumerate(confused)]
    rows += _places(run, summary)
    if cache_folder().resolve() not in run.folder.resolve().parents:  # a teacher that was fine-tuned on the way
        rows += _next(run, config, summary, baseline)
    title = f"{TITLE} {on_one_line(run.folder)}: {config.method}, seed {config.seed}"
    return "\n".join([title, *(f"  {label:<{LABEL - 2}}{words}" for label, words in rows)])


def _networks(summary: Summary) -> Rows:
    millions, best = summary["student.params"] / 1e6, summary["train.best_epoch"]
    yield "student", f"{summary['student.name']}, {millions:.2f} M parameters"
    epochs = f"{summary['train.epochs']} epoch{'s' if summary['train.epochs'] != 1 else ''}"
    yield "training", f"{epochs} in {duration(summary['train.seconds'])}, epoch {best} is kept"
    if teacher := summary.get("teacher.id"):
        scores = [
            f"{part} {_percent(summary[key])} %"
            for part in ("val", "test")
            if (key := f"teacher.{part}.top1") in summary
        ]
        yield "teacher", ": ".join([on_one_line(teacher), *([", ".join(scores)] if scores else [])])


def _scores(config: Config, summary: Summary) -> Rows:
    for part in ("val", "test"):
        if f"{part}.top1" not in summary:
            continue
        low, high = summary[f"{part}.top1_interval"]
        shown = f"95 % interval {_percent(low)} to {_percent(high)}"
        chosen = ", by which the epoch was chosen" if part == "val" and config.train.select == "val" else ""
        yield part, f"{_percent(summary[f'{part}.top1'])} % of {summary[f'images.{part}']} images ({shown}){chosen}"
        groups = [name for name in ("few", "medium", "many") if f"{part}.{name}" in summary]
        of_classes = summary[f"{part}.mean_per_class"]
        if groups or abs(of_classes - summary[f"{part}.top1"]) >= 0.0005:
            of_groups = "".join(f", {name} {_percent(summary[f'{part}.{name}'])} %" for name in groups)
            yield "", f"mean of the classes {_percent(of_classes)} %{of_groups}"
    if not {"val.top1", "test.top1"} & summary.keys():
        yield "scores", "not scored: there are no labelled images"
    elif "test.top1" not in summary:
        yield "test", "there is no test split"
    if "student.mix" in summary:
        alone = (f"{head} alone {100 * summary[f'val.{head}.top1']:.1f} %" for head in ("classifier", "names"))
        yield "heads", f"on val {', '.join(alone)}; of the mixture {summary['student.mix']:g} is the classifier's"
    if "ood.mean_per_class" in summary:
        own, *more = base_novel.in_words(summary).replace(" (teacher", "; its teacher").replace("%)", "%").split("; ")
        yield "by name", own
        yield from (("", words) for words in more)


def _gain(run: Run, config: Config, summary: Summary, part: str, baseline: Baseline | None) -> Rows:
    """The student beside its teacher, and beside the same student without one."""
    own = read_named(run.predictions_of(part))
    if own and (apart := own.minus(read_named(run.predictions_of(part), "teacher_prediction"))):
        yield "to teacher", f"on {part} {in_words(apart)} its teacher"
    if own and config.method != "ce" and methods.needs_data(config.method):
        first, *more = _over_ce(config, part, baseline)
        yield "to ce", first
        yield from (("", words) for words in more)
    if BE_BETTER in summary.get("verdict", ""):
        yield "note", BE_BETTER


def _over_ce(config: Config, part: str, baseline: Baseline | None) -> list[str]:
    """A difference is shown only to a run of the same student, budget and seed."""
    if baseline is None:
        return ["no ce run beside it: whether distillation helped is not known"]
    name, apart = on_one_line(baseline.run.folder), baseline.difference
    if baseline.differing:
        words, apart_in = f"not known whether distillation helped: {name} differs in", ", ".join(baseline.differing)
        whole = f"{words} {apart_in}"
        return [whole] if len(whole) <= WIDTH - LABEL else [f"{words}:", *baseline.differing]
    if apart is None:
        return [f"not known: {name} was scored on other images"]
    if is_resolved(apart):
        words = "resolved for this seed; one seed says nothing about other seeds"
    elif more := _seeds_at_least(apart):
        words = f"not resolved: at least {more} more seed{'s' if more != 1 else ''} would be needed"
    else:
        words = "not resolved: too small a difference for seeds to show"
    others = other_settings(baseline.run, config)
    also = [f"other settings than there: {', '.join(others)}"] if others else []
    interval = f"95 % interval {100 * apart.low:+.1f} to {100 * apart.high:+.1f}"
    return [f"on {part} {100 * apart.value:+.1f} points ({interval}) against {name}", words, *also]


def _seeds_at_least(apart: Difference) -> int | None:
    """Seeds more that would show a difference over images, if it stays as it is: at best, where students of several
    seeds err on other images each, its interval falls with the root of their number. None: more than MOST_SEEDS."""
    half = (apart.high - apart.low) / 2
    needed = math.ceil((half / abs(apart.value)) ** 2) if apart.value else MOST_SEEDS + 1
    return max(1, needed - 1) if needed <= MOST_SEEDS else None


def _places(run: Run, summary: Summary) -> Rows:
    if "latency.ms" in summary:
        what = "model.onnx" if "onnx.bytes" in summary else "the saved model with torch"
        one, own = summary["latency.one_thread_ms"], summary["latency.ms"]
        yield "speed", f"{one:.2f} ms an image on 1 thread, {own:.2f} by default ({what}, this CPU)"
    folder = on_one_line(run.folder)
    if "onnx.bytes" in summary:
        yield "model", f"{folder}/{run.onnx.name}, {summary['onnx.bytes'] / 1e6:.1f} MB"
    else:
        yield "model", f"{folder}/{run.model.name}"
    is_scored = run.predictions.is_dir()
    yield "files", f"{folder}: {run.log.name}, {run.summary_file.name}{', predictions/' if is_scored else ''}"


def _next(run: Run, config: Config, summary: Summary, baseline: Baseline | None) -> Rows:
    """Whether it is real, and how to use it."""
    commands, folder = [], on_one_line(run.folder)
    is_known = baseline and baseline.difference and is_resolved(baseline.difference)
    if methods.needs_data(config.method) and not is_known:
        data, other = on_one_line(str(config.data.source)), config.method if config.method != "ce" else "kd"
        settings = f"--config {shlex.quote(f'{folder}/{run.config.name}')}"
        rows = f"--methods {shlex.quote(f'ce,{other}')} --seeds 0,1,2"
        commands.append([f"linnet compare {shlex.quote(data)}", settings, rows])
    else:
        data = "" if {"val.top1", "test.top1"} & summary.keys() else " DATA"  # there may be none
        commands.append([f"linnet evaluate {shlex.quote(folder)}{data}"])
    model = f"{folder}/{run.onnx.name}" if "onnx.bytes" in summary else folder
    commands.append([f"linnet predict {shlex.quote(model)} PHOTO"])
    label = "next"
    for command in commands:
        lines = command[:1]
        for words in command[1:]:
            if len(f"{lines[-1]} {words} \\") <= WIDTH - LABEL:
                lines[-1] += f" {words}"
            else:  # still one command for a shell
                lines[-1:] = [f"{lines[-1]} \\", f"  {words}"]
        for line in lines:
            yield label, line
            label = ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"

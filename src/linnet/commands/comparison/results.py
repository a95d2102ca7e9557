"""From finished cells to what a table says: means, differences to ``ce`` or another row with two intervals, and whether
they are real.

Shapes: S seeds, N images.
"""

import statistics
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from linnet.commands.comparison.cells import Summary
from linnet.commands.comparison.costs import Cost, cost_key
from linnet.commands.comparison.grid import Row, baselines_of, unequal
from linnet.errors import UserError
from linnet.evaluation.verdict import read_named
from linnet.metrics.intervals import Difference, holm, more_seeds, over_images, over_seeds, wilson_interval
from linnet.run import Run

SURE = 0.05
FURTHER = ("few", "medium", "many")  # of the classes of a long tail
BY_NAME = (  # of students with a text bank
    "id.mean_per_class",
    "ood.mean_per_class",
    "harmonic",
    "generalised.id",
    "generalised.ood",
    "generalised.harmonic",
)


class Done(NamedTuple):
    """A finished cell."""

    row: str
    seed: int
    run: Run
    summary: Summary


@dataclass(frozen=True)
class Result:
    """A row of the table. Accuracies are fractions, one for each seed.

    Attributes:
        baseline: whether it is a ``ce`` row. reference: the row that it is compared with; None for that row itself, or
            if that has no cell.
        images, over_seeds: the difference to the reference with its interval over images (A) and seeds (B).
        p, p_holm: of the difference, before and after Holm's correction. words: what they say.
        novel: of students with a text bank: how far their mean per-class accuracy on novel classes is above their
            teacher's, with both intervals; ``ce`` cannot name these.
    """

    name: str
    method: str
    student: str
    baseline: bool
    seeds: tuple[int, ...]
    values: Mapping[str, list[float]]
    reference: str | None = None
    images: Difference | None = None
    over_seeds: Difference | None = None
    p: float | None = None
    p_holm: float | None = None
    novel: tuple[Difference, Difference | None] | None = None
    words: str = ""
    retention: float | None = None
    seconds: float = 0.0
    parameters: int | None = None
    cost: Cost | None = None


class TeacherResult(NamedTuple):
    """A teacher as the cells saw it, with the interval of its accuracy (Wilson); ``by_name``: its :data:`BY_NAME`."""

    name: str
    val: float | None
    top1: float
    low: float
    high: float
    parameters: int | None
    by_name: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """All that a table says. ``part`` is the split whose images decide: test, or val where there is no test;
    ``against`` the row that all others were asked to be compared with, None for the ``ce`` row of each."""

    part: str
    results: tuple[Result, ...]
    teachers: tuple[TeacherResult, ...]
    images: int
    seeds: tuple[int, ...]
    counted: Mapping[str, str]
    notes: tuple[str, ...]
    done: tuple[Done, ...]
    rows: tuple[Row, ...]
    against: str | None = None
    failures: Mapping[str, str] = field(default_factory=dict)
    out: Path | None = None

    def result(self, name: str) -> Result:
        return next(result for result in self.results if result.name == name)


def report(
    rows: Sequence[Row],
    done: Sequence[Done],
    seeds: Sequence[int],
    costs: Mapping[str, Cost] | None = None,
    notes: Sequence[str] = (),
    against: str | None = None,
) -> Report:
    """What finished cells show.

    Args:
        seeds: that every row should have. costs: what students and teachers cost. against: the row that others are
            compared with, instead of ``ce``.

    Raises:
        UserError: no cell is finished.
    """
    if not done:
        raise UserError("no cell is finished: there is no table")
    costs = costs or {}
    part = "test" if all("test.top1" in cell.summary for cell in done) else "val"
    if not all(f"{part}.top1" in cell.summary for cell in done):
        raise UserError("a comparison needs runs that were scored on test or val, and some of these were on neither")
    of_row = {row.name: [cell for cell in done if cell.row == row.name] for row in rows}
    if against is None:
        counted = _counted(rows, of_row, seeds)
    else:
        counted = {row.name: against if of_row[against] else None for row in rows}
    results = []
    for row in rows:
        if own := of_row[row.name]:
            reference = counted[row.name]
            result = _alone(row, own, part, costs)
            if reference is not None and reference != row.name:
                result = _compared(result, own, of_row[reference], reference, part, seeds)
                if against is None and row.is_baseline:  # another ce row is no candidate
                    result = replace(result, p=None)
            results.append(result)
    return Report(
        part,
        tuple(_corrected(results, unequal(rows, against)[0])),
        tuple(_teachers(done, part, costs)),
        done[0].summary.get(f"images.{part}", 0),
        tuple(seeds),
        {name: reference for name, reference in counted.items() if reference is not None},
        tuple(notes),
        tuple(done),
        tuple(rows),
        against,
    )


def _counted(rows: Sequence[Row], of_row: Mapping[str, Sequence[Done]], seeds: Sequence[int]) -> dict[str, str | None]:
    """Row -> the ``ce`` row that it is compared with: of those of its student that have most of the seeds, the best by
    mean val."""

    def merit(row: Row) -> tuple[int, float]:
        own = [cell for cell in of_row[row.name] if cell.seed in seeds]
        return len(own), statistics.fmean([cell.summary.get("val.top1", 0.0) for cell in own]) if own else 0.0

    counted: dict[str, str | None] = {}
    for row in rows:
        there = [other for other in baselines_of(row, rows) if of_row[other.name]]
        counted[row.name] = max(there, key=merit).name if there else None
    return counted


def _alone(row: Row, own: Sequence[Done], part: str, costs: Mapping[str, Cost]) -> Result:
    keys = ["val.top1", f"{part}.top1", *(f"{part}.{key}" for key in FURTHER), *BY_NAME]
    values = {key: [cell.summary[key] for cell in own] for key in keys if all(key in cell.summary for cell in own)}
    kept = [
        cell.summary[f"{part}.top1"] / cell.summary[f"teacher.{part}.top1"]
        for cell in own
        if cell.summary.get(f"teacher.{part}.top1")
    ]
    return Result(
        row.name,
        row.config.method,
        str(own[0].summary.get("student.name", row.config.student.name)),
        row.is_baseline,
        tuple(cell.seed for cell in own),
        values,
        novel=_novel(own) if "ood.mean_per_class" in values else None,
        retention=statistics.fmean(kept) if kept else None,
        seconds=statistics.fmean([cell.summary["train.seconds"] for cell in own]),
        parameters=own[0].summary.get("student.params"),
        cost=costs.get(cost_key(own[0].run, own[0].summary)),
    )


def _novel(own: Sequence[Done]) -> tuple[Difference, Difference | None] | None:
    """The students above their teacher on novel classes, of which each counts the same; None where the predictions are
    not known."""
    students, teachers = (_right_SN(own, "ood", column) for column in ("prediction", "teacher_prediction"))
    if students is None or teachers is None:
        return None
    labels = [label for _, label in students[0]]
    names, of_N, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weight_N = len(labels) / (len(names) * counts[of_N])  # a mean over images, so weighted, is one over classes
    mine_SN, its_SN = students[1] * weight_N, teachers[1] * weight_N
    by_seed = (mine_SN - its_SN).mean(axis=1).tolist()
    return over_images(mine_SN, its_SN), over_seeds(by_seed, len(labels))


def _compared(
    result: Result, own: Sequence[Done], others: Sequence[Done], reference: str, part: str, seeds: Sequence[int]
) -> Result:
    """The row with its difference to its reference, over the seeds that both have."""
    result = replace(result, reference=reference)
    mine, theirs = ({cell.seed: cell for cell in cells} for cells in (own, others))
    both = [seed for seed in mine if seed in theirs]
    if not both:
        return replace(result, words="not comparable: no seed in common")
    first, second = (_right_SN([cells[seed] for seed in both], part) for cells in (mine, theirs))
    if first is None or second is None or first[0] != second[0]:
        return replace(result, words="not comparable: other images")
    key = f"{part}.top1"
    images = over_images(first[1], second[1])
    by_seed = over_seeds([mine[seed].summary[key] - theirs[seed].summary[key] for seed in both], len(first[0]))
    result = replace(result, images=images, over_seeds=by_seed)
    if set(both) != set(seeds):
        return replace(result, words=f"incomplete: {len(both)} of {len(seeds)} seeds")
    return replace(result, p=max(images.p, by_seed.p) if by_seed else images.p)


def _right_SN(
    cells: Sequence[Done], part: str, column: str = "prediction"
) -> tuple[list[tuple[str, str]], np.ndarray] | None:
    """The images of some runs of one row, and which of them each run (or its teacher, by ``column``) names right; None
    if that is not known, or the images are not the same."""
    named = [read_named(cell.run.predictions_of(part), column) for cell in cells]
    known = [own for own in named if own is not None]
    if not known or len(known) < len(named) or any(own.images != known[0].images for own in known):
        return None
    return known[0].images, np.stack([own.right_N for own in known])


def _corrected(results: Sequence[Result], unfair: Container[str]) -> list[Result]:
    """With p-values corrected over all rows that are compared, and what they say; of unequal rows, that they are."""
    tested = [result for result in results if result.p is not None]
    corrected = iter(holm([result.p for result in tested if result.p is not None]))
    judged = []
    for result in results:
        if result.p is not None:
            result = _judged(replace(result, p_holm=next(corrected)), len(tested))
            result = replace(result, words=f"{result.words}, unequal") if result.name in unfair else result
        judged.append(result)
    return judged


def _judged(result: Result, tests: int) -> Result:
    assert result.images is not None
    assert result.p_holm is not None
    if result.p_holm < SURE:
        return replace(result, words="yes" if result.images.value > 0 else "no, worse")
    return replace(result, words=f"not resolved{_remedy(result.images, result.over_seeds, len(result.seeds), tests)}")


def _remedy(images: Difference, by_seed: Difference | None, seeds: int, tests: int) -> str:
    """What would show a difference of this size. More seeds make the interval over seeds narrower; the one over images
    is as wide as the test split is small."""
    if by_seed is None:
        return " (one seed)"
    remedies = []
    if tests * by_seed.p >= SURE:
        more = more_seeds(by_seed, seeds, tests)
        remedies.append(f"+{more} seed{'s' if more > 1 else ''}" if more else "too small for seeds")
    if tests * images.p >= SURE:
        remedies.append("+images")
    return f" ({', '.join(remedies)})"


def _teachers(done: Sequence[Done], part: str, costs: Mapping[str, Cost]) -> list[TeacherResult]:
    """Each teacher, with each head that named classes, on the images that count."""
    seen: dict[str, list[Summary]] = {}
    for cell in done:
        if cell.summary.get("teacher.id") and f"teacher.{part}.top1" in cell.summary:
            head = cell.summary.get("teacher.head")
            name = str(cell.summary["teacher.id"]) + (f", {head}" if head not in ("zero-shot", "classifier") else "")
            seen.setdefault(name, []).append(cell.summary)
    rows = []
    for name, summaries in seen.items():
        top1 = statistics.fmean([own[f"teacher.{part}.top1"] for own in summaries])
        val = [own["teacher.val.top1"] for own in summaries if "teacher.val.top1" in own]
        count = summaries[0].get(f"images.{part}", 0)
        low, high = wilson_interval(round(top1 * count), count)
        cost = costs.get(str(summaries[0]["teacher.id"]))
        of_val, parameters = statistics.fmean(val) if val else None, cost and cost.parameters
        named = [own for own in summaries if "teacher.ood.mean_per_class" in own]  # a kd row asks it for none of these
        by_name = {key: statistics.fmean([own[f"teacher.{key}"] for own in named]) for key in BY_NAME if named}
        rows.append(TeacherResult(name, of_val, top1, low, high, parameters, by_name))
    return rows


def numbers_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a summary that fit into a table: no lists."""
    return {key: value for key, value in summary.items() if isinstance(value, int | float | str) or value is None}


def in_groups(failures: Mapping[str, str]) -> list[str]:
    """``kd-s0, kd-s1: why`` for each different reason."""
    names: dict[str, list[str]] = {}
    for name, failure in failures.items():
        names.setdefault(failure, []).append(name)
    return [f"{', '.join(own)}: {failure}" for failure, own in names.items()]

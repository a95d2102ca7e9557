"""A report as a table: on the terminal, as Markdown, JSON and Parquet."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from linnet.commands.comparison.results import BY_NAME, FURTHER, Report, Result, TeacherResult, in_groups, numbers_of
from linnet.environment import environment
from linnet.errors import UserError
from linnet.fields import to_dict
from linnet.files import new_file, readable, write_atomically
from linnet.metrics.intervals import Difference
from linnet.progress import WIDTH
from linnet.timing import duration

NAMES = {"id.mean_per_class": "trained", "ood.mean_per_class": "novel", "generalised.ood": "in one list"}


def mean_sd(values: Sequence[float], digits: int = 2) -> str:
    """``75.00 ± 2.61``: mean and sample standard deviation; of one value ``75.00``, of none nothing."""
    if len(values) < 2:
        return "".join(f"{value:.{digits}f}" for value in values)
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _percent(result: Result, key: str, digits: int) -> str:
    return mean_sd([100 * value for value in result.values.get(key, ())], digits)


def _interval(apart: Difference | None, digits: int) -> str:
    return "" if apart is None else f"{100 * apart.low:+.{digits}f} to {100 * apart.high:+.{digits}f}"


def _difference(result: Result, report: Report, digits: int) -> str:
    if result.reference is None:
        return "0" if report.counted.get(result.name) == result.name else ""
    return "" if result.images is None else f"{100 * result.images.value:+.{digits}f}"


def _words(result: Result, report: Report) -> str:
    return f"({_reference(report)})" if report.counted.get(result.name) == result.name else result.words


def _reference(report: Report) -> str:
    """What rows are compared with, in the heads of the columns."""
    return "ce" if report.against is None else report.against


def _heads(report: Report) -> tuple[str, str, str, str]:
    """Of the difference, of both intervals, and of what they say."""
    return f"- {_reference(report)}", "A: images", "B: seeds", f"better than {_reference(report)}?"


def shows_claims(report: Report) -> bool:
    return any(result.images is not None for result in report.results)


def shows_names(report: Report) -> bool:
    return any("ood.mean_per_class" in result.values for result in report.results)


# --- what is said under a table ---


def remarks(report: Report) -> list[str]:
    """What the columns mean, what counted as ce, what is unequal, what is missing: a line each."""
    part, count = report.part, len(report.seeds)
    seeds = f"seed{'s' if count > 1 else ''} {', '.join(map(str, report.seeds))}"
    lines = [f"{report.images} {part} images; {seeds}; mean ± sd over seeds; accuracies in %, differences in points"]
    if part == "val":
        lines.append("there is no test split: val takes its place, and the epochs were chosen on it")
    if shows_claims(report):
        lines.append(f"A: 95 % interval for other {part} images, given these trainings (paired bootstrap over images)")
        lines.append(
            f"B: 95 % interval for other seeds, given these images (t over the {count} differences)"
            if count > 1
            else "B: none, because one seed says nothing about other seeds: give --seeds 0,1,2"
        )
        tested = sum(result.p_holm is not None for result in report.results)
        both = "both intervals' p-values" if count > 1 else "the p-value of A"
        if tested:
            lines.append(
                f"{_heads(report)[-1]}: by {both}, Holm-corrected over {tested} row{'s' if tested > 1 else ''}"
            )
        if any("+" in result.words for result in report.results):
            lines.append("(+N seeds), (+images): what would resolve it, if more seeds come out as these did")
    if shows_names(report):
        lines.append("trained, novel: images of such classes among the names of such classes, mean per class")
        lines.append("in one list: images of novel classes among all names; - teacher: novel, student and teacher")
    if report.teachers:
        lines.append("teacher: the interval is that of its own accuracy (Wilson)")
    lines += _counted_as_ce(report) if report.against is None else [_compared_with(report.against, report)]
    if any(result.retention is not None for result in report.results):
        lines.append(f"retention: {part} accuracy of the student / of its teacher")
    runtimes = {result.cost.runtime for result in report.results if result.cost and result.cost.runtime}
    if runtimes:
        lines.append(f"ms: one image on this CPU, one thread, {' and '.join(sorted(runtimes))}; MB: of that file")
    return [*lines, *report.notes]


def _compared_with(against: str, report: Report) -> str:
    if against in report.counted.values():
        return f"the difference is that to {against}"
    return f"nothing is compared: no cell of {against} is finished"


def _counted_as_ce(report: Report) -> list[str]:
    """Where a student has several ce rows, the better one by val counts."""
    lines = []
    for reference in dict.fromkeys(report.counted.values()):
        chosen = report.result(reference)
        others = [
            result
            for result in report.results
            if result.baseline and result.name != reference and report.counted.get(result.name) == reference
        ]
        if others:
            shown = ", ".join(f"{own.name} {_percent(own, 'val.top1', 2)}" for own in others)
            lines.append(f"ce: {reference} counts, the best on val ({_percent(chosen, 'val.top1', 2)}; {shown})")
    return lines


# --- the terminal ---


def print_table(report: Report, console: Console | None = None) -> None:
    """In blocks of at most 100 columns: what was gained, how novel classes are named, and what it costs."""
    if console is None:
        console = Console()
        console.width = console.width if console.is_terminal else WIDTH
    for table in (_gains(report), *([_names(report)] if shows_names(report) else []), _costs(report)):
        console.print(table)
        console.print()
    for line in remarks(report):
        console.print(line, highlight=False, markup=False, style="dim")


def print_report(report: Report) -> None:
    """The table, and where things are.

    Raises:
        UserError: cells have failed; after all else is said.
    """
    print_table(report)
    if report.out is not None:
        print(readable(report.out / "compare.md"))
    if report.failures:
        cells = f"{len(report.failures)} of {len(report.rows) * len(report.seeds)} cells"
        told = "; ".join(in_groups(report.failures))
        raise UserError(f"{cells} failed ({told}); the same command tries them again")


def _gains(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    claims = shows_claims(report)
    table.add_column("", min_width=12, max_width=26)
    short = _heads(report) if report.against is None else ("difference", *_heads(report)[1:3], "better?")
    *numbers, words = short if claims else ("",)
    for name in (report.part, *numbers):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(words, max_width=24)
    for result in report.results:
        own = [_percent(result, f"{report.part}.top1", 1)]
        if claims:
            own += [_difference(result, report, 1), _interval(result.images, 1), _interval(result.over_seeds, 1)]
        table.add_row(*map(escape, (result.name, *own, _words(result, report))))
    for teacher in report.teachers:
        interval = ["", _wilson(teacher), "", ""] if claims else [_wilson(teacher)]
        table.add_row(escape(_short(teacher)), f"{100 * teacher.top1:.1f}", *interval, style="dim")
    return table


def _names(report: Report) -> Table:
    """Of students with a text bank: classes that they were trained on, and that they were not."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", min_width=12, max_width=26)
    head, *lines = _by_name(report, NAMES, 1)
    for name in head[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*map(escape, line), style="dim" if line[0].startswith("teacher ") else "")
    return table


def _by_name(report: Report, keys: Mapping[str, str], digits: int) -> list[list[str]]:
    """A head, a line for each student with a text bank, one for each teacher; ``keys``: those columns' names."""
    lines = [["", *keys.values(), "- teacher", "A: images", "B: seeds"]]
    for result in (own for own in report.results if "ood.mean_per_class" in own.values):
        images, by_seed = result.novel or (None, None)
        above = "" if images is None else f"{100 * images.value:+.{digits}f}"
        own = [_percent(result, key, digits) for key in keys]
        lines.append([result.name, *own, above, _interval(images, digits), _interval(by_seed, digits)])
    for teacher in (own for own in report.teachers if own.by_name):
        lines.append([_short(teacher), *(f"{100 * teacher.by_name[key]:.{digits}f}" for key in keys), "", "", ""])
    return lines


def _named(teacher: TeacherResult) -> str:
    return f"teacher {teacher.name}"


def _short(teacher: TeacherResult) -> str:
    """Without the kind, and of a path its last part: the files have the whole id."""
    kind, _, rest = teacher.name.partition(":")
    place = rest.rpartition(":")[2]
    return f"teacher {Path(place).name if place.startswith('/') or ':' in rest else rest or kind}"


def _wilson(teacher: TeacherResult, digits: int = 1) -> str:
    return f"{100 * teacher.low:.{digits}f} to {100 * teacher.high:.{digits}f}"


def _costs(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", min_width=12, max_width=26)
    for name in ("val", "retention", "training", "student", "parameters", "MB", "ms"):
        table.add_column(name, justify="left" if name == "student" else "right", no_wrap=name != "student")
    for result in report.results:
        table.add_row(*map(escape, (result.name, _percent(result, "val.top1", 1), *_cost_cells(result))))
    for teacher in report.teachers:
        val = f"{100 * teacher.val:.1f}" if teacher.val is not None else ""
        table.add_row(escape(_short(teacher)), val, "", "", "", _millions(teacher.parameters), "", "", style="dim")
    return table


def _cost_cells(result: Result) -> list[str]:
    cost = result.cost
    return [
        f"{100 * result.retention:.1f} %" if result.retention is not None else "",
        duration(result.seconds),
        result.student,
        _millions(result.parameters),
        f"{cost.megabytes:.1f}" if cost and cost.megabytes is not None else "",
        f"{cost.milliseconds:.1f}" if cost and cost.milliseconds is not None else "",
    ]


def _millions(count: int | None) -> str:
    return f"{count / 1e6:.2f} M" if count else ""


# --- files ---


def write_files(report: Report, folder: Path) -> None:
    """compare.md, compare.json and compare.parquet."""
    write_atomically(folder / "compare.md", as_markdown(report))
    write_atomically(folder / "compare.json", json.dumps(as_json(report), indent=1, default=str) + "\n")
    _write_cells(report, folder / "compare.parquet")


def as_markdown(report: Report) -> str:
    further = [f"{report.part}.{name}" for name in FURTHER]
    further = [key for key in further if any(key in own.values for own in report.results)]
    columns = ["", "val", *([report.part] if report.part != "val" else []), *further]
    columns += [
        *_heads(report),
        "retention",
        "training",
        "student",
        "parameters",
        "MB",
        "ms",
    ]
    lines = [columns, ["---"] * len(columns)]
    for result in report.results:
        cells = [
            result.name,
            *(_percent(result, key, 2) for key in dict.fromkeys(["val.top1", f"{report.part}.top1", *further])),
        ]
        cells += [_difference(result, report, 2), _interval(result.images, 2), _interval(result.over_seeds, 2)]
        lines.append([*cells, _words(result, report), *_cost_cells(result)])
    for teacher in report.teachers:
        val = [f"{100 * teacher.val:.2f}" if teacher.val is not None else ""] if report.part != "val" else []
        own = [_named(teacher), *val, f"{100 * teacher.top1:.2f} ({_wilson(teacher, 2)})", *[""] * (len(further) + 7)]
        lines.append([*own, _millions(teacher.parameters), "", ""])
    blocks = [_in_pipes(lines)]
    if shows_names(report):
        head, *more = _by_name(report, {key: NAMES.get(key, key) for key in BY_NAME}, 2)
        blocks.append(_in_pipes([head, ["---"] * len(head), *more]))
    return "\n\n".join([*blocks, "\n".join(f"* {line}" for line in remarks(report))]) + "\n"


def _in_pipes(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_json(report: Report) -> dict[str, Any]:
    """Everything that the table is made from, and its settings and versions."""

    def of(result: Result) -> dict[str, Any]:
        cost = result.cost
        return {
            "row": result.name,
            "method": result.method,
            "student": result.student,
            "is_ce": result.baseline,
            "seeds": list(result.seeds),
            "values": dict(result.values),
            "compared_with": result.reference,
            "over_images": result.images and result.images._asdict(),
            "over_seeds": result.over_seeds and result.over_seeds._asdict(),
            "novel_over_images": result.novel and result.novel[0]._asdict(),
            "novel_over_seeds": result.novel and result.novel[1] and result.novel[1]._asdict(),
            "p": result.p,
            "p_holm": result.p_holm,
            "better": result.words or None,
            "retention": result.retention,
            "train.seconds": result.seconds,
            "cost": cost and cost._asdict(),
            "settings": next(to_dict(row.config) for row in report.rows if row.name == result.name),
        }

    return {
        "part": report.part,
        "images": report.images,
        "seeds": list(report.seeds),
        "against": report.against,
        "rows": [of(result) for result in report.results],
        "teachers": [teacher._asdict() for teacher in report.teachers],
        "cells": [{"row": cell.row, "run": str(cell.run.folder), **cell.summary} for cell in report.done],
        "remarks": remarks(report),
        "environment": environment(),
    }


def _write_cells(report: Report, file: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    cells = [{"row": cell.row, "run": str(cell.run.folder), **numbers_of(cell.summary)} for cell in report.done]
    columns = {}
    for key in dict.fromkeys(key for cell in cells for key in cell):
        values = [cell.get(key) for cell in cells]
        is_text = any(isinstance(value, str) for value in values)
        columns[key] = [value if value is None else str(value) for value in values] if is_text else values
    with new_file(file) as opened:
        pyarrow.parquet.write_table(pyarrow.table(columns), opened)

"""``linnet list runs``: the runs below a folder, finished or not."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from linnet.config import Config
from linnet.errors import UserError
from linnet.files import is_locked, on_one_line
from linnet.run import Run, is_run


class Row(NamedTuple):
    """What is shown of a run, in this order."""

    folder: str
    method: str
    student: str
    seed: str
    val: str
    test: str
    when: str
    state: str


RIGHT = ("seed", "val", "test")  # columns of numbers
UNKNOWN = "-"


def run_lines(folder: Path) -> Iterator[str]:
    """One line per run below a folder, in the order of their names, without colours and never wrapped.

    Raises:
        UserError: there are none.
    """
    rows = [_row(run) for run in find_runs(folder)]
    if not rows:
        raise UserError(f"there are no runs in {folder}: give their folder, as in 'linnet list runs experiments/'")
    head = Row(*Row._fields)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [
            f"{cell:>{width}}" if name in RIGHT else f"{cell:<{width}}"
            for name, cell, width in zip(Row._fields, row, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def find_runs(folder: Path) -> Iterator[Run]:
    """The runs at any depth, also behind links; a run that lies in another one's folder is a part of it."""
    seen = set()
    for place, below, _ in os.walk(folder, followlinks=True):
        here, real = Path(place), os.path.realpath(place)
        if real in seen:  # links may lead in a circle
            below.clear()
            continue
        seen.add(real)
        if is_run(here) and Run(here).environment.exists():
            below.clear()
            yield Run(here)
        else:
            below[:] = sorted(name for name in below if not name.startswith("."))


def _row(run: Run) -> Row:
    summary: dict[str, Any] = {}
    with suppress(UserError):
        summary = run.summary()
    config: Config | None = None
    with suppress(UserError):
        config = run.settings()
    return Row(
        on_one_line(run.folder),
        config.method if config else str(summary.get("method", UNKNOWN)),
        str(config.student.name if config else summary.get("student.name", UNKNOWN)),
        str(config.seed if config else summary.get("seed", UNKNOWN)),
        _percent(summary.get("val.top1")),
        _percent(summary.get("test.top1")),
        _when(run),
        "finished" if summary else _progress(run, config),
    )


def _when(run: Run) -> str:
    for file in (run.summary_file, run.metrics_file, run.environment):
        with suppress(OSError):  # not there yet, or deleted at this moment
            return time.strftime("%Y-%m-%d %H:%M", time.localtime(file.stat().st_mtime))
    return UNKNOWN


def _progress(run: Run, config: Config | None) -> str:
    """``running, epoch 3 of 30`` or ``stopped, epoch 3 of 30``; of a damaged run what can be told."""
    done = max((row["epoch"] for row in run.metrics() if isinstance(row.get("epoch"), int)), default=0)
    of = f" of {config.train.epochs}" if config else ""
    return f"{'running' if is_locked(run.lock_file) else 'stopped'}, epoch {done}{of}"


def _percent(share: object) -> str:
    return f"{100 * share:.1f} %" if isinstance(share, int | float) else UNKNOWN

"""``linnet list runs``: the runs below a folder, finished or not."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from linnet.config import Config
from linnet.errors import UserError
from linnet.files import is_locked, readable
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
    """The runs at any depth; a run that lies in another one's folder is a part of it."""
    for place, below, _ in os.walk(folder):
        here = Path(place)
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
    written = next(file for file in (run.summary_file, run.metrics_file, run.environment) if file.exists())
    return Row(
        readable(run.folder),
        config.method if config else str(summary.get("method", UNKNOWN)),
        str(config.student.name if config else summary.get("student.name", UNKNOWN)),
        str(config.seed if config else summary.get("seed", UNKNOWN)),
        _percent(summary.get("val.top1")),
        _percent(summary.get("test.top1")),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(written.stat().st_mtime)),
        "finished" if summary else _progress(run, config),
    )


def _progress(run: Run, config: Config | None) -> str:
    """``running, epoch 3 of 30`` or ``stopped, epoch 3 of 30``; of a damaged run what can be told."""
    done = max((int(row.get("epoch", 0)) for row in run.metrics()), default=0)
    of = f" of {config.train.epochs}" if config else ""
    return f"{'running' if is_locked(run.lock_file) else 'stopped'}, epoch {done}{of}"


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.1f} %"

"""How far a comparison is: a table of its cells on a terminal, a line for each finished cell elsewhere.

It looks at the folders alone, so it shows what this process, its workers and other machines do alike.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from linnet.commands.comparison.cells import Cell, state
from linnet.commands.comparison.workers import claims_of, failure_of
from linnet.errors import UserError
from linnet.timing import duration


class Watch:
    """``with Watch(cells, epochs) as watch: ...; watch.refresh()``.

    Args:
        epochs: of each row.
    """

    def __init__(self, cells: Sequence[Cell], epochs: dict[str, int], out: Path):
        self.cells, self.epochs = cells, epochs
        self.console = Console(stderr=True)
        self._warnings = claims_of(out) / "warnings"
        self._read = self._warnings.stat().st_size if self._warnings.exists() else 0
        self._warned: set[str] = set()
        self._told: set[str] = set()
        self._live: Live | None = None
        # summaries of other settings, which are about to be replaced
        self._old = {cell.name: _written(cell) for cell in cells if _written(cell) and state(cell) == "other"}

    def __enter__(self) -> "Watch":
        self._start = time.monotonic()
        self._before = sum(map(self._done, self.cells))
        self._told = {cell.name for cell in self.cells if self._is_over(cell)}
        if self._told:
            self.console.print(f"{len(self._told)} of {len(self.cells)} cells are finished", highlight=False)
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(UserError):
            self.refresh()
        if self._live:
            self._live.stop()

    def refresh(self) -> None:
        """Say what is new."""
        self._tell_warnings()
        for cell in self.cells:
            if cell.name not in self._told and self._is_over(cell):
                self._told.add(cell.name)
                if not self._live:
                    left = self._left()
                    words = f"[{len(self._told)}/{len(self.cells)}] {cell.row} seed {cell.seed}: {_result(cell)}{left}"
                    self.console.print(words, highlight=False, markup=False, soft_wrap=True)

    def _is_over(self, cell: Cell) -> bool:
        return failure_of(cell) is not None or _written(cell) not in (0.0, self._old.get(cell.name))

    def _done(self, cell: Cell) -> float:
        """Epochs that are done."""
        rows = cell.run.metrics()
        return self.epochs[cell.row] if self._is_over(cell) else rows[-1]["epoch"] if rows else 0

    def _left(self) -> str:
        """``; about 5 min left``, by the epochs since this command began."""
        done = sum(map(self._done, self.cells))
        whole = sum(self.epochs[cell.row] for cell in self.cells)
        if done <= self._before or done >= whole:
            return ""
        return f"; about {duration((time.monotonic() - self._start) * (whole - done) / (done - self._before))} left"

    def _tell_warnings(self) -> None:
        if not self._warnings.exists():
            return
        with self._warnings.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            if line not in self._warned:
                self._warned.add(line)
                self.console.print(f"warning: {line}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        rows = list(dict.fromkeys(cell.row for cell in self.cells))
        seeds = list(dict.fromkeys(cell.seed for cell in self.cells))
        title = f"{len(self._told)} of {len(self.cells)} cells{self._left()}"
        table = Table(title=title, box=None, title_justify="left", pad_edge=False)
        table.add_column("val top-1")
        for seed in seeds:
            table.add_column(f"seed {seed}")
        there = {(cell.row, cell.seed): cell for cell in self.cells}
        for row in rows:
            table.add_row(Text(row), *(self._shown(there[row, seed]) for seed in seeds))
        return table

    def _shown(self, cell: Cell) -> Text:
        """Styled, not tagged: beside a warning, which is printed without markup, tags would be printed, too."""
        if failure_of(cell) is not None:
            return Text("failed", style="red")
        if self._is_over(cell):
            return Text(_val(cell), style="green")
        rows = cell.run.metrics()
        if not rows:
            return Text("starts") if cell.folder.exists() else Text("waiting", style="dim")
        val = f": {100 * rows[-1]['val.top1']:.1f}" if "val.top1" in rows[-1] else ""
        return Text(f"epoch {rows[-1]['epoch']}/{self.epochs[cell.row]}{val}")


def _written(cell: Cell) -> float:
    """When the summary of a cell was written; 0 if it was not."""
    try:
        return cell.run.summary_file.stat().st_mtime
    except OSError:
        return 0.0


def _val(cell: Cell) -> str:
    try:
        summary = cell.run.summary()
    except UserError:
        return "finished"
    return f"{100 * summary['val.top1']:.1f}" if "val.top1" in summary else "finished"


def _result(cell: Cell) -> str:
    if (failure := failure_of(cell)) is not None:
        return f"failed: {failure}"
    try:
        summary = cell.run.summary()
    except UserError as error:
        return str(error)
    val = f"val {100 * summary['val.top1']:.1f}, " if "val.top1" in summary else ""
    return f"{val}{duration(summary['train.seconds'])}"

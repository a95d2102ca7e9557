"""Comparisons: rows (methods, or one method with other settings) times seeds. Each cell is a run, trained once and
kept."""

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnet.commands.distill import distill
from linnet.config import difference
from linnet.defaults import settings
from linnet.errors import UserError
from linnet.run import Run

Settings = Mapping[str, Any]  # by dotted name, as on the command line
Summary = dict[str, Any]  # of a finished run
Table = dict[str, list[Summary]]  # row -> the summaries of its seeds


@dataclass(frozen=True)
class Comparison:
    """Rows that share data, student and budget; seeds differ only in initialisation and order.

    Two processes can share the work if each takes its own seeds or rows. A cell that was stopped goes on where it was;
    a finished one is not trained again, unless its settings have changed.

    Attributes:
        out: the folder of the cells' runs. shared: settings of all rows.
        rows: name -> what sets it apart, or a function from the seed to it.
    """

    out: Path
    shared: Settings
    rows: Mapping[str, Settings | Callable[[int], Settings]]
    seeds: Sequence[int]

    def table(self, on_cell: Callable[[str, int, Summary], None] = lambda row, seed, summary: None) -> Table:
        """Every cell's summary, seed by seed; ``on_cell`` is called with each as soon as it is known.

        Raises:
            UserError: two rows whose names give one folder.
        """
        if len({self.run(row, 0).folder for row in self.rows}) < len(self.rows):
            raise UserError(f"two of the rows {', '.join(self.rows)} would share a folder: rename one")
        table: Table = {row: [] for row in self.rows}
        for seed in self.seeds:
            for row, summaries in table.items():
                summaries.append(self.cell(row, seed))
                on_cell(row, seed, summaries[-1])
        return table

    def cell(self, row: str, seed: int) -> Summary:
        own = self.rows[row]
        apart = own(seed) if callable(own) else own
        return finished(self.run(row, seed), {**self.shared, **apart, "seed": seed})

    def run(self, row: str, seed: int) -> Run:
        return Run(self.out / f"{re.sub(r'[^A-Za-z0-9=.+_]+', '-', row).strip('-')}-s{seed}")


def finished(run: Run, options: Settings) -> Summary:
    """The summary of a run with these settings, which is trained, or goes on, if it is not finished."""
    config, _ = settings(options=options, timed=False)
    try:
        wanted, same_training = not difference(run.settings(), config), not run.changes(config)
    except UserError:  # nothing is there yet, or a run that this version cannot read
        wanted = same_training = False
    if not (wanted and run.is_finished):
        distill(out=run.folder, options=options, resume=same_training, overwrite=not same_training)
    return run.summary()


def percent(summaries: Iterable[Summary], key: str) -> list[float]:
    """One number of each summary that has it, in percent."""
    return [100 * summary[key] for summary in summaries if key in summary]


def mean_sd(values: Sequence[float]) -> str:
    """``75.00 ± 2.61``: mean and sample standard deviation; of one value ``75.00``, of none nothing."""
    if len(values) < 2:
        return "".join(f"{value:.2f}" for value in values)
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def baseline(table: Table) -> str | None:
    """The row that gains are measured against: of those with method ``ce`` the one with the best mean val top-1."""
    rows = [row for row, summaries in table.items() if all(summary["method"] == "ce" for summary in summaries)]
    return max(rows, key=lambda row: statistics.fmean(percent(table[row], "val.top1") or [0.0]), default=None)


def gains(table: Table, row: str, reference: str, key: str = "test.top1") -> list[float]:
    """Points by which a row is above another one, for each seed for which both have the number."""
    pairs = zip(table[row], table[reference], strict=True)
    return [100 * (own[key] - other[key]) for own, other in pairs if key in own and key in other]

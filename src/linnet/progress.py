"""A bar with an ETA on a terminal, plain lines elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from linnet.processes import is_first

PLAIN_SECONDS = 10.0  # without a terminal, at most one line in this time


class Bar:
    """``with Bar("training", 30) as bar: bar.update(1, "loss 2.3")``."""

    def __init__(self, title: str, total: int):
        self.title, self.total = title, total
        self.console = Console(stderr=True)
        self.silent = not is_first()  # of several processes one is enough
        self._progress: Progress | None = None
        self._last = 0.0

    def __enter__(self) -> "Bar":
        if self.console.is_terminal and not self.silent:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self._progress = Progress(*columns, console=self.console)
            self._task = self._progress.add_task(self.title, total=self.total, note="")
            self._progress.start()
        self._start = time.monotonic()
        return self

    def update(self, done: int, note: str = "") -> None:
        if self._progress:
            self._progress.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if self.silent:
            return
        if now - self._last >= PLAIN_SECONDS or done == self.total:
            self._last = now
            left = (now - self._start) / max(done, 1) * (self.total - done)
            print(f"{self.title}: {done}/{self.total}  {note}  {left:.0f} s left", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

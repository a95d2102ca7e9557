"""A bar with an ETA on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from linnet.processes import is_first

WIDTH = 100  # columns of what is printed where no terminal says how many it has
PLAIN_SECONDS = 10.0  # without a terminal, at most one line in this time
LONG_SECONDS = 3.0  # a step that takes longer shows how far it is
LONG_PLAIN_SECONDS = 30.0  # the same without a terminal

_hidden = False


@contextmanager
def hidden() -> Iterator[None]:
    """No bar is shown in the block: somebody else says how far things are."""
    global _hidden
    before, _hidden = _hidden, True
    try:
        yield
    finally:
        _hidden = before


BY_THE_BAR = {"is_shown": True}  # ``log.info(..., extra=BY_THE_BAR)``: for train.log; a bar has shown it


class TerminalHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to where stderr is now: while a bar is alive its lines go above the bar, and do not tear it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.addFilter(lambda record: not getattr(record, "is_shown", False))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class Bar:
    """``with Bar("training", 30) as bar: bar.update(1, "loss 2.3")``.

    Args:
        keep: each note is a line of its own, which stays above the bar.
    """

    def __init__(self, title: str, total: int, keep: bool = False):
        self.title, self.total, self.keep = title, total, keep
        self.console = Console(stderr=True)
        self.silent = _hidden or not is_first()  # of several processes one is enough
        self._progress: Progress | None = None
        self._last = self._whole = 0.0
        self._done, self._note = 0, ""

    def __enter__(self) -> "Bar":
        if self.console.is_terminal and not self.silent:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._task = self._progress.add_task(self.title, total=self.total, note="")
            self._progress.start()
        self._start = self._whole = time.monotonic()
        self._last = 0.0 if self.keep else self._start
        return self

    def update(self, done: int, note: str = "") -> None:
        self._done, self._note, self._whole = done, note, time.monotonic()
        if self._progress:
            if self.keep:
                self._progress.console.print(note, markup=False, highlight=False)
                self._note = note = ""
            self._progress.update(self._task, completed=done, note=note)
            return
        is_late = time.monotonic() - self._last >= PLAIN_SECONDS
        if self.keep if done == self.total else is_late:  # the end of others is told by what comes next
            self._line(done, note)

    def inside(self, share: float, words: str) -> None:
        """How far the next one is, shown if it takes long.

        Args:
            share: from 0 to 1. words: the same in words.
        """
        now = time.monotonic()
        if self._progress and now - self._whole >= LONG_SECONDS:
            note = f"{words}  {self._note}".rstrip()
            self._progress.update(self._task, completed=self._done + share, note=note)
        elif not self._progress and now - max(self._last, self._whole) >= LONG_PLAIN_SECONDS:
            self._line(self._done + share, words)

    def _line(self, done: float, note: str) -> None:
        if self.silent:
            return
        self._last = time.monotonic()
        left = (self._last - self._start) / max(done, 1e-9) * (self.total - done)
        words = note if self.keep and done == self._done else f"{self.title}: {self._done}/{self.total}  {note}"
        print(f"{words}  {left:.0f} s left", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

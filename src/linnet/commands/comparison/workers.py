"""Who trains which cell: claims by lock files, so that processes and machines on one folder share the work; workers in
processes side by side, or on a Ray cluster.

A claim is a lock that the system drops when its process dies, however it dies.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from linnet.commands.comparison.cells import Cell, state, train_cell
from linnet.commands.ending import TITLE
from linnet.errors import UserError, require
from linnet.files import lock, write_atomically
from linnet.progress import hidden

Train = Callable[[Cell], None]
WAIT_SECONDS = 0.5  # between two looks at what others do


def claims_of(out: Path) -> Path:
    """Hidden beside the cells: locks, what went wrong, what was warned of."""
    return out / ".claims"


def _beside(cell: Cell, ending: str) -> Path:
    return claims_of(cell.folder.parent) / f"{cell.name}.{ending}"


def failure_of(cell: Cell) -> str | None:
    """Why a cell failed since the last command began, if it did."""
    with suppress(OSError):
        return _beside(cell, "failed").read_text(encoding="utf-8")
    return None


def forget_failures(cells: Sequence[Cell]) -> None:
    """A new command tries again."""
    for cell in cells:
        _beside(cell, "failed").unlink(missing_ok=True)


def work(cells: Sequence[Cell], train: Train, on_change: Callable[[], None] = lambda: None) -> None:
    """Train every cell that nobody else trains; come back when all are finished or have failed.

    Args:
        train: what a claimed cell is given to; a :class:`UserError` is that cell's failure and stops no other one.
        on_change: called after each cell, and now and then while others are waited for.
    """
    todo = list(cells)
    while todo:
        for cell in todo:
            if _attempt(cell, train, cells):
                todo.remove(cell)
                break
        else:
            time.sleep(WAIT_SECONDS)
        on_change()


def _attempt(cell: Cell, train: Train, cells: Sequence[Cell]) -> bool:
    """Whether a cell is settled now; False if another process has it, or it waits for another cell."""
    if is_settled(cell):
        return True
    if not is_ready(cell, cells):
        return False
    claims_of(cell.folder.parent).mkdir(parents=True, exist_ok=True)
    try:
        claim = lock(_beside(cell, "lock"))
    except BlockingIOError:
        return False
    with claim:
        if is_settled(cell):  # by who held it until now
            return True
        try:
            train(cell)
        except UserError as error:
            write_atomically(_beside(cell, "failed"), str(error))
    return True


def is_settled(cell: Cell) -> bool:
    return failure_of(cell) is not None or state(cell) == "finished"


def is_ready(cell: Cell, cells: Sequence[Cell]) -> bool:
    """Whether the cells that this one goes on from are settled."""
    return all(map(is_settled, _needed(cell, cells)))


def refuse_circles(cells: Sequence[Cell]) -> None:
    """
    Raises:
        UserError: cells go on from one another, and would wait for ever.
    """
    left = list(cells)
    while left:
        waiting = [cell for cell in left if _needed(cell, left)]
        if len(waiting) == len(left):
            raise UserError(f"{', '.join(cell.name for cell in left)} cannot begin: each goes on from another of them")
        left = waiting


def _needed(cell: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """The cells whose folders stand in the settings of this one."""
    texts = [value for value in cell.options.values() if isinstance(value, str)]
    return [
        other for other in cells if other.name != cell.name and any(_leads_to(text, other.folder) for text in texts)
    ]


def _leads_to(text: str, place: Path) -> bool:
    folder = str(place)
    return any(part == folder or part.startswith(f"{folder}/") for part in text.split(":"))


@contextmanager
def quiet(out: Path) -> Iterator[None]:
    """A cell's story is in its train.log alone; warnings are noted for who shows them."""
    logger, told = logging.getLogger("linnet"), _Warnings(claims_of(out) / "warnings")
    before, level = logger.propagate, logger.level
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(told)
    try:
        with hidden():
            yield
    finally:
        logger.propagate = before
        logger.setLevel(level)
        logger.removeHandler(told)


class _Warnings(logging.Handler):
    """Appends warnings to a file, a line each; but for the block at a run's end, which the table is for."""

    def __init__(self, file: Path):
        super().__init__(logging.WARNING)
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(TITLE):
            return
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as opened:
                opened.write(" ".join(record.getMessage().split()) + "\n")


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """Sums depend on how many threads share them, in their last digits: every cell has the same number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_here(
    cells: Sequence[Cell], threads: int, overwrite: bool, on_change: Callable[[], None] = lambda: None
) -> None:
    """All cells, one after the other, in this process."""
    if not cells:
        return
    with quiet(cells[0].folder.parent), with_threads(threads):
        work(cells, partial(train_cell, overwrite=overwrite), on_change)


# --- side by side ---


def _as_order(cells: Sequence[Cell], threads: int, overwrite: bool) -> str:
    """Cells as a line of text, for another process."""
    rows = [[cell.row, cell.seed, str(cell.folder), dict(cell.options)] for cell in cells]
    return json.dumps({"cells": rows, "threads": threads, "overwrite": overwrite}, default=str)


def _obey(order: str) -> None:
    told = json.loads(order)
    cells = [Cell(row, seed, Path(folder), options) for row, seed, folder, options in told["cells"]]
    train_here(cells, told["threads"], told["overwrite"])


def train_side_by_side(
    cells: Sequence[Cell], jobs: int, threads: int, overwrite: bool, on_change: Callable[[], None]
) -> None:
    """The same in several processes, which end with this one.

    Raises:
        UserError: one of them ended early, and cells are left.
    """
    if not cells:
        return
    log = claims_of(cells[0].folder.parent) / "workers.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    own = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "linnet.commands.comparison.workers"]
    with log.open("wb") as story:
        workers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=story, stderr=story, env=own) for _ in range(jobs)
        ]
        try:
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write(_as_order(cells, threads, overwrite).encode() + b"\n")
                worker.stdin.flush()
            while any(worker.poll() is None for worker in workers):
                time.sleep(WAIT_SECONDS)
                on_change()
        finally:
            for worker in workers:
                worker.terminate()
                worker.wait()
    if left := [cell.name for cell in cells if not is_settled(cell)]:
        raise UserError(
            f"the workers ended before {', '.join(left)} was finished: see {log}; the same command goes on, with fewer "
            "--jobs if memory was short"
        )


def _leave_with_parent() -> None:
    """Standard input ends when the process that started this one does."""
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    order = sys.stdin.readline()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _obey(order)


# --- on a Ray cluster ---


def train_on_cluster(
    cells: Sequence[Cell], address: str, threads: int, overwrite: bool, on_change: Callable[[], None]
) -> None:
    """Each cell as a task of a Ray cluster, whose machines share the folder of the cells.

    Args:
        address: of the cluster, as Ray takes it; ``local`` starts one on this machine.
    """
    ray: Any = require("ray", "ray")
    known = {key: os.environ[key] for key in ("LINNET_CACHE", "HF_HUB_OFFLINE") if key in os.environ}
    where: dict[str, Any] = {} if address == "local" else {"address": address}
    ray.init(**where, runtime_env={"env_vars": known}, log_to_driver=False, logging_level="ERROR")
    try:
        task = ray.remote(num_cpus=threads, max_retries=0)(_on_another_machine)
        todo, running = list(cells), dict[Any, Cell]()
        while todo or running:
            for cell in [cell for cell in todo if is_ready(cell, cells)]:
                todo.remove(cell)
                running[task.remote(_as_order([cell], threads, overwrite), os.getcwd())] = cell
            done, _ = ray.wait(list(running), timeout=WAIT_SECONDS)
            for reference in done:
                cell = running.pop(reference)
                try:
                    ray.get(reference)
                except Exception as error:  # whatever became of the machine
                    write_atomically(_beside(cell, "failed"), f"its Ray task failed: {' '.join(str(error).split())}")
            on_change()
    finally:
        ray.shutdown()


def _on_another_machine(order: str, folder: str) -> None:
    with suppress(OSError):
        os.chdir(folder)  # paths are relative to it
    _obey(order)


if __name__ == "__main__":
    main()

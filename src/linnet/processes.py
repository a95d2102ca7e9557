"""The processes of a run, one or those that torchrun or accelerate started, and their random numbers."""

import atexit
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Timer
from typing import Any, TypeVar

from linnet.errors import UserError

Result = TypeVar("Result")

log = logging.getLogger("linnet")

# what torchrun and accelerate tell each process that they start, all of it
PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
WAIT_SECONDS = 10.0  # of silence, before the process says for whom it waits


def drop_leftovers() -> None:
    """Forget a place among several processes that nobody can have given to this one: of the variables that torchrun and
    accelerate set some are missing, or do not fit together. Another program, or a shell, has left them."""
    given = {name: value for name in (*PLACE, "LOCAL_WORLD_SIZE") if (value := os.environ.get(name)) is not None}
    if not given.keys() - {"MASTER_ADDR", "MASTER_PORT"}:
        return
    numbers = [given.get(name, "") for name in PLACE if name != "MASTER_ADDR"]
    if given.get("MASTER_ADDR") and all(number.isdecimal() for number in numbers):
        rank, local_rank, size, _ = map(int, numbers)
        if rank < size and local_rank < size:
            return
    for name in given:
        del os.environ[name]
    shown = ", ".join(f"{name}={value}" for name, value in given.items())
    log.warning("%s of the environment is ignored: neither torchrun nor accelerate has started this process", shown)


def is_first() -> bool:
    """Whether this process is the one that talks: the only one, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def make_accelerator(logger: str | None = None, folder: str | Path | None = None) -> Any:
    """Accelerate's handle on this process and on the others, joined if there are several.

    Args:
        logger: one of Accelerate's trackers. folder: where it may write.
    """
    drop_leftovers()
    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs

    # while the first process asks the teacher, the others wait: longer than the half hour that is usual
    patience = InitProcessGroupKwargs(timeout=timedelta(days=1))
    atexit.register(_leave_the_others)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    on_cpu = several and not torch.cuda.is_available()  # Accelerate joins processes without a GPU only if told so
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    say = Timer(
        WAIT_SECONDS, log.warning, ("waiting at %s for all of %s processes", where, os.environ.get("WORLD_SIZE"))
    )
    say.daemon = True
    if several:
        say.start()
    try:
        return Accelerator(
            cpu=on_cpu,
            mixed_precision="no",
            log_with=logger,
            project_dir=folder,
            kwargs_handlers=[patience],
        )
    finally:
        say.cancel()


def said_by_the_first(accelerator: Any, word: str) -> str:
    """A word of at most 32 letters as the first process says it: for what a machine decides by measuring."""
    import torch
    from accelerate.utils import broadcast

    letters = torch.zeros(32, dtype=torch.uint8)
    letters[: len(word)] = torch.tensor([*word.encode()])
    heard = broadcast(letters.to(accelerator.device), from_process=0)
    return bytes(heard.tolist()).rstrip(b"\0").decode()


@dataclass(frozen=True)
class Team:
    """The processes that share a piece of work; by default one process alone.

    Attributes:
        rank, world: which of the processes on this machine this is, and of how many.
        tell: says to all, on every machine, whether this one did well; waits for the others and gives what all said.
    """

    rank: int = 0
    world: int = 1
    tell: Callable[[bool], list[bool]] = lambda well: [well]

    def together(self, words: str, work: Callable[[], Result]) -> Result:
        """What ``work`` gives here, as soon as every process has done its own.

        Args:
            words: what is done, for the error, as in "asking the teacher".

        Raises:
            UserError: another process failed; nobody waits for it. What fails here is raised as it is.
        """
        try:
            result = work()
        except Exception:
            self.tell(False)
            raise
        if failed := [number for number, well in enumerate(self.tell(True)) if not well]:
            raise UserError(f"process {failed[0]} of the others failed while {words}: see its own message")
        return result


def team_around(accelerator: Any) -> Team:
    """The processes of a run on this machine."""
    import torch
    from accelerate.utils import gather

    def tell(well: bool) -> list[bool]:
        return [bool(said) for said in gather(torch.tensor([int(well)], device=accelerator.device)).tolist()]

    if "LOCAL_WORLD_SIZE" in os.environ:
        return Team(accelerator.local_process_index, int(os.environ["LOCAL_WORLD_SIZE"]), tell)
    return Team(accelerator.process_index, accelerator.num_processes, tell)


def _leave_the_others() -> None:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def seed_everything(seed: int, epoch: int = 0, rank: int = 0) -> None:
    """Seed the global generators for one epoch of one process (dropout, stochastic depth); epoch 0 of rank 0 also for
    what is made before training."""
    import numpy as np
    import torch

    number = int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])
    torch.manual_seed(number)
    np.random.seed(number)

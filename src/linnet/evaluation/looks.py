"""How often the images of a test were looked at: a test that decides what is tried next is no test any more.

Each evaluation is a line of ``evaluations.jsonl`` in the run. Nothing here needs torch.
"""

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from linnet.environment import version
from linnet.files import cannot_write
from linnet.run import Run

FIRST = "the first at the end of training"


def earlier_looks(run: Run) -> list[dict[str, Any]]:
    """The lines that are whole: a kill can leave half a line."""
    rows, content = [], b""
    with suppress(OSError):  # nothing was looked at yet
        content = run.evaluations.read_bytes()
    for line in content.splitlines():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def count_looks(run: Run, data_hash: str, scored_in_training: bool) -> int:
    """How often these images were scored, the look that is about to be noted among them: the same images are the same
    test, wherever they lie and whatever the split is called."""
    return sum(row.get("data") == data_hash for row in earlier_looks(run)) + scored_in_training + 1


def note_look(run: Run, data_hash: str, split: str, model_hash: str, top1: float) -> None:
    """
    Raises:
        UserError: the line cannot be written.
    """
    row: dict[str, Any] = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "data": data_hash, "split": split}
    row |= {"model": model_hash, "top1": top1, "linnet": version("linnet")}
    try:
        with run.evaluations.open("ab+") as file:
            file.seek(-min(1, file.seek(0, os.SEEK_END)), os.SEEK_END)
            begin = b"" if file.read() in (b"", b"\n") else b"\n"  # half a line of a killed process ends here
            file.write(begin + json.dumps(row).encode() + b"\n")  # one write: two evaluations do not mix their lines
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(run.evaluations, error) from error


def in_words(looks: int, scored_in_training: bool, at_part: int | None = 0) -> str:
    """
    Args:
        at_part: how many of the images are in the run's own test split, an earlier look; None: not known.
    """
    times = {1: "once, now", 2: "twice"}.get(looks, f"{looks} times")
    first = f" ({FIRST})" if scored_in_training else ""
    part = f"; {at_part:,} of them are test images of the run, which were looked at before" if at_part else ""
    return f"these images have been looked at {times}{first}{part}"

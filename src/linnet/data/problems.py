"""What is wrong with the files of a data set: not used, not read, incomplete, or there twice. Each is named.

Nothing here needs torch.
"""

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from linnet.files import readable

log = logging.getLogger("linnet")

Kind = Literal["unused", "missing", "unreadable", "incomplete", "two classes", "leak"]
LINES: dict[Kind, tuple[str, str]] = {  # what a line of the log says about one of a kind, and about several
    "unused": ("file was not used", "files were not used"),
    "missing": ("listed image is not there and was left out", "listed images are not there and were left out"),
    "unreadable": ("image cannot be read and was left out", "images cannot be read and were left out"),
    "incomplete": (
        "JPEG lacks its last bytes and is used as it is",
        "JPEGs lack their last bytes and are used as they are",
    ),
    "two classes": (
        "image is byte for byte also in another class: check its label",
        "images are byte for byte also in another class: check their labels",
    ),
    "leak": (
        "val or test image is byte for byte also in train or val, so that every model looks better than it is",
        "val or test images are byte for byte also in train or val, so that every model looks better than it is",
    ),
}
SHOWN = 5  # names in a line of the log; the file has all


class Problem(NamedTuple):
    """One file: what is wrong with it, and the reason or the other file."""

    kind: Kind
    path: Path
    detail: str


def report(problems: Sequence[Problem], file: Path | None = None) -> None:
    """A warning for each kind of problem; ``file`` is where all of them are."""
    for kind in LINES:
        if own := [problem for problem in problems if problem.kind == kind]:
            log.warning("%s%s", in_words(own), f"; all are in {file}" if file and len(own) > SHOWN else "")


def in_words(own: Sequence[Problem]) -> str:
    """How many problems of one kind, why, and the first few by name."""
    kind, first = own[0].kind, own[:SHOWN]
    words = LINES[kind][len(own) > 1]
    if kind == "unused":
        why = Counter(problem.detail for problem in own).most_common()
        words += f": {', '.join(f'{count} {detail}' for detail, count in why)}"
    shown = "; ".join(str(path) if kind == "unused" else f"{path} ({detail})" for _, path, detail in first)
    text = f"{len(own)} {words}: {'such as ' if len(own) > SHOWN else ''}{shown}"
    return readable(text)


def as_csv(problems: Iterable[Problem]) -> bytes:
    """All of them as a table, a name as :func:`linnet.files.readable` writes it."""
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows(
        [Problem._fields, *((kind, readable(path), readable(detail)) for kind, path, detail in problems)]
    )
    return table.getvalue().encode()


def counts(problems: Iterable[Problem]) -> dict[str, int]:
    """What a run's summary says: ``images.unused``, ``images.leak``, ..., those that there are."""
    return {f"images.{kind.replace(' ', '_')}": n for kind, n in Counter(problem.kind for problem in problems).items()}

"""What ``linnet evaluate`` prints: a page that a person can decide from. All of it, and more, is in the files."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from linnet.evaluation.looks import in_words
from linnet.files import on_one_line

WIDTH = 100
NAME = 24  # letters of a class name
CLASSES, PAIRS, WORST = 10, 5, 5  # that are shown


def show(numbers: Mapping[str, Any], classes: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Print an evaluation.

    Args:
        numbers: what evaluation.json holds. classes: the rows of per_class.csv. folder: where both lie.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    for part in _parts(numbers, classes):
        console.print(part, soft_wrap=isinstance(part, Text))  # a path that is longer than a line stays whole
        console.print()
    for words in filter(None, (_agreement(numbers), _looks(numbers))):
        console.print(_text(words), soft_wrap=True)
    console.print(_text(f"written to {folder}"), soft_wrap=True)


def _parts(numbers: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> Iterator[Table | Text]:
    yield _text(_title(numbers, classes))
    yield _scores(numbers)
    if "against" in numbers:
        yield _against(numbers)
    if any(row["accuracy"] < 1 for row in classes):
        yield _worst_classes(classes)
    if numbers["confused"]:
        paths = [path for pair in numbers["confused"] for path in pair["paths"]]
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
        yield _pairs(numbers["confused"][:PAIRS], root)
        yield _worst_images(numbers["worst"][:WORST], root)
        if root:
            yield _text(f"images lie in {root}")


def _title(numbers: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> str:
    of = f"{len(classes)}" if len(classes) == numbers["classes"] else f"{len(classes)} of {numbers['classes']}"
    part = "all images" if numbers["split"] == "all" else numbers["split"]
    lines = [f"{numbers['model']} on {numbers['data.source']}, {part}: {numbers['images']:,} images of {of} classes"]
    if left := numbers["images.left_out"]:
        lines.append(f"left out: {sum(left.values()):,} image(s) of {len(left)} class(es) that the model does not know")
    if trained := numbers["images.trained_on"]:
        lines.append(f"TRAINED ON {trained:,} of these images: the numbers say little about new ones")
    return "\n".join([*lines, *numbers["notes"]])


def _scores(numbers: Mapping[str, Any]) -> Table:
    table = _table(["", "", "95 % interval", *(["against", "95 % interval"] if "against" in numbers else [])], [1, 3])
    rows = {"top-1": "top1", "top-5": "top5", "mean per class": "mean_per_class", "calibration error": "ece"}
    if numbers["classes"] <= 5:
        del rows["top-5"]
    for words, key in rows.items():
        cells = []
        for prefix in ("", "against.") if "against" in numbers else ("",):
            interval = numbers.get(f"{prefix}{key}_interval")
            cells += [_percent(numbers[f"{prefix}{key}"]), _range(interval) if interval else ""]
        table.add_row(words, *cells)
    return table


def _against(numbers: Mapping[str, Any]) -> Text:
    own = {key.removeprefix("against."): value for key, value in numbers.items() if key.startswith("against.")}
    low, high = own["difference_interval"]
    meaning = "" if low > 0 or high < 0 else ": not resolved by these images"
    return _text(
        f"against {numbers['against']}: {100 * own['difference']:+.1f} points (95 % interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}; McNemar p = {_p(own['mcnemar_p'])}){meaning}\n"
        f"both right {own['both_right']:,}   only the first {own['only_first_right']:,}   only the second "
        f"{own['only_second_right']:,}   neither {own['neither_right']:,}"
    )


def _worst_classes(classes: Sequence[Mapping[str, Any]]) -> Table:
    worst = sorted((row for row in classes if row["accuracy"] < 1), key=lambda row: (row["accuracy"], -row["images"]))
    table = _table(["worst classes", "right", "", "95 % interval", "most often taken for"], [1, 2])
    for row in worst[:CLASSES]:
        often = f"{_cut(row['mistaken_for'])} ({row['mistaken']})"
        right = f"{row['right']} of {row['images']}"
        table.add_row(
            *map(
                _text, (_cut(row["class"]), right, _percent(row["accuracy"]), _range((row["low"], row["high"])), often)
            )
        )
    return table


def _pairs(pairs: Sequence[Mapping[str, Any]], root: str) -> Table:
    rows = [
        (pair["label"], pair["prediction"], f"{pair['images']} of {pair['of']}", pair["paths"][0]) for pair in pairs
    ]
    return _with_images(["most confused", "taken for", "images", "such as"], rows, root)


def _worst_images(images: Sequence[Mapping[str, Any]], root: str) -> Table:
    rows = [(one["label"], one["prediction"], _percent(one["confidence"]), one["path"]) for one in images]
    return _with_images(["surest mistakes", "taken for", "confidence", "image"], rows, root)


def _with_images(columns: Sequence[str], rows: Sequence[tuple[str, str, str, str]], root: str) -> Table:
    """Two classes, a number and an image, whose path below ``root`` gets the room that is left."""
    table, cells = _table(columns, [2]), [(_cut(a), _cut(b), number) for a, b, number, _ in rows]
    taken = sum(max(len(row[i]) for row in [*cells, columns]) + 2 for i in range(3))
    for row, (*_, path) in zip(cells, rows, strict=True):
        below = on_one_line(os.path.relpath(path, root) if root else path)
        room = WIDTH - 2 - taken
        table.add_row(*map(_text, (*row, below if len(below) <= room else f"…{below[1 - room :]}")))
    return table


def _agreement(numbers: Mapping[str, Any]) -> str:
    said = numbers.get("summary.top1")
    if said is None:
        return ""
    same = abs(said - numbers["top1"]) < 1e-9
    return f"the run's summary says {'the same' if same else _percent(said)} about top-1"


def _looks(numbers: Mapping[str, Any]) -> str:
    return in_words(numbers["looks"], numbers["looks.in_training"]) if "looks" in numbers else ""


def _table(columns: Sequence[str], right: Sequence[int] = ()) -> Table:
    """No lines.

    Args:
        right: columns that are aligned on the right.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i in right else "left", no_wrap=True, overflow="ellipsis")
    return table


def _text(words: str) -> Text:
    return Text("\n".join(map(on_one_line, words.split("\n"))))


def _cut(name: str) -> str:
    """A class name that leaves room for others."""
    name = on_one_line(name)
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"

"""What ``linnet evaluate`` prints: a page that a person can decide from. All of it, and more, is in the files."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from linnet.evaluation.looks import in_words
from linnet.files import on_one_line
from linnet.progress import WIDTH

NAME = 24  # columns of the terminal for a class name
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


class _Path:
    """A path in a table: where it has no room, its end is shown."""

    def __init__(self, path: str):
        self._path = on_one_line(path)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, cell_len(self._path))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        path = self._path
        while cell_len(path) > options.max_width:
            path = f"…{path[2:]}"
        yield Text(path, no_wrap=True)


def _parts(numbers: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> Iterator[Table | Text]:
    yield _text(*_title(numbers, classes))
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


def _title(numbers: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> list[str]:
    of = f"{len(classes)}" if len(classes) == numbers["classes"] else f"{len(classes)} of {numbers['classes']}"
    part = "all images" if numbers["split"] == "all" else numbers["split"]
    images = "1 image" if numbers["images"] == 1 else f"{numbers['images']:,} images"
    lines = [f"{numbers['model']} on {numbers['data.source']}, {part}: {images} of {of} classes"]
    if left := numbers["images.left_out"]:
        lines.append(f"left out: {sum(left.values()):,} image(s) of {len(left)} class(es) that the model does not know")
    if trained := numbers["images.trained_on"]:
        lines.append(f"TRAINED ON {trained:,} of these images: the numbers say little about new ones")
    return [*lines, *numbers["notes"]]


def _scores(numbers: Mapping[str, Any]) -> Table:
    prefixes = ("", "against.") if "against" in numbers else ("",)
    columns = [[_number(prefix[:-1]), _number("95 % interval", "left")] for prefix in prefixes]
    table = _table(_number("", "left"), *(column for pair in columns for column in pair))
    rows = {"top-1": "top1", "top-5": "top5", "mean per class": "mean_per_class", "calibration error": "ece"}
    if numbers["classes"] <= 5:
        del rows["top-5"]
    for words, key in rows.items():
        cells = []
        for prefix in prefixes:
            interval = numbers.get(f"{prefix}{key}_interval")
            cells += [_percent(numbers[f"{prefix}{key}"]), _range(interval) if interval else ""]
        table.add_row(words, *cells)
    return table


def _against(numbers: Mapping[str, Any]) -> Text:
    own = {key.removeprefix("against."): value for key, value in numbers.items() if key.startswith("against.")}
    low, high = own["difference_interval"]
    meaning = "" if low > 0 or high < 0 else ": not resolved by these images"
    return _text(
        f"against {numbers['against']}:",
        f"{100 * own['difference']:+.1f} points (95 % interval {100 * low:+.1f} to {100 * high:+.1f}; McNemar p = "
        f"{_p(own['mcnemar_p'])}){meaning}",
        f"both right {own['both_right']:,}   only the first {own['only_first_right']:,}   only the second "
        f"{own['only_second_right']:,}   neither {own['neither_right']:,}",
    )


def _worst_classes(classes: Sequence[Mapping[str, Any]]) -> Table:
    worst = sorted((row for row in classes if row["accuracy"] < 1), key=lambda row: (row["accuracy"], -row["images"]))
    numbers = [_number("right"), _number(), _number("95 % interval", "left")]
    table = _table(_name("worst classes"), *numbers, _name("most often taken for"), _number())
    for row in worst[:CLASSES]:
        shares = (f"{row['right']} of {row['images']}", _percent(row["accuracy"]), _range((row["low"], row["high"])))
        table.add_row(_cell(row["class"]), *shares, _cell(row["mistaken_for"]), str(row["mistaken"]))
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
    """Two classes, a number and an image, whose path is shown from ``root`` on."""
    label, named, number, image = columns
    table = _table(_name(label), _name(named), _number(number), Column(_cell(image)))
    for *classes, share, path in rows:
        table.add_row(*map(_cell, classes), share, _Path(os.path.relpath(path, root) if root else path))
    return table


def _agreement(numbers: Mapping[str, Any]) -> str:
    said = numbers.get("summary.top1")
    if said is None:
        return ""
    same = abs(said - numbers["top1"]) < 1e-9
    return f"the run's summary says {'the same' if same else _percent(said)} about top-1"


def _looks(numbers: Mapping[str, Any]) -> str:
    if "looks" not in numbers:
        return ""
    return in_words(numbers["looks"], numbers["looks.in_training"], numbers["looks.at_part"])


def _table(*columns: Column) -> Table:
    """No lines. Where there is no room, names and paths are cut; numbers never are."""
    return Table(*columns, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))


def _name(title: str) -> Column:
    return Column(_cell(title), max_width=NAME)


def _number(title: str = "", justify: Literal["left", "right"] = "right") -> Column:
    return Column(title, justify=justify, no_wrap=True)


def _cell(words: str) -> Text:
    """One line that is cut where there is no room; its column may shrink."""
    return Text(on_one_line(words), no_wrap=True, overflow="ellipsis")


def _text(*lines: str) -> Text:
    return Text("\n".join(map(on_one_line, lines)))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"

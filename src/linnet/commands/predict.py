"""``linnet predict``: name the images in files and folders."""

import csv
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from linnet.commands.embed import bank_for
from linnet.deploy.predictor import Prediction, collect, load
from linnet.errors import UserError
from linnet.files import on_one_line, readable
from linnet.text.bank import TextBank


def predict(
    model: Path, images: list[Path], classes: str | None, bank: Path | None, top: int, as_json: bool, as_csv: bool
) -> None:
    """Print one line for each image; an image that cannot be read is told on stderr and does not stop the others.

    Raises:
        UserError: bad arguments, no such model or images, or at the end, images that could not be read.
    """
    if top < 1:
        raise UserError(f"--top must be at least 1, not {top}")
    if as_json and as_csv:
        raise UserError("use --json or --csv, not both")
    if classes is not None and bank is not None:
        raise UserError("use --classes or --bank, not both")
    names = None if bank is None else TextBank.load(bank)
    if classes is not None:
        collect(images)  # a wrong path is told before a teacher is loaded for the names
        names = bank_for(model, classes)
    predictor, paths = load(model, names), collect(images)
    shown = min(top, len(predictor.network.class_names))
    if as_csv:
        print(_csv_line(_header(shown)), flush=True)
    failed = 0
    for prediction in predictor.stream(paths, shown):
        failed += prediction.error is not None
        if prediction.error is not None:
            print(f"linnet: {readable(prediction.error)}", file=sys.stderr)
        if as_json:
            print(_json_line(prediction), flush=True)
        elif prediction.error is None:
            print(_csv_line(_cells(prediction)) if as_csv else _table_line(prediction), flush=True)
    if failed:
        raise UserError(f"{failed} image(s) could not be read")


def _json_line(prediction: Prediction) -> str:
    plain = not (sys.stdout.encoding or "").lower().startswith("utf")  # there are escapes for what it cannot show
    return json.dumps(prediction.as_dict(), ensure_ascii=plain)


def _header(top: int) -> list[str]:
    """``path,class,probability,class_2,probability_2``: the first class is called as in JSON, however many follow."""
    more = [f"{word}_{i}" for i in range(2, top + 1) for word in ("class", "probability")]
    return ["path", "class", "probability", *more]


def _cells(prediction: Prediction) -> list[str]:
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    return [readable(str(prediction.path)), *(cell for name, p in pairs for cell in (name, f"{p:.6f}"))]


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # quotes cells with either sign in them
    return line.getvalue().removesuffix("\r\n")


def _table_line(prediction: Prediction) -> str:
    shown = "   ".join(
        f"{name} {100 * p:.1f} %" for name, p in zip(prediction.classes, prediction.probabilities, strict=True)
    )
    return on_one_line(f"{prediction.path}   {shown}")

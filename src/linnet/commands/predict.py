"""``linnet predict``: name the images in files and folders."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

from linnet.commands.embed import bank_for
from linnet.deploy.predictor import Prediction, collect, load
from linnet.errors import UserError
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
    if classes is not None and bank is not None:
        raise UserError("use --classes or --bank, not both")
    names = None if bank is None else TextBank.load(bank)
    if classes is not None:
        collect(images)  # a wrong path is told before a teacher is loaded for the names
        names = bank_for(model, classes)
    predictor, paths = load(model, names), collect(images)
    show: Callable[[Prediction], str] = _json_line if as_json else _csv_line if as_csv else _table_line
    failed = 0
    for prediction in predictor.predict(paths, top):
        failed += prediction.error is not None
        if prediction.error is not None:
            print(f"linnet: {prediction.error}", file=sys.stderr)
        if as_json or prediction.error is None:
            print(show(prediction), flush=True)
    if failed:
        raise UserError(f"{failed} image(s) could not be read")


def _json_line(prediction: Prediction) -> str:
    return json.dumps(prediction.as_dict(), ensure_ascii=False)


def _csv_line(prediction: Prediction) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(
        [prediction.path, prediction.classes[0], f"{prediction.probabilities[0]:.4f}"]
    )
    return line.getvalue()


def _table_line(prediction: Prediction) -> str:
    shown = "   ".join(
        f"{name} {100 * p:.1f} %" for name, p in zip(prediction.classes, prediction.probabilities, strict=True)
    )
    return f"{prediction.path}   {shown}"

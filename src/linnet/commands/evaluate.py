"""``linnet evaluate``: a trained student on labelled images, or two of them on the same."""

import csv
import hashlib
import io
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from linnet.data.load import LEFT_OUT
from linnet.data.problems import report
from linnet.data.sources import find_source
from linnet.deploy.predictor import load
from linnet.environment import version
from linnet.errors import UserError
from linnet.evaluation.labelled import LabelledImages, OwnData, Reader, Split, given_images, reader, shared_with
from linnet.evaluation.looks import count_looks, note_look
from linnet.evaluation.measure import (
    Network,
    Outcome,
    as_columns,
    mistakes,
    name_images,
    numbers,
    of_classes,
    paired,
)
from linnet.evaluation.predictions import prediction_columns, write_table
from linnet.files import check_out, given_path, read_json, readable, write_atomically
from linnet.run import Run, is_run, model_folder
from linnet.text.bank import TextBank
from linnet.text.classes import composed

log = logging.getLogger("linnet")

NUMBERS, PER_CLASS, PREDICTIONS, APART = "evaluation.json", "per_class.csv", "predictions.parquet", "only_one_right.csv"
SAME = (
    "data.hash",
    "split",
    "model.hash",
    "bank.hash",
    "against.hash",
)  # what says whether two evaluations ask the same


@dataclass(frozen=True)
class Evaluated:
    """
    Attributes:
        folder: where the tables lie. numbers: what evaluation.json holds. classes: the rows of per_class.csv.
    """

    folder: Path
    numbers: dict[str, Any]
    classes: list[dict[str, Any]]


@dataclass(frozen=True)
class _Model:
    """A student, and the run that it belongs to, if it lies in one."""

    path: Path
    network: Network
    hash: str
    run: Run | None
    own: OwnData | None


def evaluate(
    model: str | Path,
    data: str | Path | None = None,
    *,
    split: Split | None = None,
    against: str | Path | None = None,
    classes: Literal["common"] | None = None,
    bank: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    on_error: Literal["stop", "skip"] | None = None,
) -> Evaluated:
    """Score a trained student on labelled images. The same words as ``linnet evaluate``.

    Example:
        >>> linnet.evaluate("runs/photos").numbers["top1_interval"]
        >>> linnet.evaluate("runs/pand", against="runs/kd").numbers["against.difference"]

    Args:
        model: a run folder, or an ONNX file (torch is not needed then).
        data: labelled images whose classes have the same names; None for those of the run.
        split: None for the test split, or for all images, if the data have none.
        against: another model, which is scored on the same images.
        classes: "common" leaves out images of classes that a model does not know.
        bank: other class names, of :func:`linnet.embed`, for students with an embedding head.
        out: the folder of the tables; by default one in the run. overwrite: replace another evaluation in it.
        on_error: what images that cannot be read do; by default as the run did.

    Raises:
        UserError: anything the user can mend, in one sentence.
    """
    read = reader()
    models = [_open(path, bank, on_error, read) for path in (model, against) if path is not None]
    images = _read(models[0], data, split, on_error)
    names = _class_table(models, classes == "common")
    images = images.in_classes(names, classes == "common")
    facts = _about(models, images)
    if bank is not None:
        facts |= {"bank": readable(bank), "bank.hash": _hash(Path(bank))}
    folder = given_path(out, "out") if out is not None else _default_folder(models, images, bank)
    _check_folder(folder, facts, overwrite)
    own = [problem for kind in LEFT_OUT for problem in images.rows.problems_of(kind)]
    report(own if images.is_own else images.rows.problems)  # the run has told the others
    trained = [shared_with(images.rows, one.own, "train") for one in models]
    _warn(models, images, trained)
    outcomes = [
        name_images(one.network, images.rows, f"{one.path.absolute().name} on {images.split}") for one in models
    ]
    first, second = outcomes[0], outcomes[1] if len(outcomes) > 1 else None
    facts |= {"images.trained_on": trained[0], **numbers(first, images.rows.labels)}
    facts |= _summary_says(models[0], images, facts, plain=bank is None and len(names) == len(_names(models[0])))
    if second is not None:
        theirs = numbers(second, images.rows.labels) | {"images.trained_on": trained[1]} | paired(first, second)
        facts |= {f"against.{key}": value for key, value in theirs.items()}
    facts |= mistakes(first, images.rows)
    table = of_classes(first, images.rows, second)
    facts |= _note_looks(models, images, outcomes)
    _write(folder, images, outcomes, facts, table)
    return Evaluated(folder, facts, table)


# --- what is asked ---


def _open(path: str | Path, bank: str | Path | None, on_error: Literal["stop", "skip"] | None, read: Reader) -> _Model:
    """
    Raises:
        UserError: there is no such model, or its run is not finished.
    """
    path = given_path(path, "the model")
    is_onnx = path.suffix.lower() == ".onnx"
    if not path.exists():
        raise UserError(f"{path}: no such run folder or .onnx file")
    place = path.parent if is_onnx or (path.name == "model" and not is_run(path)) else path
    run = Run(place) if is_run(place) and Run(place).config.exists() else None
    if run is not None:
        run.summary()
    device = "cpu" if is_onnx else _device(path)
    network = load(path, TextBank.load(Path(bank)) if bank is not None else None, device).network
    weights = path if is_onnx else model_folder(path) / "model.safetensors"
    own = OwnData(run, on_error, read) if run is not None and _has_data(run) else None
    return _Model(path, network, _hash(weights), run, own)


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _device(path: Path) -> str:
    """
    Raises:
        UserError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(f"torch is needed for {path} and is not installed; its model.onnx does without") from error
    return "cuda" if torch.cuda.is_available() else "cpu"


def _has_data(run: Run) -> bool:
    own = run.settings().data
    return own.source is not None or own.eval is not None


def _names(model: _Model) -> list[str]:
    return model.network.class_names


def _read(
    model: _Model, data: str | Path | None, split: Split | None, on_error: Literal["stop", "skip"] | None
) -> LabelledImages:
    """
    Raises:
        UserError: no data were given and the model has none of its own, or they are not as they should be.
    """
    if data is not None:
        default = model.run.settings().data.on_error if model.run else "stop"
        return given_images(data, split, on_error or default)
    if model.own is not None:
        return model.own.split(split)
    if model.run is not None:
        raise UserError(f"{model.run.folder} was trained without data: give DATA, labelled images of its classes")
    raise UserError(f"{model.path} lies in no run, whose data could be used: give DATA, labelled images of its classes")


def _class_table(models: Sequence[_Model], common: bool) -> list[str]:
    """The classes that are chosen from: those of the model, or of two models those that both know.

    Raises:
        UserError: two models know different classes.
    """
    own = _names(models[0])
    if len(models) == 1:
        return own
    known = [{composed(name) for name in _names(one)} for one in models]
    if known[0] == known[1]:
        return own
    shared = [name for name in own if composed(name) in known[1]]
    if common and len(shared) > 1:
        log.info("both models choose among the %d classes that both know", len(shared))
        return shared
    only = [", ".join(sorted(a - b)[:3]) or "none" for a, b in (known, known[::-1])]
    raise UserError(
        f"{models[0].path} and {models[1].path} know different classes (only the first: {only[0]}; only the second: "
        f"{only[1]}){'' if len(shared) < 2 else ': to compare them on those that both know, give --classes common'}"
    )


def _about(models: Sequence[_Model], images: LabelledImages) -> dict[str, Any]:
    """What was asked, for evaluation.json."""
    rows = images.rows
    facts: dict[str, Any] = {
        "linnet.version": version("linnet"),
        "model": readable(models[0].path),
        "model.hash": models[0].hash,
    }
    if len(models) > 1:
        facts |= {"against": readable(models[1].path), "against.hash": models[1].hash}
    facts |= {"data.source": readable(images.source), "data.hash": images.content_hash, "split": images.split}
    facts |= {"images": len(rows), "classes": len(rows.classes)}
    facts |= {"classes.without_images": rows.classes_without_images}
    skipped = sum(len(rows.problems_of(kind)) for kind in LEFT_OUT)
    notes = [f"{skipped:,} image(s) of the data could not be read and are left out"] if skipped else []
    return facts | {"images.left_out": dict(images.left_out), "notes": [*images.notes, *notes]}


def _default_folder(models: Sequence[_Model], images: LabelledImages, bank: str | Path | None) -> Path:
    """In the run; beside nothing but a file, here."""
    words = [find_source(images.source).run_name(images.source), images.split]
    if models[0].run is not None and models[0].path.is_file():
        words.append(models[0].path.name)
    if bank is not None:
        words.append(Path(bank).stem)
    if len(models) > 1:
        words += ["against", _short(models[1])]
    if models[0].run is not None:
        return models[0].run.evaluation / _file_name(words)
    return Path(_file_name(["evaluation", _short(models[0]), *words]))


def _short(model: _Model) -> str:
    """A word for a model: the name of its run."""
    return model.run.folder.resolve().name if model.run is not None else model.path.resolve().stem


def _file_name(words: Sequence[str]) -> str:
    return re.sub(r"[^\w=.+-]+", "-", readable("-".join(words))).strip("-")


def _check_folder(folder: Path, facts: Mapping[str, Any], overwrite: bool) -> None:
    """
    Raises:
        UserError: the folder holds something else than an evaluation, or another one, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: --out must be a folder")
    there = {path.name for path in folder.glob("*") if not path.name.startswith(".")}
    if there and (NUMBERS not in there or not there <= {NUMBERS, PER_CLASS, PREDICTIONS, APART}):
        raise UserError(f"{folder} holds files that linnet did not write: choose another --out")
    try:
        check_out(folder / NUMBERS)
    except UserError as error:
        raise UserError(f"{error}; choose another --out") from error
    if there and not overwrite:
        earlier = read_json(folder / NUMBERS, dict, "replace it with --overwrite")
        if any(earlier.get(key) != facts.get(key) for key in SAME):
            raise UserError(
                f"{folder} holds the evaluation of other images or another model: choose another --out, or replace it "
                "with --overwrite"
            )


def _warn(models: Sequence[_Model], images: LabelledImages, trained: Sequence[int | None]) -> None:
    for model, count in zip(models, trained, strict=True):
        if count:
            own = "" if images.is_own or model.run is None else "; without DATA its own test split is scored"
            log.warning(
                "%s was TRAINED ON %s of these %s images: its numbers say little about new ones%s",
                *(model.path, f"{count:,}", f"{len(images.rows):,}", own),
            )
        elif count is None and model.own is not None:
            log.warning(
                "%s: whether it was trained on some of these images is not known: the data of the run are not there",
                model.path,
            )


# --- what came of it ---


def _summary_says(model: _Model, images: LabelledImages, facts: Mapping[str, Any], plain: bool) -> dict[str, Any]:
    """The number that the run wrote at its end, if it is about the same question; other numbers are warned of."""
    said = model.run.summary().get(f"{images.split}.top1") if model.run is not None else None
    if not isinstance(said, float) or not images.is_own or not plain:
        return {}
    count = len(images.rows)
    apart = round(abs(said - facts["top1"]) * count)
    if apart > max(1, count // 1000):  # logits that are equal but for rounding
        log.warning(
            "the run's summary says %.1f %%, %d of %s images more or less than here: the model or the data changed",
            *(100 * said, apart, f"{count:,}"),
        )
    return {"summary.top1": said}


def _note_looks(models: Sequence[_Model], images: LabelledImages, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Note the look in each run; a run that cannot be written is no reason to lose the numbers."""
    facts: dict[str, Any] = {}
    noted: dict[Path, int] = {}  # run -> looks: a run against its own ONNX file is one look
    for model, outcome, prefix in zip(models, outcomes, ("", "against."), strict=False):
        if model.run is None:
            continue
        folder, first = model.run.folder.resolve(), _scored_in_training(model, images)
        looks = noted.get(folder) or count_looks(model.run, images.content_hash, first)
        if not (images.is_own and images.split in ("train", "val")):  # those were looked at in every epoch
            facts |= {f"{prefix}looks": looks, f"{prefix}looks.in_training": first}
            facts |= {f"{prefix}looks.at_part": 0 if first else shared_with(images.rows, model.own, "test")}
        if folder in noted:
            continue
        noted[folder] = looks
        try:
            note_look(model.run, images.content_hash, images.split, model.hash, float(outcome.right_N.mean()))
        except UserError as error:
            log.warning("this look at the images could not be noted: %s", error)
    return facts


def _scored_in_training(model: _Model, images: LabelledImages) -> bool:
    """Whether these are the images that the run was scored on at its end."""
    if model.own is None or model.run is None or "test.top1" not in model.run.summary():
        return False
    try:
        return model.own.hash_of("test") == images.content_hash
    except UserError:  # its data are not there any more
        return False


def _write(
    folder: Path,
    images: LabelledImages,
    outcomes: Sequence[Outcome],
    facts: Mapping[str, Any],
    table: Sequence[Mapping[str, Any]],
) -> None:
    """evaluation.json comes first: it says whose folder this is."""
    first, rows, names = outcomes[0], images.rows, np.array(images.rows.class_names)
    write_atomically(folder / NUMBERS, json.dumps(facts, indent=1) + "\n")
    write_atomically(folder / PER_CLASS, _csv(as_columns(table)))
    columns = prediction_columns(rows.paths, names, rows.labels, first.named_N, first.confidence_N)
    columns["right"] = first.right_N
    if len(outcomes) > 1:
        second = outcomes[1]
        columns["against_prediction"] = names[second.named_N]
        columns["against_confidence"], columns["against_right"] = second.confidence_N, second.right_N
        apart = np.flatnonzero(first.right_N != second.right_N)
        shown = {name: np.asarray(column)[apart].tolist() for name, column in columns.items()}
        differing = [{name: column[i] for name, column in shown.items()} for i in range(len(apart))]
        write_atomically(folder / APART, _csv(as_columns(differing)))
    else:
        (folder / APART).unlink(missing_ok=True)
    write_table(folder / PREDICTIONS, columns)


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()

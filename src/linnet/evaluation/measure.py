"""What a trained model makes of labelled images, and the numbers of it. No more than a few numbers of each image are
kept.

Nothing here needs torch.

Shapes: N images, B of a batch, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from linnet.data.images import CropMode, Jpeg, decode_in_order
from linnet.data.manifest import Manifest
from linnet.errors import UserError
from linnet.evaluation.confusion import confused_pairs
from linnet.files import readable
from linnet.metrics import calibration_error, right, softmax
from linnet.metrics.intervals import mcnemar, mean_per_class_interval, over_images, wilson_interval
from linnet.progress import Bar
from linnet.text.classes import composed

BATCH = 16  # what is computed of larger ones does not stay in the processor's caches
TOP = 5
PAIRS, WORST, PATHS = 10, 20, 10  # confused pairs and worst images that are kept, and paths of each pair


class Network(Protocol):
    """A trained student that takes pixels in [0, 1]."""

    image_size: int
    crop_mode: CropMode
    crop_pct: float
    jpeg: Jpeg
    class_names: list[str]

    def logits(self, images: np.ndarray) -> np.ndarray: ...


class Outcome(NamedTuple):
    """Of each image, (N,): the class that it is named, how sure the model is of it, whether that is right, and whether
    the right class is among the first five."""

    named_N: np.ndarray
    confidence_N: np.ndarray
    right_N: np.ndarray
    right5_N: np.ndarray


def name_images(network: Network, rows: Manifest, title: str) -> Outcome:
    """Every image once, in order, among the classes of ``rows``, which the network must know.

    Raises:
        UserError: an image cannot be read, or the network answers with NaN.
    """
    column = {composed(name): i for i, name in enumerate(network.class_names)}
    columns_C, parts, done = np.array([column[composed(name)] for name in rows.class_names]), [], 0
    how = (network.image_size, network.crop_mode, network.crop_pct, network.jpeg)
    pixels = decode_in_order(rows.paths, "eval", *how)
    with Bar(title, len(rows)) as bar:
        for batch in _batches(pixels):
            images = batch.transpose(0, 3, 1, 2).astype(np.float32) / 255
            logits_BC = network.logits(images)[:, columns_C]
            if strange := np.flatnonzero(~np.isfinite(logits_BC).all(axis=1)).tolist():
                path = readable(rows.paths[done + strange[0]])
                raise UserError(f"{title}: the student answers {path} with NaN: it diverged, or its file is damaged")
            parts.append(_judged(logits_BC, rows.labels[done : done + len(batch)]))
            done += len(batch)
            bar.update(done)
    return Outcome(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _batches(pixels: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    while batch := list(islice(pixels, BATCH)):
        yield np.stack(batch)


def _judged(logits_BC: np.ndarray, labels_B: np.ndarray) -> Outcome:
    top = min(TOP, logits_BC.shape[1])
    confidence_B = softmax(logits_BC).max(axis=1)
    return Outcome(logits_BC.argmax(axis=1), confidence_B, right(logits_BC, labels_B), right(logits_BC, labels_B, top))


def numbers(outcome: Outcome, labels_N: np.ndarray) -> dict[str, Any]:
    """The metrics of a run's summary, with 95 % intervals over images where there is one."""
    count, right_N = len(labels_N), outcome.right_N
    rights, totals = np.bincount(labels_N, weights=right_N), np.bincount(labels_N)
    return {
        "top1": float(right_N.mean()),
        "top1_interval": list(wilson_interval(int(right_N.sum()), count)),
        "top5": float(outcome.right5_N.mean()),
        "top5_interval": list(wilson_interval(int(outcome.right5_N.sum()), count)),
        "mean_per_class": float((rights[totals > 0] / totals[totals > 0]).mean()),
        "mean_per_class_interval": list(mean_per_class_interval(right_N, labels_N)),
        "ece": calibration_error(outcome.confidence_N, right_N),
    }


def of_classes(outcome: Outcome, rows: Manifest, other: Outcome | None = None) -> list[dict[str, Any]]:
    """A row for each class that has images, in the order of the classes.

    Args:
        other: another model on the same images.
    """
    names, classes = rows.class_names, len(rows.classes)
    totals_C = np.bincount(rows.labels, minlength=classes)
    rights_C = np.bincount(rows.labels[outcome.right_N], minlength=classes)
    others_C = None if other is None else np.bincount(rows.labels[other.right_N], minlength=classes)
    often, table = _most_frequent_mistakes(outcome, rows.labels), []
    for label in np.flatnonzero(totals_C).tolist():
        images, rights = int(totals_C[label]), int(rights_C[label])
        low, high = wilson_interval(rights, images)
        named, count = often.get(label, (None, 0))
        row = {"class": names[label], "images": images, "right": rights, "accuracy": rights / images}
        row |= {"low": low, "high": high}
        row |= {"mistaken_for": "" if named is None else names[named], "mistaken": count}
        if others_C is not None:
            row["against_right"] = int(others_C[label])
        table.append(row)
    return table


def _most_frequent_mistakes(outcome: Outcome, labels_N: np.ndarray) -> dict[int, tuple[int, int]]:
    """Class -> the class that most of its wrong images are named, of equals the first, and how many."""
    wrong = np.stack([labels_N, outcome.named_N])[:, ~outcome.right_N]
    (label, named), count = np.unique(wrong, axis=1, return_counts=True)
    order = np.lexsort([named, -count, label])
    first = order[np.unique(label[order], return_index=True)[1]]
    return {int(label[i]): (int(named[i]), int(count[i])) for i in first}


def mistakes(outcome: Outcome, rows: Manifest) -> dict[str, Any]:
    """The most confused pairs of classes, and the wrong images that the model is surest of, each with paths."""
    names, sure = rows.class_names, outcome.confidence_N

    def paths(found: np.ndarray) -> list[str]:
        return [readable(rows.paths[row]) for row in found[np.argsort(-sure[found], kind="stable")][:PATHS]]

    pairs = [
        {
            "label": names[p.label],
            "prediction": names[p.named],
            "images": len(p.rows),
            "of": p.of,
            "paths": paths(p.rows),
        }
        for p in confused_pairs(rows.labels, outcome.named_N, PAIRS)
    ]
    wrong = np.flatnonzero(~outcome.right_N)
    worst = [
        {
            "path": readable(rows.paths[row]),
            "label": names[rows.labels[row]],
            "prediction": names[outcome.named_N[row]],
            "confidence": float(sure[row]),
        }
        for row in wrong[np.argsort(-sure[wrong], kind="stable")][:WORST]
    ]
    return {"confused": pairs, "worst": worst}


def paired(first: Outcome, second: Outcome) -> dict[str, Any]:
    """By how much the first model is above the second on the same images."""
    only_first = int((first.right_N & ~second.right_N).sum())
    only_second = int((second.right_N & ~first.right_N).sum())
    value, low, high, _ = over_images(first.right_N, second.right_N)
    return {
        "difference": value,
        "difference_interval": [low, high],
        "mcnemar_p": mcnemar(only_first, only_second),
        "both_right": int((first.right_N & second.right_N).sum()),
        "only_first_right": only_first,
        "only_second_right": only_second,
        "neither_right": int((~first.right_N & ~second.right_N).sum()),
    }


def as_columns(table: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Header and rows of a CSV table; shares with six digits."""
    rows = [[f"{value:.6f}" if isinstance(value, float) else value for value in row.values()] for row in table]
    return [list(table[0]) if table else [], *rows]

"""The student alone, on every image of a split exactly once."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from linnet.data.batches import eval_batch_size, eval_batches
from linnet.data.manifest import Manifest
from linnet.data.store import Images
from linnet.errors import UserError
from linnet.evaluation.predictions import write_predictions
from linnet.files import cache_folder
from linnet.metrics import agreement, all_metrics, class_accuracies, right
from linnet.run import Run
from linnet.students.student import Student, evaluating

LARGE = 1 << 26  # bytes of a table from which it lies on the disk


@dataclass(frozen=True)
class Evaluation:
    """What a student is scored on.

    Attributes:
        splits: images and labels by split. images: the same, decoded.
        teacher_logits: (N, C) by split, where the teacher has looked. teacher: what else the summary says about it.
        groups: the classes of each group of a long tail ("few", "medium", "many"), or nothing.
    """

    splits: Mapping[str, Manifest]
    images: Mapping[str, Images]
    teacher_logits: Mapping[str, np.ndarray] = field(default_factory=dict)
    teacher: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)


class Seen(NamedTuple):
    """What a student makes of images, one float32 row each, in order: logits (N, C), and with an embedding head
    embeddings (N, E) of unit length (else E is 0)."""

    logits_NC: np.ndarray
    rows_NE: np.ndarray


def look(student: Student, images: Images, device: torch.device) -> Seen:
    """Each image passes through the student once."""
    tables: list[np.ndarray] = []
    for place, part in _outputs(student, images, device):
        tables = tables or [_table(len(images), own.shape[1]) for own in part]
        for table, own in zip(tables, part, strict=True):
            table[place] = own
    return Seen(*tables)


def top1(student: Student, images: Images, labels_N: np.ndarray, device: torch.device) -> float:
    """The share of the images that the student names right; no table of logits is made for it."""
    right_N = np.empty(len(images), dtype=bool)
    for place, part in _outputs(student, images, device):
        right_N[place] = right(part.logits_NC, labels_N[place])
    return float(right_N.mean())


def _outputs(student: Student, images: Images, device: torch.device) -> Iterator[tuple[slice, Seen]]:
    """What the student makes of one batch after another, and which rows these are."""
    done = 0
    with evaluating(student):
        for batch in eval_batches(images, eval_batch_size(student.image_size, device)):
            output = student(batch.to(device))
            embedding_BE = output.logits_BC[:, :0] if output.embedding_BE is None else output.embedding_BE
            rows_BE = torch.nn.functional.normalize(embedding_BE.float(), dim=1)
            yield (
                slice(done, done + len(batch)),
                Seen(output.logits_BC.float().cpu().numpy(), rows_BE.cpu().numpy()),
            )
            done += len(batch)


def _table(rows: int, columns: int) -> np.ndarray:
    """An array of float32, to be filled. A large one does not lie in memory but in a file without a name, which is gone
    with the array; where the disk has no room for it, in memory after all."""
    size = 4 * rows * columns
    if size > LARGE and hasattr(os, "posix_fallocate"):
        with suppress(OSError, UserError):
            folder = cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a hole that finds the disk full would kill the process
                return np.asarray(np.memmap(file, dtype=np.float32, mode="r+", shape=(rows, columns)))
    return np.empty((rows, columns), dtype=np.float32)


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(student: Student) -> int:
    """Multiply-accumulates of one image, by torch's operator counter (convolutions and matrix products)."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(student.parameters()).device
    with evaluating(student), FlopCounterMode(display=False) as counter:
        student(torch.zeros(1, 3, student.image_size, student.image_size, device=device))
    return counter.get_total_flops() // 2


def look_at_splits(student: Student, evaluation: Evaluation, device: torch.device) -> dict[str, Seen]:
    """Val, and test once, with the student alone."""
    return {
        part: look(student, evaluation.images[part], device) for part in ("val", "test") if part in evaluation.splits
    }


def score(seen: Mapping[str, Seen], evaluation: Evaluation, run: Run) -> dict[str, float]:
    """Numbers about val and test, those of the teacher on the same images beside them, and predictions/."""
    summary: dict[str, float] = {}
    splits, teacher_logits = evaluation.splits, evaluation.teacher_logits
    for name, (logits, _) in seen.items():
        labels = splits[name].labels
        summary |= {f"{name}.{key}": value for key, value in _numbers(logits, labels, evaluation.groups).items()}
        if name in teacher_logits:
            summary[f"{name}.teacher_agreement"] = agreement(logits, teacher_logits[name])
            summary |= {
                f"teacher.{name}.{key}": value
                for key, value in _numbers(teacher_logits[name], labels, evaluation.groups).items()
            }
        write_predictions(run.predictions_of(name), splits[name], logits, teacher_logits.get(name))
    return summary


def _numbers(logits: np.ndarray, labels: np.ndarray, groups: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The usual metrics, and for each group of classes the mean of their accuracies."""
    of_class = class_accuracies(logits, labels)
    scored = {name: of_class[own][~np.isnan(of_class[own])] for name, own in groups.items()}
    return all_metrics(logits, labels) | {name: float(own.mean()) for name, own in scored.items() if len(own)}

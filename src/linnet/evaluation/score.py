"""The student alone, on every image of a split exactly once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from linnet.data.batches import eval_batch_size, eval_batches
from linnet.data.manifest import Manifest
from linnet.data.store import Images
from linnet.evaluation.predictions import write_predictions
from linnet.metrics import agreement, all_metrics, class_accuracies
from linnet.run import Run
from linnet.students.student import Student, evaluating


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
    logits, rows = [], []
    with evaluating(student):
        for batch in eval_batches(images, eval_batch_size(student.image_size, device)):
            output = student(batch.to(device))
            embedding_BE = output.logits_BC[:, :0] if output.embedding_BE is None else output.embedding_BE
            logits.append(output.logits_BC.float().cpu().numpy())
            rows.append(torch.nn.functional.normalize(embedding_BE.float(), dim=1).cpu().numpy())
    return Seen(np.concatenate(logits), np.concatenate(rows))


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

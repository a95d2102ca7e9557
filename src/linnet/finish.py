"""The end of a run: the kept student is scored, saved and exported, and summary.json is written last."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from linnet.config import Config
from linnet.data.images import Images
from linnet.data.manifest import Manifest
from linnet.errors import UserError
from linnet.evaluation.metrics import agreement, all_metrics
from linnet.evaluation.novel import NovelTest, score_novel, words
from linnet.evaluation.score import count_macs, count_parameters, student_logits, write_predictions
from linnet.onnx_export import export_onnx
from linnet.run import Run, version
from linnet.students import Student
from linnet.training import TrainResult

log = logging.getLogger("linnet")


@dataclass(frozen=True)
class Evaluation:
    """What a student is scored on.

    Attributes:
        splits: images and labels by split. images: the same, decoded.
        teacher_logits: (N, C) by split, where the teacher has looked. teacher: what else the summary says about it.
        novel: the test on novel classes, or None.
    """

    splits: Mapping[str, Manifest]
    images: Mapping[str, Images]
    teacher_logits: Mapping[str, np.ndarray] = field(default_factory=dict)
    teacher: Mapping[str, Any] = field(default_factory=dict)
    novel: NovelTest | None = None


def finish(config: Config, run: Run, result: TrainResult, evaluation: Evaluation, device: torch.device) -> None:
    """Score the selected student on val and, once, on test; save and export it; write summary.json last."""
    student = Student.load(run.checkpoints / "best").to(device)
    student.save(run.model)
    summary: dict[str, Any] = {"method": config.method, "student.name": config.student.name, "seed": config.seed}
    summary |= {"data.source": config.data.source, "teacher.id": None, **evaluation.teacher}
    counts = {f"images.{part}": len(rows) for part, rows in evaluation.splits.items()}
    summary |= {"classes": len(student.classes), **counts}
    summary |= _score(student, evaluation, run, device)
    if evaluation.novel:
        summary |= score_novel(evaluation.novel, student, run)
        log.info("%s", words(summary))
    summary |= {"student.params": count_parameters(student), "student.macs": count_macs(student)}
    summary |= {"train.epochs": config.train.epochs, "train.best_epoch": result.best_epoch}
    summary |= {"train.seconds": round(result.seconds, 2)}
    summary |= {"train.images_per_second": round(result.images_per_second, 1), "linnet.version": version("linnet")}
    if config.export:
        summary |= _export(student, evaluation.images, run)
    run.write_summary(summary)
    log.info("%s: %s", run.folder, _words(summary))
    if summary.get("teacher.val.top1", 1.0) < summary.get("val.top1", 0.0):
        log.warning("the teacher is worse than its student on val: consider a better teacher, or ce")


def _score(student: Student, evaluation: Evaluation, run: Run, device: torch.device) -> dict[str, float]:
    """Val, and test once, with the student alone; the teacher on the same images beside it."""
    summary: dict[str, float] = {}
    splits, teacher_logits = evaluation.splits, evaluation.teacher_logits
    for name in [name for name in ("val", "test") if name in splits]:
        logits, labels = student_logits(student, evaluation.images[name], device), splits[name].labels
        summary |= {f"{name}.{key}": value for key, value in all_metrics(logits, labels).items()}
        if name in teacher_logits:
            summary[f"{name}.teacher_agreement"] = agreement(logits, teacher_logits[name])
            summary |= {
                f"teacher.{name}.{key}": value for key, value in all_metrics(teacher_logits[name], labels).items()
            }
        write_predictions(run.predictions / f"{name}.parquet", splits[name], logits, teacher_logits.get(name))
    return summary


def _export(student: Student, images: Mapping[str, Images], run: Run) -> dict[str, float]:
    """The ONNX file, compared with the student on val images (or test images; without any, on noise)."""
    try:
        return {"onnx.max_difference": export_onnx(student, run.onnx, images.get("val", images.get("test")))}
    except UserError as error:
        log.warning("model.onnx was not written: %s", error)
        return {}


def _words(summary: Mapping[str, Any]) -> str:
    parts = [f"val top-1 {100 * summary['val.top1']:.1f} %"] if "val.top1" in summary else []
    if "test.top1" in summary:
        return ", ".join([*parts, f"test top-1 {100 * summary['test.top1']:.1f} % on {summary['images.test']} images"])
    return f"{parts[0]} (val only: there is no test split)" if parts else "not scored: there are no labelled images"

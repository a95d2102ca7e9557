"""The page about novel classes in a run's summary: zero-shot, few-shot and consistency, student and teacher.

Read after training: nothing here chooses anything but the weight of few-shot keys, on val images of base classes.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from linnet.banks import TextBank
from linnet.config import Config
from linnet.data.images import Images
from linnet.data.manifest import Manifest
from linnet.data.novel import base_part, novel_part, support_part, without
from linnet.evaluation.consistency import consistency
from linnet.evaluation.few_shot import choose_alpha, retrieval_logits, support_keys
from linnet.evaluation.metrics import mean_per_class_accuracy
from linnet.evaluation.score import student_embeddings, write_predictions
from linnet.evaluation.zero_shot import Labelled, base_novel_scores, mean_scores
from linnet.run import Run
from linnet.students import Student
from linnet.teachers.answers import embeddings
from linnet.teachers.base import VisionLanguageTeacher
from linnet.teachers.text import bank_like

log = logging.getLogger("linnet")

LAST_EPOCHS = 5  # whose mean Li et al. report


@dataclass(frozen=True)
class NovelTest:
    """What novel classes are tested with.

    Attributes:
        manifest: all images of the run's source, with their novel classes.
        teacher: the run's. bank: how it names classes, by templates or calibrated prompts.
    """

    config: Config
    manifest: Manifest
    teacher: VisionLanguageTeacher
    bank: TextBank
    device: torch.device

    def banks(self, like: TextBank) -> tuple[np.ndarray, np.ndarray]:
        """(C, E) of base and of novel classes, made as a bank was."""
        base, novel = base_part(self.manifest).classes, tuple(self.manifest.classes[i] for i in self.manifest.novel)
        return bank_like(self.teacher, like, base).rows_CE, bank_like(self.teacher, like, novel).rows_CE

    def teacher_rows(self, images: Manifest, part: str) -> np.ndarray:
        return embeddings(self.teacher, images, part, self.config.teacher.cache, self.device)

    def student_rows(self, student: Student, images: Manifest) -> np.ndarray:
        own = self.config.student
        decoded = Images(
            images.paths,
            images.digests,
            own.image_size or 0,
            "eval",
            self.config.data.store_limit_gb,
            own.crop_mode,
        )
        return student_embeddings(student, decoded, self.device)


def score_novel(test: NovelTest, student: Student, run: Run) -> dict[str, Any]:
    """Summary keys about base and novel classes; also predictions/ood.parquet."""
    config, base, novel = test.config, base_part(test.manifest), novel_part(test.manifest, test.config.data)
    part = "test" if len(base.rows("test")) else "val"
    known = base.take(base.rows(part))
    support = None
    if config.shots.count is not None:
        support = support_part(test.manifest, config.shots.count, config.data.seed)
        novel = without(novel, support)
    assert student.bank is not None
    base_CE, novel_CE = test.banks(student.bank)

    def scores(student: Student) -> dict[str, float]:
        return base_novel_scores(*labelled(student))

    def labelled(student: Student) -> tuple[Labelled, Labelled]:
        return (
            Labelled(test.student_rows(student, known), known.labels, base_CE),
            Labelled(test.student_rows(student, novel), novel.labels, novel_CE),
        )

    of_base, of_novel = labelled(student)
    summary: dict[str, Any] = {"classes.novel": len(novel.classes), "images.ood": len(novel), "id.split": part}
    summary |= base_novel_scores(of_base, of_novel)
    last = sorted(run.checkpoints.glob("epoch-*"), key=lambda folder: int(folder.name.removeprefix("epoch-")))
    if last:
        each = [scores(Student.load(folder).to(test.device)) for folder in last]
        summary |= {f"last{len(each)}.{key}": value for key, value in mean_scores(each).items()}
    teacher_base, teacher_novel = test.banks(test.bank)
    own_novel = Labelled(test.teacher_rows(novel, "novel"), novel.labels, teacher_novel)
    own_base = Labelled(test.teacher_rows(known, part), known.labels, teacher_base)
    own_scores = base_novel_scores(own_base, own_novel)
    summary |= {f"teacher.{key}": value for key, value in own_scores.items()}
    if own_scores["ood.mean_per_class"]:
        summary["ood.share_of_teacher"] = summary["ood.mean_per_class"] / own_scores["ood.mean_per_class"]
    measured = consistency(of_novel.rows_NE, own_novel.rows_NE, novel.labels, novel_CE, student.temperature)
    summary |= {f"ood.{key}": value for key, value in measured.items()}
    if support is not None and config.shots.use == "retrieval":
        summary |= _retrieval(test, student, base, base_CE, of_novel, support)
    logits = of_novel.rows_NE @ novel_CE.T / student.temperature
    teacher_logits = own_novel.rows_NE @ teacher_novel.T / student.temperature
    write_predictions(run.predictions / "ood.parquet", novel, logits, teacher_logits)
    return summary


def _retrieval(
    test: NovelTest, student: Student, base: Manifest, base_CE: np.ndarray, novel: Labelled, support: Manifest
) -> dict[str, float]:
    """Few-shot by keys, on the images that ``ood.*`` is measured on: support images are in neither."""
    shots, seed, folder = test.config.shots, test.config.data.seed, test.config.teacher.cache
    alpha = 1.0 if shots.form == "released" and shots.alpha is None else shots.alpha
    if alpha is None:  # base classes, as if they were novel
        own = base.take(base.rows("val"))
        val = Labelled(test.student_rows(student, own), own.labels, base_CE)
        base_support = support_part(replace(base, novel=tuple(range(len(base.classes)))), shots.count or 0, seed)
        keys = support_keys(test.teacher, base_support, shots.views, seed, folder, test.device)
        alpha = choose_alpha(val, keys, shots)
    keys = support_keys(test.teacher, support, shots.views, seed, folder, test.device)
    logits = retrieval_logits(novel.rows_NE, novel.bank_CE, keys, alpha, shots)
    accuracy = mean_per_class_accuracy(logits, novel.labels_N)
    return {"few_shot.retrieval.mean_per_class": accuracy, "few_shot.retrieval.alpha": alpha}


def words(summary: Mapping[str, Any]) -> str:
    """One line for the log."""

    def shown(prefix: str) -> str:
        values = (summary[f"{prefix}{key}"] for key in ("id.mean_per_class", "ood.mean_per_class", "harmonic"))
        return " / ".join(f"{100 * value:.1f}" for value in values)

    return f"base / novel / harmonic mean, per class: {shown('')} % (teacher {shown('teacher.')} %)"

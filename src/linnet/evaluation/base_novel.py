"""Base and novel classes: how well a student finds the names of classes, of which some were never trained on.

Zero-shot, few-shot and consistency, student and teacher: the page about novel classes in a run's summary, read after
training. Nothing here chooses anything but the weight of few-shot keys, on val images of base classes. What can fail
for the user's reasons (a broken image, a class without images) fails when it is prepared, before training.

Shapes: N images, C classes, E embedding width; embeddings are of unit length.
"""

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax

from linnet.config import Config
from linnet.data.manifest import Manifest
from linnet.data.novel import NovelData
from linnet.data.store import Images
from linnet.evaluation.consistency import FEWEST, consistency
from linnet.evaluation.few_shot import choose_alpha, retrieval_logits, support_keys
from linnet.evaluation.predictions import write_predictions
from linnet.evaluation.score import Seen, look
from linnet.metrics import mean_per_class_accuracy
from linnet.run import Run
from linnet.students.student import Student
from linnet.teachers.answers import embeddings
from linnet.teachers.base import VisionLanguageTeacher
from linnet.teachers.texts import bank_like
from linnet.text.bank import TextBank

log = logging.getLogger("linnet")

LAST_EPOCHS = 5  # whose mean Li et al. report


@dataclass(frozen=True)
class Labelled:
    """Embeddings of images (N, E) with their class ids (N,), which count in a bank (C, E) of those classes alone; of a
    dual student also its logits of the base classes, and the temperature of the cosines."""

    rows_NE: np.ndarray
    labels_N: np.ndarray
    bank_CE: np.ndarray
    base_NC: np.ndarray | None = None
    temperature: float = 1.0

    def among(self, base_CE: np.ndarray, other_CE: np.ndarray | None = None) -> np.ndarray:
        """Logits of the base classes, and of others behind them."""
        banks = [base_CE] if other_CE is None else [base_CE, other_CE]
        logits = self.rows_NE @ np.concatenate(banks).T
        if self.base_NC is None:
            return logits
        # the cosines decide between base and other classes, both heads among the base classes
        log_p, own = log_softmax(logits / self.temperature, axis=1), log_softmax(self.base_NC, axis=1)
        base = np.logaddexp.reduce(log_p[:, : len(base_CE)], axis=1, keepdims=True) + own
        return np.concatenate([base, log_p[:, len(base_CE) :]], axis=1)


@dataclass(frozen=True)
class NovelTest:
    """What novel classes are tested with: their images, and the teacher with ``bank``, its own way to name classes."""

    config: Config
    data: NovelData
    teacher: VisionLanguageTeacher
    bank: TextBank
    device: torch.device

    def __post_init__(self) -> None:
        self._decoded(self.data.novel)  # into the image store: a broken file is found now, not after the training

    @property
    def known(self) -> Manifest:
        """Unseen images of base classes: test, or val where there is no test split."""
        return self.data.base.take(self.data.base.rows(self.split))

    @property
    def split(self) -> str:
        return "test" if len(self.data.base.rows("test")) else "val"

    def of_student(self, student: Student, base: Seen | None = None) -> tuple[Labelled, Labelled]:
        """Base and novel images, with texts made as the student's own.

        Args:
            base: what it made of the base images, if it has looked at them already.
        """
        assert student.bank is not None
        if base is None:
            base = look(student, self._decoded(self.known), self.device)
        novel = look(student, self._decoded(self.data.novel), self.device)
        both = self._labelled(base.rows_NE, novel.rows_NE, student.bank)
        if not student.dual:
            return both
        of_base, of_novel = (
            replace(part, base_NC=seen.logits_NC, temperature=student.temperature)
            for part, seen in zip(both, (base, novel), strict=True)
        )
        return of_base, of_novel

    def of_teacher(self) -> tuple[Labelled, Labelled]:
        config = self.config.teacher
        base = embeddings(self.teacher, self.known, self.split, config, self.device)
        novel = embeddings(self.teacher, self.data.novel, "novel classes", config, self.device)
        return self._labelled(base, novel, self.bank)

    def _labelled(self, base_NE: np.ndarray, novel_NE: np.ndarray, like: TextBank) -> tuple[Labelled, Labelled]:
        base_CE, novel_CE = (
            bank_like(self.teacher, like, part.classes).rows_CE for part in (self.data.base, self.data.novel)
        )
        return Labelled(base_NE, self.known.labels, base_CE), Labelled(novel_NE, self.data.novel.labels, novel_CE)

    def _decoded(self, rows: Manifest) -> Images:
        own, limit_gb = self.config.student, self.config.data.store_limit_gb
        how = (own.crop_mode, own.crop_pct, own.jpeg)
        return Images(rows.paths, rows.digests, own.image_size, "eval", limit_gb, *how)

    def retrieval(self, val: Seen, base_CE: np.ndarray, novel: Labelled) -> dict[str, float]:
        """Few-shot by keys, on the images that ``ood.*`` is measured on: support images are in neither.

        Args:
            val: what the student makes of the val images of base classes.
        """
        data, shots = self.data, self.config.shots
        assert data.support is not None
        alpha = 1.0 if shots.form == "released" and shots.alpha is None else shots.alpha
        if alpha is None:
            assert data.base_support is not None
            labels_N = data.base.labels[data.base.rows("val")]
            alpha = choose_alpha(val.rows_NE, labels_N, base_CE, self._keys(data.base_support), shots)
        logits = retrieval_logits(novel.rows_NE, novel.bank_CE, self._keys(data.support), alpha, shots)
        accuracy = mean_per_class_accuracy(logits, novel.labels_N)
        return {"few_shot.retrieval.mean_per_class": accuracy, "few_shot.retrieval.alpha": alpha}

    def _keys(self, support: Manifest) -> np.ndarray:
        seed, own = self.config.data.seed, self.config.teacher
        return support_keys(self.teacher, support, self.config.shots.views, seed, own.cache, self.device, own.still)


def score_novel(
    test: NovelTest, student: Student, seen: Mapping[str, Seen], run: Run, best_epoch: int
) -> dict[str, Any]:
    """Summary keys about base and novel classes; also predictions/ood.parquet.

    Args:
        seen: what the student made of val and test: no image passes through it again. best_epoch: whose student it is.
    """
    novel = test.data.novel
    of_base, of_novel = test.of_student(student, seen[test.split])
    summary: dict[str, Any] = {"classes.novel": len(novel.classes), "images.ood": len(novel), "id.split": test.split}
    own = base_novel_scores(of_base, of_novel)
    summary |= own
    if kept := run.epoch_students():
        others = [folder for folder in kept if folder != run.epoch_student(best_epoch)]
        each = [base_novel_scores(*test.of_student(_like(student, folder, test.device))) for folder in others]
        each += [own] * (len(kept) - len(others))
        summary |= {f"last{len(each)}.{key}": value for key, value in mean_scores(each).items()}
    teacher_base, teacher_novel = test.of_teacher()
    teacher_scores = base_novel_scores(teacher_base, teacher_novel)
    summary |= {f"teacher.{key}": value for key, value in teacher_scores.items()}
    if teacher_scores["ood.mean_per_class"]:
        summary["ood.share_of_teacher"] = summary["ood.mean_per_class"] / teacher_scores["ood.mean_per_class"]
    if len(novel) < FEWEST:
        log.info("%d images of novel classes have no neighbourhoods: ood.consistency.* is left out in part", len(novel))
    measured = consistency(of_novel.rows_NE, teacher_novel.rows_NE, novel.labels, of_novel.bank_CE, student.temperature)
    summary |= {f"ood.{key}": value for key, value in measured.items()}
    if test.data.support is not None and test.config.shots.use == "retrieval":
        summary |= test.retrieval(seen["val"], of_base.bank_CE, of_novel)
    logits, teacher_logits = (part.rows_NE @ part.bank_CE.T / student.temperature for part in (of_novel, teacher_novel))
    write_predictions(run.predictions_of("ood"), novel, logits, teacher_logits)
    return summary


def _like(student: Student, folder: Path, device: torch.device) -> Student:
    """That of another epoch, with the same weight of its heads."""
    other = Student.load(folder).to(device)
    other.mix = student.mix
    return other


def base_novel_scores(base: Labelled, novel: Labelled) -> dict[str, float]:
    """Mean per-class accuracies of base and of novel classes.

    ``id.mean_per_class``: base images among base names. ``ood.mean_per_class``: novel images among novel names.
    ``harmonic``: harmonic mean of these two. ``generalised.id``, ``generalised.ood``, ``generalised.harmonic``: the
    same images among all names.

    Reference:
        Li et al., ICCV 2023 (ID and OOD); Zhou et al., CoCoOp, CVPR 2022 (harmonic mean of base and novel); Xian et
        al., Zero-Shot Learning: A Comprehensive Evaluation, TPAMI 2019 (generalised).
    """
    shift = len(base.bank_CE)
    own = {
        "id": mean_per_class_accuracy(base.among(base.bank_CE), base.labels_N),
        "ood": mean_per_class_accuracy(novel.rows_NE @ novel.bank_CE.T, novel.labels_N),
    }
    among_all = {
        "id": mean_per_class_accuracy(base.among(base.bank_CE, novel.bank_CE), base.labels_N),
        "ood": mean_per_class_accuracy(novel.among(base.bank_CE, novel.bank_CE), novel.labels_N + shift),
    }
    return {
        **{f"{part}.mean_per_class": value for part, value in own.items()},
        "harmonic": harmonic_mean(*own.values()),
        **{f"generalised.{part}": value for part, value in among_all.items()},
        "generalised.harmonic": harmonic_mean(*among_all.values()),
    }


def harmonic_mean(a: float, b: float) -> float:
    return statistics.harmonic_mean([a, b])  # 0 if one of them is


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of several epochs' scores, key by key."""
    return {key: statistics.fmean(own[key] for own in scores) for key in scores[0]}


def in_words(summary: Mapping[str, Any]) -> str:
    """One line for the log."""

    def shown(prefix: str) -> str:
        values = (summary[f"{prefix}{key}"] for key in ("id.mean_per_class", "ood.mean_per_class", "harmonic"))
        return " / ".join(f"{100 * value:.1f}" for value in values)

    few = summary.get("few_shot.retrieval.mean_per_class")
    retrieval = "" if few is None else f"; novel with few-shot retrieval {100 * few:.1f} %"
    return f"base / novel / harmonic mean, per class: {shown('')} % (teacher {shown('teacher.')} %){retrieval}"

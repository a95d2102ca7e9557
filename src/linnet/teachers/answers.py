"""All that a run asks of its teacher: logits on val and test, outputs for training views, and the head in between."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linnet.config import Config, Still, TeacherConfig
from linnet.data.manifest import Manifest
from linnet.errors import UserError
from linnet.processes import Team
from linnet.step import TeacherOutput
from linnet.teachers.base import ClassHead, ClassifierTeacher, Teacher, VisionLanguageTeacher
from linnet.teachers.cache import TeacherCache, live_rows
from linnet.teachers.heads import Settled, class_head, embedded, settle, warn_of_twin_classes
from linnet.teachers.looks import Eyes, still_look


@dataclass(frozen=True)
class Answers:
    """What the teacher said.

    Attributes:
        settled: the head between its rows and logits.
        logits: (N, C) of each split but train. train: (rows of the training split, view number) -> outputs.
    """

    settled: Settled
    logits: dict[str, np.ndarray]
    train: Callable[[np.ndarray, int], TeacherOutput]

    def about(self, config: Config) -> dict[str, Any]:
        """What a run's summary says about its teacher."""
        id, seen, used = config.teacher.id, config.teacher.views, self.settled.name
        own = {"teacher.id": id, "teacher.views": seen, "teacher.head": used}
        return own | {f"teacher.{head}.val.top1": value for head, value in self.settled.val_top1.items()}


def ask(config: Config, teacher: Teacher, splits: Mapping[str, Manifest], device: torch.device) -> Answers:
    """Have the teacher look at every image (or view) that it has not seen before, and settle its head.

    Raises:
        UserError: classes, head or views do not suit the teacher.
    """
    _check_shape(config, teacher)
    classes = splits["train"].classes
    head = class_head(teacher, classes, config.teacher.templates)
    if config.teacher.head == "zero-shot":
        warn_of_twin_classes(teacher, head, classes)
    eyes = Eyes.open(config, teacher, splits, device)
    for look in eyes.looks:
        look.take()
    settled = settle(config, teacher, head, eyes, splits)
    logits = {
        part: settled.head(eyes.still.rows(images.digests)).logits_BC.numpy()
        for part, images in splits.items()
        if part != "train"
    }
    return Answers(settled, logits, _train_outputs(teacher, settled.head, splits["train"], eyes, device))


def ask_together(
    config: Config, teacher: Teacher, splits: Mapping[str, Manifest], device: torch.device, team: Team
) -> None:
    """Have each process of a team show the teacher its share of what it has not seen yet; :func:`ask` then finds all of
    it in the cache. One process alone has nothing to share.

    Raises:
        UserError: as :func:`ask`, or another process failed.
    """
    if team.world < 2:
        return
    turn = f"-{team.rank}-of-{team.world}"

    def opened() -> Eyes:
        _check_shape(config, teacher)
        class_head(teacher, splits["train"].classes, config.teacher.templates)  # refuses early what it cannot name
        return Eyes.open(config, teacher, splits, device, turn)

    words = "asking the teacher"
    first = team.together(words, lambda: opened() if team.rank == 0 else None)  # it decodes for the others
    looks = team.together(words, lambda: [look.missing() for look in (first or opened()).looks])

    def fill() -> None:
        for look in looks:
            look.share(team.rank, team.world).take()

    team.together(words, fill)


def _check_shape(config: Config, teacher: Teacher) -> None:
    height, width = teacher.image_shape
    if config.teacher.views != config.teacher.still and height != width:
        raise UserError(
            f"--teacher.views {config.teacher.views} needs a teacher that takes square images, not {height} x {width}: "
            "use --teacher.views center or squash"
        )


def embeddings(
    teacher: VisionLanguageTeacher, images: Manifest, part: str, config: TeacherConfig, device: torch.device
) -> np.ndarray:
    """(N, E) float32 unit embeddings of images outside the run's splits, seen whole as those in it, cached."""
    looked = _looked(teacher, images, part, config.cache, device, config.still)
    return embedded(looked, images).rows_NE.numpy()


def classifier_logits(
    teacher: ClassifierTeacher, images: Manifest, part: str, folder: Path | None, device: torch.device
) -> np.ndarray:
    """(N, own classes) logits of a classifier, by its own view of each image, cached."""
    return _looked(teacher, images, part, folder, device).rows(images.digests).float().numpy()


def _looked(
    teacher: Teacher,
    images: Manifest,
    part: str,
    folder: Path | None,
    device: torch.device,
    still: Still = "center",
) -> TeacherCache:
    cache = TeacherCache(teacher, still, folder, device)
    still_look(cache, teacher, part, images, still).take()
    return cache


def _train_outputs(
    teacher: Teacher, head: ClassHead, rows: Manifest, eyes: Eyes, device: torch.device
) -> Callable[[np.ndarray, int], TeacherOutput]:
    """Where the teacher's outputs for training views come from; only ``online`` keeps the teacher in memory."""
    if eyes.replayed is not None:
        seen = eyes.replayed.rows
        return lambda index, view: head(seen(rows.digests[index], view))
    if (live := eyes.live) is not None:
        live_head = head.to(device)
        return lambda index, view: live_head(live_rows(teacher, live(view, index)))
    seen_once = eyes.still.rows
    return lambda index, view: head(seen_once(rows.digests[index]))

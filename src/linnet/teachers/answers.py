"""All that a run asks of its teacher: logits on val and test, outputs for training views, and the head in between."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linnet.config import Config, Still, TeacherConfig
from linnet.data import views
from linnet.data.batches import shown, with_partners
from linnet.data.images import VERSION as STORE_VERSION
from linnet.data.manifest import Manifest
from linnet.data.mixing import mixing_of
from linnet.data.store import Images
from linnet.environment import available_cpus
from linnet.errors import UserError
from linnet.metrics import right
from linnet.metrics.intervals import over_images
from linnet.processes import Team
from linnet.progress import Bar
from linnet.step import TeacherOutput
from linnet.teachers.base import ClassHead, ClassifierTeacher, Teacher, VisionLanguageTeacher
from linnet.teachers.cache import CENTER_VIEW, Pixels, TeacherCache, live_rows, still_pixels
from linnet.teachers.probe import enough, linear_probe, quick_probe
from linnet.teachers.prompts import Embedded, calibrated_bank, prompt_templates, step_count
from linnet.teachers.texts import text_vectors
from linnet.text.classes import ClassInfo, first_sentences
from linnet.text.twins import warn_of_twins

log = logging.getLogger("linnet")


@dataclass(frozen=True)
class Answers:
    """What the teacher said.

    Attributes:
        head: from its rows to logits; ``head_name`` says which.
        val_top1: accuracy of every head that was tried, by name.
        logits: (N, C) of each split but train. train: (rows of the training split, view number) -> outputs.
        prompts: the calibrated context and text bank; empty if they are not used.
        probed_N: whether a quick probe on the embeddings names each val image right; None with a full probe, of a
            classifier, and where no embeddings of the training images are kept.
    """

    head: ClassHead
    head_name: str
    val_top1: dict[str, float]
    logits: dict[str, np.ndarray]
    train: Callable[[np.ndarray, int], TeacherOutput]
    prompts: dict[str, torch.Tensor]
    probed_N: np.ndarray | None = None

    def about(self, config: Config) -> dict[str, Any]:
        """What a run's summary says about its teacher."""
        own = {"teacher.id": config.teacher.id, "teacher.views": config.teacher.views, "teacher.head": self.head_name}
        return own | {f"teacher.{head}.val.top1": value for head, value in self.val_top1.items()}


def ask(config: Config, teacher: Teacher, splits: Mapping[str, Manifest], device: torch.device) -> Answers:
    """Have the teacher look at every image (or view) that it has not seen before, and settle its head.

    Raises:
        UserError: classes, head or views do not suit the teacher.
    """
    chosen = config.teacher.head
    _check_shape(config, teacher)
    classes = splits["train"].classes
    head, prompts = class_head(teacher, classes, config.teacher.templates), {}
    if chosen == "zero-shot":
        _warn_of_twins(teacher, classes, head)
    eyes = Eyes.open(config, teacher, splits, device)
    for look in eyes.looks:
        _fill(look)
    cache = eyes.still
    name = "zero-shot" if teacher.kind == "vlm" else "classifier"
    right_N = _right(head, cache, splits["val"])
    val_top1 = {name: float(right_N.mean())}
    probed_N = _quickly_probed(eyes, splits) if teacher.kind == "vlm" and chosen != "probe" else None
    if chosen == "val":
        if probed_N is not None and (above := over_images(probed_N, right_N)).low > 0:
            log.info(
                "a quick probe is %.1f points better on val than the class texts: a probe takes their place",
                100 * above.value,
            )
            chosen, probed_N = "probe", None
        else:
            _warn_of_twins(teacher, classes, head)
    if isinstance(teacher, VisionLanguageTeacher) and chosen == "prompt":
        texts = first_sentences(classes, prompt_templates(config))  # a description at most
        prompts = _calibrate(config, teacher, texts, splits, cache)
        calibrated = head._replace(bank_CE=prompts["bank_CE"])
        val_top1["prompt"] = float(_right(calibrated, cache, splits["val"]).mean())
        if val_top1["prompt"] >= val_top1["zero-shot"]:
            head, name = calibrated, "prompt"
            _warn_of_twins(teacher, classes, head)
            log.info("prompts: %d context vectors before the class texts", len(prompts["context_PW"]))
        else:
            prompts = {}
            log.warning("the calibrated prompts are worse than the class texts on val: the class texts are used")
    elif chosen == "probe":
        train, val = (_embedded(cache, splits[part]) for part in ("train", "val"))
        head = head._replace(probe=linear_probe(train, val, len(classes)), scale=1.0)
        name, val_top1["probe"] = "probe", float(_right(head, cache, splits["val"]).mean())
        if val_top1["probe"] < val_top1["zero-shot"]:
            log.warning("the probe is worse than the class texts on val: consider --teacher.head zero-shot")
    logits = {
        part: head(cache.rows(rows.digests)).logits_BC.numpy() for part, rows in splits.items() if part != "train"
    }
    outputs = _train_outputs(teacher, head, splits["train"], eyes, device)
    return Answers(head, name, val_top1, logits, outputs, prompts, probed_N)


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
            _fill(look.share(team.rank, team.world))

    team.together(words, fill)


def _check_shape(config: Config, teacher: Teacher) -> None:
    height, width = teacher.image_shape
    if config.teacher.views != config.teacher.still and height != width:
        raise UserError(
            f"--teacher.views {config.teacher.views} needs a teacher that takes square images, not {height} x {width}: "
            "use --teacher.views center or squash"
        )


def class_head(teacher: Teacher, classes: Sequence[ClassInfo], templates: tuple[str, ...]) -> ClassHead:
    """How this teacher's rows become logits over the data's classes.

    Raises:
        UserError: a classifier whose class table is not the data's.
    """
    if isinstance(teacher, VisionLanguageTeacher):
        return ClassHead(bank_CE=text_vectors(teacher, classes, templates).cpu(), scale=teacher.logit_scale)
    assert isinstance(teacher, ClassifierTeacher)
    own, names = teacher.class_names, [info.name for info in classes]
    if own is None or not teacher.knows(names):
        shown = "classes without names" if own is None else f"{len(own)} classes ({', '.join(own[:3])} ...)"
        raise UserError(
            f"the teacher '{teacher.id}' knows {shown}, the data has {len(names)} ({', '.join(names[:3])} ...): "
            f"train it on this data first, as in '{teacher.how_to_tune()}', then '--teacher run:runs/teacher'"
        )
    places, weights = {name: place for place, name in enumerate(own)}, teacher.class_weights
    order_C = torch.tensor([places[name] for name in names])
    return ClassHead(order_C=order_C, weights_CD=None if weights is None else weights[order_C])


def _warn_of_twins(teacher: Teacher, classes: Sequence[ClassInfo], head: ClassHead) -> None:
    if head.bank_CE is not None:
        warn_of_twins(teacher.id, [info.name for info in classes], head.bank_CE.numpy())


def embeddings(
    teacher: VisionLanguageTeacher, images: Manifest, part: str, config: TeacherConfig, device: torch.device
) -> np.ndarray:
    """(N, E) float32 unit embeddings of images outside the run's splits, seen whole as those in it, cached."""
    looked = _looked(teacher, images, part, config.cache, device, config.still)
    return _embedded(looked, images).rows_NE.numpy()


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
    _fill(_still_look(cache, teacher, part, images, still))
    return cache


@dataclass(frozen=True)
class Look:
    """Images that a teacher has to see in one view: n digests, what it sees of some of them, and where that is kept."""

    cache: TeacherCache
    title: str
    digests: np.ndarray
    pixels: Pixels
    view: int = CENTER_VIEW

    def missing(self) -> "Look":
        """Only those whose rows are not there."""
        return self._of(self.cache.missing(self.digests, self.view), self.title)

    def share(self, rank: int, world: int) -> "Look":
        """One in ``world`` of the images."""
        return self._of(np.arange(rank, len(self.digests), world), f"{self.title}, part {rank + 1} of {world}")

    def _of(self, rows: np.ndarray, title: str) -> "Look":
        return replace(
            self, title=title, digests=self.digests[rows], pixels=lambda some: self.pixels(rows[some].tolist())
        )


@dataclass(frozen=True)
class Eyes:
    """How a teacher sees the images of a run.

    Attributes:
        looks: all that it has to see before training.
        still: what it said of images seen whole. replayed: the same of views that are kept, if there are any.
        kept: where its rows of the training images lie, and of which view; None where they do not.
        live: (view, rows of the training split) -> the pixels of that view; None where the teacher sees no views.
    """

    looks: list[Look]
    still: TeacherCache
    replayed: TeacherCache | None
    live: Callable[[int, Sequence[int] | np.ndarray], torch.Tensor] | None
    kept: tuple[TeacherCache, int] | None = None

    @staticmethod
    def open(
        config: Config, teacher: Teacher, splits: Mapping[str, Manifest], device: torch.device, turn: str = ""
    ) -> "Eyes":
        """
        Args:
            turn: see :class:`TeacherCache`.
        """
        own, train = config.teacher, splits["train"]
        still = TeacherCache(teacher, own.still, own.cache, device, turn)
        kept = (still, CENTER_VIEW) if own.head != "zero-shot" or own.views == own.still else None
        needed = (part for part in splits if part != "train" or kept)
        looks = [_still_look(still, teacher, part, splits[part], own.still) for part in needed]
        if own.views == own.still:
            return Eyes(looks, still, None, None, kept)
        live = _views(config, teacher, train, device)
        if own.views == "online":
            return Eyes(looks, still, None, live, kept)
        replayed = TeacherCache(teacher, _replay_words(config, teacher, train.digests), own.cache, device, turn)
        for view in range(min(own.replay or 0, config.train.epochs)):
            looks.append(Look(replayed, f"teacher {teacher.id}, view {view}", train.digests, partial(live, view), view))
        return Eyes(looks, still, replayed, live, kept or (replayed, 0))


def _still_look(cache: TeacherCache, teacher: Teacher, part: str, images: Manifest, still: Still) -> Look:
    return Look(cache, f"teacher {teacher.id}, {part}", images.digests, still_pixels(teacher, images.paths, still))


def _fill(look: Look) -> None:
    cache, title, total = look.cache, look.title, len(look.digests)
    start, before = time.perf_counter(), cache.computed
    with Bar(title, total) as bar:
        try:
            cache.fill(look.digests, look.pixels, look.view, bar.update)
        except KeyboardInterrupt:
            done = f"{cache.computed - before} answers of the teacher were added to its cache"
            raise KeyboardInterrupt(f"{done}: the same command goes on behind them") from None
    if computed := cache.computed - before:
        cached = f", {total - computed} more from the cache" if computed < total else ""
        log.info("%s: %d images in %.1f s%s", title, computed, time.perf_counter() - start, cached)


def _right(head: ClassHead, cache: TeacherCache, rows: Manifest) -> np.ndarray:
    return right(head(cache.rows(rows.digests)).logits_BC.numpy(), rows.labels)


def _embedded(cache: TeacherCache, rows: Manifest, view: int = CENTER_VIEW) -> Embedded:
    unit_NE = torch.nn.functional.normalize(cache.rows(rows.digests, view).float(), dim=1)
    return Embedded(unit_NE, torch.from_numpy(rows.labels))


def _quickly_probed(eyes: Eyes, splits: Mapping[str, Manifest]) -> np.ndarray | None:
    """(N,) bool, the val images that a quick probe names right."""
    train, val = splits["train"], splits["val"]
    some = enough(train.labels)
    if eyes.kept is None or not len(some):
        return None
    cache, view = eyes.kept
    return quick_probe(_embedded(cache, train.take(some), view), _embedded(eyes.still, val).rows_NE) == val.labels


def _calibrate(
    config: Config,
    teacher: VisionLanguageTeacher,
    texts: list[str],
    splits: Mapping[str, Manifest],
    cache: TeacherCache,
) -> dict[str, torch.Tensor]:
    train, val = (_embedded(cache, splits[part]) for part in ("train", "val"))
    with Bar(f"prompts of {teacher.id}", step_count(config.prompts, len(train.rows_NE))) as bar:
        return calibrated_bank(teacher, texts, train, val, config.prompts, config.seed, cache.folder.name, bar.update)


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


def _views(
    config: Config, teacher: Teacher, rows: Manifest, device: torch.device
) -> Callable[[int, Sequence[int] | np.ndarray], torch.Tensor]:
    """What a teacher is shown of a view of some training images: the student's, at its own size."""
    side, mixing = teacher.image_shape[0], mixing_of(config.data, rows.digests)
    fit, mode = views.RECIPES[config.data.views].fit, config.student.crop_mode
    images = Images(rows.paths, rows.digests, side, fit, config.data.store_limit_gb, mode)

    def look(view: int, index: Sequence[int] | np.ndarray) -> torch.Tensor:
        parts = []
        for start in range(0, len(index), 64):  # bounds the memory of cutting
            part = np.asarray(index[start : start + 64])
            both = part if mixing is None else with_partners(part, mixing, view)
            with ThreadPoolExecutor(available_cpus()) as pool:  # of use where images are not stored but decoded
                pixels = list(pool.map(images.__getitem__, both))
            parts.append(shown(pixels, part, rows, config.data, view, side, device, mixing)[0])
        return torch.cat(parts)

    return look


def _replay_words(config: Config, teacher: Teacher, digests: np.ndarray) -> str:
    """The view policy of replayed views. Their number is not part of it: a larger one computes the new views only."""
    recipe, seed, side = config.data.views, config.data.seed, teacher.image_shape[0]
    fit, mode = views.RECIPES[recipe].fit, config.student.crop_mode
    words = f"replay|{recipe}|version {views.RECIPES[recipe].version}, {STORE_VERSION}|data seed {seed}|{side} pixels"
    mixing = mixing_of(config.data, digests)
    return words + ("|squash" if (fit, mode) == ("eval", "squash") else "") + (f"|{mixing.words}" if mixing else "")

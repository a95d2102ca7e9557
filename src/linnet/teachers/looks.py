"""How a teacher sees the images of a run: whole, or the student's views of them, each of them once."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from linnet.config import Config, Still
from linnet.data import views
from linnet.data.batches import shown, with_partners
from linnet.data.images import VERSION as STORE_VERSION
from linnet.data.manifest import Manifest
from linnet.data.mixing import mixing_of
from linnet.data.store import Images
from linnet.environment import available_cpus
from linnet.progress import Bar
from linnet.teachers.base import Teacher
from linnet.teachers.cache import CENTER_VIEW, Pixels, TeacherCache, still_pixels

log = logging.getLogger("linnet")


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

    def take(self) -> None:
        """Have the teacher see what it has not seen yet."""
        cache, total = self.cache, len(self.digests)
        start, before = time.perf_counter(), cache.computed
        with Bar(self.title, total) as bar:
            try:
                cache.fill(self.digests, self.pixels, self.view, bar.update)
            except KeyboardInterrupt:
                done = f"{cache.computed - before} answers of the teacher were added to its cache"
                raise KeyboardInterrupt(f"{done}: the same command goes on behind them") from None
        if computed := cache.computed - before:
            cached = f", {total - computed} more from the cache" if computed < total else ""
            log.info("%s: %d images in %.1f s%s", self.title, computed, time.perf_counter() - start, cached)

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
        kept: where its rows of the training images lie, and of which view; None where they do not, or are of mixed
            images.
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
        looks = [still_look(still, teacher, part, splits[part], own.still) for part in needed]
        if own.views == own.still:
            return Eyes(looks, still, None, None, kept)
        live = _views(config, teacher, train, device)
        if own.views == "online":
            return Eyes(looks, still, None, live, kept)
        replayed = TeacherCache(teacher, _replay_words(config, teacher, train.digests), own.cache, device, turn)
        for view in range(min(own.replay or 0, config.train.epochs)):
            looks.append(Look(replayed, f"teacher {teacher.id}, view {view}", train.digests, partial(live, view), view))
        return Eyes(looks, still, replayed, live, kept or ((replayed, 0) if config.data.mix == "none" else None))


def still_look(cache: TeacherCache, teacher: Teacher, part: str, images: Manifest, still: Still) -> Look:
    """Images seen whole."""
    return Look(cache, f"teacher {teacher.id}, {part}", images.digests, still_pixels(teacher, images.paths, still))


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

"""From images in a store to batches of views: what a training step gets.

Shapes: B batch, S student input side.
"""

import logging
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from torch.utils.data import DataLoader

from linnet.config import Config, DataConfig
from linnet.data import views
from linnet.data.ahead import ahead
from linnet.data.manifest import Manifest
from linnet.data.mixing import Mixed, Mixing, blend, mixing_of
from linnet.data.splits import by_class
from linnet.data.store import Images
from linnet.environment import available_cpus
from linnet.errors import UserError
from linnet.step import Batch, Mixture, TeacherOutput

log = logging.getLogger("linnet")

CACHED_PIXELS = 800_000  # of a batch on a CPU: at 224 pixels 16 images at once are up to 1.8 times as fast as 256
FEW_SHOT_VERSION = 2  # raise it when few-shot finetuning draws other batches: no run goes on with them


class TrainLoader:
    """Shuffled batches of views; :meth:`epoch` is a function of its arguments, not of what was read before.

    With ``teacher.views: replay:K`` epoch n shows view n modulo K, otherwise a fresh view.

    If the rows have novel classes (few-shot finetuning), half of each batch is of those, again and again (all of them,
    where they are fewer), and an epoch shows every image of a base class; its last batch is filled up with others.

    Args:
        config: view recipe, size, seeds, replay and batch size: that of all processes together, at most the number of
            rows; the last partial batch is dropped.
        rows: the training images. images: the same, decoded.
        teacher: (rows, view) -> outputs, or None.
        rank, world: this process reads every world-th image of each batch.

    Raises:
        UserError: less than 2 images for each process in a step.
    """

    def __init__(
        self,
        config: Config,
        rows: Manifest,
        images: Images,
        device: torch.device,
        *,
        teacher: Callable[[np.ndarray, int], TeacherOutput] | None = None,
        rank: int = 0,
        world: int = 1,
    ):
        self.config, self.rows, self.images, self.device = config, rows, images, device
        self.teacher, self.rank, self.world = teacher, rank, world
        self.mixing = mixing_of(config.data, rows.digests)
        self._now: list[np.ndarray] = []  # the rows of each batch of the epoch that is read, and their partners
        wanted = min(config.train.batch_size, len(rows))
        self.batch_size = wanted // world * world
        if self.batch_size < 2 * world:
            raise UserError(
                f"{wanted} images a step are too few for {world} process(es), each needs 2: raise "
                "--train.batch-size, add training images or start fewer processes"
            )

    def __len__(self) -> int:
        """Steps in an epoch."""
        if not self.rows.novel:
            return len(self.rows) // self.batch_size
        novel = int(np.isin(self.rows.labels, self.rows.novel).sum())
        return math.ceil((len(self.rows) - novel) / (self.batch_size - self._novel_in_batch(novel)))

    def _novel_in_batch(self, novel: int) -> int:
        return min(self.batch_size // 2, novel)

    def epoch(self, number: int) -> Iterator[Batch]:
        order, replay = self._order(number).reshape(len(self), self.batch_size), self.config.teacher.replay
        rows = [batch[self.rank :: self.world] for batch in order]
        view = number if replay is None else number % replay
        self._now[:] = rows if self.mixing is None else [with_partners(index, self.mixing, view) for index in rows]
        try:
            with closing(self._batches(zip(rows, self._decoded, strict=True), view)) as batches:
                yield from batches
        except UserError as error:  # a worker wraps its traceback around the one line that was meant
            raise UserError(str(error).strip().rsplit("UserError: ", 1)[-1]) from error

    def _batches(self, read: Iterable[tuple[np.ndarray, list[np.ndarray]]], view: int) -> Generator[Batch, None, None]:
        """Batches of the images of some rows. Where processors are idle while the student learns, a thread makes the
        next one meanwhile; elsewhere its threads and the student's would stall one another."""
        size, device, of_all = self.config.student.image_size, self.device, torch.from_numpy(self.rows.labels)

        def made(part: tuple[np.ndarray, list[np.ndarray]]) -> Batch:
            index, pixels = part
            images, mixed = shown(pixels, index, self.rows, self.config.data, view, size, device, self.mixing)
            teacher = None if self.teacher is None else self.teacher(index, view).to(device)
            mixture = None
            if mixed is not None:
                share = torch.from_numpy(mixed.share_B).float().to(device)
                mixture = Mixture(of_all[mixed.partner_B].to(device), share)
            return Batch(torch.from_numpy(index), view, images, of_all[index].to(device), teacher, mixture)

        is_idle = device.type != "cpu" or 2 * self.world * torch.get_num_threads() <= available_cpus()
        yield from ahead(made, read, count=2, threads=1) if is_idle else map(made, read)

    @cached_property
    def _decoded(self) -> DataLoader:
        """The images of the batches of ``_now``. Those that are not stored are decoded by processes, some batches
        ahead, which stay from one epoch to the next."""
        workers = 0 if self.images.stored else self.config.data.workers
        return DataLoader(
            self.images,  # type: ignore[arg-type]
            batch_sampler=self._now,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=list,
            persistent_workers=workers > 0,
        )

    def _order(self, number: int) -> np.ndarray:
        """The images of an epoch, batch after batch."""
        rng = np.random.default_rng([self.config.seed, number])
        if self.config.train.sampling != "natural":
            power = 0.5 if self.config.train.sampling == "square-root" else 0.0
            return class_sample(self.rows.labels, power, len(self) * self.batch_size, rng)
        order = rng.permutation(len(self.rows))
        if not self.rows.novel:
            return order[: len(self) * self.batch_size]
        is_novel = np.isin(self.rows.labels, self.rows.novel)[order]
        count = self._novel_in_batch(int(is_novel.sum()))
        novel = np.resize(order[is_novel], (len(self), count))
        base = np.resize(order[~is_novel], (len(self), self.batch_size - count))
        return np.concatenate([novel, base], axis=1).ravel()


def class_sample(labels_N: np.ndarray, power: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """(size,) rows: a class of n images is drawn with a probability proportional to n^power, and gives its images in
    turn, each as often as the others (or once more). Unlabelled images count as a class of their own that keeps its
    share.

    Args:
        labels_N: class ids, -1 where unlabelled. power: 1 is an image drawn at random, 0 a class drawn at random.
    """
    own = by_class(labels_N)
    present, counts = np.array(list(own)), np.array([len(rows) for rows in own.values()])
    chance = np.where(present < 0, 0.0, counts.astype(float) ** power)
    chance *= counts[present >= 0].sum() / len(labels_N) / chance.sum()
    chance[present < 0] = counts[present < 0] / len(labels_N)
    classes = rng.choice(len(present), size=size, p=chance)
    drawn = np.empty(size, dtype=np.int64)
    for i, places in by_class(classes).items():
        rows = own[int(present[i])]
        rounds = [rng.permutation(rows) for _ in range(-(-len(places) // len(rows)))]
        drawn[places] = np.concatenate(rounds)[: len(places)]
    return drawn


def decode(config: Config, splits: Mapping[str, Manifest]) -> dict[str, Images]:
    """The images of each split at the student's size, in linnet's image store.

    Raises:
        UserError: an image that cannot be read.
    """
    student, fit = config.student, views.RECIPES[config.data.views].fit
    images = {
        part: Images(
            rows.paths,
            rows.digests,
            student.image_size,
            fit if part == "train" else "eval",
            config.data.store_limit_gb,
            student.crop_mode,
            student.crop_pct if part != "train" else 1.0,  # no view lacks the margin that evaluation cuts off
            student.jpeg,
        )
        for part, rows in splits.items()
    }
    if new := [part.file for part in images.values() if part.is_new]:
        size = sum(file.stat().st_size for file in new) / 1e6
        log.info("images: decoded once, kept for later runs: %.0f MB in %s", size, new[0].parent)
    return images


def cut_views(
    pixels: list[np.ndarray], digests: np.ndarray, recipe: str, view: int, seed: int, size: int, device: torch.device
) -> torch.Tensor:
    """View number ``view`` of each of B images: (B, 3, size, size) float32 in [0, 1].

    Teacher and student are shown the same view: its parameters are shares of the image, drawn from its digest.
    """
    shapes = np.array([image.shape[:2] for image in pixels])
    parameters = views.draw(recipe, digests, shapes, view, seed)
    return views.apply(pixels, parameters, size, device)


def with_partners(index: np.ndarray, mixing: Mixing, view: int) -> np.ndarray:
    """(2 B,) rows of training images, and behind them those of the images that they are mixed with."""
    return np.concatenate([index, mixing.partners(view)[index]])


def shown(
    pixels: list[np.ndarray],
    index: np.ndarray,
    rows: Manifest,
    config: DataConfig,
    view: int,
    size: int,
    device: torch.device,
    mixing: Mixing | None,
) -> tuple[torch.Tensor, Mixed | None]:
    """View number ``view`` of some rows of the training images, (B, 3, size, size), and how they are mixed.

    Args:
        pixels: of the B images, and where images are mixed, of the partners behind them.
    """
    both = index if mixing is None else with_partners(index, mixing, view)
    images = cut_views(pixels, rows.digests[both], config.views, view, config.seed, size, device)
    if mixing is None:
        return images, None
    mixed, (own, other) = mixing.of(index, view), images.split(len(index))
    blend(own, other, mixed)
    return own, mixed


def eval_batches(images: Images, batch_size: int = 256) -> Iterator[torch.Tensor]:
    """Every image once, in order, the last batch as small as it is: (B, 3, S, S) float32 in [0, 1]."""
    rows = range(len(images))
    pixels = iter(map(images.__getitem__, rows) if images.stored else ahead(images.__getitem__, rows))
    while batch := list(islice(pixels, batch_size)):
        yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255


def eval_batch_size(size: int, device: torch.device) -> int:
    """How many images of ``size`` pixels a network is shown at once: on a CPU so few that most of what it computes
    stays in the caches, on a GPU enough to keep it busy."""
    return min(256, max(8, CACHED_PIXELS // size**2)) if device.type == "cpu" else 256

"""From images in a store to batches of views: what a training step gets.

Shapes: B batch, S student input side.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader

from linnet.data import views
from linnet.data.images import Images
from linnet.errors import UserError
from linnet.teachers.base import TeacherOutput


@dataclass(frozen=True)
class Batch:
    """One step's images.

    Attributes:
        index: (B,) rows of the training split. view: number of the view that was drawn of each.
        images: (B, 3, S, S) float32 in [0, 1]. labels: (B,) class ids, -1 where unlabelled.
        teacher: its outputs for these images, None for a method that needs no teacher.
    """

    index: torch.Tensor
    view: int
    images: torch.Tensor
    labels: torch.Tensor
    teacher: TeacherOutput | None = None


class TrainLoader:
    """Shuffled batches of views; :meth:`epoch` is a function of its arguments, not of what was read before.

    Args:
        images: decoded training images. labels: (n,). digests: (n, 16) uint8.
        recipe: name of a view recipe.
        batch_size: images per step over all processes, at most n; the last partial batch is dropped.
        size: student input side. data_seed: drives views. seed: drives the order.
        teacher: (rows, view) -> outputs, or None.
        replay: epoch n shows view n modulo this number; None: a fresh view in each epoch.
        few: (n,) bool, images that fill half of each batch, again and again; None: every image counts once.
        rank, world: this process reads every world-th image of each batch.
        workers: processes that decode when the images are not stored.

    Raises:
        UserError: less than 2 images for each process in a step.
    """

    def __init__(
        self,
        images: Images,
        labels: np.ndarray,
        digests: np.ndarray,
        *,
        recipe: str,
        batch_size: int,
        size: int,
        data_seed: int,
        seed: int,
        device: torch.device,
        teacher: Callable[[np.ndarray, int], TeacherOutput] | None = None,
        replay: int | None = None,
        few: np.ndarray | None = None,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
    ):
        self.images, self.labels, self.digests = images, labels, digests
        self.recipe, self.size, self.data_seed, self.seed = recipe, size, data_seed, seed
        self.batch_size = min(batch_size, len(labels)) // world * world
        if self.batch_size < 2 * world:
            raise UserError(
                f"{min(batch_size, len(labels))} images a step are too few for {world} process(es), each needs 2: "
                "raise --train.batch-size, add training images or start fewer processes"
            )
        self.device, self.teacher, self.replay, self.few = device, teacher, replay, few
        self.rank, self.world, self.workers = rank, world, workers

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.labels) // self.batch_size

    def epoch(self, number: int) -> Iterator[Batch]:
        order = np.random.default_rng([self.seed, number]).permutation(len(self.labels))
        if self.few is not None:
            half, is_few = self.batch_size // 2, self.few[order]
            few = np.resize(order[is_few], (len(self), half))
            rest = np.resize(order[~is_few], (len(self), self.batch_size - half))
            order = np.concatenate([few, rest], axis=1).ravel()
        rows = [
            order[i * self.batch_size : (i + 1) * self.batch_size][self.rank :: self.world] for i in range(len(self))
        ]
        workers = 0 if self.images.stored else self.workers
        loader: DataLoader = DataLoader(self.images, batch_sampler=rows, num_workers=workers, collate_fn=list)  # type: ignore[arg-type]
        try:
            for index, pixels in zip(rows, loader, strict=True):
                yield self._batch(index, pixels, view=number if self.replay is None else number % self.replay)
        except UserError as error:  # a worker wraps its traceback around the one line that was meant
            raise UserError(str(error).strip().rsplit("UserError: ", 1)[-1]) from error

    def _batch(self, index: np.ndarray, pixels: list[np.ndarray], view: int) -> Batch:
        images = cut_views(pixels, self.digests[index], self.recipe, view, self.data_seed, self.size, self.device)
        labels = torch.from_numpy(self.labels[index]).to(self.device)
        teacher = None if self.teacher is None else self.teacher(index, view).to(self.device)
        return Batch(torch.from_numpy(index), view, images, labels, teacher)


def cut_views(
    pixels: list[np.ndarray], digests: np.ndarray, recipe: str, view: int, seed: int, size: int, device: torch.device
) -> torch.Tensor:
    """View number ``view`` of each of B images: (B, 3, size, size) float32 in [0, 1].

    Teacher and student are shown the same view: its parameters are shares of the image, drawn from its digest.
    """
    shapes = np.array([image.shape[:2] for image in pixels])
    parameters = views.draw(recipe, digests, shapes, view, seed)
    return views.apply(views.pad(pixels).to(device), shapes, parameters, size)


def eval_batches(images: Images, batch_size: int = 256) -> Iterator[torch.Tensor]:
    """Every image once, in order, the last batch as small as it is: (B, 3, S, S) float32 in [0, 1]."""
    for start in range(0, math.ceil(len(images) / batch_size) * batch_size, batch_size):
        stop = min(start + batch_size, len(images))
        pixels = np.stack([images[row] for row in range(start, stop)])
        yield torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255

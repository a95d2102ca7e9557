"""Mixed images: a view of one image and the same view of another, in shares that are data, so that any network can be
shown the same mixture again.

Shapes: B batch, N training images, S side.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import torch

from linnet.config import DataConfig
from linnet.data.digests import KeyTable, distinct
from linnet.data.views import generators

VERSION = 1  # raise it when partners, shares or pixels change: cached answers of a teacher depend on it
OWN = 1_000_003  # keeps these numbers apart from those of the views


class Mixed(NamedTuple):
    """How each of B images is mixed: the row of its partner, how much of it is its own, and the rectangle that is the
    partner's (left, top, right, bottom as shares of the view; all 0 where the two are added up)."""

    partner_B: np.ndarray
    share_B: np.ndarray
    box_B4: np.ndarray


class Mixing:
    """With which other image each training image is mixed in each view, and how: a function of the training images, the
    view and the seed, not of the order of the images.

    Args:
        digests: (N, 16) of the training images. kind: ``mixup`` adds two images up (Zhang et al., ICLR 2018),
            ``cutmix`` puts a rectangle of the other into the one (Yun et al., ICCV 2019), ``both`` does either, by
            chance. alpha: of Beta(alpha, alpha), from which the shares are drawn.
    """

    def __init__(self, digests: np.ndarray, kind: str, alpha: float, seed: int):
        self.kind, self.alpha, self.seed, self._digests = kind, alpha, seed, digests
        first = distinct(digests)
        self._known = first[np.lexsort(digests[first].T[::-1])]  # by their bytes alone
        self._twin_N = KeyTable(digests).find(digests)  # images with the same bytes have the same partner
        self._partners: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))  # of the view that was asked for last

    @property
    def words(self) -> str:
        """All that decides a mixture, for a cache of what a teacher says of it."""
        images = hashlib.sha256(self._digests[self._known].tobytes()).hexdigest()[:16]
        return f"{self.kind} {self.alpha:g}, version {VERSION}, seed {self.seed}, images {images}"

    def partners(self, view: int) -> np.ndarray:
        """(N,) rows: each image's partner. In a view each image is one once."""
        if self._partners[0] != view:
            circle = self._known[np.random.default_rng([self.seed, view, OWN]).permutation(len(self._known))]
            partner_N = np.empty(len(self._digests), dtype=np.int64)
            partner_N[circle] = np.roll(circle, 1)
            self._partners = (view, partner_N[self._twin_N])
        return self._partners[1]

    def of(self, index: np.ndarray, view: int) -> Mixed:
        """How some rows of the training images are mixed in a view."""
        share_B, box_B4 = np.empty(len(index)), np.zeros((len(index), 4))
        for i, rng in enumerate(generators(self._digests[index], view, self.seed, OWN)):
            share, (x, y, coin) = rng.beta(self.alpha, self.alpha), rng.random(3)
            if self.kind == "cutmix" or (self.kind == "both" and coin < 0.5):
                half = np.sqrt(1 - share) / 2
                box_B4[i] = np.clip([x - half, y - half, x + half, y + half], 0, 1)
                share = 1 - float(np.prod(box_B4[i, 2:] - box_B4[i, :2]))  # what is cut off at the edge stays its own
            share_B[i] = share
        return Mixed(self.partners(view)[index], share_B, box_B4)


def mixing_of(config: DataConfig, digests: np.ndarray) -> Mixing | None:
    """How a run mixes its training images, None if it does not."""
    return None if config.mix == "none" else Mixing(digests, config.mix, config.mix_alpha, config.seed)


def blend(own: torch.Tensor, other: torch.Tensor, mixed: Mixed) -> None:
    """Mix views (B, 3, S, S) with those of their partners, in place."""
    is_cut_B = mixed.box_B4.any(axis=1)
    share = torch.from_numpy(np.where(is_cut_B, 1.0, mixed.share_B).astype(np.float32)).to(own.device)
    own.mul_(share[:, None, None, None]).add_(other * (1 - share)[:, None, None, None])
    boxes = np.rint(mixed.box_B4 * own.shape[-1]).astype(int)
    for image, partner, (left, top, right, bottom) in zip(own, other, boxes, strict=True):
        image[:, top:bottom, left:right] = partner[:, top:bottom, left:right]

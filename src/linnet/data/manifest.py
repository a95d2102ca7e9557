"""The manifest: one table of images that every source becomes. Which image, which class, which split, nothing else."""

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from linnet.data.digests import as_bytes
from linnet.data.paths import Paths
from linnet.data.problems import Kind, Problem
from linnet.text.classes import ClassInfo


@dataclass(frozen=True)
class Manifest:
    """Images with labels and splits, and the class table. Class ids of a folder follow the sorted class names.

    Attributes:
        paths: image files; any sequence of paths may be given.
        labels: (n,) int64 class ids; -1 marks an unlabelled image.
        splits: (n,) "train", "val" or "test".
        digests: (n, 16) uint8, BLAKE2b of each file's bytes: what identifies an image everywhere in linnet.
        classes: class id -> name and prompt name.
        texts: texts about each image, or None: captions of the source, or those of ``data.texts``, which only training
            images have.
        novel: ids of the classes that are kept from training; see :mod:`linnet.data.novel`.
        problems: files that were left out, and what is wrong with others.
    """

    paths: Paths
    labels: np.ndarray
    splits: np.ndarray
    digests: np.ndarray
    classes: tuple[ClassInfo, ...]
    texts: tuple[tuple[str, ...], ...] | None = None
    novel: tuple[int, ...] = ()
    problems: tuple[Problem, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.paths, Paths):
            object.__setattr__(self, "paths", Paths(self.paths))

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def class_names(self) -> list[str]:
        return [info.name for info in self.classes]

    @property
    def classes_without_images(self) -> list[str]:
        return [self.class_names[i] for i in np.setdiff1d(np.arange(len(self.classes)), self.labels)]

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of one split, ascending."""
        return np.flatnonzero(self.splits == split)

    def problems_of(self, kind: Kind) -> list[Problem]:
        return [problem for problem in self.problems if problem.kind == kind]

    def take(self, rows: np.ndarray) -> "Manifest":
        texts = None if self.texts is None else tuple(self.texts[i] for i in rows)
        return replace(
            self,
            paths=self.paths.take(rows),
            labels=self.labels[rows],
            splits=self.splits[rows],
            digests=self.digests[rows],
            texts=texts,
        )

    @cached_property
    def content_hash(self) -> str:
        """Changes when an image's bytes, a label, a split or a class name changes; not when a file moves."""
        table = sorted(zip(as_bytes(self.digests), self.labels.tolist(), self.splits.tolist(), strict=True))
        return hashlib.sha256(repr((table, self.classes, self.novel)).encode()).hexdigest()

    @cached_property
    def texts_hash(self) -> str:
        """Changes when a text of an image changes; not when a file moves."""
        rows = zip(as_bytes(self.digests), self.labels.tolist(), self.texts or (), strict=False)
        return hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()


def leaks(manifest: Manifest) -> list[Problem]:
    """Val and test images that are, byte for byte, also training images, and test images that are also val images."""
    earlier: dict[bytes, int] = {}
    found, digests = [], as_bytes(manifest.digests)
    for split in ("train", "val", "test"):
        rows = {row: digests[row] for row in manifest.rows(split).tolist()}
        for row, digest in rows.items():
            if digest in earlier:
                found.append(Problem("leak", manifest.paths[row], f"also {manifest.paths[earlier[digest]]}"))
        for row, digest in rows.items():
            earlier.setdefault(digest, row)
    return found


def in_two_classes(manifest: Manifest) -> list[Problem]:
    """Images that lie, byte for byte, in more than one class."""
    by_digest: dict[bytes, list[int]] = {}
    for row, digest in enumerate(as_bytes(manifest.digests)):
        by_digest.setdefault(digest, []).append(row)
    found = []
    for rows in by_digest.values():
        for row in rows if len(rows) > 1 else ():
            other = next((one for one in rows if manifest.labels[one] != manifest.labels[row]), None)
            if other is not None:
                found.append(Problem("two classes", manifest.paths[row], f"also {manifest.paths[other]}"))
    return list(dict.fromkeys(found))  # a list may name an image twice


def describe(manifest: Manifest) -> str:
    """One line about a manifest for the log."""
    counts = Counter(manifest.splits[~np.isin(manifest.labels, manifest.novel)].tolist())
    shown = ", ".join(f"{counts[split]} {split}" for split in ("train", "val", "test"))
    novel = f", {len(manifest.novel)} novel classes apart" if manifest.novel else ""
    return f"{len(manifest.classes) - len(manifest.novel)} classes, {shown} images{novel}"

"""The manifest: one table of images that every source becomes. Which image, which class, which split, nothing else."""

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from linnet.errors import UserError
from linnet.text.classes import ClassInfo

DIGEST_BYTES = 16


@dataclass(frozen=True)
class Manifest:
    """Images with labels and splits, and the class table. Class ids of a folder follow the sorted class names.

    Attributes:
        paths: image files.
        labels: (n,) int64 class ids; -1 marks an unlabelled image.
        splits: (n,) "train", "val" or "test".
        digests: (n, 16) uint8, BLAKE2b of each file's bytes: what identifies an image everywhere in linnet.
        classes: class id -> name and prompt name.
        texts: texts about each image, or None: captions of the source, or those of ``data.texts``, which only training
            images have.
        novel: ids of the classes that are kept from training; see :mod:`linnet.data.novel`.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray
    splits: np.ndarray
    digests: np.ndarray
    classes: tuple[ClassInfo, ...]
    texts: tuple[tuple[str, ...], ...] | None = None
    novel: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def class_names(self) -> list[str]:
        return [info.name for info in self.classes]

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of one split, ascending."""
        return np.flatnonzero(self.splits == split)

    def take(self, rows: np.ndarray) -> "Manifest":
        texts = None if self.texts is None else tuple(self.texts[i] for i in rows)
        paths = tuple(self.paths[i] for i in rows)
        return replace(
            self,
            paths=paths,
            labels=self.labels[rows],
            splits=self.splits[rows],
            digests=self.digests[rows],
            texts=texts,
        )

    @cached_property
    def content_hash(self) -> str:
        """Changes when an image's bytes, a label, a split or a class name changes; not when a file moves."""
        table = sorted(
            zip((d.tobytes() for d in self.digests), self.labels.tolist(), self.splits.tolist(), strict=True)
        )
        return hashlib.sha256(repr((table, self.classes, self.novel)).encode()).hexdigest()

    @cached_property
    def texts_hash(self) -> str:
        """Changes when a text of an image changes; not when a file moves."""
        rows = zip((d.tobytes() for d in self.digests), self.labels.tolist(), self.texts or (), strict=False)
        return hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()


def leaked(manifest: Manifest) -> int:
    """How many val and test images are, byte for byte, also training images, or test images also val images."""
    train, val, test = ([d.tobytes() for d in manifest.digests[manifest.rows(s)]] for s in ("train", "val", "test"))
    earlier, both = set(train), {*train, *val}
    return sum(digest in earlier for digest in val) + sum(digest in both for digest in test)


def digest_files(paths: list[Path]) -> np.ndarray:
    """(n, 16) uint8: BLAKE2b of the bytes of each file."""

    def digest(path: Path) -> bytes:
        try:
            return hashlib.blake2b(path.read_bytes(), digest_size=DIGEST_BYTES).digest()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error

    with ThreadPoolExecutor() as pool:
        digests = b"".join(pool.map(digest, paths))
    return np.frombuffer(digests, dtype=np.uint8).reshape(-1, DIGEST_BYTES)


def describe(manifest: Manifest) -> str:
    """One line about a manifest for the log."""
    counts = Counter(manifest.splits[~np.isin(manifest.labels, manifest.novel)].tolist())
    shown = ", ".join(f"{counts[split]} {split}" for split in ("train", "val", "test"))
    novel = f", {len(manifest.novel)} novel classes apart" if manifest.novel else ""
    return f"{len(manifest.classes) - len(manifest.novel)} classes, {shown} images{novel}"

"""The labelled images that a trained model is scored on: those of its own run, or any others of its classes.

Nothing here needs torch.

Shapes: N images.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from linnet.config import DataConfig
from linnet.data.checking import checked, examine, without_unreadable
from linnet.data.digests import as_bytes
from linnet.data.load import load_manifest
from linnet.data.manifest import Manifest
from linnet.data.novel import training_part
from linnet.data.sources import as_written, find_source
from linnet.errors import UserError, some_of
from linnet.files import read_json
from linnet.run import Run
from linnet.text.classes import ClassInfo, composed

log = logging.getLogger("linnet")

Split = Literal["test", "val", "train", "all"]
Reader = Callable[[DataConfig, bool], Manifest]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class LabelledImages:
    """What a model is scored on.

    Attributes:
        source: DATA as it is written. split: the part of it, "all" for all of it. rows: the images.
        notes: what a reader has to know about the choice. is_own: whether these are the run's own data.
        left_out: images of classes that were left out on request, by class.
    """

    source: str
    split: Split
    rows: Manifest
    notes: tuple[str, ...] = ()
    is_own: bool = False
    left_out: tuple[tuple[str, int], ...] = ()

    @cached_property
    def content_hash(self) -> str:
        return content_hash(self.rows)

    def in_classes(self, names: Sequence[str], common: bool) -> "LabelledImages":
        """The same images with their labels in another table of classes, that of a model; classes are compared by name.

        Args:
            common: leave out the images of classes that are not among ``names``.

        Raises:
            UserError: images without a label or of a class that is not among ``names``, or none that is left.
        """
        if bare := int((self.rows.labels < 0).sum()):
            raise UserError(f"{self.source}: {bare} of {len(self.rows)} images have no label: they cannot be scored")
        known = {composed(name): i for i, name in enumerate(names)}
        own = [composed(name) for name in self.rows.class_names]
        number = np.array([known.get(name, -1) for name in own])
        counts = np.bincount(self.rows.labels, minlength=len(own)).tolist()
        strange = {name: n for name, n in zip(own, counts, strict=True) if n and name not in known}
        if strange and len(strange) == sum(n > 0 for n in counts):
            raise UserError(
                f"{self.source} and the model have no class in common: {some_of(strange)} here, {some_of(names)} there;"
                " classes are compared by name"
            )
        if strange and not common:
            raise UserError(
                f"{self.source} has {len(strange)} class(es) that the model does not know: {some_of(strange)}; to "
                "leave their images out, give --classes common"
            )
        rows = self.rows.take(np.flatnonzero(number[self.rows.labels] >= 0))
        table = tuple(ClassInfo(name, name) for name in names)
        rows = replace(rows, labels=number[rows.labels], classes=table, novel=())
        return replace(self, rows=rows, left_out=tuple(strange.items()))


def reader() -> Reader:
    """``load_manifest`` that reads the same data only once, for the runs that are compared on them."""

    @cache
    def read(data: DataConfig, training: bool) -> Manifest:
        log.info("reading the images of the run: %s", data.source)
        return load_manifest(data, training)

    return read


class OwnData:
    """The data of a run, read again: all that it trained, chose and tested on."""

    def __init__(self, run: Run, on_error: Literal["stop", "skip"] | None, read: Reader):
        """
        Args:
            on_error: what images that cannot be read do; None for what they did in the run.

        Raises:
            UserError: the run is damaged, had no data, or they are not there.
        """
        config = run.settings()
        # the texts that a student learned from are not needed to score it
        data = replace(config.data, texts=None, text_columns=None, text_templates=None)
        data = replace(data, on_error=on_error or data.on_error)
        self.without_training = data.source is None  # dfkd
        if self.without_training and data.eval is None:
            raise UserError(f"{run.folder} was trained without data: give DATA to score it on")
        data = replace(data, source=data.eval) if self.without_training else data
        self.source, self.folder, self._config = str(data.source), run.folder, replace(config, data=data)
        self._read = read

    @cached_property
    def _manifest(self) -> Manifest:
        return self._read(self._config.data, not self.without_training)

    @cached_property
    def rows(self) -> Manifest:
        """Without the novel classes, which the student was not taught."""
        return self._manifest if self.without_training else training_part(self._manifest, self._config)

    def split(self, split: Split | None) -> LabelledImages:
        """
        Raises:
            UserError: there is no such split.
        """
        rows, part = part_of(self.rows, split or "test", f"the data of {self.folder}, {self.source},")
        notes = []
        if novel := len(part_of(self._manifest, part, self.source)[0]) - len(rows):
            notes.append(f"images of novel classes are left out ({novel:,}): the run's summary has their score")
        if part == "val" and not self.without_training:
            notes.append("val images choose the epoch that is kept, so that they look a little better than new ones")
        if self._changed:
            notes.append(f"the data are not those that {self.folder} was trained on: images, labels or splits changed")
        return LabelledImages(self.source, part, rows, tuple(notes), is_own=True)

    @cached_property
    def _changed(self) -> bool:
        """Whether the run was started with other images, labels or splits."""
        inputs = Run(self.folder).inputs
        noted = read_json(inputs, dict, "start again with --overwrite") if inputs.exists() else {}
        return (
            not self.without_training and noted.get("data", self._manifest.content_hash) != self._manifest.content_hash
        )

    def digests(self, split: str) -> set[bytes]:
        """Of the images that it was trained or tested on."""
        if self.without_training and split == "train":
            return set()
        return set(as_bytes(self.rows.digests[self.rows.rows(split)]))

    def hash_of(self, split: str) -> str:
        return content_hash(self.rows.take(self.rows.rows(split)))


def given_images(data: str | Path, split: Split | None, on_error: Literal["stop", "skip"]) -> LabelledImages:
    """Images that somebody gives to score a model on. Nothing is carved out of them: without a split of their own, all
    of them count.

    Args:
        split: None for the test split, or, if there is none, for all of them.

    Raises:
        UserError: no such data, no such split, or images that cannot be read.
    """
    config = DataConfig(source=as_written(data), on_error=on_error)
    source, kind = str(config.source), find_source(config.source)
    whole = kind.read(source, False, config)
    notes: tuple[str, ...] = ()
    if split is None and "test" not in whole.splits:
        notes = (f"{source} has no test split of its own: all of its images are scored",)
        split = "all"
    rows, part = part_of(whole, split or "test", source)
    if not kind.is_own:
        findings = examine(rows)
        rows = without_unreadable(rows, findings) if on_error == "skip" else checked(rows, findings)
    if not len(rows):
        raise UserError(f"{source}: none of the images can be read")
    return LabelledImages(source, part, rows, notes)


def part_of(rows: Manifest, split: Split, source: str) -> tuple[Manifest, Split]:
    """
    Raises:
        UserError: there is no such split.
    """
    if split == "all":
        return rows, split
    if split not in rows.splits:
        there = [part for part in SPLITS if part in rows.splits]
        has = f"only {', '.join(there)}" if there else "no splits at all"
        others = [f"--split {part}" for part in (*there, "all")]
        raise UserError(f"{source} has no {split} split, {has}: give {' or '.join(others)}")
    return rows.take(rows.rows(split)), split


def content_hash(rows: Manifest) -> str:
    """Of images and the names of their classes, in whatever order and wherever they lie."""
    names = rows.class_names
    table = sorted((d, names[i]) for d, i in zip(as_bytes(rows.digests), rows.labels.tolist(), strict=True))
    return hashlib.sha256(repr(table).encode()).hexdigest()


def shared_with(rows: Manifest, own: OwnData | None, split: str) -> int | None:
    """How many of the images are in a split of a run, byte for byte; None where its data are not there any more."""
    if own is None:
        return None
    try:
        digests = own.digests(split)
    except UserError:
        return None
    return sum(digest in digests for digest in as_bytes(rows.digests))

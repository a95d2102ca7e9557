"""Base and novel classes: what a run may learn from, and what only its last page sees.

Training, selection and the in-distribution test get a manifest of base classes alone, so no image of a novel class
reaches them (unless a copy of it is also filed under a base class, which is warned of). Only the support images of
few-shot finetuning do, and those leave the test set.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np

from linnet.config import Config, DataConfig, ShotsConfig
from linnet.data.digests import as_bytes
from linnet.data.manifest import Manifest
from linnet.data.problems import SHOWN
from linnet.data.splits import by_class, seeded_order
from linnet.errors import UserError
from linnet.text.class_lists import read_names
from linnet.text.classes import ClassInfo, find_class

log = logging.getLogger("linnet")


@dataclass(frozen=True)
class NovelData:
    """What novel classes are tested with.

    Attributes:
        base: all images of the base classes. novel: the out-of-distribution test, without support images.
        support: a few images of each novel class, or None. base_support: as many of each base class, for choosing on
        val, or None where nothing is chosen.
    """

    base: Manifest
    novel: Manifest
    support: Manifest | None
    base_support: Manifest | None


def novel_classes(classes: tuple[ClassInfo, ...], config: DataConfig) -> tuple[int, ...]:
    """Ids of the classes that are kept from training: those named, or a share drawn from the seed and the names alone.

    Raises:
        UserError: both ways are used, an unknown name, or fewer than two classes on either side.
    """
    if config.novel is not None and config.novel_classes is not None:
        raise UserError("use data.novel (a random share) or data.novel_classes (the classes named), not both")
    if config.novel_classes is not None:
        chosen = {find_class(name, classes) for name in read_names(config.novel_classes)}
    elif config.novel is not None:
        order = seeded_order([info.name.encode() for info in classes], config.seed, "novel")
        drawn = set(order[: round(config.novel * len(classes))])
        chosen = {i for i, info in enumerate(classes) if info.name.encode() in drawn}
    elif config.novel_images != "all":
        raise UserError("data.novel_images has no effect without novel classes: add --data.novel 0.5, or leave it out")
    else:
        return ()
    if not 2 <= len(chosen) <= len(classes) - 2:
        raise UserError(
            f"{len(chosen)} of {len(classes)} classes would be novel: choose at least two, and leave at least two for "
            "training"
        )
    return tuple(sorted(chosen))


def of_classes(manifest: Manifest, ids: np.ndarray) -> Manifest:
    """The images of some classes, with a class table of those alone."""
    rows = np.flatnonzero(np.isin(manifest.labels, ids))
    taken = manifest.take(rows)
    classes = tuple(manifest.classes[i] for i in ids)
    return replace(taken, labels=np.searchsorted(ids, taken.labels), classes=classes, novel=())


def base_part(manifest: Manifest) -> Manifest:
    """All images of the base classes; without novel classes the manifest itself."""
    if not manifest.novel:
        return manifest
    return of_classes(manifest, np.setdiff1d(np.arange(len(manifest.classes)), manifest.novel))


def training_part(manifest: Manifest, config: Config) -> Manifest:
    """What a run trains, selects and tests on: base classes, and for few-shot finetuning the support images.

    Raises:
        UserError: shots without novel classes, or the other way round.
    """
    shots = config.shots
    if shots.count is None:
        if shots.use == "finetune":
            raise UserError("--shots.use finetune needs a number of images of each novel class, as in --shots 5")
        if shots != ShotsConfig():
            raise UserError(
                "settings of few-shot learning have no effect without --shots N: add it, or leave those settings out"
            )
        return base_part(manifest)
    if not manifest.novel:
        raise UserError("--shots is for novel classes: add --data.novel 0.5 or --data.novel-classes FILE")
    if shots.use == "retrieval":
        return base_part(manifest)
    return with_support(manifest, support_part(_novel_images(manifest), shots.count, config.data.seed))


def novel_data(manifest: Manifest, config: Config) -> NovelData:
    """What the novel classes of a manifest are tested with.

    Raises:
        UserError: a novel class without a test image, or a class with too few images for the shots.
    """
    base, novel, shots = base_part(manifest), novel_part(manifest, config.data), config.shots
    trained = set(as_bytes(base.digests[base.splits != "test"]))
    twins = [path for path, digest in zip(novel.paths, as_bytes(novel.digests), strict=True) if digest in trained]
    if twins:
        log.warning(
            "%d images of novel classes are byte for byte also images of base classes: check their labels, such as %s",
            *(len(twins), ", ".join(map(str, twins[:SHOWN]))),
        )
    support = base_support = None
    if shots.count is not None:
        support = support_part(_novel_images(manifest), shots.count, config.data.seed)
        novel = without(novel, support)
        if shots.use == "retrieval" and shots.alpha is None and shots.form == "mean":
            base_support = support_part(base, shots.count, config.data.seed)
    seen = set(novel.labels.tolist())
    if empty := [info.name for i, info in enumerate(novel.classes) if i not in seen]:
        raise UserError(
            f"no {'test ' if config.data.novel_images == 'test' else ''}image of the novel class '{empty[0]}'"
            f"{' is left beside its support images' if support else ''}: add some, or choose another class"
        )
    return NovelData(base, novel, support, base_support)


def novel_part(manifest: Manifest, config: DataConfig) -> Manifest:
    """The out-of-distribution test: images of the novel classes, all of them or those of the test split."""
    novel = _novel_images(manifest)
    return novel.take(novel.rows("test")) if config.novel_images == "test" else novel


def _novel_images(manifest: Manifest) -> Manifest:
    return of_classes(manifest, np.array(manifest.novel))


def support_part(manifest: Manifest, shots: int, seed: int) -> Manifest:
    """``shots`` training images of each class, in a seeded order; for more shots the same ones and others.

    Raises:
        UserError: a class has fewer.
    """
    chosen: list[int] = []
    own, names = by_class(manifest.labels, manifest.rows("train")), as_bytes(manifest.digests)
    for label, info in enumerate(manifest.classes):
        first = {names[row]: row for row in own[label].tolist()[::-1]} if label in own else {}  # of twins the first
        order = seeded_order(first, seed, "support")
        if len(order) < shots:
            raise UserError(
                f"the class '{info.name}' has {len(order)} training images, fewer than {shots} shots: lower --shots"
                " (base classes need as many where --shots.alpha is not given: it is chosen on them)"
            )
        chosen += [first[digest] for digest in order[:shots]]
    return manifest.take(np.array(chosen))


def without(manifest: Manifest, support: Manifest) -> Manifest:
    """The images that are not, byte for byte, among the support images."""
    left_out = set(as_bytes(support.digests))
    return manifest.take(
        np.array([i for i, d in enumerate(as_bytes(manifest.digests)) if d not in left_out], dtype=int)
    )


def with_support(manifest: Manifest, support: Manifest) -> Manifest:
    """What few-shot finetuning trains on: base images and support images, in the class table of all. Its novel classes
    are still marked: the loader draws half of each batch from them."""
    base = manifest.take(np.flatnonzero(~np.isin(manifest.labels, manifest.novel)))
    texts = None if base.texts is None or support.texts is None else base.texts + support.texts
    return Manifest(
        base.paths + support.paths,
        np.concatenate([base.labels, np.array(manifest.novel)[support.labels]]),
        np.concatenate([base.splits, support.splits]),
        np.concatenate([base.digests, support.digests]),
        manifest.classes,
        texts,
        manifest.novel,
    )

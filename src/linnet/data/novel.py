"""Base and novel classes: what a run may learn from, and what only its last page sees.

Training, selection and the in-distribution test get a manifest of base classes alone, so a novel image cannot reach
them. Only ``shots`` images of each novel class can, if few-shot learning is asked for, and those leave the test set.
"""

from dataclasses import replace

import numpy as np

from linnet.config import DataConfig, ShotsConfig
from linnet.data.manifest import Manifest
from linnet.data.splits import seeded_order
from linnet.errors import UserError


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


def novel_part(manifest: Manifest, config: DataConfig) -> Manifest:
    """The out-of-distribution test: images of the novel classes, all of them or those of the test split.

    Raises:
        UserError: a novel class without such an image.
    """
    novel = of_classes(manifest, np.array(manifest.novel))
    if config.novel_images == "test":
        novel = novel.take(novel.rows("test"))
    seen = set(novel.labels.tolist())
    if empty := [info.name for i, info in enumerate(novel.classes) if i not in seen]:
        raise UserError(
            f"no {'test ' if config.novel_images == 'test' else ''}image of the novel class '{empty[0]}': "
            "add some, choose another, or set data.novel_images to all"
        )
    return novel


def support_part(manifest: Manifest, shots: int, seed: int) -> Manifest:
    """``shots`` training images of each novel class, in a seeded order; for more shots the same ones and others.

    Raises:
        UserError: a class has fewer.
    """
    novel = of_classes(manifest, np.array(manifest.novel))
    chosen: list[int] = []
    for label, info in enumerate(novel.classes):
        rows = np.flatnonzero((novel.labels == label) & (novel.splits == "train"))
        first = {novel.digests[row].tobytes(): int(row) for row in rows[::-1]}  # of twins the first
        order = seeded_order(first, seed, "support")
        if len(order) < shots:
            raise UserError(
                f"the novel class '{info.name}' has {len(order)} training images, fewer than {shots} shots: "
                "lower --shots"
            )
        chosen += [first[digest] for digest in order[:shots]]
    return novel.take(np.array(chosen))


def without(manifest: Manifest, support: Manifest) -> Manifest:
    """The images that are not, byte for byte, among the support images."""
    left_out = {digest.tobytes() for digest in support.digests}
    return manifest.take(
        np.array([i for i, d in enumerate(manifest.digests) if d.tobytes() not in left_out], dtype=int)
    )


def with_support(manifest: Manifest, support: Manifest) -> Manifest:
    """What few-shot finetuning trains on: base images and support images, in the class table of all."""
    is_base = ~np.isin(manifest.labels, manifest.novel)
    base = manifest.take(np.flatnonzero(is_base))
    texts = None if base.texts is None or support.texts is None else base.texts + support.texts
    return Manifest(
        base.paths + support.paths,
        np.concatenate([base.labels, np.array(manifest.novel)[support.labels]]),
        np.concatenate([base.splits, support.splits]),
        np.concatenate([base.digests, support.digests]),
        manifest.classes,
        texts,
    )


def training_part(manifest: Manifest, config: DataConfig, shots: ShotsConfig) -> Manifest:
    """What a run trains, selects and tests on.

    Raises:
        UserError: shots without novel classes, or the other way round.
    """
    if shots.count is None:
        if shots.use == "finetune":
            raise UserError("--shots.use finetune needs a number of images of each novel class, as in --shots 5")
        return base_part(manifest)
    if not manifest.novel:
        raise UserError("--shots is for novel classes: add --data.novel 0.5 or --data.novel-classes FILE")
    support = support_part(manifest, shots.count, config.seed)
    return with_support(manifest, support) if shots.use == "finetune" else base_part(manifest)

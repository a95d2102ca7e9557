"""From a source to a checked manifest: splits that it lacks are carved, limits applied, novel classes set apart.

>>> manifest = load_manifest(DataConfig(source="photos/"))
>>> manifest.classes[manifest.labels[0]].prompt_name
'Laysan Albatross'
"""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from linnet.config import Config, DataConfig
from linnet.data.checking import Findings, checked, examine, without_unreadable
from linnet.data.digests import as_bytes
from linnet.data.long_tail import thin_out
from linnet.data.manifest import Manifest
from linnet.data.novel import novel_classes
from linnet.data.problems import Kind, in_words
from linnet.data.sources import find_source
from linnet.data.splits import carve, limit_per_class
from linnet.errors import UserError
from linnet.text.captions import ImageTable, read_texts
from linnet.text.classes import ClassInfo, composed, described

log = logging.getLogger("linnet")

LEFT_OUT: tuple[Kind, ...] = ("missing", "unreadable")  # images that data.on_error leaves out


def load_manifest(config: DataConfig, training: bool = True) -> Manifest:
    """Read a source, carve the splits that it lacks, apply the limit, set classes apart, and check the result.

    Args:
        training: False for a source that is only scored: it needs no training images then.

    Raises:
        UserError: no such source, no images, fewer than two classes, an empty class, a class without training images,
            images that cannot be read.
    """
    source, kind = str(config.source), find_source(config.source)
    manifest = kind.read(source, training, config)
    findings: Findings | None = {} if kind.is_own else None
    if findings is None and config.on_error == "skip":  # before the splits are made: they are made of the others
        findings = examine(manifest)
        manifest = without_unreadable(manifest, findings)
    if training:
        manifest = _with_texts(manifest, config)
    if config.test == "none" and not _is_flat(manifest):
        manifest = manifest.take(np.flatnonzero(manifest.splits != "test"))
    splits = carve(
        manifest.labels,
        manifest.splits,
        manifest.digests,
        test_fraction=config.test_fraction if config.test == "auto" else 0.0,
        val_fraction=config.val_fraction,
        seed=config.seed,
    )
    classes = described(manifest.classes, config.descriptions) if config.descriptions else manifest.classes
    manifest = replace(manifest, splits=splits, classes=classes, novel=novel_classes(manifest.classes, config))
    if config.limit_per_class is not None:
        trained = _trained_splits(manifest)
        manifest = manifest.take(
            limit_per_class(manifest.labels, trained, manifest.digests, config.limit_per_class, config.seed)
        )
    if config.long_tail is not None:
        trained = _trained_splits(manifest)
        manifest = manifest.take(
            thin_out(manifest.labels, trained, manifest.digests, classes, config.long_tail, config.seed)
        )
    _check(manifest, source, training)
    used = manifest if training else manifest.take(np.flatnonzero(manifest.splits != "train"))
    manifest = checked(manifest, examine(used) if findings is None else findings)
    return _texts_of_training_only(manifest, config) if training and config.texts else manifest


def _with_texts(manifest: Manifest, config: DataConfig) -> Manifest:
    """The texts of ``data.texts``, looked for among all images, before some are set apart."""
    if config.texts is None:
        for name in ("text_columns", "text_templates"):
            if getattr(config, name):
                raise UserError(f"data.{name} says how data.texts is read: give --data.texts FILE, too")
        return manifest
    texts = read_texts(config.texts, config.text_columns, config.text_templates).of_images(
        image_table(manifest, config)
    )
    return replace(manifest, texts=tuple(texts))


def image_table(manifest: Manifest, config: DataConfig) -> ImageTable:
    """What texts are matched with."""
    digests = [digest.hex() for digest in as_bytes(manifest.digests)]
    return ImageTable(manifest.paths, digests, manifest.labels.tolist(), manifest.classes, Path(str(config.source)))


def training_rows(manifest: Manifest) -> np.ndarray:
    """Rows of the images that are trained on: no others may have texts of ``data.texts``, or be described."""
    return np.flatnonzero((manifest.splits == "train") & ~np.isin(manifest.labels, manifest.novel))


def _texts_of_training_only(manifest: Manifest, config: DataConfig) -> Manifest:
    assert manifest.texts is not None
    rows = set(training_rows(manifest).tolist())
    texts = tuple(own if row in rows else () for row, own in enumerate(manifest.texts))
    counts = [len(texts[row]) for row in sorted(rows)]
    if not any(counts):
        raise UserError(f"{config.texts} has no text about a training image, only about others")
    with_texts = sum(count > 0 for count in counts)
    log.info("texts: %d about %d of %d training images (%s)", sum(counts), with_texts, len(rows), config.texts)
    return replace(manifest, texts=texts)


def _check(manifest: Manifest, source: str, training: bool) -> None:
    if len(manifest.classes) < 2:
        raise UserError(
            f"{source}: found only the class '{manifest.classes[0].name}'; a classifier needs at least two classes"
        )
    excused = {*manifest.labels[manifest.splits == "train"].tolist(), *manifest.novel}
    missing = [info.name for i, info in enumerate(manifest.classes) if i not in excused]
    if missing and training:
        raise UserError(
            f"{source}: no training image of {len(missing)} class(es), such as '{missing[0]}': "
            "add images or remove the class"
            + (", or leave the test split out with --data.test none" if _only_in_test(manifest, missing[0]) else "")
            + "".join(f" ({in_words(own)})" for kind in LEFT_OUT if (own := manifest.problems_of(kind)))
        )
    prompts = Counter(info.prompt_name for info in manifest.classes)
    if twice := [name for name, count in prompts.items() if count > 1]:
        raise UserError(f"{source}: {prompts[twice[0]]} classes become '{twice[0]}' in a prompt: rename all but one")
    if training and not (~np.isin(manifest.labels[manifest.rows("val")], manifest.novel)).any():
        raise UserError(f"{source}: no validation images; give at least 3 images per class, or a val split of your own")


def _only_in_test(manifest: Manifest, name: str) -> bool:
    return set(manifest.splits[manifest.labels == manifest.class_names.index(name)]) == {"test"}


def _trained_splits(manifest: Manifest) -> np.ndarray:
    """The splits, with none for the images of novel classes: those stay, for the test."""
    return np.where(np.isin(manifest.labels, manifest.novel), "", manifest.splits)


def _is_flat(manifest: Manifest) -> bool:
    return set(manifest.splits) == {""}


def scored_part(config: Config, classes: tuple[ClassInfo, ...]) -> dict[str, Manifest]:
    """Val and test images of ``data.eval``, with the student's class table. Splits that the source lacks are carved as
    for a training, so that a teacher that linnet trained on it has not seen them.

    Raises:
        UserError: other classes than the student's, or no image to score.
    """
    manifest = load_manifest(replace(config.data, source=config.data.eval), training=False)
    own, names = [composed(info.name) for info in classes], manifest.class_names
    if sorted(own) != sorted(names):
        only = [sorted(set(a) - set(b))[:3] for a, b in ((names, own), (own, names))]
        raise UserError(
            f"{config.data.eval} has {len(names)} classes, the teacher {len(own)}, and the names must be the same "
            f"(only in the data: {', '.join(only[0]) or 'none'}; only the teacher's: {', '.join(only[1]) or 'none'})"
        )
    place = {name: i for i, name in enumerate(own)}
    order = np.array([place[name] for name in names])
    manifest = replace(manifest, labels=order[manifest.labels], classes=classes)
    splits = {part: manifest.take(manifest.rows(part)) for part in ("val", "test") if len(manifest.rows(part))}
    if not splits:
        raise UserError(f"{config.data.eval} has no val or test images to score")
    return splits

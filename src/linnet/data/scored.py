"""Data that only score: the val and test images of a source, for a student that was trained without data."""

from dataclasses import replace

import numpy as np

from linnet.config import Config
from linnet.data.manifest import ClassInfo, Manifest, load_manifest
from linnet.errors import UserError


def scored_part(config: Config, classes: tuple[ClassInfo, ...]) -> dict[str, Manifest]:
    """Val and test images of ``data.eval``, with the student's class table. Splits that the source lacks are carved as
    for a training, so that a teacher that linnet trained on it has not seen them.

    Raises:
        UserError: other classes than the student's, or no image to score.
    """
    manifest = load_manifest(replace(config.data, source=config.data.eval), training=False)
    own, names = [info.name for info in classes], manifest.class_names
    if sorted(own) != sorted(names):
        only = [sorted(set(a) - set(b))[:3] for a, b in ((names, own), (own, names))]
        raise UserError(
            f"{config.data.eval} has {len(names)} classes, the teacher {len(own)}, and the names must be the same "
            f"(only in the data: {', '.join(only[0]) or 'none'}; only the teacher's: {', '.join(only[1]) or 'none'})"
        )
    order = np.array([own.index(name) for name in names])
    manifest = replace(manifest, labels=order[manifest.labels], classes=classes)
    splits = {part: manifest.take(manifest.rows(part)) for part in ("val", "test") if len(manifest.rows(part))}
    if not splits:
        raise UserError(f"{config.data.eval} has no val or test images to score")
    return splits

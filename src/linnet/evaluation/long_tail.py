"""Groups of classes by their training images, for the scores of a long tail.

Shapes: C classes.
"""

import logging
from typing import Any, NamedTuple

import numpy as np

from linnet.data.long_tail import GROUPS, class_counts, class_groups, is_long_tailed
from linnet.data.manifest import Manifest

log = logging.getLogger("linnet")


class ClassGroups(NamedTuple):
    """The classes of few, medium and many, and what a summary says about them; nothing for a balanced set."""

    classes: dict[str, np.ndarray]
    about: dict[str, Any]


def score_groups(train: Manifest, bounds: tuple[int, ...] | None) -> ClassGroups:
    """
    Args:
        train: the training images. bounds: see ``data.group_bounds``.
    """
    counts_C = class_counts(train.labels, len(train.classes))
    if not is_long_tailed(counts_C):
        return ClassGroups({}, {})
    group_C, (low, high) = class_groups(counts_C, bounds)
    classes = {name: np.flatnonzero(group_C == i) for i, name in enumerate(GROUPS)}
    log.info(
        "long tail: %d to %d training images a class: %d classes few (below %d), %d medium, %d many (above %d)",
        *(counts_C.min(), counts_C.max(), len(classes["few"]), low, len(classes["medium"]), len(classes["many"]), high),
    )
    about: dict[str, Any] = {"long_tail.few_below": low, "long_tail.many_above": high}
    about |= {f"classes.{name}": len(own) for name, own in classes.items()}
    return ClassGroups(
        classes, about | {f"images.train.{name}": int(counts_C[own].sum()) for name, own in classes.items()}
    )

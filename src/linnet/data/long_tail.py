"""The long tail: thinning a balanced set out, and groups of classes by how many training images they have.

Shapes: C classes, N images.
"""

from collections.abc import Sequence

import numpy as np

from linnet.data.splits import keep_per_class, seeded_order
from linnet.text.classes import ClassInfo

GROUPS = ("few", "medium", "many")  # a class's group is an index into these
USUAL_BOUNDS = (20, 100)  # few: fewer than 20 training images; many: more than 100 (Liu et al., CVPR 2019)
LONG_TAILED = 2.0  # how many times larger the largest class is than the smallest, for groups to be worth a number


def class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """(C,) images of each class; unlabelled ones do not count."""
    return np.bincount(labels[labels >= 0], minlength=classes)


def long_tail_counts(largest: int, imbalance: float, classes: int) -> np.ndarray:
    """(C,) images of the classes of rank 0 .. C - 1: floor(largest * imbalance^(-rank / (C - 1))), at least 1.

    Reference:
        Cao et al.: Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019: the
        exponential profile of CIFAR-100-LT, rounding included.
    """
    share = np.arange(classes) / max(1, classes - 1)
    # the 1e-9 keeps 500 * 100^-1 from becoming 4
    return np.maximum(1, np.floor(largest * imbalance**-share + 1e-9)).astype(int)


def thin_out(
    labels: np.ndarray,
    splits: np.ndarray,
    digests: np.ndarray,
    classes: tuple[ClassInfo, ...],
    imbalance: float,
    seed: int,
) -> np.ndarray:
    """Rows to keep so that the training images form a long tail; a larger imbalance keeps some of the same.

    The most frequent class there is sets the head. Ranks are a seeded permutation of the classes; a class that has
    fewer images than its rank gives it keeps them all. Rows of other splits stay.

    Args:
        labels: (N,) class ids. splits: (N,) strings. digests: (N, d) uint8.
    """
    training = labels[splits == "train"]
    present = np.unique(training[training >= 0])  # novel classes are not thinned out
    names = {classes[label].name.encode(): int(label) for label in present}
    ranked = [names[name] for name in seeded_order(names, seed, "long tail")]
    counts = long_tail_counts(class_counts(training, len(classes)).max(), imbalance, len(ranked))
    return keep_per_class(labels, splits, digests, dict(zip(ranked, counts.tolist(), strict=True)), seed)


def class_groups(counts_C: np.ndarray, bounds: Sequence[int] | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Few, medium and many: (C,) indices into GROUPS, and the bounds that give them.

    Args:
        bounds: a class with fewer training images than the first is few, with more than the second many. None: 20 and
            100, or, where that leaves a group empty, the counts that cut the classes into thirds.
    """
    usual = _grouped(counts_C, USUAL_BOUNDS)
    if bounds is None and len(np.unique(usual)) < len(GROUPS):
        ordered = np.sort(counts_C)
        third = len(ordered) / 3
        bounds = int(ordered[round(third)]), int(ordered[round(2 * third) - 1])
    low, high = bounds or USUAL_BOUNDS
    return _grouped(counts_C, (low, high)), (low, high)


def _grouped(counts_C: np.ndarray, bounds: tuple[int, int]) -> np.ndarray:
    return np.where(counts_C < bounds[0], 0, np.where(counts_C > bounds[1], 2, 1))


def thirds(counts_C: np.ndarray) -> np.ndarray:
    """(C,) group of each class, 0 to 2: the classes in the order of their counts, in three parts whose sizes differ by
    at most 1. Of equal counts the lower class ids count as rarer."""
    groups = np.empty(len(counts_C), dtype=int)
    for group, part in enumerate(np.array_split(np.argsort(counts_C, kind="stable"), len(GROUPS))):
        groups[part] = group
    return groups


def is_long_tailed(counts_C: np.ndarray) -> bool:
    return bool(counts_C.max() >= LONG_TAILED * max(1, counts_C.min()))

"""Splits: disjoint by the bytes of the images, stratified by class, and a function of the seed and the images alone."""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from linnet.data.digests import as_bytes


def seeded_order(items: Iterable[bytes], seed: int, purpose: str) -> list[bytes]:
    """The distinct items in a seeded random order that does not depend on how they were sorted."""
    return sorted(set(items), key=lambda item: hashlib.blake2b(item, key=f"{purpose}|{seed}".encode()).digest())


def by_class(labels: np.ndarray, rows: np.ndarray | None = None) -> dict[int, np.ndarray]:
    """Class id -> its rows, ascending, in the order of the class ids. Rows are grouped once, not looked for in each
    class: images x classes is hours of a million images.

    Args:
        labels: (n,) class ids. rows: those that count, ascending; None for all.
    """
    rows = np.arange(len(labels)) if rows is None else rows
    ordered = rows[np.argsort(labels[rows], kind="stable")]
    present, starts = np.unique(labels[ordered], return_index=True)
    return dict(zip(present.tolist(), np.split(ordered, starts[1:]), strict=True)) if len(rows) else {}


def carve(
    labels: np.ndarray, splits: np.ndarray, digests: np.ndarray, test_fraction: float, val_fraction: float, seed: int
) -> np.ndarray:
    """Give every row a split.

    Rows that already have one keep it. A flat source (all splits empty) gives ``test_fraction`` of each class to test.
    Then, if no row is val, ``val_fraction`` of each class's train rows become val. A class of three or more images
    gives at least one to each; a smaller class stays in train. Byte-identical images that are carved share a split.

    Args:
        labels: (n,) class ids. splits: (n,) strings, possibly empty. digests: (n, d) uint8.

    Returns:
        (n,) "train", "val" or "test".
    """
    result = splits.copy()
    flat = not result.astype(bool).any()
    result[result == ""] = "train"
    names = as_bytes(digests)
    distinct = {
        label: len({names[row] for row in rows.tolist()})
        for label, rows in by_class(labels, np.flatnonzero(result == "train")).items()
    }
    for target, fraction, spare in (("test", test_fraction if flat else 0.0, 2), ("val", val_fraction, 1)):
        if fraction == 0.0 or (result == target).any():
            continue
        chosen: set[bytes] = set()
        for label, rows in by_class(labels, np.flatnonzero(result == "train")).items():
            if distinct[label] >= 3:
                order = seeded_order((names[row] for row in rows.tolist()), seed, target)
                chosen.update(order[: min(max(1, round(fraction * len(order))), len(order) - spare)])
        # by digest: twins under two class names stay together, too
        moved = [row for row in np.flatnonzero(result == "train").tolist() if names[row] in chosen]
        result[moved] = target
    return result


def limit_per_class(labels: np.ndarray, splits: np.ndarray, digests: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Rows to keep so that no class has more than ``limit`` training images; a larger limit keeps them and more."""
    return keep_per_class(labels, splits, digests, {int(label): limit for label in np.unique(labels)}, seed)


def keep_per_class(
    labels: np.ndarray, splits: np.ndarray, digests: np.ndarray, limits: Mapping[int, int], seed: int
) -> np.ndarray:
    """The same with a limit for each class; a class without one keeps all."""
    keep, names = splits != "train", as_bytes(digests)
    for label, own in by_class(labels, np.flatnonzero(splits == "train")).items():
        rows = own.tolist()
        rank = {name: i for i, name in enumerate(seeded_order((names[row] for row in rows), seed, "limit"))}
        rows.sort(key=lambda row: rank[names[row]])  # stable: of twins the first row is the first
        keep[rows[: limits.get(label, len(rows))]] = True
    return np.flatnonzero(keep)

"""Splits: disjoint by the bytes of the images, stratified by class, and a function of the seed and the images alone."""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np


def seeded_order(items: Iterable[bytes], seed: int, purpose: str) -> list[bytes]:
    """The distinct items in a seeded random order that does not depend on how they were sorted."""
    return sorted(set(items), key=lambda item: hashlib.blake2b(item, key=f"{purpose}|{seed}".encode()).digest())


def _order(digests: np.ndarray, seed: int, purpose: str) -> list[bytes]:
    return seeded_order((digest.tobytes() for digest in digests), seed, purpose)


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
    distinct = {
        label: len(np.unique(digests[(labels == label) & (result == "train")], axis=0)) for label in set(labels)
    }
    for target, fraction, spare in (("test", test_fraction if flat else 0.0, 2), ("val", val_fraction, 1)):
        if fraction == 0.0 or (result == target).any():
            continue
        chosen: set[bytes] = set()
        for label in np.unique(labels):
            order = _order(digests[(labels == label) & (result == "train")], seed, target)
            if distinct[label] >= 3:
                chosen.update(order[: min(max(1, round(fraction * len(order))), len(order) - spare)])
        for row in np.flatnonzero(result == "train"):  # by digest: twins under two class names stay together, too
            if digests[row].tobytes() in chosen:
                result[row] = target
    return result


def limit_per_class(labels: np.ndarray, splits: np.ndarray, digests: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Rows to keep so that no class has more than ``limit`` training images; a larger limit keeps them and more."""
    return keep_per_class(labels, splits, digests, {int(label): limit for label in np.unique(labels)}, seed)


def keep_per_class(
    labels: np.ndarray, splits: np.ndarray, digests: np.ndarray, limits: Mapping[int, int], seed: int
) -> np.ndarray:
    """The same with a limit for each class; a class without one keeps all."""
    keep = splits != "train"
    for label in np.unique(labels):
        rows = np.flatnonzero((labels == label) & (splits == "train"))
        rank = {digest: i for i, digest in enumerate(_order(digests[rows], seed, "limit"))}
        ordered = sorted(rows, key=lambda row: (rank[digests[row].tobytes()], row))
        keep[ordered[: limits.get(int(label), len(ordered))]] = True
    return np.flatnonzero(keep)

"""Which classes a student takes for which. Shapes: N images."""

from typing import NamedTuple

import numpy as np


class Confused(NamedTuple):
    """Images of class ``label`` that were named ``named`` (both class ids), by their rows, of all images with that
    label ``of``."""

    label: int
    named: int
    rows: np.ndarray
    of: int


def confused_pairs(labels_N: np.ndarray, named_N: np.ndarray, most: int = 3) -> list[Confused]:
    """The ordered pairs of classes with the most wrong images, of equals those with the larger share of the class, then
    the first."""
    totals = np.bincount(labels_N, minlength=int(named_N.max(initial=0)) + 1)
    wrong = np.flatnonzero(labels_N != named_N)
    pairs, counts = np.unique(np.stack([labels_N[wrong], named_N[wrong]]), axis=1, return_counts=True)
    order = np.lexsort([*pairs[::-1], -counts / totals[pairs[0]], -counts])[:most]
    return [
        Confused(
            int(label), int(named), wrong[(labels_N[wrong] == label) & (named_N[wrong] == named)], int(totals[label])
        )
        for label, named in pairs[:, order].T
    ]

"""Base and novel classes: how well embeddings find the names of classes, of which half were never trained on.

Shapes: N images, C classes, E embedding width; everything is of unit length.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from linnet.evaluation.metrics import mean_per_class_accuracy


@dataclass(frozen=True)
class Labelled:
    """Embeddings of images (N, E) with their class ids (N,), which count in a bank (C, E) of those classes alone."""

    rows_NE: np.ndarray
    labels_N: np.ndarray
    bank_CE: np.ndarray


def base_novel_scores(base: Labelled, novel: Labelled) -> dict[str, float]:
    """Mean per-class accuracies of base and of novel classes.

    ``id.mean_per_class``: base images among base names. ``ood.mean_per_class``: novel images among novel names.
    ``harmonic``: harmonic mean of these two. ``generalised.id``, ``generalised.ood``, ``generalised.harmonic``: the
    same images among all names.

    Reference:
        Li et al., ICCV 2023 (ID and OOD); Zhou et al., CoCoOp, CVPR 2022 (harmonic mean of base and novel); Xian et
        al., Zero-Shot Learning: A Comprehensive Evaluation, TPAMI 2019 (generalised).
    """
    everything_CE, shift = np.concatenate([base.bank_CE, novel.bank_CE]), len(base.bank_CE)

    def accuracy(images: Labelled, bank_CE: np.ndarray, shift: int = 0) -> float:
        return mean_per_class_accuracy(images.rows_NE @ bank_CE.T, images.labels_N + shift)

    own = {"id": accuracy(base, base.bank_CE), "ood": accuracy(novel, novel.bank_CE)}
    among_all = {"id": accuracy(base, everything_CE), "ood": accuracy(novel, everything_CE, shift)}
    return {
        **{f"{part}.mean_per_class": value for part, value in own.items()},
        "harmonic": harmonic_mean(*own.values()),
        **{f"generalised.{part}": value for part, value in among_all.items()},
        "generalised.harmonic": harmonic_mean(*among_all.values()),
    }


def harmonic_mean(a: float, b: float) -> float:
    return statistics.harmonic_mean([a, b])  # 0 if one of them is


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of several epochs' scores, key by key."""
    return {key: statistics.fmean(own[key] for own in scores) for key in scores[0]}

"""Numbers about predictions, on numpy arrays; each tested against scikit-learn or a plain loop.

Shapes: N images, C classes.
"""

import math

import numpy as np

Z = 1.959964  # 95 % of a normal distribution lie within this many standard deviations


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def right(logits_NC: np.ndarray, labels_N: np.ndarray, k: int = 1) -> np.ndarray:
    """(N,) bool: the images whose class is among the k largest logits, of equals the first, as prediction names them:
    with k = 1 those whose class is the argmax. A NaN counts against the image."""
    own = logits_NC[np.arange(len(labels_N)), labels_N][:, None]
    earlier = np.arange(logits_NC.shape[1]) < labels_N[:, None]
    before = ~(logits_NC <= own) | ((logits_NC == own) & earlier)
    return (before.sum(axis=1) < k) & ~np.isnan(own[:, 0])


def top_k_accuracy(logits_NC: np.ndarray, labels_N: np.ndarray, k: int = 1) -> float:
    """Share of the images that are :func:`right`."""
    return float(right(logits_NC, labels_N, k).mean())


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), which also holds for few images and for shares near 0 and 1."""
    if total == 0:
        return 0.0, 1.0
    share, extra = right / total, Z**2 / total
    middle = (share + extra / 2) / (1 + extra)
    half = Z / (1 + extra) * math.sqrt(share * (1 - share) / total + extra / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_difference(first_N: np.ndarray, second_N: np.ndarray) -> tuple[float, float, float]:
    """By how much one model's accuracy is above another's on the same images, with the ends of its 95 % interval:
    Wald's with half an image added to each of the four cells (Agresti and Min 2005), which is never empty.

    Args:
        first_N, second_N: (N,) bool, which images each names right.
    """
    total, only_first = len(first_N), int((first_N & ~second_N).sum())
    only_second = int((second_N & ~first_N).sum())
    apart, larger = only_first - only_second, total + 2
    half = Z * math.sqrt(only_first + only_second + 1 - apart**2 / larger) / larger
    return apart / max(total, 1), max(-1.0, apart / larger - half), min(1.0, apart / larger + half)


def near_chance(share: float, classes: int) -> bool:
    """Whether an accuracy is below twice that of guessing or, of few classes, in the first tenth of the way up to 1."""
    return share < min(2 / classes, 1 / classes + 0.1 * (1 - 1 / classes))


def mean_per_class_accuracy(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Mean over the classes that occur of the share of each class's images that are right."""
    return float(np.nanmean(class_accuracies(logits_NC, labels_N)))


def expected_calibration_error(logits_NC: np.ndarray, labels_N: np.ndarray, bins: int = 15) -> float:
    """Weighted mean of |accuracy - confidence| over equal-width bins of confidence (Guo et al. 2017, eq. 3)."""
    probabilities = softmax(logits_NC)
    confidence, right_N = probabilities.max(axis=1), right(logits_NC, labels_N)
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(right_N[index == b].mean() - confidence[index == b].mean()) * (index == b).mean() for b in np.unique(index)
    ]
    return float(np.sum(gaps))


def agreement(first_NC: np.ndarray, second_NC: np.ndarray) -> float:
    """Share of images for which two models name the same class."""
    return float((first_NC.argmax(axis=1) == second_NC.argmax(axis=1)).mean())


def class_accuracies(logits_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """(C,) share of each class's images that are right, NaN for a class without images."""
    right_N = right(logits_NC, labels_N)
    totals = np.bincount(labels_N, minlength=logits_NC.shape[1])
    with np.errstate(invalid="ignore"):
        return np.bincount(labels_N, weights=right_N, minlength=logits_NC.shape[1]) / totals


def all_metrics(logits_NC: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """The flat keys that every table uses, without the split's name in front."""
    return {
        "top1": top_k_accuracy(logits_NC, labels_N),
        "top5": top_k_accuracy(logits_NC, labels_N, min(5, logits_NC.shape[1])),
        "mean_per_class": mean_per_class_accuracy(logits_NC, labels_N),
        "ece": expected_calibration_error(logits_NC, labels_N),
    }

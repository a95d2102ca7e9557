"""Numbers about predictions, on numpy arrays; each tested against scikit-learn or a plain loop.

Shapes: N images, C classes.
"""

import numpy as np

ROWS = 1024  # images at a time: bounds the memory that is needed beside the logits


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def right(logits_NC: np.ndarray, labels_N: np.ndarray, k: int = 1) -> np.ndarray:
    """(N,) bool: the images whose class is among the k largest logits, of equals the first, as prediction names them:
    with k = 1 those whose class is the argmax. A NaN counts against the image."""
    right_N = np.empty(len(labels_N), dtype=bool)
    for part in _parts(len(labels_N)):
        logits, labels = logits_NC[part], labels_N[part]
        own = logits[np.arange(len(labels)), labels][:, None]
        earlier = np.arange(logits.shape[1]) < labels[:, None]
        before = ~(logits <= own) | ((logits == own) & earlier)
        right_N[part] = (before.sum(axis=1) < k) & ~np.isnan(own[:, 0])
    return right_N


def confidence(logits_NC: np.ndarray) -> np.ndarray:
    """(N,) the probability of each image's most probable class."""
    return np.concatenate([softmax(logits_NC[part]).max(axis=1) for part in _parts(len(logits_NC))])


def _parts(count: int) -> list[slice]:
    return [slice(start, start + ROWS) for start in range(0, max(1, count), ROWS)]


def top_k_accuracy(logits_NC: np.ndarray, labels_N: np.ndarray, k: int = 1) -> float:
    """Share of the images that are :func:`right`."""
    return float(right(logits_NC, labels_N, k).mean())


def near_chance(share: float, classes: int) -> bool:
    """Whether an accuracy is below twice that of guessing or, of few classes, in the first tenth of the way up to 1."""
    return share < min(2 / classes, 1 / classes + 0.1 * (1 - 1 / classes))


def mean_per_class_accuracy(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Mean over the classes that occur of the share of each class's images that are right."""
    return float(np.nanmean(class_accuracies(logits_NC, labels_N)))


def expected_calibration_error(logits_NC: np.ndarray, labels_N: np.ndarray, bins: int = 15) -> float:
    """:func:`calibration_error` of the class with the largest logit."""
    return calibration_error(confidence(logits_NC), right(logits_NC, labels_N), bins)


def calibration_error(confidence_N: np.ndarray, right_N: np.ndarray, bins: int = 15) -> float:
    """Weighted mean of |accuracy - confidence| over equal-width bins of confidence (Guo et al. 2017, eq. 3)."""
    index = np.minimum((confidence_N * bins).astype(int), bins - 1)
    gaps = [
        abs(right_N[index == b].mean() - confidence_N[index == b].mean()) * (index == b).mean()
        for b in np.unique(index)
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

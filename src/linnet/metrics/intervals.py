"""Is a difference real? Intervals and tests of accuracies, each tested against scipy, statsmodels or a simulation.

Shapes: S seeds, N images. All intervals are 95 % intervals; accuracies and differences are fractions.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959964  # 95 % of a normal distribution lie within this many standard deviations
DRAWS = 10_000  # of a bootstrap: its ends differ by about 1 % of the interval's width from those of infinitely many
MOST_SEEDS = 50  # what needs more of them than this is too small a difference to be shown by seeds


class Difference(NamedTuple):
    """Of two accuracies, with the ends of its interval and the two-sided p-value of no difference, which is below 0.05
    where the interval does not contain 0."""

    value: float
    low: float
    high: float
    p: float


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Interval of a share (Wilson 1927), which also holds for few images and for shares near 0 and 1."""
    if total == 0:
        return 0.0, 1.0
    share, extra = right / total, Z**2 / total
    middle = (share + extra / 2) / (1 + extra)
    half = Z / (1 + extra) * math.sqrt(share * (1 - share) / total + extra / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_per_class_interval(right_N: np.ndarray, labels_N: np.ndarray) -> tuple[float, float]:
    """Interval of the mean of the classes' accuracies: normal, with one image more in each class, half of it right
    (a class with one image would else be certain); of a single class :func:`wilson_interval`."""
    totals = np.bincount(labels_N)
    rights = np.bincount(labels_N, weights=right_N)[totals > 0]
    totals = totals[totals > 0]
    if len(totals) == 1:
        return wilson_interval(int(rights[0]), int(totals[0]))
    share = (rights + 0.5) / (totals + 1)
    half = Z * math.sqrt(float((share * (1 - share) / totals).sum())) / len(totals)
    mean = float((rights / totals).mean())
    return max(0.0, mean - half), min(1.0, mean + half)


def over_images(first: np.ndarray, second: np.ndarray) -> Difference:
    """By how much one model's accuracy is above another's on other images of this kind, given these trainings: paired
    bootstrap over the images.

    Two images more, on one of which either model alone is right, keep the interval from being empty where two models
    agree (the bootstrap's form of Agresti and Min 2005). An image's draws depend on nothing but its difference, so what
    is drawn is how often each difference occurs.

    Args:
        first, second: (N,) or (S, N) bool, which images each names right, or these times a weight of each image, of
            mean 1; of several seeds the mean counts.
    """
    apart_N = np.atleast_2d(first).mean(axis=0) - np.atleast_2d(second).mean(axis=0)
    if not len(apart_N):
        return Difference(0.0, -1.0, 1.0, 1.0)
    values, counts = np.unique(np.concatenate([apart_N.round(9), [-1.0, 1.0]]), return_counts=True)
    drawn = np.random.default_rng(0).multinomial(counts.sum(), counts / counts.sum(), size=DRAWS) @ values
    means = drawn / counts.sum()
    low, high = np.quantile(means, [0.025, 0.975])
    beyond = min((means <= 1e-12).mean(), (means >= -1e-12).mean())
    return Difference(float(apart_N.mean()), float(low), float(high), float(min(1.0, 2 * max(beyond, 1 / DRAWS))))


def over_seeds(differences: Sequence[float], images: int) -> Difference | None:
    """The same for other seeds, given these images: Student's t over the differences of each seed; None of fewer than
    two.

    Accuracies of N images are multiples of 1/N, so seeds may come out alike by chance alone: their deviation counts
    as no less than that of a number that was rounded so, 1/(N √12).

    Args:
        images: N, that each accuracy is the share of.
    """
    from scipy import stats

    count = len(differences)
    if count < 2:
        return None
    mean, deviation = float(np.mean(differences)), float(np.std(differences, ddof=1))
    error = max(deviation, 1 / (images * math.sqrt(12))) / math.sqrt(count)
    half = float(stats.t.ppf(0.975, count - 1)) * error
    return Difference(mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, count - 1)))


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of two models that are equally often right, from the images that only one of them names
    right (McNemar 1947, by the binomial distribution)."""
    from scipy import stats

    count = only_first + only_second
    return float(stats.binomtest(only_first, count).pvalue) if count else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, corrected so that with 95 % none of those below 0.05 is chance (Holm 1979)."""
    count, largest, corrected = len(p_values), 0.0, [0.0] * len(p_values)
    for rank, i in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def more_seeds(difference: Difference, seeds: int, tests: int = 1) -> int | None:
    """How many seeds more would show a difference of :func:`over_seeds`, if mean and deviation stay as they are. None
    where more than MOST_SEEDS would be needed.

    Args:
        tests: how many differences are tested with it; it is corrected as if it were the least sure of them.
    """
    from scipy import stats

    half = (difference.high - difference.low) / 2
    deviation = half / stats.t.ppf(0.975, seeds - 1) * math.sqrt(seeds)
    counts = np.arange(seeds + 1, MOST_SEEDS + 1)
    p_values = tests * 2 * stats.t.sf(abs(difference.value) * np.sqrt(counts) / deviation, counts - 1)
    enough = counts[p_values < 0.05]
    return int(enough[0]) - seeds if len(enough) else None

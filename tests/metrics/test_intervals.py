"""Intervals and tests, against scipy, statsmodels, plain loops, and simulations in which the truth is known."""

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
from statsmodels.stats.multitest import multipletests

from linnet.metrics.intervals import (
    Difference,
    holm,
    mcnemar,
    mean_per_class_interval,
    more_seeds,
    over_images,
    over_seeds,
    wilson_interval,
)


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (10, 10), (58, 120), (1, 1), (24, 272), (500, 1000)])
def test_an_interval_of_a_share_is_wilsons(count: int, total: int):
    low, high = wilson_interval(count, total)
    expected = binomtest(count, total).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def covered(low: float, truth: float, high: float) -> bool:
    return low <= truth <= high


def test_the_interval_of_a_share_covers_it():
    rng, hits = np.random.default_rng(0), []
    for _ in range(2000):
        low, high = wilson_interval(int(rng.binomial(200, 0.8)), 200)
        hits.append(covered(low, 0.8, high))
    assert 0.93 < np.mean(hits) < 0.97


def test_the_interval_of_a_mean_over_classes_covers_it():
    """Classes of different size and difficulty, some of a single image."""
    rng = np.random.default_rng(0)
    sizes = np.array([1, 2, 5, 10, 20, 40, 40, 40, 60, 80] * 3)
    truths, labels = rng.uniform(0.4, 0.95, len(sizes)), np.repeat(np.arange(len(sizes)), sizes)
    hits = []
    for _ in range(1000):
        low, high = mean_per_class_interval(rng.random(len(labels)) < truths[labels], labels)
        hits.append(covered(low, truths.mean(), high))
    assert 0.92 < np.mean(hits) < 0.985


def test_the_interval_of_a_mean_over_classes_skips_classes_without_images():
    right, labels = np.array([True, False, True, True]), np.array([0, 0, 3, 3])
    assert mean_per_class_interval(right, labels) == mean_per_class_interval(right, np.array([0, 0, 1, 1]))


def test_the_mean_over_a_single_class_is_a_share():
    """The normal interval would cover 70 % in only 4 of 5 rounds of 5 images."""
    right = np.array([True] * 5)
    assert mean_per_class_interval(right, np.full(5, 2)) == wilson_interval(5, 5)


# --- over images ---


def test_a_difference_over_images_is_that_of_agresti_and_min():
    """Of one seed the bootstrap has the mean and width of their closed form."""
    rng = np.random.default_rng(1)
    first, second = rng.random(400) < 0.75, rng.random(400) < 0.70
    apart = np.concatenate([first.astype(float) - second, [1.0, -1.0]])
    half = 1.959964 * np.std(apart) / np.sqrt(len(apart))
    ours = over_images(first, second)
    assert ours.value == pytest.approx(first.mean() - second.mean())
    assert (ours.low, ours.high) == pytest.approx((np.mean(apart) - half, np.mean(apart) + half), abs=0.1 * half)


def test_a_difference_over_images_by_a_plain_bootstrap():
    """Of three seeds an image's difference is the mean over the seeds."""
    rng = np.random.default_rng(2)
    first, second = rng.random((3, 200)) < 0.8, rng.random((3, 200)) < 0.7
    apart = np.concatenate([first.mean(0) - second.mean(0), [1.0, -1.0]])
    means = [apart[rng.integers(0, len(apart), len(apart))].mean() for _ in range(4000)]
    ours = over_images(first, second)
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.006)


def test_identical_models_are_not_apart_and_not_certain():
    same = np.array([[True, True, False]] * 2)
    ours = over_images(same, same)
    assert ours.value == 0 and ours.low < 0 < ours.high and ours.p == 1.0
    assert over_images(np.ones(1, bool), np.zeros(1, bool)).high == 1.0
    assert over_images(np.zeros(0, bool), np.zeros(0, bool)) == Difference(0.0, -1.0, 1.0, 1.0)


def test_a_difference_over_images_does_not_depend_on_their_order_and_turns_its_sign():
    rng = np.random.default_rng(3)
    first, second, order = rng.random(300) < 0.8, rng.random(300) < 0.7, rng.permutation(300)
    ours = over_images(first, second)
    assert over_images(first[order], second[order]) == ours
    assert over_images(second, first).value == -ours.value


@pytest.mark.parametrize(("seeds", "images"), [(1, 200), (1, 1000), (3, 200)])
def test_the_interval_over_images_covers_the_difference(seeds: int, images: int):
    """Trainings are given: each image has, for each seed, what it is named; new images are drawn in every round. Both
    models find the same images hard."""
    rng = np.random.default_rng(4)
    hits, p_values = [], []
    for _ in range(300):
        hard = rng.random(images)
        first, second = (rng.random((seeds, images)) < 0.55 + 0.4 * hard + gain for gain in (0.04, 0.0))
        # E[min(1, 0.55 + 0.4 h + 0.04)] - E[0.55 + 0.4 h] is 0.04: no probability is above 0.99
        ours = over_images(first, second)
        hits.append(covered(ours.low, 0.04, ours.high))
        p_values.append((ours.p < 0.05) == (not covered(ours.low, 0.0, ours.high)))
    assert 0.925 < np.mean(hits) < 0.975
    assert np.mean(p_values) > 0.995, "the p-value and the interval tell the same"


# --- over seeds ---


def test_a_difference_over_seeds_is_students_t():
    values = [0.02, 0.05, 0.01, 0.04]
    ours, expected = over_seeds(values, 100), stats.ttest_1samp(values, 0.0)
    assert ours is not None
    ends = expected.confidence_interval(0.95)
    assert ours == pytest.approx((np.mean(values), ends.low, ends.high, expected.pvalue))


def test_one_seed_says_nothing_about_others_and_equal_seeds_are_not_apart():
    assert over_seeds([], 100) is None and over_seeds([0.1], 100) is None
    none = over_seeds([0.0, 0.0], 100)
    assert none is not None and none.value == 0 and none.low < 0 < none.high and none.p == 1


@pytest.mark.parametrize("images", [50, 200])
def test_seeds_that_come_out_alike_by_rounding_are_not_certain(images: int):
    """Two seeds, a deviation of 2 points, no difference: accuracies of few images are often equally far apart."""
    rng = np.random.default_rng(7)
    drawn = np.round(rng.normal(0, 0.02, (3000, 2)) * images) / images
    told = [over_seeds(row.tolist(), images) for row in drawn]
    assert np.mean([own.p < 0.05 for own in told if own]) < 0.065
    alike = over_seeds([1 / images, 1 / images], images)
    assert alike is not None and 0.05 < alike.p < 1


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_over_seeds_covers_the_difference(seeds: int):
    rng = np.random.default_rng(5)
    ours = [over_seeds(rng.normal(0.03, 0.012, seeds).tolist(), 10_000) for _ in range(1500)]
    assert 0.93 < np.mean([covered(each.low, 0.03, each.high) for each in ours if each]) < 0.97


# --- tests ---


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (5, 5), (12, 3), (40, 61)])
def test_mcnemar_is_that_of_statsmodels(first: int, second: int):
    expected = mcnemar_of_statsmodels([[10, first], [second, 4]], exact=True).pvalue
    assert mcnemar(first, second) == pytest.approx(expected)


def test_holm_is_that_of_statsmodels():
    rng = np.random.default_rng(6)
    for count in (1, 2, 3, 8, 20):
        p_values = (rng.random(count) ** 3).tolist()
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([]) == []
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])


@pytest.mark.parametrize("tests", [1, 4])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_more_seeds_would_resolve_a_difference_that_stays(seeds: int, tests: int):
    """More seeds of the same mean and deviation, one by one, until Student's t, corrected, says so."""

    def with_deviation(count: int, mean: float) -> np.ndarray:
        apart = np.linspace(-1, 1, count)
        return mean + 0.01 * apart / np.std(apart, ddof=1)

    for mean in (0.006, -0.009, 0.02):
        ours = over_seeds(with_deviation(seeds, mean).tolist(), 10_000)
        assert ours is not None
        p_values = ((n, stats.ttest_1samp(with_deviation(n, mean), 0.0).pvalue) for n in range(seeds + 1, 51))
        assert more_seeds(ours, seeds, tests) == next(n - seeds for n, p in p_values if tests * p < 0.05)


def test_what_no_number_of_seeds_would_resolve():
    assert more_seeds(Difference(0.001, -0.05, 0.05, 0.9), 3) is None
    assert more_seeds(Difference(0.0, -0.05, 0.05, 1.0), 3) is None

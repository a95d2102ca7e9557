import itertools

import numpy as np
import pytest

from linnet.methods.figkd import class_order
from linnet.methods.figkd.class_order import NEAREST, match, semantic_order, seriate


def twins(pairs: int, seed: int = 0, width: int = 8) -> np.ndarray:
    """(2 * pairs, width): classes i and i + pairs are nearly alike."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(pairs, width))
    return np.concatenate([middles + 0.05 * rng.normal(size=middles.shape) for _ in range(2)])


def similarity(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def best_pairing(matrix: np.ndarray) -> float:
    """The largest sum of similarities over all perfect pairings, by trying them all."""

    def best(left: tuple[int, ...]) -> float:
        if not left:
            return 0.0
        first, *rest = left
        return max(matrix[first, other] + best(tuple(i for i in rest if i != other)) for other in rest)

    return best(tuple(range(len(matrix))))


@pytest.mark.parametrize("seed", range(5))
def test_matching_finds_the_best_of_all_pairings(seed: int):
    """Greedy pairing does not: it takes the best pair first, whatever that leaves to the others."""
    matrix = similarity(np.random.default_rng(seed).normal(size=(8, 3)))
    pairs = match(matrix)
    assert sorted(itertools.chain(*pairs)) == list(range(8))
    assert sum(matrix[pair] for pair in pairs) == pytest.approx(best_pairing(matrix))


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 40, 41, 101])
def test_an_order_is_a_permutation(classes: int):
    vectors = np.random.default_rng(classes).normal(size=(classes, 6))
    for levels in (1, 2):
        order = semantic_order(vectors, levels)
        assert sorted(order.tolist()) == list(range(classes))
        assert np.array_equal(order, semantic_order(vectors.copy(), levels))


def test_twins_stand_side_by_side_where_haar_compares_them():
    order = semantic_order(twins(20), levels=1)
    assert all(abs(a - b) == 20 for a, b in order.reshape(-1, 2).tolist())


def test_with_an_odd_number_one_is_left_over_at_the_end():
    vectors = np.concatenate([twins(3), -twins(3, seed=1)[:1]])
    assert semantic_order(vectors, levels=1)[-1] == 6


def test_scale_and_a_common_shift_change_nothing():
    vectors, lengths = twins(6), np.random.default_rng(3).uniform(0.5, 2, size=1)
    assert np.array_equal(semantic_order(vectors, 1), semantic_order(lengths * vectors + 100, 1))


def test_neighbours_in_a_seriation_are_near():
    """Points on a line come out in the order of the line, forwards or backwards."""
    place = np.random.default_rng(0).permutation(12)
    order = seriate(np.stack([place, np.zeros(12)], axis=1).astype(float))
    assert place[order].tolist() in (list(range(12)), list(range(11, -1, -1)))


def test_classes_whose_nearest_are_all_taken_are_paired_with_one_another():
    """Two tight groups of odd size, larger than NEAREST: nobody's nearest are in the other group."""
    rng, size = np.random.default_rng(0), NEAREST + 5
    groups = [row + 0.01 * rng.normal(size=(size, 4)) for row in np.eye(4)[:2]]
    pairs = match(similarity(np.concatenate(groups)))
    assert sorted(itertools.chain(*pairs)) == list(range(2 * size))
    assert sum((a < size) != (b < size) for a, b in pairs) == 1


def test_identical_classes_are_no_error():
    assert sorted(semantic_order(np.ones((5, 3)), 1).tolist()) == list(range(5))


def test_of_very_many_classes_pairs_are_nearly_as_alike_and_the_order_is_still_by_kind(monkeypatch: pytest.MonkeyPatch):
    """Exactly, a few thousand classes take most of an hour."""
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(12, 8)), 10, axis=0) + 0.5 * rng.normal(size=(120, 8))
    matrix, exact = similarity(vectors), match(similarity(vectors))
    monkeypatch.setattr(class_order, "MANY", 20)
    monkeypatch.setattr(class_order.networkx, "max_weight_matching", lambda *_, **__: pytest.fail("is exact"))
    pairs = match(matrix)
    assert sorted(itertools.chain(*pairs)) == list(range(120))
    assert sum(matrix[pair] for pair in pairs) > 0.95 * sum(matrix[pair] for pair in exact)
    for levels in (1, 2):
        order = semantic_order(vectors, levels)
        assert sorted(order.tolist()) == list(range(120))
        beside, shuffled = (
            matrix[order[:-1], order[1:]],
            matrix[order[:-1], np.random.default_rng(1).permutation(order)[1:]],
        )
        assert beside.mean() > shuffled.mean() + 0.4

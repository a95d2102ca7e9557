from collections import Counter

import numpy as np

from linnet.evaluation.confusion import confused_pairs


def test_pairs_by_a_plain_count():
    rng = np.random.default_rng(0)
    labels, named = rng.integers(0, 6, 300), rng.integers(0, 6, 300)
    counts = Counter((int(a), int(b)) for a, b in zip(labels, named, strict=True) if a != b)
    found = confused_pairs(labels, named, 30)
    assert {(pair.label, pair.named): len(pair.rows) for pair in found} == counts
    assert [len(pair.rows) for pair in found] == sorted(counts.values(), reverse=True)
    for pair in found:
        assert pair.of == (labels == pair.label).sum()
        assert set(labels[pair.rows]) == {pair.label} and set(named[pair.rows]) == {pair.named}


def test_of_equally_many_the_larger_share_comes_first_then_the_first_class():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    named = np.array([0, 0, 0, 1, 1, 2, 0, 2])
    assert [(pair.label, pair.named) for pair in confused_pairs(labels, named)] == [(1, 2), (2, 0), (0, 1)]


def test_no_mistakes_no_pairs():
    assert confused_pairs(np.array([0, 1]), np.array([0, 1])) == []
    assert confused_pairs(np.zeros(0, int), np.zeros(0, int)) == []

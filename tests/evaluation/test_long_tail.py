from pathlib import Path

import numpy as np
import pytest

from linnet.data.manifest import Manifest
from linnet.evaluation.long_tail import score_groups
from linnet.text.classes import class_table


def manifest(counts: list[int]) -> Manifest:
    labels = np.repeat(np.arange(len(counts)), counts)
    n = len(labels)
    classes = class_table([f"c{i}" for i in range(len(counts))])
    return Manifest((Path("x"),) * n, labels, np.full(n, "train"), np.zeros((n, 16), np.uint8), classes)


def test_the_summary_says_where_the_groups_begin_and_what_is_in_them():
    groups = score_groups(manifest([200, 50, 10, 30]), None)
    assert {name: own.tolist() for name, own in groups.classes.items()} == {"few": [2], "medium": [1, 3], "many": [0]}
    assert groups.about == {
        "long_tail.few_below": 20, "long_tail.many_above": 100,
        "classes.few": 1, "classes.medium": 2, "classes.many": 1,
        "images.train.few": 10, "images.train.medium": 80, "images.train.many": 200,
    }  # fmt: skip


@pytest.mark.parametrize("counts", [[20, 20, 20], [20, 11, 15]])
def test_a_balanced_set_has_no_groups(counts: list[int]):
    assert score_groups(manifest(counts), None) == ({}, {})

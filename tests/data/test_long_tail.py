from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from linnet.config import DataConfig
from linnet.data.load import load_manifest
from linnet.data.long_tail import GROUPS, class_groups, is_long_tailed, long_tail_counts, thin_out, thirds
from linnet.text.classes import class_table


@pytest.mark.parametrize(("imbalance", "total"), [(10, 19_573), (50, 12_608), (100, 10_847)])
def test_the_profile_is_that_of_cifar_100_lt(imbalance: float, total: int):
    """The sizes that papers print of CIFAR-100-LT: floor(500 * imbalance^(-k / 99))."""
    counts = long_tail_counts(500, imbalance, 100)
    assert counts.sum() == total
    assert (counts[0], counts[-1]) == (500, 500 // imbalance)


def test_no_class_is_emptied_and_a_tail_of_one_is_none():
    assert long_tail_counts(5, 1000, 3).tolist() == [5, 1, 1]
    assert long_tail_counts(7, 1, 3).tolist() == [7, 7, 7]
    assert long_tail_counts(7, 10, 1).tolist() == [7]


def table(images: int, classes: int) -> dict:
    labels = np.tile(np.repeat(np.arange(classes), images), 2)
    splits = np.repeat(["train", "test"], images * classes)
    digests = np.arange(len(labels), dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    return {
        "labels": labels,
        "splits": splits,
        "digests": digests,
        "classes": class_table([f"c{i}" for i in range(classes)]),
    }


def counts_of(rows: np.ndarray, data: dict) -> list[int]:
    train = rows[data["splits"][rows] == "train"]
    return np.bincount(data["labels"][train], minlength=len(data["classes"])).tolist()


def test_classes_are_ranked_by_the_seed_and_a_larger_imbalance_keeps_some_of_the_same():
    data = table(50, 6)
    mild, strong = (thin_out(**data, imbalance=own, seed=0) for own in (5, 25))
    assert sorted(counts_of(strong, data), reverse=True) == long_tail_counts(50, 25, 6).tolist()
    assert set(strong) < set(mild)
    assert (data["splits"][strong] == "test").sum() == 300
    assert any(counts_of(thin_out(**data, imbalance=25, seed=s), data) != counts_of(strong, data) for s in (1, 2))


def test_a_class_that_has_too_few_images_for_its_rank_keeps_them_all():
    data = table(40, 4)
    few = np.flatnonzero((data["labels"] == 2) & (data["splits"] == "train"))[3:]
    kept = np.setdiff1d(np.arange(len(data["labels"])), few)
    data |= {name: data[name][kept] for name in ("labels", "splits", "digests")}
    counts = counts_of(thin_out(**data, imbalance=2, seed=0), data)
    assert counts[2] == 3
    assert max(counts) <= 40


def test_a_long_tail_on_a_folder_leaves_val_and_test_alone(make_folder: Callable[..., Path]):
    folder = make_folder(images=30)
    full, tail = (load_manifest(DataConfig(source=str(folder), long_tail=rho)) for rho in (None, 7.0))
    for split in ("val", "test"):
        assert {d.tobytes() for d in full.digests[full.rows(split)]} == {
            d.tobytes() for d in tail.digests[tail.rows(split)]
        }
    counts = sorted(Counter(tail.labels[tail.rows("train")].tolist()).values())
    assert counts == sorted(
        long_tail_counts(max(Counter(full.labels[full.rows("train")].tolist()).values()), 7.0, 3).tolist()
    )


def test_novel_classes_keep_their_images():
    data = DataConfig(source="aviary:species=6,images=12", novel=0.5, long_tail=12.0)
    manifest = load_manifest(data)
    counts = Counter(manifest.labels[manifest.rows("train")].tolist())
    assert all(counts[label] == 12 for label in manifest.novel)
    assert sorted(counts[label] for label in range(6) if label not in manifest.novel) == [1, 3, 12]


def test_groups_have_the_usual_bounds_where_each_has_a_class():
    groups, bounds = class_groups(np.array([300, 101, 100, 20, 19, 5]))
    assert bounds == (20, 100)
    assert [GROUPS[g] for g in groups] == ["many", "many", "medium", "medium", "few", "few"]


@pytest.mark.parametrize(
    "counts", [[1, 2, 3, 4, 5, 6], [70, 60, 30, 31, 16, 17], [500, 400, 300, 200, 150, 120], [1, 2, 9]]
)
def test_thirds_where_the_usual_bounds_leave_a_group_empty(counts: list[int]):
    groups, (low, high) = class_groups(np.array(counts))
    ordered = sorted(counts)
    third = len(counts) // 3
    assert np.bincount(groups).tolist() == [third] * 3
    assert (low, high) == (ordered[third], ordered[2 * third - 1])


def test_bounds_that_are_given_are_kept_whatever_they_leave_empty():
    groups, bounds = class_groups(np.array([5, 6, 7]), (1, 6))
    assert (groups.tolist(), bounds) == ([1, 1, 2], (1, 6))


def test_thirds_differ_by_one_at_most_and_cut_in_the_order_of_the_counts():
    assert thirds(np.array([5, 1, 9, 7, 3, 5, 8])).tolist() == [0, 0, 2, 1, 0, 1, 2]
    assert thirds(np.array([4, 4, 4])).tolist() == [0, 1, 2]


def test_a_set_is_long_tailed_from_a_ratio_of_two_on():
    assert is_long_tailed(np.array([20, 10, 15]))
    assert not is_long_tailed(np.array([19, 10, 15]))

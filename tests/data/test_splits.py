import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.data.splits import by_class, carve, keep_per_class, limit_per_class, seeded_order


def digests_of(numbers: list[int]) -> np.ndarray:
    return np.array([[n // 256, n % 256] for n in numbers], dtype=np.uint8)


def flat(n: int) -> np.ndarray:
    return np.full(n, "", dtype="<U5")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 300)), min_size=1, max_size=80), st.integers(0, 5))
def test_a_flat_source_is_split_disjointly_and_every_class_keeps_a_training_image(
    rows: list[tuple[int, int]], seed: int
):
    rows = [(label, label * 301 + number) for label, number in rows]  # one image belongs to one class
    labels, digests = np.array([r[0] for r in rows]), digests_of([r[1] for r in rows])
    splits = carve(labels, flat(len(rows)), digests, 0.2, 0.1, seed)
    assert set(splits) <= {"train", "val", "test"}
    by_split = {s: {r[1] for r, own in zip(rows, splits, strict=True) if own == s} for s in ("train", "val", "test")}
    assert not by_split["train"] & by_split["val"]
    assert not by_split["train"] & by_split["test"]
    assert not by_split["val"] & by_split["test"]
    for label in np.unique(labels):
        own = set(splits[labels == label])
        distinct = len({r[1] for r in rows if r[0] == label})
        assert own == ({"train", "val", "test"} if distinct >= 3 else {"train"})


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), min_size=1, max_size=60), st.integers(0, 5))
def test_the_same_image_under_two_class_names_is_on_one_side_only(rows: list[tuple[int, int]], seed: int):
    splits = carve(np.array([r[0] for r in rows]), flat(len(rows)), digests_of([r[1] for r in rows]), 0.3, 0.2, seed)
    sides = {number: {own for (_, n), own in zip(rows, splits, strict=True) if n == number} for _, number in rows}
    assert all(len(own) == 1 for own in sides.values())


def test_a_huge_fraction_leaves_one_image_each_to_train_and_val():
    splits = carve(np.zeros(3, int), flat(3), digests_of([1, 2, 3]), 0.9, 0.9, seed=0)
    assert sorted(splits) == ["test", "train", "val"]


def test_shares_of_a_flat_source():
    labels = np.repeat([0, 1], 100)
    splits = carve(labels, flat(200), digests_of(list(range(200))), 0.2, 0.1, seed=0)
    for label in (0, 1):
        own = splits[labels == label]
        assert [(own == s).sum() for s in ("train", "val", "test")] == [72, 8, 20]


def test_splits_do_not_depend_on_the_order_of_rows():
    numbers = list(range(50))
    shuffled = np.random.default_rng(0).permutation(50)
    straight = carve(np.zeros(50, int), flat(50), digests_of(numbers), 0.2, 0.1, seed=3)
    mixed = carve(np.zeros(50, int), flat(50), digests_of(shuffled.tolist()), 0.2, 0.1, seed=3)
    assert (mixed == straight[shuffled]).all()
    assert (carve(np.zeros(50, int), flat(50), digests_of(numbers), 0.2, 0.1, seed=4) != straight).any()


def test_given_splits_stay_and_only_the_missing_val_is_carved():
    given_splits = np.array(["train"] * 20 + ["test"] * 5, dtype="<U5")
    splits = carve(np.zeros(25, int), given_splits, digests_of(list(range(25))), 0.2, 0.1, seed=0)
    assert (splits[20:] == "test").all()
    assert (splits == "val").sum() == 2


def test_no_test_split_on_request():
    splits = carve(np.zeros(20, int), flat(20), digests_of(list(range(20))), 0.0, 0.1, seed=0)
    assert "test" not in splits


def test_a_larger_limit_keeps_what_a_smaller_one_keeps():
    labels, splits = np.repeat([0, 1], 30), np.array(["train"] * 60, dtype="<U5")
    kept = {n: set(limit_per_class(labels, splits, digests_of(list(range(60))), n, seed=0)) for n in (1, 5, 100)}
    assert [len(kept[n]) for n in (1, 5, 100)] == [2, 10, 60]
    assert kept[1] < kept[5] < kept[100]


def test_rows_by_class():
    labels = np.array([3, -1, 3, 0, -1, 7])
    assert {label: rows.tolist() for label, rows in by_class(labels).items()} == {-1: [1, 4], 0: [3], 3: [0, 2], 7: [5]}
    assert list(by_class(labels)) == [-1, 0, 3, 7]
    assert {label: rows.tolist() for label, rows in by_class(labels, np.array([2, 5])).items()} == {3: [2], 7: [5]}
    assert by_class(labels, np.array([], int)) == {}


def looked_for_in_each_class(labels: np.ndarray, splits: np.ndarray, digests: np.ndarray, seed: int) -> np.ndarray:
    """carve, as it was first written: the split of no image may ever change."""

    def names(label: int) -> list[bytes]:
        return [digests[row].tobytes() for row in range(len(labels)) if labels[row] == label and result[row] == "train"]

    result = splits.copy()
    flat_source = not (splits != "").any()
    result[result == ""] = "train"
    distinct = {label: len(set(names(label))) for label in np.unique(labels)}
    for target, fraction, spare in (("test", 0.2 if flat_source else 0.0, 2), ("val", 0.1, 1)):
        if fraction and target not in result:
            chosen = set()
            for label in np.unique(labels):
                order = seeded_order(names(label), seed, target)
                if distinct[label] >= 3:
                    chosen |= set(order[: min(max(1, round(fraction * len(order))), len(order) - spare)])
            for row in range(len(labels)):
                if result[row] == "train" and digests[row].tobytes() in chosen:
                    result[row] = target
    return result


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(-1, 5), st.integers(0, 40)), min_size=1, max_size=120),
    st.sampled_from([("",), ("train", "test"), ("train", "", "val")]),
    st.integers(0, 5),
)
def test_rows_that_are_grouped_once_get_the_same_splits(
    rows: list[tuple[int, int]], given_splits: tuple[str, ...], seed: int
):
    labels, digests = np.array([r[0] for r in rows]), digests_of([r[1] for r in rows])
    splits = np.resize(np.array(given_splits, dtype="<U5"), len(rows))
    expected = looked_for_in_each_class(labels, splits, digests, seed)
    assert carve(labels, splits, digests, 0.2, 0.1, seed).tolist() == expected.tolist()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-1, 5), st.integers(0, 40)), min_size=1, max_size=120), st.integers(0, 5))
def test_rows_that_are_grouped_once_keep_the_same_images(rows: list[tuple[int, int]], seed: int):
    labels, digests = np.array([r[0] for r in rows]), digests_of([r[1] for r in rows])
    splits = np.resize(np.array(["train", "train", "val"]), len(rows))
    limits, expected = {-1: 2, 0: 3, 1: 0, 3: 7}, set(np.flatnonzero(splits != "train").tolist())
    for label in np.unique(labels):
        own = [row for row in range(len(labels)) if labels[row] == label and splits[row] == "train"]
        order = seeded_order([digests[row].tobytes() for row in own], seed, "limit")
        own.sort(key=lambda row: (order.index(digests[row].tobytes()), row))
        expected |= set(own[: limits.get(int(label), len(own))])
    assert keep_per_class(labels, splits, digests, limits, seed).tolist() == sorted(expected)

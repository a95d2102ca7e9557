import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, top_k_accuracy_score

from linnet.deploy.predictor import largest
from linnet.metrics import (
    agreement,
    all_metrics,
    class_accuracies,
    confidence,
    expected_calibration_error,
    near_chance,
    right,
    softmax,
    top_k_accuracy,
)


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 300)
    return rng.normal(size=(300, 7)) + 1.5 * np.eye(7)[labels], labels


def test_accuracies_are_those_of_scikit_learn(drawn: tuple[np.ndarray, np.ndarray]):
    logits, labels = drawn
    ours = all_metrics(logits, labels)
    assert ours["top1"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert ours["top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert ours["mean_per_class"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))


def test_accuracy_of_each_class_is_its_recall_and_nan_without_images(drawn: tuple[np.ndarray, np.ndarray]):
    logits, labels = drawn
    assert class_accuracies(logits, labels) == pytest.approx(recall_score(labels, logits.argmax(1), average=None))
    assert np.isnan(class_accuracies(logits[labels != 3], labels[labels != 3])).tolist() == [i == 3 for i in range(7)]


def test_calibration_error_by_a_plain_loop(drawn: tuple[np.ndarray, np.ndarray]):
    logits, labels = drawn
    probabilities = softmax(logits)
    total = 0.0
    for low in range(15):
        rows = [i for i in range(300) if low / 15 <= probabilities[i].max() < (low + 1) / 15]
        if rows:
            accuracy = np.mean([probabilities[i].argmax() == labels[i] for i in rows])
            confidence = np.mean([probabilities[i].max() for i in rows])
            total += len(rows) / 300 * abs(accuracy - confidence)
    assert expected_calibration_error(logits, labels) == pytest.approx(total)


def test_calibration_error_by_hand():
    always = np.log(np.tile([0.8, 0.2], (10, 1)))
    assert expected_calibration_error(always, np.array([0] * 8 + [1] * 2)) == pytest.approx(0.0, abs=1e-9)
    assert expected_calibration_error(always, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.3)


def test_of_equal_logits_the_first_is_named_and_counted():
    """In float16 many logits tie. What is counted is what predict names, whatever asks."""
    logits = np.random.default_rng(0).integers(0, 3, size=(200, 6)).astype(np.float16)
    labels = np.random.default_rng(1).integers(0, 6, size=200)
    ranked = np.argsort(-logits, axis=1, kind="stable")
    assert [largest(row, 1)[0] for row in logits] == ranked[:, 0].tolist()
    for k in (1, 2, 5):
        assert right(logits, labels, k).tolist() == (ranked[:, :k] == labels[:, None]).any(axis=1).tolist()
    named = logits.argmax(axis=1) == labels
    assert 0 < named.mean() < 1
    ours = all_metrics(logits, labels)
    assert ours["top1"] == named.mean()
    assert ours["mean_per_class"] == pytest.approx(np.mean([named[labels == c].mean() for c in range(6)]))
    assert class_accuracies(logits, labels)[2] == pytest.approx(named[labels == 2].mean())
    assert agreement(logits, np.eye(6)[labels]) == named.mean()


def test_constant_logits_name_the_first_class_and_nan_names_none():
    assert top_k_accuracy(np.zeros((4, 3)), np.array([0, 1, 2, 0])) == 0.5
    assert top_k_accuracy(np.zeros((4, 3)), np.array([0, 1, 2, 0]), 2) == 0.75
    for logits in (np.full((4, 3), np.nan), np.array([[0.0, np.nan, 1.0]] * 4)):
        for label in range(3):
            assert top_k_accuracy(logits, np.full(4, label)) == 0.0
            assert class_accuracies(logits, np.full(4, label))[label] == 0.0


def test_mean_per_class_differs_from_top1_on_unbalanced_data():
    logits, labels = np.eye(2)[[0] * 10], np.array([0] * 9 + [1])
    ours = all_metrics(logits, labels)
    assert (ours["top1"], ours["mean_per_class"]) == (0.9, 0.5)


def test_agreement():
    assert agreement(np.eye(3), np.eye(3)[[0, 1, 1]]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("share", "classes", "near"),
    [
        (0.088, 17, True),
        (0.13, 17, False),
        (0.54, 2, True),
        (0.56, 2, False),
        (0.09, 1000, False),
        (0.0015, 1000, True),
    ],
)
def test_near_chance(share: float, classes: int, near: bool):
    assert near_chance(share, classes) == near


def test_parts_of_the_images_give_what_all_at_once_gives(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(50, 7)).astype(np.float32).round(1), rng.integers(0, 7, 50)
    whole = right(logits, labels), right(logits, labels, 3), confidence(logits)
    metrics = all_metrics(logits, labels)
    assert np.array_equal(whole[2], softmax(logits).max(axis=1))
    monkeypatch.setattr("linnet.metrics.ROWS", 8)
    parts = right(logits, labels), right(logits, labels, 3), confidence(logits)
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert metrics == all_metrics(logits, labels)
    assert confidence(logits[:0]).shape == right(logits[:0], labels[:0]).shape == (0,)

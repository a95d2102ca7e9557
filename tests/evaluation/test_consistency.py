"""The measures of consistency against naive loops, and at their limits."""

import math

import numpy as np
import pytest

from linnet.evaluation import consistency as module
from linnet.evaluation.consistency import (
    coherence_kl,
    consistency,
    language_margin,
    language_separation,
    neighbour_overlap,
    retrieval,
    triplet_agreement,
)

N, C, E = 23, 4, 6


def unit(*shape: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=shape)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


TEACHER, BANK = unit(N, E, seed=0), unit(C, E, seed=1)
STUDENT = TEACHER + 0.4 * unit(N, E, seed=2)
STUDENT /= np.linalg.norm(STUDENT, axis=1, keepdims=True)
LABELS = np.arange(N) % C


def test_retrieval(monkeypatch: pytest.MonkeyPatch):
    right = sum(max(range(N), key=lambda j: STUDENT[i] @ TEACHER[j]) == i for i in range(N))
    assert 0 < right < N
    assert retrieval(STUDENT, TEACHER) == right / N
    monkeypatch.setattr(module, "CHUNK", 5)
    assert retrieval(STUDENT, TEACHER) == right / N
    assert retrieval(np.ones((N, E)), np.ones((N, E))) == 0  # a collapsed student finds nothing


def test_neighbour_overlap(monkeypatch: pytest.MonkeyPatch):
    def near(space: np.ndarray, i: int) -> set[int]:
        return set(sorted((j for j in range(N) if j != i), key=lambda j: -float(space[i] @ space[j]))[:3])

    expected = sum(len(near(STUDENT, i) & near(TEACHER, i)) for i in range(N)) / (3 * N)
    assert 0 < expected < 1
    assert neighbour_overlap(STUDENT, TEACHER, 3) == pytest.approx(expected)
    monkeypatch.setattr(module, "CHUNK", 5)
    assert neighbour_overlap(STUDENT, TEACHER, 3) == pytest.approx(expected)
    assert neighbour_overlap(STUDENT, TEACHER, 100) == 1  # all others


def test_triplet_agreement_is_near_that_of_all_triplets():
    agree = total = 0
    for i in range(N):
        for j in range(N):
            for k in range(N):
                if len({i, j, k}) == 3:
                    ours, theirs = (float(space[i] @ (space[j] - space[k])) for space in (STUDENT, TEACHER))
                    agree, total = agree + (ours * theirs > 0), total + 1
    assert 0.5 < agree / total < 0.95
    assert triplet_agreement(STUDENT, TEACHER) == pytest.approx(agree / total, abs=0.01)
    assert triplet_agreement(unit(2000, E, seed=3), unit(2000, E, seed=4)) == pytest.approx(0.5, abs=0.01)


def test_coherence():
    student, teacher = (rows @ BANK.T / 0.07 for rows in (STUDENT, TEACHER))
    expected = 0.0
    for z, u in zip(student, teacher, strict=True):
        q, p = ([math.exp(x) / sum(math.exp(y) for y in row) for x in row] for row in (z, u))
        expected += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True)) / N
    assert coherence_kl(student, teacher) == pytest.approx(expected, rel=1e-9)


def test_language_separation_and_margin():
    nearest = [max(float(BANK[c] @ BANK[d]) for d in range(C) if d != c) for c in range(C)]
    assert language_separation(BANK) == pytest.approx(sum(1 - value for value in nearest) / C)
    margins = [
        float(TEACHER[i] @ BANK[LABELS[i]]) - max(float(TEACHER[i] @ BANK[c]) for c in range(C) if c != LABELS[i])
        for i in range(N)
    ]
    assert language_margin(TEACHER @ BANK.T, LABELS) == pytest.approx(sum(margins) / N)


ALONE = {"coherence.kl", "coherence.agreement", "language.separation"}
ALONE |= {"language.student_margin", "language.teacher_margin"}
PAIRS = ALONE | {"consistency.retrieval"}
ALL = PAIRS | {"consistency.neighbours", "consistency.triplets"}


@pytest.mark.parametrize(("images", "keys"), [(1, ALONE), (2, PAIRS), (3, ALL), (4, ALL), (12, ALL), (N, ALL)])
@pytest.mark.parametrize("classes", [1, 2, C])
@pytest.mark.parametrize("same", [False, True])
def test_what_few_images_or_one_class_cannot_measure_is_left_out(images: int, keys: set[str], classes: int, same: bool):
    teacher = TEACHER[:images]
    student = teacher if same else STUDENT[:images]
    seen = consistency(student, teacher, LABELS[:images] % classes, BANK[:classes])
    assert set(seen) == (keys if classes > 1 else keys - ALONE)
    assert np.isfinite(list(seen.values())).all()
    if same:
        assert all(value == 1 for key, value in seen.items() if key.startswith("consistency"))


def test_of_few_images_not_all_others_are_neighbours():
    """Else the overlap could only be 1."""
    assert consistency(TEACHER[:12], unit(12, E, seed=9), LABELS[:12], BANK)["consistency.neighbours"] < 1
    assert consistency(TEACHER[:3], TEACHER[[1, 0, 2]], LABELS[:3], BANK)["consistency.neighbours"] in (0, 1 / 3, 2 / 3)


def test_a_student_that_is_its_teacher():
    seen = consistency(TEACHER, TEACHER, LABELS, BANK)
    for key in ("consistency.retrieval", "consistency.neighbours", "consistency.triplets", "coherence.agreement"):
        assert seen[key] == 1
    assert seen["coherence.kl"] == pytest.approx(0, abs=1e-12)
    assert seen["language.student_margin"] == seen["language.teacher_margin"]

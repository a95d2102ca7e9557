"""How much of the teacher's embedding space a student keeps: five measures of linnet's own.

Li et al. (ICCV 2023) propose such metrics, whose definitions we do not have: these are not theirs.

Shapes: N images, C classes, E embedding width, K neighbours; embeddings are of unit length.
"""

import numpy as np

from linnet.metrics import agreement

NEIGHBOURS, TRIPLETS = 10, 100_000
FEWEST = 3  # images: of two others one can be nearer
CHUNK = 1024  # rows of an N x N table at a time: bounds memory


def consistency(
    student_NE: np.ndarray, teacher_NE: np.ndarray, labels_N: np.ndarray, bank_CE: np.ndarray, temperature: float = 0.07
) -> dict[str, float]:
    """M1 to M5 (see the functions below), with flat keys. What can have only one value, or none, is left out: M1 of one
    image, M2 and M3 of fewer than three, M4 and M5 of one class."""
    images, measured = len(student_NE), dict[str, float]()
    if images > 1:
        measured["consistency.retrieval"] = retrieval(student_NE, teacher_NE)
    if images >= FEWEST:  # of few images fewer neighbours, so that not all others are among them
        measured["consistency.neighbours"] = neighbour_overlap(student_NE, teacher_NE, min(NEIGHBOURS, images - 2))
        measured["consistency.triplets"] = triplet_agreement(student_NE, teacher_NE)
    if len(bank_CE) > 1:
        student_NC, teacher_NC = student_NE @ bank_CE.T, teacher_NE @ bank_CE.T
        measured["coherence.kl"] = coherence_kl(student_NC / temperature, teacher_NC / temperature)
        measured["coherence.agreement"] = agreement(student_NC, teacher_NC)
        measured["language.separation"] = language_separation(bank_CE)
        measured["language.student_margin"] = language_margin(student_NC, labels_N)
        measured["language.teacher_margin"] = language_margin(teacher_NC, labels_N)
    return measured


def retrieval(student_NE: np.ndarray, teacher_NE: np.ndarray) -> float:
    """M1: share of images whose student embedding is nearest to the teacher's embedding of the same image, and to no
    other."""
    right = 0
    for start in range(0, len(student_NE), CHUNK):
        cosine = student_NE[start : start + CHUNK] @ teacher_NE.T
        own = cosine[np.arange(len(cosine)), start + np.arange(len(cosine))]
        right += int(((cosine >= own[:, None]).sum(axis=1) == 1).sum())
    return right / len(student_NE)


def neighbour_overlap(student_NE: np.ndarray, teacher_NE: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """M2: share of an image's K nearest others in the student's space that are among its K in the teacher's; the
    mean."""
    neighbours = min(neighbours, len(student_NE) - 1)
    shared = 0
    for start in range(0, len(student_NE), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(student_NE)))
        near = []
        for space_NE in (student_NE, teacher_NE):
            cosine = space_NE[rows] @ space_NE.T
            cosine[np.arange(len(rows)), rows] = -np.inf
            near.append(np.argpartition(-cosine, neighbours - 1, axis=1)[:, :neighbours])
        shared += sum(len(np.intersect1d(ours, theirs)) for ours, theirs in zip(*near, strict=True))
    return shared / (len(student_NE) * neighbours)


def triplet_agreement(student_NE: np.ndarray, teacher_NE: np.ndarray, triplets: int = TRIPLETS, seed: int = 0) -> float:
    """M3: probability that both spaces agree on which of two other images is nearer to a third; from drawn triplets."""
    drawn = np.random.default_rng(seed).integers(len(student_NE), size=(triplets, 3))
    i, j, k = drawn[(drawn[:, 0] != drawn[:, 1]) & (drawn[:, 1] != drawn[:, 2]) & (drawn[:, 0] != drawn[:, 2])].T

    def nearer(space_NE: np.ndarray) -> np.ndarray:
        parts = (slice(start, start + CHUNK) for start in range(0, len(i), CHUNK))
        return np.concatenate(
            [np.sign((space_NE[i[p]] * (space_NE[j[p]] - space_NE[k[p]])).sum(axis=1)) for p in parts]
        )

    return float((nearer(student_NE) == nearer(teacher_NE)).mean())


def coherence_kl(student_NC: np.ndarray, teacher_NC: np.ndarray) -> float:
    """M4: mean KL(softmax(teacher) || softmax(student)) of cosines with the class texts / temperature, in nats."""

    def log_softmax(logits_NC: np.ndarray) -> np.ndarray:
        shifted = logits_NC.astype(np.float64) - logits_NC.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    student, teacher = log_softmax(student_NC), log_softmax(teacher_NC)
    return float((np.exp(teacher) * (teacher - student)).sum(axis=1).mean())


def language_separation(bank_CE: np.ndarray) -> float:
    """M5: mean over the classes of 1 - the cosine with the most similar other class."""
    cosine = bank_CE @ bank_CE.T
    np.fill_diagonal(cosine, -np.inf)
    return float((1 - cosine.max(axis=1)).mean())


def language_margin(cosine_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """M5, with images: mean of the cosine with the own class's text minus the largest with another's."""
    others = cosine_NC.copy()
    others[np.arange(len(labels_N)), labels_N] = -np.inf
    return float((cosine_NC[np.arange(len(labels_N)), labels_N] - others.max(axis=1)).mean())

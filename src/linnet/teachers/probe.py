"""A linear probe on a vision-language teacher's embeddings (Radford et al. 2021, section 3.2)."""

import warnings

import numpy as np
import torch

from linnet.data.splits import by_class
from linnet.teachers.prompts import Embedded

STRENGTHS = tuple(10.0**power for power in (-1, 0, 1, 2, 3))  # inverse regularisation, for unit embeddings


def enough(labels_N: np.ndarray) -> np.ndarray:
    """The images that a quick probe is fitted to: at most 50 of each class, fewer of many, and none of far too many."""
    most = min(50, 20_000_000 // (int(labels_N.max(initial=0)) + 1) ** 2)  # bounds time and memory
    some = [rows[:most] for label, rows in by_class(labels_N).items() if label >= 0]
    return np.sort(np.concatenate(some)) if some else np.array([], dtype=np.int64)


def quick_probe(train: Embedded, rows_NE: torch.Tensor) -> np.ndarray:
    """(N,) class ids that ridge regression, in closed form, finds for embeddings: what they tell at least."""
    from sklearn.linear_model import RidgeClassifier

    probe = RidgeClassifier(alpha=0.1).fit(train.rows_NE.float().numpy(), train.labels_N.numpy())
    return probe.predict(rows_NE.float().numpy())


def linear_probe(train: Embedded, val: Embedded, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Multinomial logistic regression on training embeddings; val chooses the regularisation.

    Returns:
        Weights (C, E) and biases (C,), float32. A class without a labelled training image is never predicted.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    def labelled(split: Embedded) -> tuple[np.ndarray, np.ndarray]:
        known = split.labels_N >= 0
        return split.rows_NE[known].double().numpy(), split.labels_N[known].numpy()

    (rows, labels), (val_rows, val_labels) = labelled(train), labelled(val)
    probes = [LogisticRegression(C=strength, max_iter=300) for strength in STRENGTHS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak regularisation; val decides whether it is good
        for probe in probes:
            probe.fit(rows, labels)
    best = max(probes, key=lambda probe: probe.score(val_rows, val_labels))  # of equals the stronger regularisation
    coefficients, intercepts = best.coef_, best.intercept_
    if len(best.classes_) == 2:  # scikit-learn keeps one vector for two classes
        coefficients, intercepts = (
            np.concatenate([-coefficients, coefficients]) / 2,
            np.concatenate([-intercepts, intercepts]) / 2,
        )
    weights, biases = torch.zeros(classes, rows.shape[1]), torch.full((classes,), -1e4)
    weights[best.classes_] = torch.from_numpy(coefficients).float()
    biases[best.classes_] = torch.from_numpy(intercepts).float()
    return weights, biases

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from linnet.teachers.probe import STRENGTHS, linear_probe, quick_probe
from linnet.teachers.prompts import Embedded

STRONG, WEAK = STRENGTHS[0], STRENGTHS[-1]


def draw(classes: int, seed: int, images: int = 60, noise: float = 2.0) -> Embedded:
    """Overlapping classes of unit vectors, so that regularisation matters."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % classes
    rows = 2 * torch.eye(classes, 8)[labels] + noise * torch.randn(images, 8, generator=generator)
    return Embedded(F.normalize(rows, dim=1), labels)


def fitted(train: Embedded, strength: float) -> LogisticRegression:
    probe = LogisticRegression(C=strength, max_iter=300)
    return probe.fit(train.rows_NE.double().numpy(), train.labels_N.numpy())


def told_by(probe: LogisticRegression, classes: int) -> Embedded:
    """A val split on which this probe, and no other, is always right."""
    rows = draw(classes, seed=1, images=2000).rows_NE
    return Embedded(rows, torch.from_numpy(probe.predict(rows.double().numpy())))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_logits_are_scikit_learns_for_the_strength_that_val_chooses(strength: float):
    train = draw(3, seed=0)
    probe = fitted(train, strength)
    val = told_by(probe, 3)
    weights_CE, biases_C = linear_probe(train, val, 3)
    assert (weights_CE.dtype, weights_CE.shape, biases_C.shape) == (torch.float32, (3, 8), (3,))
    expected = probe.decision_function(val.rows_NE.double().numpy())
    assert np.allclose((val.rows_NE @ weights_CE.T + biases_C).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("strength", [STRONG, WEAK])
def test_two_classes_have_scikit_learns_probabilities(strength: float):
    """scikit-learn keeps one vector for two classes: used as it is, with 0 for the other, or twice, the probabilities
    that a student is taught would be off and the accuracy would not show it."""
    train = draw(2, seed=0)
    probe = fitted(train, strength)
    val = told_by(probe, 2)
    weights_CE, biases_C = linear_probe(train, val, 2)
    logits = val.rows_NE @ weights_CE.T + biases_C
    expected = probe.predict_proba(val.rows_NE.double().numpy())
    assert np.allclose(logits.softmax(dim=1).numpy(), expected, atol=1e-5)
    assert torch.allclose(logits.sum(dim=1), torch.zeros(len(logits)), atol=1e-5)


def test_of_equals_the_stronger_regularisation_is_chosen():
    train, val = draw(3, seed=0, noise=0.05), draw(3, seed=1, noise=0.05)
    weights_CE, _ = linear_probe(train, val, 3)
    assert np.allclose(weights_CE.numpy(), fitted(train, STRONG).coef_, atol=1e-5)
    assert not np.allclose(weights_CE.numpy(), fitted(train, STRENGTHS[1]).coef_, atol=0.1)


@pytest.mark.parametrize("seen", [(1, 3), (0, 2, 3)])
def test_a_class_without_a_training_image_is_never_predicted_and_the_others_keep_their_ids(seen: tuple[int, ...]):
    """scikit-learn numbers the classes that it saw, without gaps."""
    packed = draw(len(seen), seed=0, noise=0.05)
    train = Embedded(packed.rows_NE, torch.tensor(seen)[packed.labels_N])
    weights_CE, biases_C = linear_probe(train, train, 5)
    logits = train.rows_NE @ weights_CE.T + biases_C
    assert logits.isfinite().all()
    assert torch.equal(logits.argmax(dim=1), train.labels_N)
    anything = F.normalize(torch.randn(500, 8, generator=torch.Generator().manual_seed(2)), dim=1)
    assert set((anything @ weights_CE.T + biases_C).argmax(dim=1).tolist()) == set(seen)
    assert (logits.softmax(dim=1).sum(dim=0)[[c for c in range(5) if c not in seen]] == 0).all()


def test_unlabelled_images_teach_and_judge_nothing():
    train, val = draw(3, seed=0), draw(3, seed=1)

    def with_unlabelled(split: Embedded) -> Embedded:
        strange = torch.cat([-split.rows_NE, split.rows_NE])
        return Embedded(strange, torch.cat([torch.full_like(split.labels_N, -1), split.labels_N]))

    for clean, mixed in zip(
        linear_probe(train, val, 3), linear_probe(with_unlabelled(train), with_unlabelled(val), 3), strict=True
    ):
        assert torch.equal(clean, mixed)


def test_a_quick_probe_tells_what_embeddings_tell():
    train, val = draw(3, seed=0, images=300, noise=0.5), draw(3, seed=1, images=100, noise=0.5)
    told = quick_probe(train, val.rows_NE)
    by_the_full_one = fitted(train, 10.0).predict(val.rows_NE.double().numpy())
    assert (told == by_the_full_one).mean() > 0.9
    assert (told == val.labels_N.numpy()).mean() > 0.8

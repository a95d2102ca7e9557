import numpy as np
import pytest
import torch

from linnet.evaluation.base_novel import Labelled, base_novel_scores, harmonic_mean, mean_scores
from linnet.students.two_heads import mixed_logits

EYE = np.eye(5)


def scores(base_rows: list[int], base_labels: list[int], novel_rows: list[int], novel_labels: list[int]):
    """Each image is one of five axes; classes 0, 1, 2 are base, 3 and 4 novel (0 and 1 among themselves)."""
    base = Labelled(EYE[base_rows], np.array(base_labels), EYE[:3])
    return base_novel_scores(base, Labelled(EYE[novel_rows], np.array(novel_labels), EYE[3:]))


def test_accuracies_are_per_class_and_among_the_right_names():
    # base: class 0 three of four, class 1 right, class 2 wrong; novel: class 3 one of two, class 4 right.
    # The axis 2 is no novel class: among novel names its image goes to the first of equals, class 3
    seen = scores([0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 2], [3, 2, 4], [0, 0, 1])
    assert seen["id.mean_per_class"] == pytest.approx((0.75 + 1 + 0) / 3)
    assert seen["ood.mean_per_class"] == 1
    assert seen["harmonic"] == pytest.approx(2 * (7 / 12) / (1 + 7 / 12))
    assert seen["generalised.id"] == pytest.approx((0.75 + 1 + 0) / 3)
    assert seen["generalised.ood"] == pytest.approx((0.5 + 1) / 2)
    assert seen["generalised.harmonic"] == pytest.approx(2 * (7 / 12) * 0.75 / (0.75 + 7 / 12))


def test_a_novel_name_can_take_a_base_image():
    seen = scores([0, 4, 2, 1], [0, 0, 2, 1], [3, 4], [0, 1])
    assert seen["id.mean_per_class"] == 1  # the axis 4 is no base class: the first of equals, class 0
    assert seen["generalised.id"] == pytest.approx((0.5 + 1 + 1) / 3)


def test_means():
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.0, 1.0) == 0
    assert mean_scores([{"a": 0.2, "b": 1.0}, {"a": 0.4, "b": 0.0}]) == pytest.approx({"a": 0.3, "b": 0.5})


def test_a_dual_student_is_scored_as_it_names():
    """Among base and novel names the images come out as through the mixture that predicts, with all of the classifier."""
    generator = torch.Generator().manual_seed(0)
    rows, base, novel, own = (torch.randn(shape, generator=generator) for shape in ((6, 8), (3, 8), (2, 8), (6, 3)))
    labelled = Labelled(rows.numpy(), np.zeros(6, int), base.numpy(), own.numpy(), temperature=0.5)
    columns = torch.tensor([0, 1, 2, -1, -1])
    expected = mixed_logits(own, rows @ torch.cat([base, novel]).T / 0.5, columns, 1.0)
    assert np.allclose(labelled.among(base.numpy(), novel.numpy()), expected.numpy(), atol=1e-5)

import pytest
from hand_made import check_gradient_reaches_the_student_alone, logit_batch, logit_method, logit_student

from linnet.losses import relation_losses
from linnet.step import Progress


def test_dist_weighs_both_relations():
    data, out = logit_batch(), logit_student()
    inter, intra = relation_losses(out.logits_BC, data.teacher.logits_BC, 4.0)
    terms = logit_method("dist", inter_weight=3.0)(data, out, Progress(0, 24))
    assert [terms["inter"].item(), terms["intra"].item()] == pytest.approx([3 * inter.item(), 2 * intra.item()])


def test_gradient_reaches_the_student_and_never_the_teacher():
    check_gradient_reaches_the_student_alone("dist")

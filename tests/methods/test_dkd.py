import pytest
from hand_made import check_gradient_reaches_the_student_alone, logit_batch, logit_method, logit_student

from linnet.losses import cross_entropy, decoupled_kl
from linnet.step import Progress


def test_dkd_warms_up_over_a_twelfth_of_the_epochs():
    data, out = logit_batch(), logit_student()
    tckd, nckd = decoupled_kl(out.logits_BC, data.teacher.logits_BC, data.labels, 4.0)
    for number, factor in ((0, 0.5), (1, 1.0), (2, 1.0), (23, 1.0)):  # 24 / 12 = 2 epochs
        terms = logit_method("dkd")(data, out, Progress(number, 24))
        assert terms["ce"].item() == pytest.approx(cross_entropy(out.logits_BC, data.labels).item())
        assert terms["tckd"].item() == pytest.approx(factor * tckd.item())
        assert terms["nckd"].item() == pytest.approx(8 * factor * nckd.item())
    assert logit_method("dkd", warmup=0.0)(data, out, Progress(0, 24))["tckd"] == tckd


def test_gradient_reaches_the_student_and_never_the_teacher():
    check_gradient_reaches_the_student_alone("dkd")

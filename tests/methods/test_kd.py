import pytest
import torch
from hand_made import check_gradient_reaches_the_student_alone, logit_batch, logit_method, logit_student

from linnet.errors import UserError
from linnet.losses import cross_entropy, softened_kl, standardize
from linnet.step import Progress

NOW = Progress(0, 1)


@pytest.mark.parametrize(("kind", "alpha"), [("vlm", 0.5), ("classifier", 0.9)])
def test_the_weights_of_the_terms_go_by_the_kind_of_teacher(kind: str, alpha: float):
    data, out = logit_batch(), logit_student()
    terms = logit_method("kd", kind=kind)(data, out, NOW)
    assert torch.allclose(terms["kd"], alpha * softened_kl(out.logits_BC, data.teacher.logits_BC, 4.0))
    assert torch.allclose(terms["ce"], (1 - alpha) * cross_entropy(out.logits_BC, data.labels))


def test_options_win_over_the_defaults():
    data, out = logit_batch(), logit_student()
    terms = logit_method("kd", temperature=1.0, alpha=1.0)(data, out, NOW)
    assert terms["ce"].item() == 0
    assert torch.allclose(terms["kd"], softened_kl(out.logits_BC, data.teacher.logits_BC, 1.0))


def test_both_are_standardised_before_softening():
    data, out = logit_batch(), logit_student()
    made = logit_method("kd", kind="vlm", standardize=True)
    before = made(data, out, NOW)["kd"]
    expected = softened_kl(standardize(out.logits_BC), standardize(data.teacher.logits_BC), 4.0)
    assert torch.allclose(before, 0.5 * expected)
    data.teacher.logits_BC.mul_(7).add_(3)  # blind to the teacher's scale: what the option is for
    assert torch.allclose(made(data, out, NOW)["kd"], before, atol=1e-5)


def test_the_released_form_of_logit_standardisation():
    data, out = logit_batch(), logit_student()
    options = {"standardize": True, "deviation": "sample", "temperature": 2.0, "weight": 9.0}
    terms = logit_method("kd", **options)(data, out, NOW)
    student, teacher = (
        (logits - logits.mean(dim=1, keepdim=True)) / (logits.std(dim=1, keepdim=True) + 1e-7)
        for logits in (out.logits_BC, data.teacher.logits_BC)
    )
    assert torch.allclose(terms["kd"], 9 * softened_kl(student, teacher, 2.0), rtol=1e-4)
    assert torch.allclose(terms["ce"], cross_entropy(out.logits_BC, data.labels))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"alpha": 0.5, "weight": 9.0}, "leave one out"), ({"deviation": "sample"}, "no effect without kd.standardize")],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(options: dict, words: str):
    with pytest.raises(UserError, match=words):
        logit_method("kd", **options)


def test_gradient_reaches_the_student_and_never_the_teacher():
    check_gradient_reaches_the_student_alone("kd")

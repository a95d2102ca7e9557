import numpy as np
import pytest
import torch
from hand_made import D, check_gradient_reaches_the_student_alone, fake_teacher, logit_batch, logit_student

from linnet import methods
from linnet.config import Config
from linnet.errors import UserError
from linnet.losses import cross_entropy, grouped_kl, softened_kl
from linnet.methods.base import Context, Method
from linnet.step import Progress
from linnet.teachers.base import ClassHead
from linnet.text.classes import class_table

NOW = Progress(0, 1)
LABELS = np.repeat(np.arange(8), [50, 3, 20, 9, 1, 30, 2, 12])  # thirds: {4, 6, 1}, {3, 7, 2}, {5, 0}
GROUPS = torch.tensor([2, 0, 1, 1, 0, 2, 0, 1])


def made(classes: int = 8, **options: object) -> Method:
    method = methods.build("ltkd", {"ltkd": options})
    names = class_table([f"c{c}" for c in range(classes)])
    method.prepare(Context(Config(), names, D, fake_teacher("classifier"), ClassHead(), labels_N=LABELS % classes))
    return method


def test_terms_are_the_parts_over_thirds_of_the_classes_by_their_training_images():
    data, out = logit_batch(), logit_student()
    terms = made(between_weight=0.5, within_weight=3.0, temperature=2.0)(data, out, NOW)
    between, within = grouped_kl(out.logits_BC, data.teacher.logits_BC, GROUPS, 2.0, rebalance=True, equal_within=True)
    assert torch.allclose(terms["between"], 0.5 * between)
    assert torch.allclose(terms["within"], 3 * within)
    assert torch.allclose(terms["ce"], cross_entropy(out.logits_BC, data.labels))


def test_without_its_fixes_it_is_kd_exactly():
    data, out = logit_batch(), logit_student()
    terms = made(rebalance_groups=False, equal_within=False)(data, out, NOW)
    assert torch.allclose(terms["between"] + terms["within"], softened_kl(out.logits_BC, data.teacher.logits_BC, 4.0))


def test_two_classes_make_no_three_groups():
    with pytest.raises(UserError, match="at least three classes"):
        made(classes=2)


def test_gradient_reaches_the_student_and_never_the_teacher():
    check_gradient_reaches_the_student_alone("ltkd")

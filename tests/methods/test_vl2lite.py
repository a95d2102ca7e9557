"""vl2lite, and what pand has from it, on hand-made batches: values against naive loops, schedules, invariants,
gradients."""

import logging
import math

import pytest
import torch
from hand_made import SCALE, B, C, D, E, bank, random, text_batch, text_method, text_student

from linnet.config import StudentConfig, TrainConfig
from linnet.errors import UserError
from linnet.losses import neighbour_structure
from linnet.methods.base import Method
from linnet.step import Batch, Progress, StudentOutput
from linnet.teachers.base import ClassHead


def naive_terms(
    method: Method, data: Batch, out: StudentOutput, temperature: float = 2.0
) -> tuple[float, float, float]:
    """CE, L_vis and T^2 KL by loops over samples and classes."""
    assert data.teacher is not None and data.teacher.embedding_BE is not None
    base = getattr(method, "base", method)
    images, texts = base.condense_image(data.teacher.embedding_BE), base.condense_text(bank())
    ce = vision = text = 0.0
    for i in range(B):
        h = [v / out.features_BD[i].norm().item() for v in out.features_BD[i].tolist()]
        a = [v / images[i].norm().item() for v in images[i].tolist()]
        vision += sum(abs(x - y) for x, y in zip(h, a, strict=True)) / (B * D)
        q_t, q_s = [], []
        for c in range(C):
            tau = [v / texts[c].norm().item() for v in texts[c].tolist()]
            u = (
                sum(x * y for x, y in zip(data.teacher.embedding_BE[i].tolist(), bank()[c].tolist(), strict=True))
                / 0.07
            )
            s = sum(x * y for x, y in zip(h, tau, strict=True)) / 0.07
            q_t.append(math.exp(u / temperature))
            q_s.append(math.exp(s / temperature))
        q_t, q_s = [v / sum(q_t) for v in q_t], [v / sum(q_s) for v in q_s]
        text += temperature**2 * sum(p * math.log(p / q) for p, q in zip(q_t, q_s, strict=True)) / B
        z = out.logits_BC[i].tolist()
        ce -= (z[data.labels[i]] - math.log(sum(math.exp(v) for v in z))) / B
    return ce, vision, text


@pytest.mark.parametrize(("method", "weight"), [("vl2lite", 0.5), ("pand", 1.0)])
@pytest.mark.parametrize(("number", "w_cls"), [(0, 0.0), (4, 4 / 80), (9, 9 / 80)])
def test_published_terms_are_the_naive_sums(method: str, weight: float, number: int, w_cls: float):
    made, data, out = text_method(method, {"schedule": "published"}), text_batch(), text_student()
    ce, vision, text = naive_terms(made, data, out)
    terms = made(data, out, Progress(number, 10))
    assert terms["ce"].item() == pytest.approx(w_cls * ce, rel=1e-9)
    assert terms["vision"].item() == pytest.approx((1 - w_cls) * vision / 2, rel=1e-9)
    assert terms["text"].item() == pytest.approx((1 - w_cls) * weight * text / 2, rel=1e-6)
    assert w_cls < 1 / 8
    if method == "pand":  # lambda is not scheduled, and the teacher's logits have the method's scale, not its own
        teacher = data.teacher.embedding_BE @ bank().T / 0.07
        assert terms["nsd"].item() == pytest.approx(neighbour_structure(out.logits_BC, teacher, 3).item(), rel=1e-9)


@pytest.mark.parametrize("method", ["vl2lite", "pand"])
def test_text_term_and_its_gradients_are_those_of_unit_features_and_unit_texts(method: str):
    """It is computed in another order than it is written in the paper."""
    made, data, out, other = text_method(method), text_batch(), text_student(), text_student()
    base = getattr(made, "base", made)
    weights = [*base.condense_text.parameters()]
    _, text = base.alignment(data, out)
    unit_BD = torch.nn.functional.normalize(other.features_BD, dim=1)
    unit_CD = torch.nn.functional.normalize(base.condense_text(bank()), dim=1)
    student, teacher = (logits / 2 for logits in (unit_BD @ unit_CD.T / 0.07, base.teacher_logits(data)))
    p, q = torch.softmax(teacher, dim=1), torch.softmax(student, dim=1)
    naive = 4 * (p * (p / q).log()).sum(dim=1).mean()
    assert torch.allclose(text, naive, rtol=1e-10)
    ours = torch.autograd.grad(text, [out.features_BD, *weights])
    for own, expected in zip(ours, torch.autograd.grad(naive, [other.features_BD, *weights]), strict=True):
        assert torch.allclose(own, expected, rtol=1e-8, atol=1e-12)
        assert expected.norm() > 1e-3


@pytest.mark.parametrize("method", ["vl2lite", "pand"])
def test_constant_weights_from_scratch_and_published_ones_for_a_pretrained_student(method: str):
    data, out = text_batch(), text_student()
    terms = text_method(method)(data, out, Progress(0, 10))
    ce, vision, _ = naive_terms(text_method(method), data, out)
    assert terms["ce"].item() == pytest.approx(ce)
    assert terms["vision"].item() == pytest.approx(vision / 2)
    pretrained = text_method(method, student=StudentConfig(pretrained=True))(data, out, Progress(0, 10))
    assert pretrained["ce"].item() == 0
    options = {"schedule": "constant", "ce_weight": 0.25}
    chosen = text_method(method, options, student=StudentConfig(pretrained=True))(data, out, Progress(9, 10))
    assert chosen["ce"].item() == pytest.approx(ce / 4)
    assert chosen["vision"].item() == pytest.approx(vision / 2)


@pytest.mark.parametrize("method", ["vl2lite", "pand"])
def test_a_weight_that_the_schedule_would_ignore_is_refused(method: str):
    with pytest.raises(UserError, match="add schedule constant"):
        text_method(method, {"ce_weight": 0.25}, student=StudentConfig(pretrained=True))


def test_half_the_text_weight_is_vl2lites():
    data, out = text_batch(), text_student()
    full = text_method("vl2lite", {"text_weight": 1.0})(data, out, Progress(0, 10))["text"]
    assert torch.equal(text_method("vl2lite")(data, out, Progress(0, 10))["text"], full / 2)


@pytest.mark.parametrize("method", ["vl2lite", "pand"])
def test_gradient_reaches_student_and_condensation_and_never_the_teacher(method: str):
    made, data, out = text_method(method), text_batch(), text_student()
    assert data.teacher is not None and data.teacher.embedding_BE is not None
    data.teacher.embedding_BE.requires_grad_()
    data.teacher.logits_BC.requires_grad_()
    sum(made(data, out, Progress(5, 10)).values()).backward()
    for tensor in (out.features_BD, out.logits_BC, *made.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0
    assert data.teacher.logits_BC.grad is None
    assert data.teacher.embedding_BE.grad is None
    assert not made.state_dict().keys() & {"bank_CE", "base.bank_CE"}  # the text bank is the teacher's


def test_text_term_prevents_the_collapse_that_the_vision_term_alone_allows():
    """g_i is trained with L_vis, so a student that says the same of every image satisfies it."""
    data = text_batch()
    same = StudentOutput(torch.ones(B, D, dtype=torch.float64), torch.zeros(B, C, dtype=torch.float64))
    made = text_method("vl2lite")
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    for _ in range(1500):
        vision, _ = made.alignment(data, same)
        optimizer.zero_grad()
        vision.backward()
        optimizer.step()
    assert vision < 0.05
    fooled = text_method("vl2lite")
    optimizer = torch.optim.Adam(fooled.parameters(), 0.01)
    for _ in range(1500):
        vision, text = fooled.alignment(data, same)
        optimizer.zero_grad()
        (vision + text).backward()
        optimizer.step()
    relations = torch.softmax(data.teacher.logits_BC / SCALE / 0.07 / 2, dim=1)
    constant = relations.mean(dim=0)  # the best that one answer for all images can do
    floor = 4 * (relations * (relations / constant).log()).sum(dim=1).mean()
    assert text > 0.99 * floor
    assert floor > 1.0


@pytest.mark.parametrize("method", ["vl2lite", "pand"])
def test_a_probe_takes_the_place_of_the_text_logits(method: str):
    probe = (random(C, E, seed=8), torch.zeros(C, dtype=torch.float64))
    head = ClassHead(bank_CE=bank(), scale=1.0, probe=probe)
    data, out = text_batch(head), text_student()
    made = text_method(method, head=head)
    assert torch.equal(getattr(made, "base", made).teacher_logits(data), data.teacher.logits_BC)
    assert all(torch.isfinite(term) for term in made(data, out, Progress(0, 10)).values())


@pytest.mark.parametrize("method", ["vl2lite", "pand"])
def test_sgd_with_the_published_schedule_is_warned_of(method: str, caplog: pytest.LogCaptureFixture):
    """The classifier would train at an eighth of the learning rate, silently."""
    with caplog.at_level(logging.WARNING):
        text_method(method, {"schedule": "published"})
        text_method(method, {"schedule": "constant"}, train=TrainConfig(optimizer="sgd"))
    assert not caplog.text
    text_method(method, {"schedule": "published"}, train=TrainConfig(optimizer="sgd"))
    assert "use --train.optimizer adamw" in caplog.text

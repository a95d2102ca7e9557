import math

import pytest
import torch
from hand_made import B, C, E, bank, random, text_batch, text_method, text_student

from linnet.losses import embedding_error
from linnet.step import Progress, StudentOutput


def output() -> StudentOutput:
    own = text_student()
    return StudentOutput(own.features_BD, own.logits_BC, random(B, E, seed=6).requires_grad_())


def test_dual_is_the_naive_sum():
    method, data, out = (
        text_method("dual", {"ce_weight": 2.0, "kd_weight": 3.0, "mse_weight": 0.5}),
        text_batch(),
        output(),
    )
    kd = mse = 0.0
    for s, v in zip(out.embedding_BE, data.teacher.embedding_BE, strict=True):
        unit = s / s.norm()
        told, said = ([math.exp((row @ bank()[c]).item() / 0.07) for c in range(C)] for row in (v, unit))
        p, q = [x / sum(told) for x in told], [x / sum(said) for x in said]
        kd += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / B
        mse += (unit - v).square().sum().item() / B
    terms = method(data, out, Progress(0, 10))
    assert terms["names"].item() == pytest.approx(3 * kd, rel=1e-6)
    assert terms["mse"].item() == pytest.approx(0.5 * mse, rel=1e-6)
    assert terms["mse"].item() == pytest.approx(
        0.5 * embedding_error(out.embedding_BE, data.teacher.embedding_BE).item()
    )
    assert terms["ce"].item() == pytest.approx(2 * torch.nn.functional.cross_entropy(out.logits_BC, data.labels).item())


def test_labels_reach_the_classifier_and_the_teacher_the_embedding():
    for reached, untouched, names in (
        ("logits_BC", "embedding_BE", ["ce"]),
        ("embedding_BE", "logits_BC", ["names", "mse"]),
    ):
        data, out = text_batch(), output()
        data.teacher.embedding_BE.requires_grad_()
        terms = text_method("dual")(data, out, Progress(0, 10))
        sum(terms[name] for name in names).backward()
        assert getattr(out, reached).grad.abs().sum() > 0
        assert getattr(out, untouched).grad is None
        assert data.teacher.embedding_BE.grad is None

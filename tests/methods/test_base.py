"""What every method does alike: the supervised term of a long tail."""

import numpy as np
import pytest
import torch
from hand_made import fake_teacher, logit_batch, logit_student

from linnet import methods
from linnet.config import Config, TrainConfig
from linnet.losses import class_weights, cross_entropy, log_prior, softened_kl
from linnet.methods.base import Context
from linnet.step import Progress
from linnet.teachers.base import ClassHead
from linnet.text.classes import class_table

LABELS = np.repeat(np.arange(8), [40, 20, 10, 8, 4, 2, 1, 1])
COUNTS = torch.bincount(torch.from_numpy(LABELS))


def terms(method: str, train: TrainConfig) -> dict[str, torch.Tensor]:
    made = methods.build(method, {})
    names = class_table([f"c{c}" for c in range(8)])
    made.prepare(Context(Config(train=train), names, 5, fake_teacher("classifier"), ClassHead(), labels_N=LABELS))
    assert not made.state_dict()  # the prior is the data's, not the student's
    return made.double()(logit_batch(), logit_student(), Progress(0, 1))


@pytest.mark.parametrize("method", ["kd", "kd+dist:0.5"])
def test_the_prior_reaches_the_cross_entropy_alone(method: str):
    data, out = logit_batch(), logit_student()
    balanced, plain = (terms(method, TrainConfig(logit_adjustment=tau)) for tau in (1.5, 0.0))
    expected = cross_entropy(out.logits_BC + log_prior(COUNTS, 1.5), data.labels)
    assert torch.allclose(balanced["ce"], 0.1 * expected)
    assert not torch.allclose(balanced["ce"], plain["ce"])
    assert torch.allclose(balanced["kd"], 0.9 * softened_kl(out.logits_BC, data.teacher.logits_BC, 4.0))


@pytest.mark.parametrize(("kind", "power"), [("inverse", 1.0), ("square-root", 0.5)])
def test_rare_classes_weigh_more(kind: str, power: float):
    data, out = logit_batch(), logit_student()
    weights = class_weights(COUNTS, power).double()
    weighted = terms("ce", TrainConfig(class_weights=kind))["ce"]  # type: ignore[arg-type]
    assert torch.allclose(weighted, cross_entropy(out.logits_BC, data.labels, weight_C=weights))

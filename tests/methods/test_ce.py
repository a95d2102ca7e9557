import torch
from hand_made import logit_batch, logit_method, logit_student

from linnet.config import Config, TrainConfig
from linnet.losses import cross_entropy
from linnet.step import Progress


def test_ce_is_cross_entropy_with_the_smoothing_asked_for():
    data, out = logit_batch(), logit_student()
    terms = logit_method("ce", config=Config(train=TrainConfig(label_smoothing=0.1)))(data, out, Progress(0, 1))
    assert list(terms) == ["ce"]
    assert torch.equal(terms["ce"], cross_entropy(out.logits_BC, data.labels, 0.1))

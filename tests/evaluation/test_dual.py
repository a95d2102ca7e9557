"""How much of a dual student's answer is its classifier's, on heads made by hand."""

import numpy as np
import pytest
import torch

from linnet.evaluation import dual
from linnet.evaluation.dual import choose_mix

CPU = torch.device("cpu")
BOTH_HEADS = [((1, 0), (0.36, 0.64)), ((0, 1), (0.75, 0.25))]  # right above 0.22 of the classifier; below 0.33
ONLY_CLASSIFIER = [((0.9, 0.1), (0.36, 0.64)), ((0, 1), (0.1, 0.9))]


class Heads(torch.nn.Module):
    """Two images, and what each head says of them."""

    image_size, bank_CE, columns_C = 4, torch.eye(2), torch.tensor([0, 1])

    def __init__(self, said: list[tuple[tuple[float, float], tuple[float, float]]]):
        super().__init__()
        self.classifier_NC, self.names_NC = (
            torch.tensor(part, dtype=torch.float32).clamp(min=1e-6).log() for part in zip(*said, strict=True)
        )

    def heads(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.classifier_NC[: len(batch)], self.names_NC[: len(batch)]

    def compared(self, embedding_BE: torch.Tensor, bank_KE: torch.Tensor) -> torch.Tensor:
        return embedding_BE


@pytest.fixture(autouse=True)
def two_images(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dual, "eval_batches", lambda images, size: iter([torch.zeros(2, 3, 4, 4)]))


@pytest.mark.parametrize(("said", "labels", "mix", "alone"), [
    (BOTH_HEADS, [0, 0], 0.3, (0.5, 0.5)),  # three tenths alone name both right
    ([own[::-1] for own in BOTH_HEADS], [0, 0], 0.7, (0.5, 0.5)),
    (ONLY_CLASSIFIER, [0, 1], 1.0, (0.5, 1.0)),  # from 0.3 on all are right: the lowest cross-entropy is the classifier's
    ([own[::-1] for own in ONLY_CLASSIFIER], [0, 1], 0.0, (1.0, 0.5)),
])  # fmt: skip
def test_the_mixture_names_most_right_and_of_equals_has_the_lowest_cross_entropy(said, labels, mix, alone):
    student = Heads(said)
    about = choose_mix(student, [None] * 2, np.array(labels), CPU)
    assert student.mix == about["student.mix"] == pytest.approx(mix)
    assert (about["val.names.top1"], about["val.classifier.top1"]) == alone

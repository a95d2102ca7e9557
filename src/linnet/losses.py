"""Losses: pure functions of tensors, in float32, each citing its source.

Shapes: B batch, C classes.
"""

import torch
import torch.nn.functional as F


def cross_entropy(logits_BC: torch.Tensor, labels_B: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Mean cross-entropy over the labelled images of a batch; 0 if there are none.

    Args:
        labels_B: class ids, -1 where unlabelled.
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016, section 7).
    """
    total = F.cross_entropy(logits_BC, labels_B, ignore_index=-1, label_smoothing=label_smoothing, reduction="sum")
    return total / (labels_B >= 0).sum().clamp(min=1)


def softened_kl(student_BC: torch.Tensor, teacher_BC: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, in nats.

    The teacher's logits are constants: no gradient reaches them. A constant added to all logits of an image changes
    nothing.

    Reference:
        Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, section 2.
    """
    student = F.log_softmax(student_BC / temperature, dim=1)
    teacher = F.log_softmax(teacher_BC.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)

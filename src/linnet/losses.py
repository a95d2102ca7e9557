"""Losses: pure functions of tensors, in float32, each citing its source.

Shapes: B batch, C classes, K neighbours.
"""

import math

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


def standardize(logits_BC: torch.Tensor) -> torch.Tensor:
    """Each image's logits with mean 0 and (population) variance 1; constant logits become 0, with finite gradients.

    Reference:
        Sun et al.: Logit Standardization in Knowledge Distillation, CVPR 2024, equation 6. The 1e-6 under the root is
        linnet's.
    """
    centred = logits_BC - logits_BC.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()


def nearest_neighbours(teacher_BC: torch.Tensor, neighbours: int) -> torch.Tensor:
    """For each image of the batch the K others whose teacher logits have the largest cosine with its own: (B, K) rows.

    K is ``neighbours``, at most B - 1. Computed in float32, also under autocast: in bf16 most neighbours are lost.
    """
    with torch.autocast(teacher_BC.device.type, enabled=False):
        unit = F.normalize(teacher_BC.detach().float(), dim=1)
        cosine = (unit @ unit.T).fill_diagonal_(-torch.inf)
    return cosine.topk(min(neighbours, len(unit) - 1), dim=1).indices


def neighbour_structure(student_BC: torch.Tensor, teacher_BC: torch.Tensor, neighbours: int) -> torch.Tensor:
    """Jensen-Shannon divergence between the two networks' relations of each image to its nearest neighbours.

    The relation of images i and j is softmax_c(logits_i - logits_j); neighbours are the teacher's (see
    :func:`nearest_neighbours`). The mean over all pairs, in nats: between 0 and ln 2, 0 for a batch of one. A constant
    added to all logits of a student's image changes nothing, nor does one vector added to the logits of all images.

    Args:
        student_BC, teacher_BC: logits; the teacher's are constants.

    Reference:
        PAND, arXiv 2602.07768, section 3.3, as in the authors' code: neighbours are samples of the local batch.
    """
    if len(student_BC) < 2:
        return 0.0 * student_BC.sum()
    near_BK = nearest_neighbours(teacher_BC, neighbours)
    teacher_BC = teacher_BC.detach().to(student_BC.dtype)
    teacher = F.log_softmax(teacher_BC[:, None] - teacher_BC[near_BK], dim=2)
    student = F.log_softmax(student_BC[:, None] - student_BC[near_BK], dim=2)
    mixture = torch.logaddexp(teacher, student) - math.log(2)  # the direct form underflows to NaN
    divergence = F.kl_div(mixture, teacher, reduction="sum", log_target=True)
    divergence = divergence + F.kl_div(mixture, student, reduction="sum", log_target=True)
    return divergence / (2 * near_BK.numel())

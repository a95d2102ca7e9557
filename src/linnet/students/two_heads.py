"""Two heads in one answer: a classifier for the classes of the training, and names for any.

Shapes: B batch, C classes of the training, K names that are asked for.
"""

import torch
import torch.nn.functional as F

NEVER = -1e9  # a logit whose probability is 0


def mixed_logits(
    classifier_BC: torch.Tensor, names_BK: torch.Tensor, columns_K: torch.Tensor, weight: torch.Tensor | float
) -> torch.Tensor:
    """(B, K): logarithms of the probabilities of K names.

    The names' head p decides how much goes to new names and how much to the classes of the training together; these
    share it as weight * q + (1 - weight) * p says, q being the classifier among those that are asked for. Where all
    names are of the training it is the mixture of the two heads' probabilities.

    Args:
        columns_K: the place of each name in the classifier, -1 of a new one. weight: of the classifier, 0 to 1.

    Reference:
        Kang et al.: Dual-head optimization (DHO), arXiv 2505.07675, inference, for names of the training alone.

    Deviation:
        New names beside those of the training are linnet's own.
    """
    weight = torch.as_tensor(weight, dtype=names_BK.dtype, device=names_BK.device)
    is_new_K = columns_K < 0
    log_p_BK = F.log_softmax(names_BK, dim=1)
    log_trained_B1 = torch.logsumexp(log_p_BK.masked_fill(is_new_K, NEVER), dim=1, keepdim=True)
    chosen_BK = F.pad(classifier_BC, (0, 1), value=NEVER)[:, columns_K]  # -1 is the column that was added
    log_q_BK = F.log_softmax(chosen_BK, dim=1) + log_trained_B1
    mixed_BK = torch.logaddexp(weight.log().clamp(min=NEVER) + log_q_BK, (1 - weight).log().clamp(min=NEVER) + log_p_BK)
    return torch.where(is_new_K, log_p_BK, mixed_BK)

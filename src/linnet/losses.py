"""Losses: pure functions of tensors, in float32, each citing its source.

Shapes: B batch, C classes (of maps: channels), E embedding width, H height, K neighbours or texts, M wavelet
coefficients, W width.
"""

import math

import torch
import torch.nn.functional as F


def cross_entropy(
    logits_BC: torch.Tensor,
    labels_B: torch.Tensor,
    label_smoothing: float = 0.0,
    weight_C: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross-entropy over the labelled images of a batch; 0 if there are none.

    Args:
        labels_B: class ids, -1 where unlabelled.
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016, section 7).
        weight_C: of each class; the mean is over images, so a heavier class counts more.
    """
    total = F.cross_entropy(
        logits_BC, labels_B, weight_C, ignore_index=-1, label_smoothing=label_smoothing, reduction="sum"
    )
    return total / (labels_B >= 0).sum().clamp(min=1)


def mixed_cross_entropy(
    logits_BC: torch.Tensor,
    labels_B: torch.Tensor,
    other_labels_B: torch.Tensor,
    share_B: torch.Tensor,
    label_smoothing: float = 0.0,
    weight_C: torch.Tensor | None = None,
) -> torch.Tensor:
    """The same of mixed images: share * CE(own label) + (1 - share) * CE(the other's). What is unlabelled has no part.

    Reference:
        Zhang et al.: mixup, ICLR 2018, section 2; Yun et al.: CutMix, ICCV 2019, equation 1.
    """
    shares_2B = torch.stack([share_B, 1 - share_B]).to(logits_BC)
    labels_2B = torch.stack([labels_B, other_labels_B])
    losses_2B = torch.stack(
        [F.cross_entropy(logits_BC, labels, weight_C, None, -1, None, "none", label_smoothing) for labels in labels_2B]
    )
    return (shares_2B * losses_2B).sum() / (shares_2B * (labels_2B >= 0)).sum().clamp(min=1e-6)


def log_prior(counts_C: torch.Tensor, strength: float) -> torch.Tensor:
    """strength * log(share of each class): what the cross-entropy of a long tail adds to its logits.

    With strength 1 it is balanced softmax. A class without an image counts as having one. Prediction uses the logits
    without it.

    Reference:
        Ren et al.: Balanced Meta-Softmax for Long-Tailed Visual Recognition, NeurIPS 2020, equation 3; Menon et al.:
        Long-Tail Learning via Logit Adjustment, ICLR 2021, equation 10, with tau = strength.
    """
    counts_C = counts_C.clamp(min=1).double()
    return (strength * (counts_C / counts_C.sum()).log()).float()


def class_weights(counts_C: torch.Tensor, power: float) -> torch.Tensor:
    """Weights of the cross-entropy of each class, proportional to n^-power, whose mean over the training images is 1.

    A class without an image counts as having one.
    """
    counts_C = counts_C.clamp(min=1).double()
    weights_C = counts_C**-power
    return (weights_C * counts_C.sum() / (weights_C * counts_C).sum()).float()


def divergence(p_BC: torch.Tensor, q_BC: torch.Tensor) -> torch.Tensor:
    """KL(softmax(p) || softmax(q)), mean over the batch, in nats; the gradient reaches both."""
    return F.kl_div(F.log_softmax(q_BC, dim=1), F.log_softmax(p_BC, dim=1), reduction="batchmean", log_target=True)


def softened_kl(student_BC: torch.Tensor, teacher_BC: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, in nats.

    The teacher's logits are constants: no gradient reaches them. A constant added to all logits of an image changes
    nothing.

    Reference:
        Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, section 2.
    """
    return temperature**2 * divergence(teacher_BC.detach() / temperature, student_BC / temperature)


def standardize(logits_BC: torch.Tensor, correction: int = 0) -> torch.Tensor:
    """Each image's logits with mean 0 and variance 1; constant logits become 0, with finite gradients.

    Args:
        correction: the variance divides by C - correction: 0 for that of the population, 1 for that of a sample.

    Reference:
        Sun et al.: Logit Standardization in Knowledge Distillation, CVPR 2024, equation 6; the released code divides by
        the deviation of a sample. The 1e-6 under the root is linnet's.
    """
    centred = logits_BC - logits_BC.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / (logits_BC.shape[1] - correction)
    return centred / (variance + 1e-6).sqrt()


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


def decoupled_kl(
    student_BC: torch.Tensor, teacher_BC: torch.Tensor, labels_B: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two parts of T^2 * KL(teacher || student), in nats, means over the labelled images of a batch.

    The first compares the probability of the true class with that of all others together, the second the distributions
    over the other classes alone (0 for two classes). With p the teacher's probability of the true class, the softened
    KL of an image is first + (1 - p) * second.

    Args:
        student_BC, teacher_BC: logits; the teacher's are constants.
        labels_B: class ids, -1 where unlabelled: those images count in neither part; without any label both are 0.

    Reference:
        Zhao et al.: Decoupled Knowledge Distillation, CVPR 2022, TCKD and NCKD, as in the released code.
    """
    known = labels_B >= 0
    if not known.any():
        return 0.0 * student_BC.sum(), 0.0 * student_BC.sum()
    true_BC = F.one_hot(labels_B[known], student_BC.shape[1]).bool()

    def parts(logits_BC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits_BC = logits_BC[known] / temperature
        others_BC = logits_BC[~true_BC].view(len(logits_BC), -1)
        binary_B2 = torch.stack([logits_BC[true_BC], others_BC.logsumexp(dim=1)], dim=1)
        return binary_B2, others_BC

    student, teacher = parts(student_BC), parts(teacher_BC.detach())
    target, others = (temperature**2 * softened_kl(s, t, 1.0) for s, t in zip(student, teacher, strict=True))
    return target, others


def correlation_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """1 - Pearson's correlation of corresponding rows, mean over the rows: between 0 and 2, blind to a row's mean and,
    but for very small ones, to its scale.

    A constant row correlates with nothing: its loss is 1, its gradient finite. As in the released code of DIST, the
    product of the norms is raised by 1e-8, so that rows whose product is about as small hardly count either: those of
    classes to which both networks give less than about 1e-5 throughout the batch.
    """
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return 1 - ((a * b).sum(dim=1) / (norms + 1e-8)).mean()


def relation_losses(
    student_BC: torch.Tensor, teacher_BC: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """T^2 * (1 - correlation) of the two networks' softened probabilities: over the classes of each image ("inter"),
    and over the images of the batch for each class ("intra").

    Args:
        student_BC, teacher_BC: logits; the teacher's are constants.

    Reference:
        Huang et al.: Knowledge Distillation from A Stronger Teacher (DIST), NeurIPS 2022, the inter- and intra-class
        relations. The temperature and T^2 are those of CIFAR-100 code by others; the released ImageNet code has none.
    """
    student, teacher = (F.softmax(logits / temperature, dim=1) for logits in (student_BC, teacher_BC.detach()))
    inter, intra = correlation_loss(student, teacher), correlation_loss(student.T, teacher.T)
    return temperature**2 * inter, temperature**2 * intra


def coefficient_error(student_BM: torch.Tensor, teacher_BM: torch.Tensor, classes: int) -> torch.Tensor:
    """Sum of squared differences of wavelet coefficients divided by the number of classes, mean over the batch.

    The teacher's coefficients are constants. With all bands of an even number of classes it is the mean squared error
    of the logits themselves.

    Reference:
        FiGKD, arXiv 2505.11897, whose own distance is not known to us.
    """
    return (student_BM - teacher_BM.detach()).square().sum(dim=1).mean() / classes


def embedding_error(student_BE: torch.Tensor, teacher_BE: torch.Tensor) -> torch.Tensor:
    """Squared distance of unit embeddings, mean over the batch: 2 - 2 cos, between 0 and 4.

    Args:
        student_BE: of any length. teacher_BE: unit length, constants.

    Reference:
        Li et al.: Distilling Large Vision-Language Model with Out-of-Distribution Generalizability, ICCV 2023, L_mse.
    """
    return (F.normalize(student_BE, dim=1) - teacher_BE.detach()).square().sum(dim=1).mean()


def image_contrast(student_BE: torch.Tensor, teacher_BE: torch.Tensor, temperature: float) -> torch.Tensor:
    """Each student embedding picks its own image's teacher embedding among those of the batch, and the other way round.

    The mean of the two cross-entropies over cosines / temperature, in nats; 0 for a batch of one. Other images of the
    same class stay among the negatives.

    Args:
        student_BE: of any length. teacher_BE: unit length, constants.

    Reference:
        Li et al., ICCV 2023, L_im-cst.
    """
    cosine_BB = F.normalize(student_BE, dim=1) @ teacher_BE.detach().T / temperature
    own_B = torch.arange(len(cosine_BB), device=cosine_BB.device)
    return (F.cross_entropy(cosine_BB, own_B) + F.cross_entropy(cosine_BB.T, own_B)) / 2


def nearest_text_kl(
    student_BC: torch.Tensor,
    teacher_BC: torch.Tensor,
    texts: int,
    keep_B: torch.Tensor | None = None,
    constant_teacher: bool = True,
) -> torch.Tensor:
    """KL(softmax(teacher) || softmax(student)) over the texts that the teacher finds nearest, in nats.

    Both distributions are normalised on the K largest teacher logits of each image (of equals those of lower class
    ids); there is no T^2. The mean over the images that are kept; 0 if there are none.

    Args:
        student_BC, teacher_BC: cosines / temperature.
        texts: K; all if there are fewer. keep_B: bool, the images that count; None: all.
        constant_teacher: no gradient reaches whatever the teacher's cosines come from.

    Reference:
        Li et al., ICCV 2023, L_vlalign.
    """
    if constant_teacher:
        teacher_BC = teacher_BC.detach()
    if texts < teacher_BC.shape[1]:
        near_BK = teacher_BC.argsort(dim=1, descending=True, stable=True)[:, :texts]
        student_BC, teacher_BC = student_BC.gather(1, near_BK), teacher_BC.gather(1, near_BK)
    student, teacher = F.log_softmax(student_BC, dim=1), F.log_softmax(teacher_BC, dim=1)
    divergence_B = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    keep_B = torch.ones_like(divergence_B) if keep_B is None else keep_B.to(divergence_B.dtype)
    return (divergence_B * keep_B).sum() / keep_B.sum().clamp(min=1)


def caption_contrast(
    student_BE: torch.Tensor, caption_BE: torch.Tensor, labels_B: torch.Tensor, temperature: float | None = None
) -> torch.Tensor:
    """Each student embedding picks its own image's caption among those of the batch, cross-entropy in nats.

    Captions of other images of the same class are left out. Without a temperature the logits are plain cosines.

    Args:
        student_BE: of any length. caption_BE: unit length, constants. labels_B: class ids, -1 where unlabelled.

    Reference:
        Li et al., ICCV 2023, L_cap; the released code has no temperature.
    """
    cosine_BB = _without_classmates(F.normalize(student_BE, dim=1) @ caption_BE.detach().T, labels_B)
    own_B = torch.arange(len(labels_B), device=labels_B.device)
    return F.cross_entropy(cosine_BB / (temperature or 1.0), own_B)


def text_contrast(
    projected_BE: torch.Tensor, text_BE: torch.Tensor, labels_B: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Each image picks its own text among those of the batch, and each text its image: the mean of both, in nats.

    Texts of other images of the same class are left out; a batch of one class gives 0.

    Args:
        projected_BE: of any length. text_BE: unit length, constants. labels_B: class ids, -1 where unlabelled.

    Reference:
        VLM-KD, arXiv 2408.16930, of whose loss we know that it contrasts images with texts.
    """
    cosine_BB = _without_classmates(F.normalize(projected_BE, dim=1) @ text_BE.detach().T, labels_B) / temperature
    own_B = torch.arange(len(labels_B), device=labels_B.device)
    return (F.cross_entropy(cosine_BB, own_B) + F.cross_entropy(cosine_BB.T, own_B)) / 2


def _without_classmates(cosine_BB: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """Pairs of different images of one class become -inf; an image's own pair stays."""
    same_BB = (labels_B[:, None] == labels_B) & (labels_B[:, None] >= 0)
    same_BB = same_BB & ~torch.eye(len(labels_B), dtype=torch.bool, device=labels_B.device)
    return cosine_BB.masked_fill(same_BB, -torch.inf)


def grouped_kl(
    student_BC: torch.Tensor,
    teacher_BC: torch.Tensor,
    group_C: torch.Tensor,
    temperature: float,
    rebalance: bool = False,
    equal_within: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """T^2 * KL(teacher || student) in two parts, in nats, means over the batch: between groups of classes, and within.

    The first compares the probabilities of the groups, the second sums each group's probability (the teacher's) times
    the KL among its own classes. Without the two fixes their sum is the softened KL, exactly.

    Args:
        student_BC, teacher_BC: logits; the teacher's are constants.
        group_C: the group of each class, 0 .. G - 1, none empty.
        rebalance: the teacher's group probabilities, summed over the batch, are scaled to be equal, and each image's
            sum to 1 again. equal_within: each group's inner KL counts with weight 1.

    Reference:
        LTKD, arXiv 2506.18496, as it was described to us.
    """
    groups = int(group_C.max()) + 1

    def parts(logits_BC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_BC = F.log_softmax(logits_BC / temperature, dim=1)
        mass_BG = torch.stack([log_BC[:, group_C == g].logsumexp(dim=1) for g in range(groups)], dim=1)
        return mass_BG, log_BC - mass_BG[:, group_C]

    (student_BG, student_BC), (teacher_BG, teacher_BC) = parts(student_BC), parts(teacher_BC.detach())
    weight_BG = torch.ones_like(teacher_BG) if equal_within else teacher_BG.exp()
    within_BC = weight_BG[:, group_C] * teacher_BC.exp() * (teacher_BC - student_BC)
    if rebalance:
        teacher_BG = (teacher_BG - teacher_BG.logsumexp(dim=0)).log_softmax(dim=1)
    between = F.kl_div(student_BG, teacher_BG, reduction="batchmean", log_target=True)
    return temperature**2 * between, temperature**2 * within_BC.sum(dim=1).mean()


def statistics_distance(
    maps_BCHW: torch.Tensor, running_mean_C: torch.Tensor, running_var_C: torch.Tensor
) -> torch.Tensor:
    """||mean - running mean|| + ||variance - running variance|| over the channels of a batch of feature maps.

    Args:
        maps_BCHW: what a BatchNorm layer is given, (B, C) or (B, C, H, W); the variance is the biased one.

    Reference:
        DFKD-FGVC, ICCV 2023, arXiv 2404.12037, L_BN of one layer; first in Yin et al.: DeepInversion, CVPR 2020.
    """
    all_but_channels = [d for d in range(maps_BCHW.ndim) if d != 1]
    variance_C, mean_C = torch.var_mean(maps_BCHW, dim=all_but_channels, correction=0)
    return torch.linalg.vector_norm(mean_C - running_mean_C) + torch.linalg.vector_norm(variance_C - running_var_C)


def feature_contrast(student_BE: torch.Tensor, teacher_BE: torch.Tensor, temperature: float) -> torch.Tensor:
    """Each of 2B vectors picks the other network's vector of its own image among the 2B - 1 others, in nats.

    Cross-entropy over cosines / temperature; 0 for a batch of one. The gradient reaches both.

    Reference:
        DFKD-FGVC, ICCV 2023, arXiv 2404.12037, the semantic feature contrast; the form is that of Chen et al.: SimCLR,
        ICML 2020, equation 1.
    """
    unit_NE = F.normalize(torch.cat([student_BE, teacher_BE]), dim=1)
    cosine_NN = (unit_NE @ unit_NE.T / temperature).fill_diagonal_(-torch.inf)
    own_N = torch.arange(len(unit_NE), device=unit_NE.device).roll(len(student_BE))
    return F.cross_entropy(cosine_NN, own_N)


def class_balance(logits_BC: torch.Tensor) -> torch.Tensor:
    """Minus the entropy of the batch's mean prediction, in nats: lowest, -ln C, where all classes are as frequent.

    Reference:
        Chen et al.: Data-Free Learning of Student Networks (DAFL), ICCV 2019, the information entropy loss.
    """
    # by the logarithm: of a class whose probability underflows, that of the probability itself has no gradient
    log_mean_C = F.log_softmax(logits_BC, dim=1).logsumexp(dim=0) - math.log(len(logits_BC))
    return (log_mean_C.exp() * log_mean_C).sum()

"""Few-shot retrieval: a few images of a new class as keys beside its name, without training (Tip-Adapter).

Shapes: N images, C classes, M keys of a class, E embedding width; embeddings are of unit length.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from linnet.config import ShotsConfig, Still
from linnet.data.images import read_image
from linnet.data.manifest import Manifest
from linnet.metrics import mean_per_class_accuracy
from linnet.teachers.base import VisionLanguageTeacher
from linnet.teachers.cache import Pixels, TeacherCache, still_pixels, still_transform

ALPHAS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
TEMPERATURE = 0.07
PLAIN_VIEW = 0
OPERATIONS, MAGNITUDE = 2, 9  # of RandAugment
VERSION = 2  # part of the space of cached keys: raise it when the views change


def retrieval_logits(
    images_NE: np.ndarray, bank_CE: np.ndarray, keys_CME: np.ndarray, alpha: float, config: ShotsConfig
) -> np.ndarray:
    """(N, C): s t_c / 0.07 + alpha / 0.07 * mean over a class's keys F of exp(-beta * (1 - s F)).

    Form ``released``: s t_c + alpha * sum over the keys.

    Reference:
        Zhang et al.: Tip-Adapter, ECCV 2022, as used by Li et al., ICCV 2023.

    Deviation:
        Form ``mean``: a sum over tens of keys drowns a cosine that is below 1.
    """
    logits_NC = images_NE @ bank_CE.T
    affinity_NC = np.empty_like(logits_NC)
    for start in range(0, len(images_NE), 256):  # bounds memory
        cosine = np.einsum("ne,cme->ncm", images_NE[start : start + 256], keys_CME, optimize=True)
        nearness = np.exp(-config.beta * (1 - cosine))
        affinity_NC[start : start + 256] = nearness.sum(axis=2) if config.form == "released" else nearness.mean(axis=2)
    scale = 1.0 if config.form == "released" else 1 / TEMPERATURE
    return scale * (logits_NC + alpha * affinity_NC)


def choose_alpha(
    val_NE: np.ndarray, labels_N: np.ndarray, bank_CE: np.ndarray, keys_CME: np.ndarray, config: ShotsConfig
) -> float:
    """The weight of the keys with the best mean per-class accuracy on val images of base classes, of equals the
    smallest. There is no val image of a novel class."""

    def accuracy(alpha: float) -> float:
        logits = retrieval_logits(val_NE, bank_CE, keys_CME, alpha, config)
        return mean_per_class_accuracy(logits, labels_N)

    return max(ALPHAS, key=accuracy)


def support_keys(
    teacher: VisionLanguageTeacher,
    support: Manifest,
    views: int,
    seed: int,
    folder: Path | None,
    device: torch.device,
    still: Still = "center",
) -> np.ndarray:
    """(C, M, E) float32: the teacher's embeddings of the support images as they are and of RandAugment views of them,
    cached.

    Every class has the same number of images; M is that times ``views``, of which the first is the plain one. The
    teacher sees them whole as it sees all others (``still``).
    """
    import torchvision

    words = f"randaugment of torchvision {torchvision.__version__}|version {VERSION}|seed {seed}"
    words += "|squash" if still == "squash" else ""
    cache = TeacherCache(teacher, words, folder, device)
    for view in range(views):
        cache.fill(support.digests, _augmented(teacher, support, view, seed, still), view)
    keys_VNE = torch.stack([cache.rows(support.digests, view).float() for view in range(views)])
    keys_NVE = torch.nn.functional.normalize(keys_VNE, dim=2).transpose(0, 1).numpy()
    order = np.argsort(support.labels, kind="stable")
    return keys_NVE[order].reshape(len(support.classes), -1, keys_NVE.shape[2])


def _augmented(teacher: VisionLanguageTeacher, images: Manifest, view: int, seed: int, still: Still) -> Pixels:
    """RandAugment (on all views but number 0) before the teacher's view of the whole."""
    from torchvision.transforms import RandAugment

    if view == PLAIN_VIEW:
        return still_pixels(teacher, images.paths, still)
    augment, transform = RandAugment(OPERATIONS, MAGNITUDE), still_transform(teacher, still)

    def pixels(rows: Sequence[int]) -> torch.Tensor:
        seen = []
        for row in rows:
            key = hashlib.sha256(images.digests[row].tobytes() + f"{view}|{seed}".encode()).digest()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int.from_bytes(key[:8], "big") >> 1)
                seen.append(transform(augment(read_image(images.paths[row]))))
        return torch.stack(seen)

    return pixels

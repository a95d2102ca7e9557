"""Changes of an image's tones that torchvision makes: one for each image of a batch.

Shapes: B batch, S side.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch

TONES = ("none", "sharpness", "posterize", "solarize", "autocontrast", "equalize")


def retone(pixels: torch.Tensor, tone_B: np.ndarray, strength_B: np.ndarray) -> None:
    """Change images in place, each by its own tone.

    Args:
        pixels: (B, 3, S, S) float32 in [0, 1]. tone_B: numbers of :data:`TONES`. strength_B: of sharpness a factor (0
            is blurred, 1 as it is), of posterize the bits that are left of 8, of solarize the value above which pixels
            are inverted; the others have none.
    """
    if not tone_B.any():
        return
    functions = _functions()
    for image, tone, strength in zip(pixels, tone_B, strength_B, strict=True):
        if tone:
            image.copy_(functions[TONES[tone]](image, float(strength)))


def _functions() -> Mapping[str, Callable[[torch.Tensor, float], torch.Tensor]]:
    from torchvision.transforms.v2 import functional

    def bytes_of(image: torch.Tensor) -> torch.Tensor:
        return (255 * image).round().to(torch.uint8)

    return {
        "sharpness": functional.adjust_sharpness,
        "posterize": lambda image, bits: functional.posterize(bytes_of(image), round(bits)).float() / 255,
        "solarize": functional.solarize,
        "autocontrast": lambda image, _: functional.autocontrast(image),
        "equalize": lambda image, _: functional.equalize(bytes_of(image)).float() / 255,
    }

"""Image files for tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (40, 36)) -> Path:
    """A noisy image of one colour: classes of different colours can be learnt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 25, (size[1], size[0], 3))
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path, quality=95)
    return path

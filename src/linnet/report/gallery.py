"""The gallery of a run whose method makes its own images: the same noise at a few epochs, one row for each."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from linnet.files import new_file

SIDE = 64  # smaller images are enlarged to about this many pixels
MARGIN = 72  # for the number of the epoch


def is_moment(epoch: int, epochs: int) -> bool:
    """Whether the gallery has a row of this epoch (from 1): 1, 2, 5, 10, 20, 50, ... and the last."""
    return epoch == epochs or re.fullmatch("[125]0*", str(epoch)) is not None


def add_row(folder: Path, picture: Path, epoch: int, images: torch.Tensor) -> None:
    """Write ``folder/epoch-NUMBER.png``, images (N, 3, S, S) in [0, 1] side by side, and ``picture``, all rows."""
    pixels = (255 * images.detach().cpu().clamp(0, 1)).round().byte().permute(0, 2, 3, 1).numpy()
    times = max(1, SIDE // pixels.shape[1])
    row = np.concatenate(list(pixels.repeat(times, axis=1).repeat(times, axis=2)), axis=1)
    folder.mkdir(parents=True, exist_ok=True)
    _save(Image.fromarray(row), folder / f"epoch-{epoch:05d}.png")
    rows = [(path, Image.open(path)) for path in sorted(folder.glob("epoch-*.png"))]
    wall = Image.new("RGB", (MARGIN + rows[0][1].width, sum(image.height for _, image in rows)), "white")
    draw, top = ImageDraw.Draw(wall), 0
    for path, image in rows:
        wall.paste(image, (MARGIN, top))
        draw.text((4, top + image.height // 2 - 6), f"epoch {int(path.stem.removeprefix('epoch-'))}", fill="black")
        top += image.height
    _save(wall, picture)


def _save(image: Image.Image, path: Path) -> None:
    with new_file(path) as file:
        image.save(file, format="PNG")

"""Image files to arrays: one way to read, one way to evaluate.

Nothing here needs torch: ``linnet predict model.onnx`` runs on this file, numpy and onnxruntime.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from linnet.data.ahead import ahead
from linnet.data.decoding import decode
from linnet.errors import UserError

TRAIN_MARGIN = 1.15  # stored training images are this much larger than the student's input: crops keep their detail
VERSION = 2  # part of every store's name: raise it when the pixels of a store change
LARGER = 2  # how much larger than what it is resized to a JPEG has to be decoded: less would show in the pixels
EXTREME = 16  # how many times as long as wide an image may be; of a longer one the middle is read
CHUNK = 512  # images of one round, where a set is gone through in rounds: bounds memory whatever its size

Fit = Literal["train", "eval"]
CropMode = Literal["center", "squash"]
Jpeg = Literal["scaled", "full"]


def read_image(path: Path, side: int | None = None) -> Image.Image:
    """Decode a file to RGB, upright (EXIF), transparency dropped, of an extreme shape the middle.

    Args:
        side: a JPEG may come out smaller, with sides of at least so many pixels.

    Raises:
        UserError: the file is missing, truncated or no image.
    """
    try:
        return cut_extreme(decode(path.read_bytes(), side).image)
    except Exception as error:  # for bad files Pillow raises OSError, SyntaxError, ValueError and others
        raise UserError(f"cannot read the image {path} ({error}): replace or remove it") from error


def cut_extreme(image: Image.Image) -> Image.Image:
    """The middle of an image that is more than 16 times as long as wide: resizing all of a thread of 1 x 20,000 pixels
    would take gigabytes."""
    longest = EXTREME * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = min(image.width, longest), min(image.height, longest)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def shortest_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height when the shorter side becomes ``side`` pixels: the longer one is rounded down, as torchvision
    does it, so that timm's own transform shows a saved student the same pixels."""
    width, height = (side * length // min(size) for length in size)
    return width, height


def resize_shortest(image: Image.Image, side: int) -> Image.Image:
    """Resize so that the shorter side is ``side`` pixels (bicubic, antialiased)."""
    return image.resize(shortest_size(image.size, side), Image.Resampling.BICUBIC)


def middle(image: Image.Image, width: int, height: int) -> Image.Image:
    """The middle of an image that is at least as large, cut out as torchvision does it: half pixels go to the even
    side."""
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def resized_side(size: int, crop_pct: float) -> int:
    """The side, in pixels, to which evaluation resizes an image before it cuts ``size`` pixels out of the middle: 256
    for 224 and 0.875. Rounded down, as timm does it."""
    return math.floor(size / crop_pct)


def decoded_side(fit: Fit, size: int, crop_pct: float, jpeg: Jpeg) -> int | None:
    """How small a JPEG may be decoded for :func:`eval_pixels` or :func:`train_pixels`: twice the side that it is then
    resized to. None: not smaller than it is.

    Deviation: papers decode at full size; the pixels differ by less than one of 255 levels on average (docs/LOG.md).

    Args:
        jpeg: ``scaled`` or ``full``: see ``student.jpeg`` in :mod:`linnet.config`.
    """
    if jpeg == "full":
        return None
    return LARGER * (resized_side(size, crop_pct) if fit == "eval" else round(TRAIN_MARGIN * size))


def eval_pixels(image: Image.Image, size: int, crop_mode: CropMode = "center", crop_pct: float = 1.0) -> np.ndarray:
    """What a student sees of an image outside training, uint8 (size, size, 3).

    Evaluation and prediction, from torch and from ONNX, all go through this function.

    Args:
        crop_mode: ``center`` resizes the shorter side, ``squash`` both sides, whatever the aspect. Bicubic,
            antialiased; words and pixels are timm's.
        crop_pct: the share of the resized side that ``size`` is; the middle is cut out.
    """
    side = resized_side(size, crop_pct)
    if crop_mode == "squash":
        return np.asarray(middle(image.resize((side, side), Image.Resampling.BICUBIC), size, size))
    return np.asarray(middle(resize_shortest(image, side), size, size))


def train_pixels(image: Image.Image, size: int) -> np.ndarray:
    """What training views are cut from: shorter side 1.15 x ``size``, the longer one cut to at most twice that.

    Returns:
        uint8 (height, width, 3). A panorama is cut because a batch is as large as its largest image.
    """
    resized = resize_shortest(image, round(TRAIN_MARGIN * size))
    return np.asarray(middle(resized, *train_size(image.size, size)))


def train_size(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height of the :func:`train_pixels` of an image of this width and height, in whatever way it is turned
    and however long it is."""
    side = round(TRAIN_MARGIN * size)
    width, height = shortest_size(shape, side)
    return min(width, 2 * side), min(height, 2 * side)


def decode_pixels(path: Path, fit: Fit, size: int, crop_mode: CropMode, crop_pct: float, jpeg: Jpeg) -> np.ndarray:
    image = read_image(path, decoded_side(fit, size, crop_pct, jpeg))
    return eval_pixels(image, size, crop_mode, crop_pct) if fit == "eval" else train_pixels(image, size)


def decode_in_order(
    paths: Sequence[Path], fit: Fit, size: int, crop_mode: CropMode, crop_pct: float, jpeg: Jpeg
) -> Iterator[np.ndarray]:
    """Decode files in threads, a bounded number ahead."""

    def decoded(path: Path) -> np.ndarray:
        return decode_pixels(path, fit, size, crop_mode, crop_pct, jpeg)

    return ahead(decoded, paths)

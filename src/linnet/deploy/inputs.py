"""What a predictor takes: image files, Pillow images and arrays, one or many.

Nothing here needs torch.
"""

import io
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from linnet.data.decoding import decode, upright_rgb
from linnet.data.discovery import find_images
from linnet.data.images import cut_extreme, read_image
from linnet.errors import UserError

ImageLike = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | np.ndarray
Readable = Path | IO[bytes] | Image.Image

_IN_TURN = threading.Lock()  # one picture may be given twice, and a Pillow image or an open file is read only once


def each(images: ImageLike | Iterable[ImageLike]) -> Iterator[Readable]:
    """The images one by one, as :func:`to_rgb` takes them.

    Args:
        images: one, or whatever can be gone through; an array (N, height, width, 3) is N images, a folder those in it.

    Raises:
        UserError: something else, or an array that is no image.
    """
    for image in _several(images):
        one = _one(image)
        yield from find_images(one) if isinstance(one, Path) and os.path.isdir(one) else [one]


def _several(images: Any) -> Iterable[Any]:
    if isinstance(images, np.ndarray):
        if images.dtype.kind in "OU":  # paths, as a table's column
            return np.atleast_1d(images)
        return images if images.ndim == 4 else [images]
    single = str | os.PathLike | bytes | bytearray | memoryview
    if isinstance(images, single) or hasattr(images, "read") or not isinstance(images, Iterable):  # files have lines
        return [images]
    return images


def _one(image: object) -> Readable:
    if isinstance(image, str) and not image.strip():
        raise UserError("the path of an image is empty")
    if isinstance(image, str | os.PathLike):
        return Path(image)  # type: ignore[arg-type]
    if isinstance(image, bytes | bytearray | memoryview):
        return io.BytesIO(image)
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        return from_array(image)
    if isinstance(image, io.TextIOBase):
        raise UserError("a file opened as text is no image: open it with 'rb', or give its path")
    if hasattr(image, "read"):
        return image  # type: ignore[return-value]
    raise UserError(
        f"an image must be a path, a Pillow image, an array, bytes or an open file, not {type(image).__name__}"
    )


def to_rgb(image: Readable, side: int | None = None) -> Image.Image:
    """Upright and RGB, whatever it was given as.

    Args:
        side: a JPEG may come out smaller, with sides of at least so many pixels.

    Raises:
        UserError: it cannot be read.
    """
    if isinstance(image, Path):
        return read_image(image, side)
    if isinstance(image, Image.Image) and not all(image.size):
        raise UserError(f"cannot read the image (it has no pixels: {image.width} x {image.height})")
    try:
        if not isinstance(image, Image.Image):
            with _IN_TURN:
                content = image.read()
            return cut_extreme(decode(content, side).image)
        with _IN_TURN:
            return cut_extreme(upright_rgb(image))
    except Exception as error:  # for bad files Pillow raises OSError, SyntaxError, ValueError and others
        raise UserError(f"cannot read the image ({error})") from error


def from_array(array: np.ndarray) -> Image.Image:
    """An image out of an array (height, width), or (height, width, channels) with 1, 3 (RGB) or 4 (RGBA) channels.

    Args:
        array: uint8, or floating point in [0, 1].

    Raises:
        UserError: another shape, type or range.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        raise UserError(f"an image must be (height, width) or (height, width, 3), RGB, not of the shape {array.shape}")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not 0 <= low <= high <= 1:
            raise UserError(
                f"floating-point pixels must lie in [0, 1], not from {low:g} to {high:g}: give the image as uint8"
            )
        array = np.round(np.asarray(array, dtype=np.float32) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"pixels must be uint8, or floating point in [0, 1], not {array.dtype}")
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2:] == (1,) else array))

"""Image files to arrays: one way to read, one way to evaluate, and a store so that each file is decoded once.

Nothing here needs torch: ``linnet predict model.onnx`` runs on this file, numpy and onnxruntime.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from linnet.environment import available_cpus
from linnet.errors import UserError
from linnet.files import atomic_path, cache_folder

TRAIN_MARGIN = 1.15  # stored training images are this much larger than the student's input: crops keep their detail
VERSION = 2  # part of every store's name: raise it when the pixels of a store change
CHUNK = 512  # images decoded ahead by the thread pool: bounds memory whatever the size of the data

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}

Fit = Literal["train", "eval"]
CropMode = Literal["center", "squash"]


def find_images(folder: Path) -> list[Path]:
    """Every image file below a folder, sorted, hidden files and folders left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def read_image(path: Path) -> Image.Image:
    """Decode a file to RGB, upright (EXIF), transparency dropped.

    Raises:
        UserError: the file is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            return upright_rgb(image)
    except Exception as error:  # for bad files Pillow raises OSError, SyntaxError, ValueError and others
        raise UserError(f"cannot read the image {path} ({error}): replace or remove it") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """The same image as RGB, upright (EXIF), transparency dropped.

    Raises:
        ValueError: its pixels have no defined range; Pillow has others for bad files.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits per pixel; Pillow would clip them to white
        upright = Image.fromarray(np.clip(np.asarray(upright) / 257, 0, 255).astype(np.uint8))
    if upright.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    return upright.convert("RGBA").convert("RGB") if upright.mode == "P" else upright.convert("RGB")


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


def eval_pixels(image: Image.Image, size: int, crop_mode: CropMode = "center") -> np.ndarray:
    """What a student sees of an image outside training, uint8 (size, size, 3).

    Evaluation and prediction, from torch and from ONNX, all go through this function.

    Args:
        crop_mode: ``center`` brings the shorter side to ``size`` and cuts the middle out; ``squash`` resizes both sides
            to ``size``, whatever the aspect. Bicubic, antialiased; words and pixels are timm's.
    """
    if crop_mode == "squash":
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    return np.asarray(middle(resize_shortest(image, size), size, size))


def train_pixels(image: Image.Image, size: int) -> np.ndarray:
    """What training views are cut from: shorter side 1.15 x ``size``, the longer one cut to at most twice that.

    Returns:
        uint8 (height, width, 3). A panorama is cut because a batch is as large as its largest image.
    """
    side = round(TRAIN_MARGIN * size)
    resized = resize_shortest(image, side)
    return np.asarray(middle(resized, min(resized.width, 2 * side), min(resized.height, 2 * side)))


def _decode(path: Path, fit: Fit, size: int, crop_mode: CropMode) -> np.ndarray:
    image = read_image(path)
    return eval_pixels(image, size, crop_mode) if fit == "eval" else train_pixels(image, size)


def decode_in_order(paths: Sequence[Path], fit: Fit, size: int, crop_mode: CropMode) -> Iterator[np.ndarray]:
    """Decode files with a thread pool, a bounded number ahead."""
    with ThreadPoolExecutor(available_cpus()) as pool:
        for start in range(0, len(paths), CHUNK):
            yield from pool.map(lambda path: _decode(path, fit, size, crop_mode), paths[start : start + CHUNK])


class Images(Sequence[np.ndarray]):
    """Decoded images by row, uint8 (height, width, 3): memory-mapped, or decoded when asked for.

    Args:
        paths: files. digests: (n, d) uint8, their content hashes, which name the store.
        size: side of the student's input in pixels.
        fit: "train" is what views are cut from, "eval" what evaluation sees.
        limit_gb: a set that would take more disk than this is not stored.
        crop_mode: what ``eval`` does to an image that is not square.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        digests: np.ndarray,
        size: int,
        fit: Fit,
        limit_gb: float = 20.0,
        crop_mode: CropMode = "center",
    ):
        self.paths, self.size, self.fit, self.crop_mode = tuple(paths), size, fit, crop_mode
        kind = f"{fit} squash" if fit == "eval" and crop_mode == "squash" else fit
        name = hashlib.sha256(f"{VERSION}|{size}|{kind}|".encode() + digests.tobytes()).hexdigest()[:24]
        self.file = cache_folder() / "images" / f"{name}.u8"
        self._shapes_file = self.file.with_suffix(".shapes.npy")
        self.stored = len(paths) * 3 * 2 * (TRAIN_MARGIN * size) ** 2 <= limit_gb * 1e9  # at the widest
        if self.stored:
            if not self._complete():
                self._write()
            self._shapes = np.load(self._shapes_file)
            self._offsets = np.concatenate([[0], np.cumsum(self._shapes.prod(axis=1))])
            self._bytes = np.memmap(self.file, dtype=np.uint8, mode="r") if len(paths) else np.empty(0, np.uint8)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> np.ndarray:  # type: ignore[override]
        if self.stored:
            return self._bytes[self._offsets[row] : self._offsets[row + 1]].reshape(self._shapes[row])
        return _decode(self.paths[row], self.fit, self.size, self.crop_mode)

    def _complete(self) -> bool:
        if not (self.file.exists() and self._shapes_file.exists()):
            return False
        shapes = np.load(self._shapes_file)
        return len(shapes) == len(self.paths) and self.file.stat().st_size == shapes.prod(axis=1).sum()

    def _write(self) -> None:
        shapes = []
        with atomic_path(self.file) as temporary, temporary.open("wb") as file:
            for pixels in decode_in_order(self.paths, self.fit, self.size, self.crop_mode):
                shapes.append(pixels.shape)
                file.write(pixels.tobytes())
        with atomic_path(self._shapes_file) as temporary, temporary.open("wb") as file:
            np.save(file, np.array(shapes, dtype=np.int64).reshape(-1, 3))

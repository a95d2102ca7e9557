"""The store of decoded images: each file is decoded once."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from linnet.data.images import TRAIN_MARGIN, VERSION, CropMode, Fit, decode_in_order, decode_pixels
from linnet.files import atomic_path, cache_folder


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
        return decode_pixels(self.paths[row], self.fit, self.size, self.crop_mode)

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

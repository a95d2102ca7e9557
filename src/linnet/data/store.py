"""The store of decoded images: each file is decoded once, and what lies on the disk is checked before it is used."""

import hashlib
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from linnet.data.images import TRAIN_MARGIN, VERSION, CropMode, Fit, Jpeg, decode_in_order, decode_pixels
from linnet.files import cache_folder, check_space, clear_leftovers, new_file

log = logging.getLogger("linnet")


class Images(Sequence[np.ndarray]):
    """Decoded images by row, uint8 (height, width, 3): memory-mapped, or decoded when asked for.

    Beside the pixels lies an index with the shape and the checksum of each image. All are compared at the start (a
    gigabyte takes a fraction of a second), and a store in which anything is wrong is written again.

    Args:
        paths: files. digests: (n, d) uint8, their content hashes, which name the store.
        size: side of the student's input in pixels.
        fit: "train" is what views are cut from, "eval" what evaluation sees.
        limit_gb: a set that would take more disk than this is not stored.
        crop_mode, crop_pct: what ``eval`` does to an image: :func:`linnet.data.images.eval_pixels`.
        jpeg: how large JPEGs are decoded: :func:`linnet.data.images.decoded_side`.

    Raises:
        UserError: an image that cannot be read, or a cache folder that cannot be written.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        digests: np.ndarray,
        size: int,
        fit: Fit,
        limit_gb: float = 20.0,
        crop_mode: CropMode = "center",
        crop_pct: float = 1.0,
        jpeg: Jpeg = "full",
    ):
        self.paths, self.size, self.fit = tuple(paths), size, fit
        self._how = (fit, size, crop_mode, crop_pct, jpeg)
        kind: str = fit
        if fit == "eval":
            kind += (" squash" if crop_mode == "squash" else "") + (f" {crop_pct}" if crop_pct != 1 else "")
        kind += "" if jpeg == "full" else f" {jpeg}"
        name = hashlib.sha256(f"{VERSION}|{size}|{kind}|".encode() + digests.tobytes()).hexdigest()[:24]
        self.file = cache_folder() / "images" / f"{name}.u8"
        self._index_file = self.file.with_suffix(".index.npy")
        self.is_new = False  # whether it was decoded now
        self.stored = len(paths) * 3 * 2 * (TRAIN_MARGIN * size) ** 2 <= limit_gb * 1e9  # at the widest
        if self.stored:
            clear_leftovers(self.file.parent)
            is_there = self.file.exists() and self._index_file.exists()
            if not (is_there and self._open()):
                pixels = 3 * size**2 * (TRAIN_MARGIN**2 if fit == "train" else 1)  # of a square image
                check_space(self.file.parent, len(paths) * pixels, "the store of decoded images")
                if is_there:
                    log.warning("the store of decoded images %s is damaged: the images are decoded again", self.file)
                self._write()
                self._open()
                self.is_new = True

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> np.ndarray:  # type: ignore[override]
        if self.stored:
            return self._bytes[self._offsets[row] : self._offsets[row + 1]].reshape(self._shapes[row])
        return decode_pixels(self.paths[row], *self._how)

    def _open(self) -> bool:
        """Map the store; False if it is not what was written."""
        try:
            index_N4 = np.load(self._index_file)
        except (OSError, ValueError, EOFError):
            return False
        if index_N4.shape != (len(self.paths), 4) or index_N4.dtype != np.int64:
            return False
        self._shapes = index_N4[:, :3]
        self._offsets = np.concatenate([[0], np.cumsum(self._shapes.prod(axis=1))])
        if (self._shapes < 1).any() or self.file.stat().st_size != self._offsets[-1]:
            return False
        self._bytes = np.memmap(self.file, dtype=np.uint8, mode="r") if len(self) else np.empty(0, np.uint8)
        return all(self._checksum(row) == index_N4[row, 3] for row in range(len(self)))

    def _checksum(self, row: int) -> int:
        return zlib.crc32(self._bytes[self._offsets[row] : self._offsets[row + 1]].data)

    def _write(self) -> None:
        rows = []
        with new_file(self.file) as file:
            for pixels in decode_in_order(self.paths, *self._how):
                content = pixels.tobytes()
                rows.append((*pixels.shape, zlib.crc32(content)))
                file.write(content)
        with new_file(self._index_file) as file:
            np.save(file, np.array(rows, dtype=np.int64).reshape(-1, 4))

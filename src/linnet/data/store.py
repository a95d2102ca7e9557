"""The store of decoded images: each file is decoded once, and what lies on the disk is checked before it is used."""

import hashlib
import logging
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from linnet.data.images import VERSION, CropMode, Fit, Jpeg, decode_in_order, decode_pixels, train_size
from linnet.data.paths import Paths
from linnet.files import cache_folder, check_space, clear_leftovers, new_file

log = logging.getLogger("linnet")

CHECKED = 256  # images of a store that are compared with their checksums at each start
MEASURED = 256  # images whose sizes tell how much disk a set takes


class Images(Sequence[np.ndarray]):
    """Decoded images by row, uint8 (height, width, 3): memory-mapped, or decoded when asked for.

    Beside the pixels lies an index with the shape and the checksum of each image. The sizes and a random sample are
    compared at the start, every other image when it is first read: a start takes no longer for a larger set. A store in
    which anything is wrong is written again, at once or, if it is found out later, at the next start; until then the
    damaged images are decoded from their files.

    Args:
        paths: files. digests: (n, d) uint8, their content hashes, which name the store.
        size: side of the student's input in pixels.
        fit: "train" is what views are cut from, "eval" what evaluation sees.
        limit_gb: a set that would take more disk than this is not stored; see :func:`stored_bytes`.
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
        self.paths, self.size, self.fit = paths if isinstance(paths, Paths) else Paths(paths), size, fit
        self._how = (fit, size, crop_mode, crop_pct, jpeg)
        kind: str = fit
        if fit == "eval":
            kind += (" squash" if crop_mode == "squash" else "") + (f" {crop_pct}" if crop_pct != 1 else "")
        kind += "" if jpeg == "full" else f" {jpeg}"
        name = hashlib.sha256(f"{VERSION}|{size}|{kind}|".encode() + digests.tobytes()).hexdigest()[:24]
        self.file = cache_folder() / "images" / f"{name}.u8"
        self._index_file = self.file.with_suffix(".index.npy")
        self.is_new = False  # whether it was decoded now
        needed = stored_bytes(paths, size, fit)
        self.stored = needed <= limit_gb * 1e9
        if self.stored:
            clear_leftovers(self.file.parent)
            is_there = self.file.exists() and self._index_file.exists()
            if not (is_there and self._open()):
                check_space(self.file.parent, needed, "the store of decoded images")
                if is_there:
                    log.warning("the store of decoded images %s is damaged: the images are decoded again", self.file)
                self._write()
                self._open()
                self.is_new = True

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> np.ndarray:  # type: ignore[override]
        if self.stored and (self._checked[row] or self._is_whole(row)):
            return self._bytes[self._offsets[row] : self._offsets[row + 1]].reshape(self._shapes[row])
        return decode_pixels(self.paths[row], *self._how)

    def _open(self) -> bool:
        """Map the store; False if it is not what was written, as far as a sample shows."""
        count = len(self.paths)
        try:
            index_N4 = np.load(self._index_file, mmap_mode="r" if count else None)
        except (OSError, ValueError, EOFError):
            return False
        if index_N4.shape != (count, 4) or index_N4.dtype != np.int64:
            return False
        self._shapes, self._sums = index_N4[:, :3], index_N4[:, 3]
        self._offsets = np.concatenate([[0], np.cumsum(self._shapes.prod(axis=1))])
        if (self._shapes < 1).any() or self.file.stat().st_size != self._offsets[-1]:
            return False
        mapped = np.memmap(self.file, dtype=np.uint8, mode="r") if count else np.empty(0, np.uint8)
        self._bytes = np.asarray(mapped)  # slices of a memmap take seven times as long
        self._checked = np.zeros(count, dtype=bool)
        sample = np.random.default_rng().permutation(count)[:CHECKED]  # others at each start
        return all(self._matches(row) for row in sample)

    def _matches(self, row: int) -> bool:
        """Whether the bytes of an image are those that were written; once they were, they are not compared again."""
        content = self._bytes[self._offsets[row] : self._offsets[row + 1]].data
        self._checked[row] = zlib.crc32(content) == self._sums[row]
        return bool(self._checked[row])

    def _is_whole(self, row: int) -> bool:
        """The same for an image that is needed now. A store with a damaged one is not opened again."""
        if self._matches(row):
            return True
        if self._index_file.exists():
            log.warning(
                "the store of decoded images %s is damaged: what is damaged is decoded from its file, and at the next "
                "start all images",
                self.file,
            )
            self._index_file.unlink(missing_ok=True)
        return False

    def _write(self) -> None:
        rows = array("q")
        with new_file(self.file) as file:
            for pixels in decode_in_order(self.paths, *self._how):
                content = pixels.tobytes()
                rows.extend((*pixels.shape, zlib.crc32(content)))
                file.write(content)
        with new_file(self._index_file) as file:
            np.save(file, np.array(rows, dtype=np.int64).reshape(-1, 4))


def stored_bytes(paths: Sequence[Path], size: int, fit: Fit) -> int:
    """How much disk the decoded images take: exactly what evaluation sees, which is square, and for training an
    estimate by the sizes of 256 images, evenly spread over the set. Only the beginnings of their files are read."""
    if fit == "eval" or not len(paths):
        return 3 * size**2 * len(paths)
    rows = np.unique(np.linspace(0, len(paths) - 1, MEASURED).astype(int)).tolist()
    return round(len(paths) * sum(_train_bytes(paths[row], size) for row in rows) / len(rows))


def _train_bytes(path: Path, size: int) -> int:
    try:
        with Image.open(path) as image:
            width, height = train_size(image.size, size)
    except Exception:  # of Pillow; how large it is, and whether it can be read, is seen when it is decoded
        width, height = train_size((1, 2), size)
    return 3 * width * height

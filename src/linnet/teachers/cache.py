"""The teacher cache: each image goes through the teacher once, ever, and a row that could be wrong is never used.

A *space* is a folder named by the hash of everything that decides what a row is (weights, preprocessing, view policy,
dtype). A row is keyed by the hash of the image's bytes and the view number. Shards are safetensors files named by the
SHA-256 of their own content, so a damaged one betrays itself: it is put aside and its rows are computed again. There
is no index file that could disagree with the shards.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save as safetensors_bytes

from linnet.config import Still
from linnet.data.ahead import ahead
from linnet.data.batches import eval_batch_size
from linnet.data.digests import KeyTable, distinct
from linnet.data.images import CHUNK, read_image
from linnet.environment import available_cpus, freed_memory_kept
from linnet.files import cache_folder, clear_leftovers, in_turn, write_atomically
from linnet.teachers.base import ClassifierTeacher, Teacher, TextEncoder, VisionLanguageTeacher

log = logging.getLogger(__name__)

VERSION = 1
DTYPE = "float16"
SHARD_ROWS = 8 * CHUNK  # a killed process loses at most this many rows, and
SAVE_SECONDS = 30.0  # at most the work of this time
LOOKED = 64  # images that a teacher is shown at once at most; as many more are decoded meanwhile
SMALL = 200_000_000  # parameters up to which a network on a CPU sees more than 8; a larger one would show no progress
CENTER_VIEW = 0

Pixels = Callable[[Sequence[int]], torch.Tensor]  # rows -> (n, 3, height, width) float32 in [0, 1]
Compute = Callable[[Sequence[int]], torch.Tensor]  # rows -> (n, E), what the cache keeps of them
Transform = Callable[[Image.Image], torch.Tensor]  # -> (3, height, width) float32 in [0, 1]
Read = TypeVar("Read")


class Rows:
    """Cached rows by image digest and view, memory-mapped: ``rows(digests, view)`` gives (n, E) float16."""

    def __init__(self) -> None:
        self._shards: list[Shard] = []
        self._starts = np.zeros(1, dtype=np.int64)  # the first row of each shard among those of all, and how many
        self._table: KeyTable | None = None  # of all keys; made when it is needed

    def __call__(self, digests: np.ndarray, view: int = CENTER_VIEW) -> torch.Tensor:
        places = self.find(row_keys(digests, view))
        if (places < 0).any():
            raise KeyError(f"{(places < 0).sum()} of {len(places)} rows are not in the teacher's cache")
        shards = np.searchsorted(self._starts, places, side="right") - 1
        rows = [self._shards[i].rows_NE[row] for i, row in zip(shards, places - self._starts[shards], strict=True)]
        return torch.from_numpy(np.stack(rows))

    def find(self, keys_NK: np.ndarray) -> np.ndarray:
        """(n,): the place of each key's row among those of all shards, -1 if it is not there."""
        if not self._shards:
            return np.full(len(keys_NK), -1)
        if self._table is None:
            self._table = KeyTable(np.concatenate([shard.keys_NK for shard in self._shards]))
        return self._table.find(keys_NK)

    def add(self, shard: "Shard") -> None:
        self._shards.append(shard)
        self._starts = np.append(self._starts, self._starts[-1] + len(shard.keys_NK))
        self._table = None


@dataclass(frozen=True)
class Shard:
    """A verified shard, memory-mapped. ``keys_NK`` are row keys (uint8), ``rows_NE`` the teacher's fp16 outputs."""

    keys_NK: np.ndarray
    rows_NE: np.ndarray


class TeacherCache:
    """Rows of one teacher under one view policy, or of one text encoder.

    Args:
        teacher: whose rows these are.
        policy: the view policy in words, with its versions and seeds: part of the space.
        root: folder of all spaces; by default linnet's cache folder.
        device: where the teacher runs.
        turn: processes that give the same do not compute at the same time.
    """

    def __init__(
        self,
        teacher: Teacher | TextEncoder,
        policy: str = "center",
        root: Path | None = None,
        device: torch.device | None = None,
        turn: str = "",
    ):
        self.teacher, self.device = teacher, device or torch.device("cpu")
        space = {
            "version": VERSION,
            "weights": teacher.fingerprint(),
            "preprocessing": teacher.preprocessing if isinstance(teacher, Teacher) else "",
            "policy": policy,
            "dtype": DTYPE,
        }
        if isinstance(teacher, Teacher) and policy != "texts" and teacher.precision != "fp32":
            space["precision"] = teacher.precision
        name = hashlib.sha256(json.dumps(space, sort_keys=True).encode()).hexdigest()[:32]
        self.folder = (root or cache_folder() / "teacher") / name
        if not (self.folder / "space.json").exists():
            write_atomically(self.folder / "space.json", json.dumps({"teacher": teacher.id, **space}, indent=1))
        clear_leftovers(self.folder)
        self._lock = self.folder / f".lock{turn}"
        self.computed = 0  # rows that this object had to compute
        self.rows = Rows()
        self._opened: set[Path] = set()
        self._open_new()

    def _open_new(self) -> None:
        """What other processes have written since the last look is there, too."""
        for path in sorted(set(self.folder.glob("*.safetensors")) - self._opened):
            self._open(path)

    def missing(self, digests: np.ndarray, view: int = CENTER_VIEW) -> np.ndarray:
        """Which of n images have no row of this view, ascending; of those with the same bytes, the first."""
        images = distinct(digests)
        return images[self.rows.find(row_keys(digests[images], view)) < 0]

    def fill(
        self,
        digests: np.ndarray,
        pixels: Pixels,
        view: int = CENTER_VIEW,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Compute the rows of one view that are missing; what is there stays.

        Args:
            digests: (n, 16) uint8 hashes of the images' bytes. pixels: what the teacher sees of some of the n images.
            progress: told the number of rows done.
        """
        assert isinstance(self.teacher, Teacher)
        teacher, device = self.teacher, self.device
        is_slow = device.type == "cpu" and sum(map(torch.Tensor.numel, teacher.parameters())) > SMALL
        at_once = 8 if is_slow else min(LOOKED, eval_batch_size(max(teacher.image_shape), device))

        def look(images: torch.Tensor) -> torch.Tensor:
            return live_rows(teacher, images.to(device))

        self._compute(digests, pixels, look, view, progress, at_once)

    def compute(
        self,
        digests: np.ndarray,
        outputs: Compute,
        view: int = CENTER_VIEW,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """The same of whatever ``outputs`` computes for some of the n digests."""
        self._compute(digests, lambda rows: rows, outputs, view, progress, CHUNK)

    def _compute(
        self,
        digests: np.ndarray,
        read: Callable[[Sequence[int]], Read],
        outputs: Callable[[Read], torch.Tensor],
        view: int,
        progress: Callable[[int], None],
        batch: int,
    ) -> None:
        """``batch`` at a time is read, the next ones while the outputs of these are computed. What was computed is
        kept, however this ends. Of several processes that ask the same, one computes and the others wait."""
        if not len(self.missing(digests, view)):
            return
        with in_turn(self._lock), freed_memory_kept():
            self._open_new()
            missing = self.missing(digests, view)
            parts = [missing[start : start + batch].tolist() for start in range(0, len(missing), batch)]
            keys_NK = row_keys(digests[missing], view)
            self._keep(keys_NK, (outputs(part) for part in ahead(read, parts, 2)), progress)

    def _keep(self, keys_NK: np.ndarray, computed: Iterator[torch.Tensor], progress: Callable[[int], None]) -> None:
        """Write the rows of all keys, as they come, into shards."""
        new, written, saved = list[np.ndarray](), 0, time.monotonic()
        try:
            for rows in computed:
                new.append(rows.cpu().numpy().astype(DTYPE))
                waiting = sum(map(len, new))
                if waiting >= SHARD_ROWS or time.monotonic() - saved >= SAVE_SECONDS:
                    self._write(keys_NK[written : written + waiting], np.concatenate(new))
                    new, written, saved, waiting = [], written + waiting, time.monotonic(), 0
                progress(written + waiting)
        finally:
            if new:
                self._write(keys_NK[written : written + sum(map(len, new))], np.concatenate(new))

    def _write(self, keys_NK: np.ndarray, rows: np.ndarray) -> None:
        content = safetensors_bytes({"keys": np.ascontiguousarray(keys_NK), "rows": rows})
        path = self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
        write_atomically(path, content)
        self._open(path)
        self.computed += len(keys_NK)

    def _open(self, path: Path) -> None:
        self._opened.add(path)
        with path.open("rb") as file:
            intact = hashlib.file_digest(file, "sha256").hexdigest() == path.stem
        if not intact:
            log.warning(
                "teacher cache: %s is damaged (its content does not match its name); its rows are computed again", path
            )
            path.rename(path.with_suffix(".damaged"))
            return
        self.rows.add(Shard(_map(path, "keys"), _map(path, "rows")))


def row_keys(digests: np.ndarray, view: int) -> np.ndarray:
    """(n, K) uint8: what each image's row of this view is kept under."""
    return np.concatenate([digests, np.tile(np.frombuffer(view.to_bytes(4, "little"), np.uint8), (len(digests), 1))], 1)


def center_pixels(teacher: Teacher, paths: Sequence[Path]) -> Pixels:
    """Images as the teacher's own evaluation transform shows them."""
    return still_pixels(teacher, paths, "center")


def still_pixels(teacher: Teacher, paths: Sequence[Path], still: Still) -> Pixels:
    """Images as the teacher sees them whole."""
    return _read(paths, still_transform(teacher, still))


def still_transform(teacher: Teacher, still: Still) -> Transform:
    """``center`` is the teacher's own evaluation transform, ``squash`` all of an image, squashed to the teacher's size
    (bicubic, antialiased)."""
    if still == "center":
        return teacher.eval_transform
    height, width = teacher.image_shape

    def squash(image: Image.Image) -> torch.Tensor:
        squashed = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
        return torch.from_numpy(squashed).permute(2, 0, 1).float() / 255

    return squash


def _read(paths: Sequence[Path], transform: Transform) -> Pixels:
    def pixels(rows: Sequence[int]) -> torch.Tensor:
        with ThreadPoolExecutor(available_cpus()) as pool:
            return torch.stack(list(pool.map(lambda row: transform(read_image(paths[row])), rows)))

    return pixels


def live_rows(teacher: Teacher, images: torch.Tensor) -> torch.Tensor:
    """What the cache keeps of a batch, computed now: embeddings of a VLM, logits of a classifier."""
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=teacher.precision == "bf16"):
        if isinstance(teacher, VisionLanguageTeacher):
            return teacher.embed_images(images)
        assert isinstance(teacher, ClassifierTeacher)
        return teacher.logits(images)


def _map(path: Path, name: str) -> np.ndarray:
    """One array of a safetensors file, memory-mapped: an 8-byte header length, a JSON header, then the raw data."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
    dtype = {"U8": np.uint8, "F16": np.float16}[entry["dtype"]]
    start, shape = 8 + length + entry["data_offsets"][0], tuple(entry["shape"])
    return np.asarray(np.memmap(path, dtype, "r", start, shape))  # slices of a memmap take seven times as long

"""Digests: what identifies an image everywhere in linnet is the hash of its file's bytes.

A file is read and hashed once. Its digest is kept in linnet's cache under the file's path, size, times and inode, as
git does it, and at each start some files are hashed again, so that a disk whose times tell lies is found out.

Nothing here needs torch.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from linnet.errors import UserError
from linnet.files import cache_folder, write_atomically
from linnet.tensor_files import read_checked, with_checksum

log = logging.getLogger("linnet")

DIGEST_BYTES = 16
SAMPLED = 256  # files that are hashed again at each start, though they seem unchanged
RACY = 2 * 10**9  # nanoseconds: a file that changed so shortly ago can change again within one tick of its times
CHUNK = 256  # files of one task for the threads: a task each would take longer than the files
VERSION = 1  # part of every file's name: raise it when something else is kept


def as_bytes(digests: np.ndarray) -> list[bytes]:
    """(n, d) uint8 -> each row as bytes, which sets and dictionaries can hold. One pass, not a call for each row."""
    content, width = digests.tobytes(), digests.shape[1]
    return [content[start : start + width] for start in range(0, len(content), width)]


def digest_files(paths: Sequence[Path]) -> np.ndarray:
    """(n, 16) uint8: BLAKE2b of the bytes of each file; of one that cannot be read, of its path: when the images are
    checked, it is found again.

    Files that look as they did when they were hashed are not read again, but for a random sample of them. If one of
    these has other bytes, all are hashed, which is said.
    """
    if not len(paths):
        return np.empty((0, DIGEST_BYTES), dtype=np.uint8)
    file, (looks_N, settled_N) = _file_of(paths), _looks(paths)
    old_looks, old_digests = remembered(file, "looks", "digests")
    place_N = KeyTable(old_looks).find(looks_N)
    if not _still_true(paths, place_N, old_digests):
        log.warning("some images have other bytes, though their size and times have not changed: all are read again")
        old_looks, old_digests = old_looks[:0], old_digests[:0]
        place_N[:] = -1
    new = np.flatnonzero(place_N < 0)
    digests_N = np.empty((len(paths), DIGEST_BYTES), dtype=np.uint8)
    digests_N[place_N >= 0] = old_digests[place_N[place_N >= 0]]
    digests_N[new], was_read = _hashed([paths[row] for row in new.tolist()])
    settled_N[new] &= was_read
    if file and settled_N[new].any():
        others = np.setdiff1d(np.arange(len(old_looks)), place_N)[: len(paths)]  # such as those of other splits
        remember(
            file,
            looks=np.concatenate([looks_N[settled_N], old_looks[others]]),
            digests=np.concatenate([digests_N[settled_N], old_digests[others]]),
        )
    return digests_N


def _file_of(paths: Sequence[Path]) -> Path | None:
    """Where the digests of such files are kept: one file for a folder and all below it."""
    first, last = (os.path.abspath(path) for path in (min(paths, key=os.fspath), max(paths, key=os.fspath)))
    folder = os.path.commonpath([os.path.dirname(first), os.path.dirname(last)])
    name = hashlib.sha256(f"{VERSION}|".encode() + os.fsencode(folder)).hexdigest()[:24]
    with suppress(UserError):  # there is no cache: whoever needs one will say so
        return cache_folder() / "digests" / f"{name}.safetensors"
    return None


def _looks(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """What tells whether a file changed, (n, 16) uint8, and (n,) bool, whether that can be relied on."""
    now, here = time.time_ns(), os.getcwd()

    def look(path: Path) -> tuple[bytes, bool]:
        try:
            seen = os.stat(path)
        except OSError:
            return bytes(DIGEST_BYTES), False
        words = f"{seen.st_size}|{seen.st_mtime_ns}|{seen.st_ctime_ns}|{seen.st_ino}|"
        is_settled = max(seen.st_mtime_ns, seen.st_ctime_ns) < now - RACY
        return _hash(words.encode() + os.fsencode(os.path.join(here, path))), is_settled

    return _table(look, paths)


def _hashed(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(n, 16) uint8, and (n,) bool, whether the file could be read."""

    def digest(path: Path) -> tuple[bytes, bool]:
        try:
            return _hash(path.read_bytes()), True
        except OSError:
            return _hash(b"cannot be read: " + os.fsencode(path)), False

    return _table(digest, paths)


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _table(function: Callable[[Path], tuple[bytes, bool]], paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """What ``function`` says of each file, asked by threads: (n, 16) uint8 and (n,) bool."""

    def of_part(start: int) -> tuple[bytes, bytes]:
        rows = [function(path) for path in paths[start : start + CHUNK]]
        return b"".join(row[0] for row in rows), bytes(row[1] for row in rows)

    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(of_part, range(0, len(paths), CHUNK)))
    content, flags = (b"".join(part) for part in zip(*parts, strict=True)) if parts else (b"", b"")
    return np.frombuffer(content, np.uint8).reshape(-1, DIGEST_BYTES), np.array(np.frombuffer(flags, bool))


class KeyTable:
    """Rows of bytes to look for others in; they are sorted once, for some 30 bytes of memory a row of 20.

    Args:
        known: (m, k) uint8; of equal rows the first is found.
    """

    def __init__(self, known: np.ndarray):
        self._sorted, places = np.unique(_as_strings(known), return_index=True)
        self._places = places.astype(np.int32)

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """(n,) for each of (n, k) uint8 the row that is the same, or -1."""
        if not len(self._sorted):
            return np.full(len(wanted), -1)
        strings = _as_strings(wanted)
        nearest = np.searchsorted(self._sorted, strings).clip(max=len(self._sorted) - 1)
        return np.where(self._sorted[nearest] == strings, self._places[nearest], -1)


def _as_strings(rows: np.ndarray) -> np.ndarray:
    """(n,): each row of bytes as one string, all of the same length, which numpy sorts."""
    return np.ascontiguousarray(rows).view(f"S{rows.shape[1]}")[:, 0]


def distinct(rows: np.ndarray) -> np.ndarray:
    """The places of rows (n, k) uint8 that differ, ascending; of equal ones the first."""
    return np.sort(np.unique(_as_strings(rows), return_index=True)[1])


def _still_true(paths: Sequence[Path], place_N: np.ndarray, digests: np.ndarray) -> bool:
    """Whether some of the files that are known have the bytes that they had. One that cannot be read any more is marked
    as unknown."""
    rows = np.flatnonzero(place_N >= 0)
    if len(rows) > SAMPLED:
        rows = np.random.default_rng().choice(rows, SAMPLED, replace=False)  # others at each start
    again, was_read = _hashed([paths[row] for row in rows.tolist()])
    expected = digests[place_N[rows]]
    place_N[rows[~was_read]] = -1
    return bool((again[was_read] == expected[was_read]).all())


def remembered(file: Path | None, *names: str) -> list[np.ndarray]:
    """Tables of a file in linnet's cache, each (m, 16) uint8; of a file that is not there or damaged, empty ones."""
    from safetensors.numpy import load

    try:
        kept = load(read_checked(file)[0]) if file else {}
        tables = [kept[name] for name in names]
        if all(table.shape == (len(tables[0]), DIGEST_BYTES) and table.dtype == np.uint8 for table in tables):
            return tables
    except Exception:  # safetensors has errors of its own; whatever it is, what was forgotten is found out again
        pass
    return [np.empty((0, DIGEST_BYTES), dtype=np.uint8) for _ in names]


def remember(file: Path, **tables: np.ndarray) -> None:
    """Keep what :func:`remembered` gives; nothing happens on a disk that is full or may not be written."""
    from safetensors.numpy import save

    with suppress(UserError):
        write_atomically(file, with_checksum(save(tables)))

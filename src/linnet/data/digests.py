"""Digests: what identifies an image everywhere in linnet is the hash of its file's bytes.

Nothing here needs torch.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

DIGEST_BYTES = 16


def as_bytes(digests: np.ndarray) -> list[bytes]:
    """(n, d) uint8 -> each row as bytes, which sets and dictionaries can hold. One pass, not a call for each row."""
    content, width = digests.tobytes(), digests.shape[1]
    return [content[start : start + width] for start in range(0, len(content), width)]


def digest_files(paths: list[Path]) -> np.ndarray:
    """(n, 16) uint8: BLAKE2b of the bytes of each file; of one that cannot be read, of its path: when the images are
    checked, it is found again."""

    def digest(path: Path) -> bytes:
        try:
            content = path.read_bytes()
        except OSError:
            content = b"cannot be read: " + os.fsencode(path)
        return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()

    with ThreadPoolExecutor() as pool:
        digests = b"".join(pool.map(digest, paths))
    return np.frombuffer(digests, dtype=np.uint8).reshape(-1, DIGEST_BYTES)

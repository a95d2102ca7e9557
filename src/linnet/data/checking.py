"""Every image is decoded once before anything is done with it: what cannot be read is named all at once, and what is
known of a data set is kept in linnet's cache.

Nothing here needs torch.
"""

import hashlib
import json
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL

from linnet.data.ahead import ahead
from linnet.data.decoding import decode, has_sixteen_bits, suffixes
from linnet.data.digests import DIGEST_BYTES, KeyTable, as_bytes, distinct, remember, remembered
from linnet.data.manifest import Manifest
from linnet.data.problems import Problem, as_csv
from linnet.errors import UserError
from linnet.files import cache_folder, write_atomically
from linnet.progress import Bar

NAMED = 10  # images in an error; a file has all
VERSION = 2  # part of every file's name: raise it when other images can be read

Findings = dict[bytes, "Finding"]  # by digest, of images with which something is wrong


class Finding(NamedTuple):
    """Why an image cannot be read, or that its file lacks some last bytes."""

    reason: str
    lasting: bool = True  # False: the disk or the permissions are to blame, not the bytes

    @property
    def is_unreadable(self) -> bool:
        return self.reason != INCOMPLETE


INCOMPLETE = "its last bytes are missing"
FOURTEEN_BITS = 63  # the largest value of 14 of 16 bits in an image of 8
DARK = "like all of 16 bits here it uses 14 of them or fewer, which does not say what is white: convert it to 8 bits"


def examine(manifest: Manifest) -> Findings:
    """Decode every image of a manifest, or remember what came of it: of the very same set all, of another one which of
    its images are in order."""
    rows = distinct(manifest.digests)
    words = f"{VERSION}|{PIL.__version__}|{sorted(suffixes())}|"
    name = hashlib.sha256(words.encode() + b"".join(sorted(as_bytes(manifest.digests[rows])))).hexdigest()[:24]
    file = cache_folder() / "checks" / f"{name}.json"
    with suppress(OSError, ValueError, AttributeError):  # a damaged file is made again
        return {bytes.fromhex(digest): Finding(reason) for digest, reason in json.loads(file.read_text()).items()}
    fine = file.with_name(f"fine-{hashlib.sha256(words.encode()).hexdigest()[:24]}.safetensors")
    (known,) = remembered(fine, "digests")
    rows = rows[KeyTable(known).find(manifest.digests[rows]) < 0]
    digests = as_bytes(manifest.digests[rows])
    found: Findings = {}
    deep: dict[bytes, int] = {}  # images of 16 bits -> the largest value, of 255
    done = 0
    try:
        looked = ahead(_examine, (manifest.paths[row] for row in rows))
        with Bar("checking images", len(rows)) as bar, closing(looked) as examined:
            for digest, (finding, largest) in zip(digests, examined, strict=True):
                if finding:
                    found[digest] = finding
                if largest:
                    deep[digest] = largest
                done += 1
                bar.update(done)
    finally:  # what is interrupted goes on where it was
        if new := [digest for digest in digests[:done] if digest not in found and digest not in deep]:
            remember(fine, digests=np.concatenate([known, _table(new)]))
    if deep and max(deep.values()) <= FOURTEEN_BITS:
        found |= {digest: Finding(DARK) for digest in deep}
    if all(finding.lasting for finding in found.values()):
        write_atomically(file, json.dumps({digest.hex(): finding.reason for digest, finding in found.items()}))
    return found


def _table(digests: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def _examine(path: Path) -> tuple[Finding | None, int]:
    """What is wrong with an image; of one of 16 bits the largest value, brought to 8."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Finding(error.strerror or str(error), lasting=False), 0
    try:
        image, incomplete = decode(content, side=0)
        largest = max(high for _, high in image.getextrema()) if has_sixteen_bits(content) else 0  # type: ignore[misc]
        return Finding(INCOMPLETE) if incomplete else None, largest
    except MemoryError:
        return Finding("it does not fit into memory", lasting=False), 0
    except Exception as error:
        return Finding(" ".join(str(error).split()) or type(error).__name__), 0


def without_unreadable(manifest: Manifest, findings: Findings) -> Manifest:
    """The images that can be read; the others are problems of the manifest."""
    rows = _rows(manifest, (digest for digest, finding in findings.items() if finding.is_unreadable))
    left_out = _problems(manifest, rows, findings)
    kept = manifest.take(np.setdiff1d(np.arange(len(manifest)), rows))
    return replace(kept, problems=(*manifest.problems, *left_out))


def checked(manifest: Manifest, findings: Findings) -> Manifest:
    """The same manifest, its incomplete images noted.

    Raises:
        UserError: some images cannot be read; the first are named, and all in a file.
    """
    bad = _problems(
        manifest, _rows(manifest, (d for d, finding in findings.items() if finding.is_unreadable)), findings
    )
    if not bad:
        rows = _rows(manifest, findings)
        return replace(manifest, problems=(*manifest.problems, *_problems(manifest, rows, findings)))
    _, path, reason = bad[0]
    advice = "or leave what cannot be read out with --data.on-error skip"
    if len(bad) == 1:
        raise UserError(f"cannot read the image {path} ({reason}): replace or remove it, {advice}")
    shown, more = "; ".join(f"{path} ({reason})" for _, path, reason in bad[:NAMED]), ""
    if len(bad) > NAMED:
        file = cache_folder() / "checks" / f"unreadable-{hashlib.sha256(repr(bad).encode()).hexdigest()[:8]}.csv"
        write_atomically(file, as_csv(bad))
        more = f"; all are listed in {file}"
    raise UserError(
        f"cannot read {len(bad)} of {len(manifest)} images: {shown}{more}: replace or remove them, {advice}"
    )


def _rows(manifest: Manifest, digests: Iterable[bytes]) -> np.ndarray:
    if not (wanted := set(digests)):
        return np.empty(0, dtype=int)
    return np.array([row for row, digest in enumerate(as_bytes(manifest.digests)) if digest in wanted], dtype=int)


def _problems(manifest: Manifest, rows: np.ndarray, findings: Findings) -> list[Problem]:
    found = ((manifest.paths[row], findings[manifest.digests[row].tobytes()]) for row in rows)
    return [
        Problem("unreadable" if finding.is_unreadable else "incomplete", path, finding.reason)
        for path, finding in found
    ]

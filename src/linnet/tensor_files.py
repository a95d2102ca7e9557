"""Safetensors files that carry a checksum of their numbers, which the format itself does not have."""

import hashlib
import json
from pathlib import Path

from linnet.errors import UserError

CHECKSUM = "linnet.sha256"


def with_checksum(content: bytes) -> bytes:
    """What safetensors made of some tensors, with their checksum in its metadata."""
    header, data = _parts(content)
    header["__metadata__"] = {**header.get("__metadata__", {}), CHECKSUM: hashlib.sha256(data).hexdigest()}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def read_checked(path: Path) -> tuple[bytes, dict[str, str]]:
    """What a safetensors file holds, and its metadata. A file without a checksum is taken as it is.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is no safetensors file, or cut off. UserError: its
            numbers are not those that were written.
    """
    content = path.read_bytes()
    header, data = _parts(content)
    metadata = header.get("__metadata__", {})
    if CHECKSUM in metadata and metadata[CHECKSUM] != hashlib.sha256(data).hexdigest():
        raise UserError(f"{path} is damaged (it does not match its checksum): make it again, or take a whole copy")
    return content, metadata


def _parts(content: bytes) -> tuple[dict, memoryview]:
    """The header, which follows its length in 8 bytes, and the numbers."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    if not isinstance(header, dict):
        raise ValueError("no safetensors file")
    return header, memoryview(content)[start:]

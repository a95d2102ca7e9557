"""Where linnet keeps what it can make again, and how it writes a file so that a killed process leaves the old one or
the new one."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linnet.errors import UserError


def cache_folder() -> Path:
    """``$LINNET_CACHE``, else ``$XDG_CACHE_HOME/linnet``, else ``~/.cache/linnet``."""
    if folder := os.environ.get("LINNET_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "linnet"


def read_text(path: Path) -> str:
    """The text of a file, without the mark that some editors put in front (BOM).

    Raises:
        UserError: the file cannot be read, or is no UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "\0" in text:  # UTF-16 without a mark
            raise UnicodeError
        return text
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text: save it as UTF-8"
        raise UserError(f"cannot read {path}: {why}") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to ``path`` when the block ends without an error, removed otherwise.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk is full: cannot write {path}; free some space and go on with --resume"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file, or leave the old one."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)

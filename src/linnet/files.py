"""Where linnet keeps what it can make again, how it writes a file so that a killed process or a power cut leaves the
old one or the new one, and how it shows names that are not text."""

import errno
import json
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from linnet.errors import UserError

TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp|\.(.+)\.\d+\.tmp")  # of this version, and of earlier ones


def cache_folder() -> Path:
    """``$LINNET_CACHE``, else ``$XDG_CACHE_HOME/linnet``, else ``~/.cache/linnet``.

    Raises:
        UserError: this user has no home directory.
    """
    if folder := os.environ.get("LINNET_CACHE"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "linnet"
    try:
        return Path.home() / ".cache" / "linnet"
    except RuntimeError as error:
        raise UserError(
            "this user has no home directory, where linnet keeps its cache: set LINNET_CACHE to a folder that can be "
            "written"
        ) from error


def cache_words() -> str:
    """Where the cache is, and whether it can be used."""
    try:
        folder = cache_folder()
    except UserError as error:
        return f"none: {error}"
    if barrier := _barrier(folder / "x"):
        return f"{folder} cannot be used, because {barrier}: set LINNET_CACHE to a folder that can be written"
    return str(folder)


def _barrier(file: Path) -> str:
    """Why ``file`` cannot be written, if so."""
    folder = next(folder for folder in file.absolute().parents if os.path.lexists(folder))
    if not folder.is_dir():
        return f"{folder} is not a folder"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is not a folder that can be written"


def cannot_write(path: Path, error: OSError, kind: str = "") -> UserError:
    """Why a file or a folder of some ``kind`` cannot be written, and what to do about it."""
    where = ""
    with suppress(UserError):
        if path.absolute().is_relative_to(cache_folder().absolute()):
            where = "; set LINNET_CACHE to use another folder as linnet's cache"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = next(folder for folder in path.absolute().parents if folder.is_dir())
        free = shutil.disk_usage(folder).free / 1e6
        return UserError(
            f"the disk is full: cannot write {path} ({free:.0f} MB are free there); free some space and give the "
            f"command again, a training with --resume{where}"
        )
    return UserError(f"cannot write {kind}{path}: {error.strerror or error}{where}")


def check_space(folder: Path, size: float, what: str) -> None:
    """
    Raises:
        UserError: less than ``size`` bytes are free where ``folder`` is.
    """
    there = next(own for own in (folder.absolute(), *folder.absolute().parents) if own.is_dir())
    free = shutil.disk_usage(there).free
    if free < size:
        raise UserError(
            f"{what} needs at least {size / 1e6:.0f} MB in {folder}, where {free / 1e6:.0f} MB are free: free some "
            "space, or use a folder on another disk"
        )


def check_out(file: Path, overwrite: bool = True) -> None:
    """
    Raises:
        UserError: ``file`` cannot be written, or exists and is not to be replaced.
    """
    try:
        os.lstat(file)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise cannot_write(file, error) from error
    if os.path.isdir(file):
        raise UserError(f"{file} is a folder: --out must be a file, as in {file / 'NAME'}")
    if os.path.lexists(file) and not overwrite:
        raise UserError(f"{file} exists: choose another --out, or replace it with --overwrite")
    if barrier := _barrier(file):
        raise UserError(f"cannot write {file}: {barrier}")


def given_path(text: str | Path, what: str) -> Path:
    """A path that somebody gave.

    Raises:
        UserError: it is empty: it would be the current folder.
    """
    if not str(text).strip():
        raise UserError(f"{what} is empty (an unset variable of the shell?)")
    return Path(text)


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


def load_yaml(text: str) -> Any:
    """What a YAML or JSON document holds.

    Raises:
        ValueError: it is neither; the reason is one line.
    """
    import yaml

    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # the former takes a seventh of the time
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise ValueError(" ".join(str(error).split())) from error


def read_json(path: Path, kind: type, advice: str) -> Any:
    """What one of linnet's own JSON files holds.

    Args:
        kind: what it must be, a list or a dict. advice: what to do if the file is damaged.

    Raises:
        UserError: the file cannot be read or is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    try:
        value = json.loads(content)
    except ValueError as error:  # UnicodeDecodeError is one
        raise damaged(path, "it is cut off or overwritten" if content else "it is empty", advice) from error
    if not isinstance(value, kind):
        raise damaged(path, "it holds something else", advice)
    return value


def damaged(path: Path, why: str, advice: str) -> UserError:
    return UserError(f"{path} is damaged ({why}): {advice}")


@contextmanager
def new_file(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """A file to be written that takes the place of ``path`` when the block ends without an error.

    Libraries are given the open file and never a path, which some expand or read as an address.

    Args:
        durable: have it on the disk before it takes the place; otherwise a power cut can leave an empty file.

    Raises:
        UserError: the disk is full or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent, path.name)
        with _held(temporary) as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of what the file says
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        with suppress(OSError):
            temporary.unlink()  # or what it takes would not count as free
        raise cannot_write(path, cause) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file, or leave the old one."""
    with new_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def clear_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left of files that they were writing; a process that is writing holds a lock.

    Args:
        name: of one file only; else of all files in the folder.
    """
    for path in folder.glob(".*.tmp"):
        match = TEMPORARY.fullmatch(path.name)
        if match and name is not None and name[:50] not in (match[1], (match[2] or "")[:50]):
            continue
        with suppress(OSError):  # held by its writer, gone by now, or another user's
            if match and path.is_file():
                with path.open("rb") as file:
                    _lock(file)
                    path.unlink()


def _held(path: Path) -> IO[bytes]:
    """A new file that :func:`clear_leftovers` leaves alone, where the file system has locks."""
    while True:
        file = path.open("xb+")
        with suppress(OSError):
            _lock(file)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # it was cleared away before it was locked


def _lock(file: IO[Any]) -> None:
    import fcntl  # not on every system

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock(path: Path) -> IO[str]:
    """Hold a file for this process, until it is closed.

    Raises:
        BlockingIOError: another process holds it. OSError: it cannot be written.
    """
    file = path.open("a")
    try:
        _lock(file)
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Only one process at a time is in the block; the others wait. Where the file system has no locks, none waits."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_locked(path: Path) -> bool:
    """Whether another process holds a file by :func:`lock`."""
    if not path.exists():
        return False
    try:
        lock(path).close()
    except BlockingIOError:
        return True
    except OSError:  # one that may only be read
        return False
    return False


def readable(name: str | Path) -> str:
    r"""A file's name as text: a byte that is not UTF-8 is shown as ``\xe9``. Use it wherever a name is written."""
    try:
        content = str(name).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, out of a JSON file
        content = str(name).encode("utf-8", "backslashreplace")
    return content.decode("utf-8", "backslashreplace")


def on_one_line(name: str | Path) -> str:
    r"""The same for a line of a terminal: a name with a line break in it does not become two lines, but has ``\n``."""
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in readable(name))

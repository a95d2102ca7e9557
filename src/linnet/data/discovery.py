"""Which files below a folder are images. What is left out is named, with the reason.

Nothing here needs torch.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from linnet.data.decoding import HEIF, HEIF_NEEDED, starts_like_an_image, suffixes
from linnet.data.problems import Problem
from linnet.errors import UserError
from linnet.run import is_run

SYSTEM_NAMES = {  # what systems make beside the files of people, by its exact name -> who makes it; see _maker
    "@eaDir": "Synology",
    "@tmp": "Synology",
    "#recycle": "Synology",
    "#snapshot": "Synology",
    "@Recycle": "QNAP",
    "@Recently-Snapshot": "QNAP",
    ".@__thumb": "QNAP",
    ".snapshot": "NetApp",
    "~snapshot": "NetApp",
    "$recycle.bin": "Windows",
    "RECYCLER": "Windows",
    "FOUND.000": "Windows",
    "system volume information": "Windows",
    "thumbs.db": "Windows",
    "ehthumbs.db": "Windows",
    "desktop.ini": "Windows",
    "ehthumbs_vista.db": "Windows",
    "__MACOSX": "macOS",
    "Network Trash Folder": "macOS",
    "Temporary Items": "macOS",
    "TheVolumeSettingsFolder": "macOS",
    ".DS_Store": "macOS",
    ".AppleDouble": "macOS",
    ".Spotlight-V100": "macOS",
    ".Trashes": "macOS",
    ".fseventsd": "macOS",
    "Icon\r": "macOS",
    "lost+found": "Linux",
    "LOST.DIR": "Android",
    ".thumbnails": "Linux",
    "__pycache__": "Python",
    ".ipynb_checkpoints": "Jupyter",
    ".git": "Git",
    ".dvc": "DVC",
}
OF_A_RUN = "of runs of linnet"


class Listing(NamedTuple):
    """What lies in one folder, sorted."""

    folders: list[Path]
    images: list[Path]
    unused: list[Problem]


Lister = Callable[[Path], Listing]


class Found(NamedTuple):
    """What lies below a folder, sorted."""

    images: list[Path]
    unused: list[Problem]


def list_folder(folder: Path) -> Listing:
    """One folder; of what is left out in it, each file. Links are followed.

    Raises:
        UserError: it cannot be read.
    """
    listing = Listing([], [], [])
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    known = suffixes()
    for entry in entries:
        path = folder / entry.name
        is_link = entry.is_symlink()  # a link that leads nowhere is neither a folder nor a file
        is_folder = os.path.isdir(path) if is_link else entry.is_dir()
        is_file = os.path.isfile(path) if is_link else entry.is_file()
        if reason := _left_out(path, entry.name, is_folder, is_file):
            below = _files_below(path) if is_folder and not is_link else [path]
            listing.unused.extend(Problem("unused", file, reason) for file in below)
        elif is_folder:
            listing.folders.append(path)
        elif os.path.splitext(entry.name)[1].lower() in known:
            listing.images.append(path)
        else:
            listing.unused.append(Problem("unused", path, _why_no_image(path)))
    return listing


def look_through(folder: Path, list_one: Lister = list_folder) -> Found:
    """All images below a folder. A folder that is linked to is read once, and never one that the link lies in.

    Args:
        list_one: :func:`list_folder`, or one that remembers what it read.

    Raises:
        UserError: a folder cannot be read.
    """
    found, seen, waiting = Found([], []), set(), [folder]
    start = os.path.realpath(folder)
    while waiting:
        now = waiting.pop()
        real = os.path.realpath(now)
        if real in seen or start.startswith(os.path.join(real, "")):
            found.unused.append(Problem("unused", now, "links to folders that are read anyway"))
            continue
        seen.add(real)
        own = list_one(now)
        waiting += own.folders
        found.images.extend(own.images)
        found.unused.extend(own.unused)
    one = len(seen) == 1  # it is sorted already; to compare paths takes longer than all the rest
    return Found(found.images if one else sorted(found.images), found.unused if one else sorted(found.unused))


def find_images(folder: Path) -> list[Path]:
    """Every image file below a folder, sorted."""
    return look_through(folder).images


def holds_only_runs(folder: Path, list_one: Lister) -> bool:
    """Whether a folder that is no run itself is one like ``runs/``, in which linnet put its runs."""
    own = list_one(folder)
    has_runs = any(problem.detail == OF_A_RUN for problem in own.unused)
    return (
        not own.images
        and (has_runs or bool(own.folders))
        and all(holds_only_runs(inner, list_one) for inner in own.folders)
    )


def _left_out(path: Path, name: str, is_folder: bool, is_file: bool) -> str:
    """Why a file or folder is left out whatever is in it, or nothing."""
    if maker := _maker(name):
        return f"made by {maker} ({name.strip()})"
    if name.startswith("."):
        return "hidden"
    if is_folder:
        return OF_A_RUN if is_run(path) else ""
    if not is_file:
        return "behind dangling links" if os.path.islink(path) else "neither file nor folder"
    return ""


def _maker(name: str) -> str | None:
    """Names of Windows that stand in small letters come in any case: its disks do not tell it apart."""
    return SYSTEM_NAMES.get(name) or SYSTEM_NAMES.get(name.lower())


def _why_no_image(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in HEIF:
        return f"in need of pillow-heif ({suffix}: {HEIF_NEEDED})"
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        start = b""
    shown = suffix or "no suffix"
    return (
        f"with an image inside, but not by name ({shown})" if starts_like_an_image(start) else f"not images ({shown})"
    )


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in sorted(names))

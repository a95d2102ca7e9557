"""``FOLDER``: image folders with or without splits, one folder of images per class."""

import os
from functools import cache
from pathlib import Path

import numpy as np

from linnet.config import DataConfig
from linnet.data.digests import digest_files
from linnet.data.discovery import Lister, Listing, find_images, holds_only_runs, list_folder, look_through
from linnet.data.manifest import Manifest
from linnet.data.paths import Paths
from linnet.data.problems import SHOWN, Problem, in_words
from linnet.data.sources.base import Source
from linnet.errors import UserError
from linnet.text.classes import class_table, composed

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def read(data: str, training: bool, config: DataConfig = DataConfig()) -> Manifest:
    """A folder of class folders, or of train/, val/ and test/ with class folders in each.

    Raises:
        UserError: there is no such folder, or it is laid out in another way.
    """
    root = Path(data)
    _check_folder(root)
    list_one = cache(list_folder)  # each folder is read once
    top = _class_folders(root, list_one)
    by_split = _splits(root, top.folders, training, config.test == "none", list_one)
    problems, by_class = list(top.unused), []
    if root not in by_split.values():
        problems += [Problem("unused", image, "beside the splits, in none of them") for image in top.images]
    for split, split_folder in by_split.items():
        own = top if split_folder == root else _class_folders(split_folder, list_one)
        problems += [] if own is top else own.unused
        if own.images:
            raise UserError(
                f"{own.images[0]} is in no class folder: move the {len(own.images)} images in {split_folder} into "
                "class folders" + (", or leave them out with --data.test none" if split == "test" else "")
            )
        by_class += [(split, folder) for folder in own.folders]
    names = sorted({composed(folder.name) for _, folder in by_class})
    if not names:
        raise UserError(f"{root} holds no class folders below {', '.join(f.name + '/' for f in by_split.values())}")
    number = {name: i for i, name in enumerate(names)}
    paths, labels, splits, empty = [], [], [], []
    for split, folder in by_class:
        found = look_through(folder, list_one)
        problems += found.unused
        if not found.images:
            empty.append((folder, found.unused))
        paths += found.images
        labels += [number[composed(folder.name)]] * len(found.images)
        splits += [split] * len(found.images)
    full = [folder for _, folder in by_class if folder not in dict(empty)]
    if len({composed(folder.name) for folder in full}) == 1:
        _check_wrapper(root, full, list_one)
    if empty:
        raise UserError(_no_images(empty))
    labels_N, splits_N = np.array(labels, dtype=np.int64), np.array(splits, dtype="<U5")
    digests, classes = digest_files(paths), class_table(names)
    return Manifest(Paths(paths), labels_N, splits_N, digests, classes, problems=tuple(problems))


def _check_folder(root: Path) -> None:
    if not os.path.exists(root):
        raise UserError(f"{root}: no such folder ('linnet list data' shows what DATA can be)")
    if not root.is_dir():
        raise UserError(
            f"{root} is a file; DATA must be a folder with one folder per class (or train/ val/ test/ of those)"
        )


def _class_folders(folder: Path, list_one: Lister) -> Listing:
    """What lies in a folder, without runs that linnet put there."""
    own = list_one(folder)
    runs = [inner for inner in own.folders if holds_only_runs(inner, list_one)]
    unused = [problem for inner in runs for problem in look_through(inner, list_one).unused]
    return Listing([inner for inner in own.folders if inner not in runs], own.images, own.unused + unused)


def _splits(root: Path, folders: list[Path], training: bool, without_test: bool, list_one: Lister) -> dict[str, Path]:
    """Split -> its folder; "" -> the folder of a source without splits.

    Raises:
        UserError: something between the two, or a folder around the data.
    """
    if not folders:
        raise UserError(f"{root} holds no class folders: put the images of each class into a folder named after it")
    if not without_test or "train" not in map(_split, folders):
        used = folders
    else:
        used = [folder for folder in folders if _split(folder) != "test"]
    by_split = {_split(folder): folder for folder in used}
    if "train" not in by_split and (training or "" in by_split):
        if "val" in by_split or "test" in by_split:
            raise UserError(
                f"{root} has {', '.join(f.name + '/' for f in folders)} but no train/ folder "
                "(rename a class that has the name of a split)"
            )
        inner = [around for folder in folders if (around := _around_splits(folder, list_one))]
        if len(inner) == len(folders) > 1:
            raise UserError(
                f"{root}: every folder, such as {inner[0].name}/, has splits in it: turn them round, as in "
                f"train/{inner[0].name}/, or give one of the folders as DATA"
            )
        if inner:
            raise UserError(f"{inner[0]}, not {root}, has splits in it (train/ ...): give {inner[0]} as DATA")
        return {"": root}
    if "" in by_split:
        raise UserError(
            f"{root} mixes split folders (train/ ...) with '{by_split[''].name}/', which is not a split "
            "(rename a class that has the name of a split)"
        )
    if len(by_split) < len(used):
        raise UserError(f"{root} names one split twice: {', '.join(f.name + '/' for f in used)}")
    if set(by_split) == {"train"}:
        return {"": by_split["train"]}  # nothing but train/: as good as flat
    return by_split


def _split(folder: Path) -> str:
    return SPLIT_FOLDERS.get(folder.name.lower(), "")


def _around_splits(folder: Path, list_one: Lister) -> Path | None:
    """The folder that holds train/ and other splits and nothing else: this one, or one that it only wraps."""
    own = list_one(folder)
    if not own.images and "train" in map(_split, own.folders) and all(map(_split, own.folders)):
        return folder
    return _around_splits(own.folders[0], list_one) if not own.images and len(own.folders) == 1 else None


def _check_wrapper(root: Path, folders: list[Path], list_one: Lister) -> None:
    """Of the folders that hold all images, one for each split."""
    first, inside = folders[0], list_one(folders[0])
    count = len(inside.folders)
    if inside.images or count < 2:
        return
    if len(folders) > 1:
        raise UserError(
            f"{root} holds the one class folder {first.name}/ in each split: if its {count} folders are the classes, "
            f"move them up, as in {first.parent.name}/{inside.folders[0].name}/"
        )
    raise UserError(
        f"{root} holds the one class folder {first.name}/ with images: if its {count} folders are the classes, "
        f"give {first} as DATA"
    )


def _no_images(empty: list[tuple[Path, list[Problem]]]) -> str:
    unused = [problem for _, own in empty for problem in own]
    why = in_words(unused) if unused else f"add some or remove {'it' if len(empty) == 1 else 'them'}"
    if len(empty) == 1:
        return f"the class folder {empty[0][0]} holds no images: {why}"
    shown = ", ".join(str(folder) for folder, _ in empty[:SHOWN])
    return f"{len(empty)} class folders hold no images ({shown}{', ...' if len(empty) > SHOWN else ''}): {why}"


def some_images(data: str, count: int) -> list[Path]:
    """``count`` image files, spread over the whole folder."""
    paths = find_images(Path(data))
    return paths[:: max(1, len(paths) // count)][:count]


SOURCE = Source(
    forms={
        "FOLDER": "train/ val/ test/ (or training/ validation/ testing/ ...), each with one folder of images per class",
        "FOLDER (flat)": "one folder of images per class; 20 % becomes test and 10 % of the rest val, stratified",
    },
    matches=lambda data: True,
    read=read,
    run_name=lambda data: Path(data).resolve().name,
    is_there=lambda data: Path(data).is_dir(),
    images=some_images,
)

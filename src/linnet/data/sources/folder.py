"""``FOLDER``: image folders with or without splits, one folder of images per class."""

import os
from pathlib import Path

import numpy as np

from linnet.data.images import SUFFIXES, find_images
from linnet.data.manifest import Manifest, digest_files
from linnet.data.sources.base import Source
from linnet.errors import UserError
from linnet.run import Run
from linnet.text.classes import class_table

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


def read(data: str, training: bool) -> Manifest:
    """A folder of class folders, or of train/, val/ and test/ with class folders in each.

    Raises:
        UserError: there is no such folder, or it is laid out in another way.
    """
    root = Path(data)
    if not os.path.exists(root):
        raise UserError(f"{root}: no such folder ('linnet list data' shows what DATA can be)")
    if not root.is_dir():
        raise UserError(
            f"{root} is a file; DATA must be a folder with one folder per class (or train/ val/ test/ of those)"
        )
    folders = _subfolders(root)
    if not folders:
        raise UserError(f"{root} holds no class folders: put the images of each class into a folder named after it")
    by_split = {SPLIT_FOLDERS.get(folder.name.lower(), ""): folder for folder in folders}
    if "train" not in by_split and (training or "" in by_split):
        if "val" in by_split or "test" in by_split:
            raise UserError(
                f"{root} has {', '.join(f.name + '/' for f in folders)} but no train/ folder "
                "(rename a class that has the name of a split)"
            )
        by_split = {"": root}
    elif "" in by_split:
        raise UserError(
            f"{root} mixes split folders (train/ ...) with '{by_split[''].name}/', which is not a split "
            "(rename a class that has the name of a split)"
        )
    elif len(by_split) < len(folders):
        raise UserError(f"{root} names one split twice: {', '.join(f.name + '/' for f in folders)}")
    elif set(by_split) == {"train"}:
        by_split = {"": by_split["train"]}  # nothing but train/: as good as flat
    for folder in by_split.values():
        loose = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()]
        if loose:
            raise UserError(
                f"{loose[0]} is in no class folder: move the {len(loose)} images in {folder} into class folders"
            )

    names = sorted({folder.name for split in by_split.values() for folder in _subfolders(split)})
    if not names:
        raise UserError(f"{root} holds no class folders below {', '.join(f.name + '/' for f in by_split.values())}")
    paths, labels, splits = [], [], []
    for split, split_folder in by_split.items():
        for folder in _subfolders(split_folder):
            found = find_images(folder)
            if not found and Run(folder).config.exists():
                raise UserError(f"{folder} is a run of linnet inside the data: move it, and choose another --out")
            if not found:
                raise UserError(
                    f"the class folder {folder} holds no images ({', '.join(sorted(SUFFIXES))}): add some or remove it"
                )
            paths += found
            labels += [names.index(folder.name)] * len(found)
            splits += [split] * len(found)
    labels_N, splits_N = np.array(labels, dtype=np.int64), np.array(splits, dtype="<U5")
    return Manifest(tuple(paths), labels_N, splits_N, digest_files(paths), class_table(names))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


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

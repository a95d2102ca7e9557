"""The manifest: one table of images that every source becomes. Which image, which class, which split, nothing else.

>>> manifest = load_manifest(DataConfig(source="photos/"))
>>> manifest.classes[manifest.labels[0]].prompt_name
'Laysan Albatross'
"""

import hashlib
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from linnet.config import DataConfig, coerce
from linnet.data.names import described, find_class, read_names
from linnet.data.splits import carve, limit_per_class, seeded_order
from linnet.errors import UserError, did_you_mean

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}
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
DIGEST_BYTES = 16


class ClassInfo(NamedTuple):
    """A class: its name as found in the source, the words that stand for it in a prompt, and sentences about it."""

    name: str
    prompt_name: str
    descriptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Images with labels and splits, and the class table. Class ids of a folder follow the sorted class names.

    Attributes:
        paths: image files.
        labels: (n,) int64 class ids; -1 marks an unlabelled image.
        splits: (n,) "train", "val" or "test".
        digests: (n, 16) uint8, BLAKE2b of each file's bytes: what identifies an image everywhere in linnet.
        classes: class id -> name and prompt name.
        texts: captions of each image, or None.
        novel: ids of the classes that are kept from training; see :mod:`linnet.data.novel`.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray
    splits: np.ndarray
    digests: np.ndarray
    classes: tuple[ClassInfo, ...]
    texts: tuple[tuple[str, ...], ...] | None = None
    novel: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def class_names(self) -> list[str]:
        return [info.name for info in self.classes]

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of one split, ascending."""
        return np.flatnonzero(self.splits == split)

    def take(self, rows: np.ndarray) -> "Manifest":
        texts = None if self.texts is None else tuple(self.texts[i] for i in rows)
        paths = tuple(self.paths[i] for i in rows)
        return replace(
            self,
            paths=paths,
            labels=self.labels[rows],
            splits=self.splits[rows],
            digests=self.digests[rows],
            texts=texts,
        )

    @cached_property
    def content_hash(self) -> str:
        """Changes when an image's bytes, a label, a split or a class name changes; not when a file moves."""
        table = sorted(
            zip((d.tobytes() for d in self.digests), self.labels.tolist(), self.splits.tolist(), strict=True)
        )
        return hashlib.sha256(repr((table, self.classes, self.novel)).encode()).hexdigest()


def load_manifest(config: DataConfig, training: bool = True) -> Manifest:
    """Read a source, carve the splits that it lacks, apply the limit, set classes apart, and check the result.

    Args:
        training: False for a source that is only scored: it needs no training images then.

    Raises:
        UserError: no such source, no images, fewer than two classes, an empty class, a class without training images.
    """
    if not config.source:
        raise UserError("no data given: name a folder of images or 'aviary'")
    if config.source.split(":")[0] == "aviary":
        manifest = _read_aviary(config.source)
    else:
        manifest = _read_folder(Path(config.source), training)
    if config.test == "none" and not _is_flat(manifest):
        manifest = manifest.take(np.flatnonzero(manifest.splits != "test"))
    splits = carve(
        manifest.labels,
        manifest.splits,
        manifest.digests,
        test_fraction=config.test_fraction if config.test == "auto" else 0.0,
        val_fraction=config.val_fraction,
        seed=config.seed,
    )
    classes = described(manifest.classes, config.descriptions) if config.descriptions else manifest.classes
    manifest = replace(manifest, splits=splits, classes=classes, novel=novel_classes(manifest.classes, config))
    if config.limit_per_class is not None:
        splits = np.where(np.isin(manifest.labels, manifest.novel), "", manifest.splits)  # theirs stay, for the test
        kept = limit_per_class(manifest.labels, splits, manifest.digests, config.limit_per_class, config.seed)
        manifest = manifest.take(kept)
    _check(manifest, config.source, training)
    return manifest


def novel_classes(classes: tuple[ClassInfo, ...], config: DataConfig) -> tuple[int, ...]:
    """Ids of the classes that are kept from training: those named, or a share drawn from the seed and the names alone.

    Raises:
        UserError: both ways are used, an unknown name, or fewer than two classes on either side.
    """
    if config.novel is not None and config.novel_classes is not None:
        raise UserError("data.novel and data.novel_classes exclude one another: a random share, or the classes named")
    if config.novel_classes is not None:
        chosen = {find_class(name, classes) for name in read_names(config.novel_classes)}
    elif config.novel is not None:
        order = seeded_order([info.name.encode() for info in classes], config.seed, "novel")
        drawn = set(order[: round(config.novel * len(classes))])
        chosen = {i for i, info in enumerate(classes) if info.name.encode() in drawn}
    elif config.novel_images != "all":
        raise UserError("data.novel_images has no effect without novel classes: add --data.novel 0.5, or leave it out")
    else:
        return ()
    if not 2 <= len(chosen) <= len(classes) - 2:
        raise UserError(
            f"{len(chosen)} of {len(classes)} classes would be novel: at least two must be, and two must be left"
        )
    return tuple(sorted(chosen))


def _is_flat(manifest: Manifest) -> bool:
    return set(manifest.splits) == {""}


def _check(manifest: Manifest, source: str, training: bool) -> None:
    if len(manifest.classes) < 2:
        raise UserError(
            f"{source}: found only the class '{manifest.classes[0].name}'; "
            "a classifier needs at least two class folders"
        )
    trained = set(manifest.labels[manifest.splits == "train"].tolist())
    missing = [info.name for i, info in enumerate(manifest.classes) if i not in trained and i not in manifest.novel]
    if missing and training:
        raise UserError(
            f"{source}: no training image of {len(missing)} class(es), such as '{missing[0]}': "
            "add images or remove the class"
        )
    prompts = Counter(info.prompt_name for info in manifest.classes)
    if twice := [name for name, count in prompts.items() if count > 1]:
        raise UserError(f"{source}: {prompts[twice[0]]} classes read '{twice[0]}' in a prompt: rename all but one")
    if training and not (~np.isin(manifest.labels[manifest.rows("val")], manifest.novel)).any():
        raise UserError(f"{source}: no validation images; give at least 3 images per class or a val/ folder")


def leaked(manifest: Manifest) -> int:
    """How many val and test images are, byte for byte, also training images, or test images also val images."""
    train, val, test = ([d.tobytes() for d in manifest.digests[manifest.rows(s)]] for s in ("train", "val", "test"))
    earlier, both = set(train), {*train, *val}
    return sum(digest in earlier for digest in val) + sum(digest in both for digest in test)


def prompt_names(names: list[str]) -> list[str]:
    """Class names as words: ``_`` becomes a space, a number in front goes if every name has one and all stay unique."""
    stripped = [re.sub(r"^\d+[._-]", "", name) for name in names]
    if all(a != b and b for a, b in zip(names, stripped, strict=True)) and len(set(stripped)) == len(names):
        names = stripped
    return [" ".join(name.replace("_", " ").split()) for name in names]


def find_images(folder: Path) -> list[Path]:
    """Every image file below a folder, sorted, hidden files and folders left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _read_folder(root: Path, training: bool) -> Manifest:
    if not os.path.exists(root):
        raise UserError(f"{root}: no such folder (DATA is a folder of images or 'aviary')")
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
                "(a class that is called like a split must be renamed)"
            )
        by_split = {"": root}
    elif "" in by_split:
        raise UserError(
            f"{root} mixes split folders (train/ ...) with '{by_split[''].name}/', which is none "
            "(a class that is called like a split must be renamed)"
        )
    elif len(by_split) < len(folders):
        raise UserError(f"{root} names one split twice: {', '.join(f.name + '/' for f in folders)}")
    elif set(by_split) == {"train"}:
        by_split = {"": by_split["train"]}  # nothing but train/: as good as flat
    for folder in by_split.values():
        loose = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()]
        if loose:
            raise UserError(f"{loose[0]} is in no class folder: move the {len(loose)} images of {folder} into some")

    names = sorted({folder.name for split in by_split.values() for folder in _subfolders(split)})
    if not names:
        raise UserError(f"{root} holds no class folders below {', '.join(f.name + '/' for f in by_split.values())}")
    paths, labels, splits = [], [], []
    for split, split_folder in by_split.items():
        for folder in _subfolders(split_folder):
            found = find_images(folder)
            if not found and (folder / "config.yaml").exists():
                raise UserError(f"{folder} is a run of linnet inside the data: move it, and choose another --out")
            if not found:
                raise UserError(
                    f"the class folder {folder} holds no images ({', '.join(sorted(SUFFIXES))}): add some or remove it"
                )
            paths += found
            labels += [names.index(folder.name)] * len(found)
            splits += [split] * len(found)
    classes = tuple(ClassInfo(*pair) for pair in zip(names, prompt_names(names), strict=True))
    return Manifest(
        tuple(paths), np.array(labels, dtype=np.int64), np.array(splits, dtype="<U5"), digest_files(paths), classes
    )


def digest_files(paths: list[Path]) -> np.ndarray:
    """(n, 16) uint8: BLAKE2b of the bytes of each file."""

    def digest(path: Path) -> bytes:
        try:
            return hashlib.blake2b(path.read_bytes(), digest_size=DIGEST_BYTES).digest()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error

    with ThreadPoolExecutor() as pool:
        digests = b"".join(pool.map(digest, paths))
    return np.frombuffer(digests, dtype=np.uint8).reshape(-1, DIGEST_BYTES)


def _read_aviary(source: str) -> Manifest:
    from linnet.data import aviary

    million = 1_000_000
    allowed = {"species": (1, 10_000), "images": (1, million), "genus": (1, 100), "seed": (0, million)}
    allowed |= {"imbalance": (1, million), "bare": (0, 1)}
    options: dict[str, int] = {}
    for part in filter(None, source.partition(":")[2].split(",")):
        key, _, value = part.partition("=")
        if key not in allowed:
            raise UserError(f"unknown aviary option '{key}' (known: {', '.join(allowed)}).{did_you_mean(key, allowed)}")
        options[key] = coerce(value, int, f"aviary:{key}")
        low, high = allowed[key]
        if not low <= options[key] <= high:
            raise UserError(f"aviary:{key} must be at least {low} and at most {high}, not {options[key]}")
    bare = options.pop("bare", 0)
    birds = aviary.build(**options)
    paths = [bird.path for bird in birds.images]
    return Manifest(
        tuple(paths),
        np.array([bird.species for bird in birds.images], dtype=np.int64),
        np.array([bird.split for bird in birds.images], dtype="<U5"),
        digest_files(paths),
        tuple(ClassInfo(species.name, species.name if bare else species.prompt_name) for species in birds.species),
        tuple((bird.caption,) for bird in birds.images),
    )


def describe(manifest: Manifest) -> str:
    """One line about a manifest for the log."""
    counts = Counter(manifest.splits[~np.isin(manifest.labels, manifest.novel)].tolist())
    shown = ", ".join(f"{counts[split]} {split}" for split in ("train", "val", "test"))
    novel = f", {len(manifest.novel)} novel classes apart" if manifest.novel else ""
    return f"{len(manifest.classes) - len(manifest.novel)} classes, {shown} images{novel}"

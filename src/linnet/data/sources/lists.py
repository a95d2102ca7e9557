"""``list:LISTS[:ROOT]``: files that name an image and its label in every line, as the long-tail benchmarks do.

ImageNet-LT and Places-LT come as ``ImageNet_LT_train.txt`` and its siblings, iNaturalist as such files or as JSON
(``train2018.json``, ``categories.json``).
"""

import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from posixpath import commonpath, dirname
from typing import Any

import numpy as np

from linnet.config import DataConfig
from linnet.data.digests import digest_files
from linnet.data.manifest import Manifest
from linnet.data.paths import Paths
from linnet.data.problems import Problem
from linnet.data.sources.base import Source
from linnet.data.sources.folder import SPLIT_FOLDERS as SPLIT_WORDS
from linnet.errors import UserError
from linnet.files import read_text
from linnet.text.class_lists import HEADERS
from linnet.text.classes import WORDNET_ID, ClassInfo, class_table, composed

log = logging.getLogger("linnet")

NAME_FILES = ("classes.txt", "class_names.txt")
SAMPLE = 64  # listed images that are looked for to find out what their paths are relative to


@dataclass(frozen=True)
class ImageList:
    """What one file says: paths as they are written there, a label for each, and names of labels if it has some."""

    file: Path
    paths: list[str]
    labels: list[int]
    names: Mapping[int, str] = field(default_factory=dict)


def read(data: str, training: bool, config: DataConfig = DataConfig()) -> Manifest:
    """Train, val and test lists of one data set. Labels are any numbers; classes are those of the train list.

    Raises:
        UserError: a file, a folder or an image is not there, or a file says something else than paths and labels.
    """
    lists, root = _place(data)
    by_split: dict[str, ImageList] = {}
    for split, file in _find_lists(lists, without_test=config.test == "none").items():
        if (one := _read_list(file)) is not None:
            by_split[split] = one
        else:
            log.warning("%s has no labels and is left out", file)
    if not by_split or ("train" not in by_split and training):
        shown = ", ".join(one.file.name for one in by_split.values())
        raise UserError(
            f"{lists} has no train list: expected a file such as NAME_train.txt or train2018.json"
            + (f" beside {shown}" if shown else "")
        )
    known = [by_split["train"]] if "train" in by_split else list(by_split.values())
    table = sorted({label for one in known for label in one.labels})
    for one in by_split.values():
        if strange := sorted(set(one.labels) - set(table)):
            example = one.paths[one.labels.index(strange[0])]
            raise UserError(f"{one.file}: the label {strange[0]} (of {example}) does not occur in {known[0].file.name}")
    if set(by_split) == {"train"}:
        by_split = {"": by_split["train"]}  # nothing but a train list: as good as a flat folder
    classes, found, problems = _classes(known, table), {}, []
    for split, one in by_split.items():
        found[split] = _located(one, root)
        _check_labels(one, found[split])
        if lost := _lost(found[split]):
            _check_there(one, found[split], lost, root, may_miss_some=config.on_error == "skip")
            problems += [Problem("missing", Path(path), f"listed in {one.file.name}") for path in sorted(lost)]
            by_split[split], found[split] = _without(one, found[split], lost)

    number = {label: i for i, label in enumerate(table)}
    paths = [Path(path) for split in by_split for path in found[split]]
    labels_N = np.array([number[label] for one in by_split.values() for label in one.labels], dtype=np.int64)
    splits_N = np.repeat(np.array(list(by_split), dtype="<U5"), [len(one.labels) for one in by_split.values()])
    return Manifest(Paths(paths), labels_N, splits_N, digest_files(paths), classes, problems=tuple(problems))


def _place(data: str) -> tuple[Path, Path]:
    """LISTS, a folder or a file, and ROOT.

    Raises:
        UserError: one of them is not there.
    """
    parts = data.split(":")[1:]
    if not 1 <= len(parts) <= 2 or not all(parts):
        raise UserError(f"expected list:LISTS or list:LISTS:ROOT, two paths without ':' in them, not '{data}'")
    lists, *rest = (_path(part) for part in parts)
    if not os.path.exists(lists):
        raise UserError(f"{lists}: no such file or folder (LISTS in list:LISTS:ROOT, as in ImageNet_LT_train.txt)")
    root = rest[0] if rest else _folder(lists)
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder (ROOT in list:LISTS:ROOT, which the listed paths are relative to)")
    return lists, root


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # a shell leaves the ~ after a colon as it is


def _folder(lists: Path) -> Path:
    return lists if lists.is_dir() else lists.parent


def _family(file: Path) -> tuple[str, str | None]:
    """What the lists of one data set have in common (``ImageNet_LT_*.txt``), and the split that the name says."""
    splits = [split for word in re.findall(r"[A-Za-z]+", file.stem) if (split := SPLIT_WORDS.get(word.lower()))]
    common = re.sub(r"[A-Za-z]+", lambda word: "*" if word[0].lower() in SPLIT_WORDS else word[0], file.stem)
    return common + file.suffix.lower(), splits[0] if len(splits) == 1 else None


def _find_lists(lists: Path, without_test: bool = False) -> dict[str, Path]:
    """Split -> list file: all those of a folder, or a file and its siblings.

    Raises:
        UserError: two files for one split, or a file whose name says no split.
    """
    family, split = _family(lists)
    if (one := lists.is_file()) and split is None:
        raise UserError(f"{lists}: the name of a list says its split, with one of the words train, val and test")
    found: dict[str, Path] = {}
    for file in sorted(_folder(lists).iterdir()):
        own, split = _family(file)
        if split is None or file.suffix.lower() not in (".txt", ".json") or file.name.startswith("."):
            continue
        if (one and own != family) or (without_test and split == "test"):
            continue
        if split in found:
            raise UserError(
                f"{_folder(lists)} has two {split} lists, {found[split].name} and {file.name}: "
                + ("remove one" if one else "give the train list itself, as in list:FOLDER/NAME_train.txt:ROOT")
            )
        found[split] = file
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _read_list(file: Path) -> ImageList | None:
    """One file; None for JSON without labels, as iNaturalist's test images come.

    Raises:
        UserError: it is empty or says something else than paths and labels.
    """
    one = _read_json(file) if file.suffix.lower() == ".json" else _read_lines(file)
    if one is not None and not one.paths:
        raise UserError(f"{file} is empty: expected lines such as 'bird/001.jpg 0'")
    return one


def _read_lines(file: Path) -> ImageList:
    paths, labels = [], []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not (words := line.rsplit(None, 1)):
            continue
        if len(words) < 2 or not words[1].isdecimal():
            wrong = "the label is not a whole number of at least 0" if len(words) == 2 else "there is no label"
            raise UserError(f"{file}, line {number}: expected 'path label', as in bird/001.jpg 0; {wrong}: '{line}'")
        paths.append(words[0].strip())
        labels.append(int(words[1]))
    return ImageList(file, paths, labels)


def _read_json(file: Path) -> ImageList | None:
    """images[id, file_name], annotations[image_id, category_id] and, if it is there, categories[id, name]."""
    loaded = _load_json(file)
    if isinstance(loaded, Mapping) and "images" in loaded and "annotations" not in loaded:
        return None
    labels: dict[Any, int] = {}
    try:
        for row in loaded["annotations"]:
            label = row["category_id"]
            if type(label) is not int or label < 0:
                raise UserError(f"{file}: a category_id is a whole number of at least 0, not {label!r}")
            if labels.setdefault(row["image_id"], label) != label:
                raise UserError(
                    f"{file} gives the image {row['image_id']} two labels: {labels[row['image_id']]}, {label}"
                )
        images = {row["id"]: str(row["file_name"]) for row in loaded["images"]}
        names = _category_names(loaded.get("categories", []))
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} must hold images (id, file_name) and annotations (image_id, category_id), as iNaturalist's does"
        ) from error
    if bare := [name for id, name in images.items() if id not in labels]:
        raise UserError(f"{file}: {len(bare)} image(s) without a label in 'annotations', such as '{bare[0]}'")
    return ImageList(file, list(images.values()), [labels[id] for id in images], names)


def _load_json(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error


def _category_names(rows: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    return {row["id"]: str(row["name"]) for row in rows}


def _located(one: ImageList, root: Path) -> list[str]:
    """The paths below ROOT, without as many leading folders as it takes to find images: ROOT may be one of them."""
    sample = one.paths[:: max(1, len(one.paths) // SAMPLE)]
    drop = 0
    for n in range(1 + max(path.count("/") for path in sample)):
        if any(os.path.isfile(os.path.join(root, path.split("/", n)[-1])) for path in sample):
            drop = n
            break
    spell = _Spelling()
    return [spell(os.path.join(root, path.split("/", drop)[-1])) for path in one.paths]


class _Spelling:
    """A path as the disk spells it, where the list writes its accents otherwise (NFC, NFD)."""

    def __init__(self) -> None:
        self._names = cache(self._list)

    def __call__(self, path: str) -> str:
        if path.isascii() or os.path.exists(path):
            return path
        here = ""
        for part in Path(path).parts:
            inner = os.path.join(here, part)
            here = inner if os.path.exists(inner) else os.path.join(here, self._names(here).get(composed(part), part))
        return here

    def _list(self, folder: str) -> dict[str, str]:
        with suppress(OSError):
            return {composed(name): name for name in os.listdir(folder or ".")}
        return {}


def _check_labels(one: ImageList, found: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for path, written, label in zip(found, one.paths, one.labels, strict=True):
        if seen.setdefault(path, label) != label:
            raise UserError(f"{one.file} lists {written} twice, with the labels {seen[path]} and {label}")


def _lost(found: Sequence[str]) -> set[str]:
    """Images that are not there. One look into each folder, not one for each image."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in found:
        by_folder[os.path.dirname(path)].append(path)

    def missing(folder: str) -> list[str]:
        present: set[str] = set()
        with suppress(OSError):
            present.update(os.listdir(folder))
        return [p for p in by_folder[folder] if os.path.basename(p) not in present and not os.path.isfile(p)]

    with ThreadPoolExecutor() as pool:
        return {path for paths in pool.map(missing, by_folder) for path in paths}


def _check_there(one: ImageList, found: Sequence[str], lost: set[str], root: Path, may_miss_some: bool) -> None:
    if may_miss_some and len(lost) < len(set(found)):
        return
    first = next(written for path, written in zip(found, one.paths, strict=True) if path in lost)
    raise UserError(
        f"{one.file.name} lists {len(lost)} image(s) that are not there, such as {first}, looked for in {root}: "
        "give the folder that its paths are relative to as ROOT in list:LISTS:ROOT"
        + (", or leave them out with --data.on-error skip" if len(lost) < len(set(found)) else "")
    )


def _without(one: ImageList, found: Sequence[str], lost: set[str]) -> tuple[ImageList, list[str]]:
    kept = [i for i, path in enumerate(found) if path not in lost]
    rest = replace(one, paths=[one.paths[i] for i in kept], labels=[one.labels[i] for i in kept])
    return rest, [found[i] for i in kept]


def _classes(lists: Sequence[ImageList], table: Sequence[int]) -> tuple[ClassInfo, ...]:
    """Names from a file beside the lists, the JSON itself, or the folders of the images; else the labels."""
    folder = lists[0].file.parent
    for file in (folder / name for name in (*NAME_FILES, "categories.json")):
        if file.is_file():
            return class_table(_pick(file, _read_names(file, table), table))
    if lists[0].names:
        return class_table(_pick(lists[0].file, lists[0].names, table))
    names = _folder_names(lists)
    if names is None:
        return class_table([str(label) for label in table])
    own = [names[label] for label in table]
    if all(re.fullmatch(WORDNET_ID, name) for name in own):
        words = _imagenet_words(own)
    else:
        words = [name.replace("/", " ") for name in own]
    return tuple(info._replace(name=name) for name, info in zip(own, class_table(words), strict=True))


def _pick(file: Path, names: Mapping[int, str], table: Sequence[int]) -> list[str]:
    if missing := [label for label in table if not names.get(label)]:
        raise UserError(f"{file} has no name for {len(missing)} of {len(table)} labels, such as {missing[0]}")
    return [names[label] for label in table]


def _read_names(file: Path, table: Sequence[int]) -> dict[int, str]:
    """Label -> name. In a text file a line is 'name label' or 'label name', or line i, from 0, is the name of label i.

    Raises:
        UserError: the file has another form, or begins with the header of a table.
    """
    if file.suffix == ".json":
        loaded = _load_json(file)
        try:
            return _category_names(loaded["categories"] if isinstance(loaded, Mapping) else loaded)
        except (KeyError, TypeError) as error:
            raise UserError(f"{file} must hold a list of categories, each with its id and name") from error
    lines = [" ".join(line.split()) for line in read_text(file).rstrip().splitlines() if not line.startswith("# ")]
    cells = [cell.strip('" ').lower() for cell in re.split(r"[,; ]", lines[0])] if lines else []
    if cells and {*cells} <= {*HEADERS, "id", "index"}:  # as a line of its own it would shift all names by one
        raise UserError(f"{file} begins with '{lines[0]}', the header of a table: leave it out")
    for form in (r"(?P<name>.+?)[ ,;]+(?P<label>\d+)", r"(?P<label>\d+)[ ,;:]+(?P<name>.+)"):
        pairs = [found for line in lines if (found := re.fullmatch(form, line))]
        by_label = {int(found["label"]): found["name"].strip('"') for found in pairs}
        if len(by_label) == len(lines) and by_label.keys() >= set(table):
            return by_label
    return dict(enumerate(lines))


def _folder_names(lists: Sequence[ImageList]) -> dict[int, str] | None:
    """Label -> the folders that all its images share, without the leading ones that tell no classes apart.

    None if they do not tell all classes apart. ``a/airfield`` becomes ``airfield``, but ``a/church/indoor`` stays
    ``church/indoor`` beside ``a/church/outdoor`` and ``a/airfield``.
    """
    folders: dict[int, list[str]] = defaultdict(list)
    for label, folder in {
        (label, dirname(composed(path))) for one in lists for path, label in zip(one.paths, one.labels, strict=True)
    }:
        folders[label].append(folder.lstrip("/"))
    shared = {label: tuple(filter(None, commonpath(own).split("/"))) for label, own in folders.items()}

    def tell_apart(names: Mapping[int, tuple[str, ...]]) -> bool:
        return all(names.values()) and len(set(names.values())) == len(names)

    if not tell_apart(shared):
        return None
    while tell_apart(shorter := {label: parts[1:] for label, parts in shared.items()}):
        shared = shorter
    return {label: "/".join(parts) for label, parts in shared.items()}


def _imagenet_words(wnids: Sequence[str]) -> list[str]:
    """The first word for each WordNet id, numbered where two share it, as cranes do."""
    from timm.data import ImageNetInfo

    info, words = ImageNetInfo(), list(wnids)
    for i, wnid in enumerate(wnids):
        with suppress(KeyError):
            words[i] = info.label_name_to_description(wnid).split(",")[0]
    count = Counter(words)
    return [word if count[word] == 1 else f"{word} {i}" for i, word in enumerate(words)]


def run_name(data: str) -> str:
    """``ImageNet_LT`` for its train list, else the name of the folder."""
    lists = _path(data.split(":")[1])
    name = os.path.splitext(_family(lists)[0])[0].replace("*", "").strip("_- ")
    return name if lists.is_file() and re.search(r"[A-Za-z]", name) else _folder(lists).resolve().name


def some_images(data: str, count: int) -> list[Path]:
    """``count`` listed images, spread over the train list; none if anything is wrong, which :func:`read` will say."""
    with suppress(UserError):
        lists, root = _place(data)
        one = _read_list(next(iter(_find_lists(lists).values())))
        found = _located(one, root) if one else []
        return [Path(path) for path in found[:: max(1, len(found) // count)][:count] if os.path.isfile(path)]
    return []


SOURCE = Source(
    forms={
        "list:LISTS[:ROOT]": "train, val, test lists of 'path label' lines, or iNaturalist's JSON; images lie in ROOT",
    },
    matches=lambda data: data.startswith("list:"),
    read=read,
    run_name=run_name,
    is_there=lambda data: os.path.exists(_path(data.split(":")[1])),
    images=some_images,
)

"""Texts about images, out of a table: whose texts they are, and the file in which linnet keeps them.

The file is a table with one row per text and the columns of :data:`COLUMNS`; what made it stands in its metadata.
Tables of other people are read too: captions in any columns, attributes, one row per image, per text or per class.

Nothing here needs torch.
"""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from linnet.errors import UserError, did_you_mean, first_line
from linnet.files import new_file, readable, write_atomically
from linnet.text.classes import ClassInfo, composed

COLUMNS = ("path", "digest", "class", "prompt", "text")
SUFFIXES = (".parquet", ".csv")
PATH_COLUMNS = ("path", "image", "image_path", "file", "file_name", "filename", "filepath", "img")
CLASS_COLUMNS = ("class", "label")
TEXT_COLUMNS = ("text", "caption")
NO_ATTRIBUTES = {*PATH_COLUMNS, *CLASS_COLUMNS, "digest", "split", "prompt", "id", "image_id", "index", ""}
BINARY = ({"0", "1"}, {"false", "true"}, {"-1", "1"})  # a column with such values says what is true of an image
TRUE = {"1", "true"}

Columns = Mapping[str, Sequence[Any]]


class Caption(NamedTuple):
    """A row of linnet's own file: one text about one image."""

    path: str
    digest: str
    class_name: str
    prompt: str
    text: str


class ImageTable(NamedTuple):
    """The images that texts are looked for: their files, hex digests and class ids, and the folder they come from."""

    paths: Sequence[Path]
    digests: Sequence[str]
    labels: Sequence[int]
    classes: Sequence[ClassInfo]
    root: Path


@dataclass(frozen=True)
class TextTable:
    """A table, read: the texts of each of its rows, and what the rows say whose texts they are.

    Attributes:
        texts: one tuple per row. keys: the columns that name images or classes, by their role: "digest", "path",
            "class".
    """

    file: Path
    texts: tuple[tuple[str, ...], ...]
    keys: Mapping[str, Sequence[str]]

    def of_images(self, images: ImageTable) -> list[tuple[str, ...]]:
        """The texts of each image, in the order of the table; none where the table has none.

        A row with a digest belongs to the images of these bytes, another one to the image of its path; rows without
        either belong to every image of their class.

        Raises:
            UserError: no row belongs to any image.
        """
        find = self._by_image(images) if {"digest", "path"} & set(self.keys) else self._by_class(images)
        found: list[list[str]] = [[] for _ in images.paths]
        matched = False
        for row, texts in enumerate(self.texts):
            for image in find(row):
                matched = True
                found[image] += texts
        if not matched or not any(self.texts):
            raise UserError(self._nothing(images))
        return [tuple(texts) for texts in found]

    def _by_image(self, images: ImageTable) -> Callable[[int], Sequence[int]]:
        nothing: list[str] = [""] * len(self.texts)
        digests, classes = self.keys.get("digest", nothing), self.keys.get("class", nothing)
        by_digest: dict[str, list[int]] = {}
        for image, digest in enumerate(images.digests):
            by_digest.setdefault(digest, []).append(image)
        names = [info.name for info in images.classes]
        known, paths = set(names), self.keys.get("path", nothing)
        by_path = PathFinder(images, paths)

        def find(row: int) -> Sequence[int]:
            if not digests[row]:
                return by_path(paths[row])
            own = by_digest.get(digests[row].lower(), ())
            # one image in two classes: what was written about it as a heron is not for the kingfisher
            return [i for i in own if classes[row] not in known or names[images.labels[i]] == classes[row]]

        return find

    def _by_class(self, images: ImageTable) -> Callable[[int], Sequence[int]]:
        own: dict[int, list[int]] = {}
        for image, label in enumerate(images.labels):
            own.setdefault(label, []).append(image)
        ids = {name: i for i, info in enumerate(images.classes) for name in (info.prompt_name, info.name)}
        return lambda row: own.get(ids.get(self.keys["class"][row], -1), ())

    def _nothing(self, images: ImageTable) -> str:
        if not any(self.texts):
            return f"{self.file} holds no text: all of its {len(self.texts)} rows are empty"
        role = next(role for role in ("digest", "path", "class") if any(self.keys.get(role, ())))
        own = next(filter(None, self.keys[role]))
        wanted = {"digest": images.digests[0], "path": relative_path(images.paths[0], images.root)}
        wanted["class"] = images.classes[0].name
        words = "class" if role == "class" else "image"
        advice = "; without its digest column it would go by the paths" if {"digest", "path"} <= set(self.keys) else ""
        return f"{self.file} names no {words} of the data: it has '{own}', the data have '{wanted[role]}'{advice}"


class PathFinder:
    """From a path as a table writes it to the image: the same file, the same place below the data folder, or else the
    longest trailing part that no other image and no other row has."""

    def __init__(self, images: ImageTable, values: Sequence[str]):
        self._values = {_posix(value) for value in values}
        self._paths = [Path(composed(_posix(readable(path.absolute())))) for path in images.paths]
        self._known = {path.as_posix(): i for i, path in enumerate(self._paths)}
        self._known |= {composed(_posix(relative_path(path, images.root))): i for i, path in enumerate(images.paths)}
        self._tails = cache(self._tails_of_length)

    def __call__(self, value: str) -> Sequence[int]:
        path = _posix(value)
        if path in self._known:
            return (self._known[path],)
        parts = PurePosixPath(path).parts
        for length in range(len(parts), 0, -1):
            tail = parts[-length:]
            images, rows = self._tails(length)
            if tail in images:
                unique = len(images[tail]) == 1 and rows[tail] == 1
                return images[tail] if unique else ()
        return ()

    def _tails_of_length(self, length: int) -> tuple[dict[tuple[str, ...], list[int]], Counter[tuple[str, ...]]]:
        images: dict[tuple[str, ...], list[int]] = {}
        for i, path in enumerate(self._paths):
            images.setdefault(path.parts[-length:], []).append(i)
        return images, Counter(PurePosixPath(value).parts[-length:] for value in self._values)


def read_texts(file: Path, columns: Sequence[str] | None = None, templates: Sequence[str] | None = None) -> TextTable:
    """The texts of a table, Parquet or CSV.

    Args:
        columns: those that hold texts; by default "text" or "caption". templates: sentences with ``{column}`` in them,
            instead. Without either, the attributes of a row become one sentence.

    Raises:
        UserError: no such file, no table, or none that says whose texts which are.
    """
    table = read_columns(file)
    count = len(next(iter(table.values()), ()))
    keys = {}
    for role, names in (("digest", ("digest",)), ("path", PATH_COLUMNS), ("class", CLASS_COLUMNS)):
        if column := next((name for name in names if name in table), None):
            keys[role] = [composed(_word(value)) for value in table[column]]
    if not keys:
        raise UserError(
            f"{file} has no column that names images ({', '.join(PATH_COLUMNS)}, digest) or classes "
            f"({', '.join(CLASS_COLUMNS)}): its columns are {', '.join(table)}"
        )
    if columns and templates:
        raise UserError("give data.text_columns or data.text_templates, one of the two")
    if templates:
        write = _filled(file, table, templates)
    elif chosen := _text_columns(file, table, columns):
        write = lambda row: [text for name in chosen for text in _texts(file, table, name, row)]  # noqa: E731
    else:
        write = _attributes(file, table)
    texts = ((" ".join(text.split()) for text in write(row)) for row in range(count))
    return TextTable(file, tuple(tuple(text for text in own if text) for own in texts), keys)


def _text_columns(file: Path, table: Columns, wanted: Sequence[str] | None) -> list[str]:
    if missing := [name for name in wanted or () if name not in table]:
        raise UserError(
            f"{file} has no column '{missing[0]}': its columns are {', '.join(table)}."
            + did_you_mean(missing[0], table)
        )
    return list(wanted or [name for name in TEXT_COLUMNS if name in table][:1])


def _texts(file: Path, table: Columns, column: str, row: int) -> list[str]:
    value = table[column][row]
    if _is_missing(value):
        return []
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"{file}: row {row + 1} of the column '{column}' holds {text!r}, which is not a text")
    return texts


def _filled(file: Path, table: Columns, templates: Sequence[str]) -> Callable[[int], list[str]]:
    """Each template with a row's values in it; one that misses a value is left out."""
    names = {re.sub("_", " ", name): name for name in table} | {name: name for name in table}
    for template in templates:
        wanted = re.findall(r"\{([^{}]*)\}", template)
        if not wanted:
            raise UserError(f"data.text_templates must be sentences with a {{column}} in them, not '{template}'")
        if unknown := [name for name in wanted if name not in names]:
            raise UserError(
                f"{file} has no column '{unknown[0]}' for the template '{template}': its columns are "
                f"{', '.join(table)}.{did_you_mean(unknown[0], names)}"
            )

    def write(row: int) -> list[str]:
        words = {name: _word(table[column][row]) for name, column in names.items()}
        complete = [t for t in templates if all(words[name] for name in re.findall(r"\{([^{}]*)\}", t))]
        return [re.sub(r"\{([^{}]*)\}", lambda match: words[match[1]], template) for template in complete]

    return write


def _attributes(file: Path, table: Columns) -> Callable[[int], list[str]]:
    """ "wing color: red, beak: short", and of columns that say yes or no the names of what is true."""
    columns = [name for name in table if name.lower() not in NO_ATTRIBUTES]
    if not columns:
        raise UserError(
            f"{file} has no column of texts ({', '.join(TEXT_COLUMNS)}) and none of attributes: name the columns with "
            f"data.text_columns; there are {', '.join(table)}"
        )
    words = {name: [_word(value) for value in table[name]] for name in columns}
    binary = {name for name in columns if any({w.lower() for w in words[name]} - {""} <= kind for kind in BINARY)}
    plain = {name: " ".join(name.replace("_", " ").replace("::", ": ").split()) for name in columns}

    def write(row: int) -> list[str]:
        parts = []
        for name in columns:
            word = words[name][row]
            if name in binary:
                parts += [plain[name]] * (word.lower() in TRUE)
            elif word:
                parts.append(f"{plain[name]}: {word}")
        return [", ".join(parts)]

    return write


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _word(value: Any) -> str:
    """A value as a person would write it; of an image inside a table its path."""
    value = value.get("path") if isinstance(value, dict) else value
    if _is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join(str(value).split())


def _posix(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).as_posix()


def relative_path(path: Path, root: Path) -> str:
    """As linnet writes a path: below the data folder where it lies there."""
    full, base = path.absolute(), root.absolute()
    return readable(full.relative_to(base).as_posix() if full.is_relative_to(base) else full.as_posix())


def read_columns(file: Path) -> dict[str, list[Any]]:
    """A table by its columns; the values of a CSV file are all texts.

    Raises:
        UserError: no such file, or no table.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file (texts are a table, {' or '.join(SUFFIXES)})")
    if file.suffix.lower() not in SUFFIXES:
        raise UserError(f"{file} is not a table that linnet reads: expected {' or '.join(SUFFIXES)}")
    if file.suffix.lower() == ".parquet":
        import pyarrow
        from pyarrow import parquet

        try:
            with file.open("rb") as opened:
                return parquet.read_table(opened, partitioning=None).to_pydict()
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{file} is not a readable Parquet file ({first_line(error)})") from error
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            header, *rows = [row for row in csv.reader(lines, strict=True) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is not a readable CSV file ({first_line(error)})") from error
    if not header or len(set(header)) < len(header):
        raise UserError(f"{file}: its first line must name the columns, each once")
    if uneven := [i for i, row in enumerate(rows) if len(row) != len(header)]:
        row = uneven[0]
        raise UserError(f"{file}: row {row + 1} has {len(rows[row])} values for {len(header)} columns")
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def write_captions(file: Path, captions: Sequence[Caption], provenance: Mapping[str, Any]) -> None:
    """Write linnet's own file, whole or not at all. What made it goes into the metadata of a Parquet file, or into a
    JSON file beside a CSV file."""
    rows = [tuple(caption) for caption in captions]
    if file.suffix.lower() == ".csv":
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([COLUMNS, *rows])
        write_atomically(file, lines.getvalue())
        write_atomically(_beside(file), json.dumps(provenance, indent=1, ensure_ascii=False) + "\n")
        return
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, pyarrow.string()) for name in COLUMNS])
    values = [[row[i] for row in rows] for i in range(len(COLUMNS))]
    metadata = {"linnet": json.dumps(provenance, ensure_ascii=False)}
    with new_file(file) as opened:
        parquet.write_table(pyarrow.table(values, schema=schema.with_metadata(metadata)), opened)


def read_captions(file: Path) -> tuple[list[Caption], dict[str, Any]]:
    """The rows of a file that linnet wrote, and what made it.

    Raises:
        UserError: linnet did not write this file.
    """
    table = read_columns(file)
    if file.suffix.lower() == ".csv":
        noted = _beside(file).read_text(encoding="utf-8") if _beside(file).is_file() else None
    else:
        from pyarrow import parquet

        with file.open("rb") as opened:
            noted = (parquet.read_schema(opened).metadata or {}).get(b"linnet", b"").decode() or None
    if noted is None or set(COLUMNS) - set(table):
        raise UserError(f"{file} was not written by linnet: choose another --out, or replace it with --overwrite")
    return [Caption(*row) for row in zip(*(table[name] for name in COLUMNS), strict=True)], json.loads(noted)


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")

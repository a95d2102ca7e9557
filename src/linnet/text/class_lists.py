"""Lists of class names as users give them: typed, or in a file. One reader for all of them.

Nothing here needs torch.
"""

import csv
import io
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from linnet.errors import UserError, did_you_mean
from linnet.files import load_yaml, read_text
from linnet.text.classes import composed

log = logging.getLogger("linnet")

FORMS = "class names are a,b,c or a file with one per line"
# the best first
HEADERS = ("class_name", "name", "names", "class", "classes", "category", "species", "label", "labels")
TABLES = (".csv", ".tsv")
STRUCTURED = (".json", ".yaml", ".yml")
FILES = (".txt", ".list", ".names", *TABLES, *STRUCTURED)
UNSEEN = "\ufeff\u200b\u2060\u00ad\u200e\u200f\u202a\u202b\u202c\u202d\u202e"  # copied along from pages and editors


def read_names(given: str | Path | Sequence[str]) -> list[str]:
    """Names out of ``"a,b,c"``, a list of them, or a file.

    A file has one name per line; blank lines and those that begin with ``# `` do not count. A .csv or .tsv file has one
    column, or a header that says which (:data:`HEADERS`); a .json or .yaml file holds a list. Names are trimmed and put
    into Unicode's composed form (NFC).

    Raises:
        UserError: a file that is not there or has another form, fewer than two names, or a name twice.
    """
    names = [str(given)] if isinstance(given, str | Path) else [*given]
    if len(names) == 1:
        names = _read(names[0])
    elif files := [name for name in names if name.lower().endswith(FILES)]:
        raise UserError(f"'{files[0]}' is one of several class names: {FORMS}, one file alone")
    names = [composed(" ".join(name.translate(dict.fromkeys(map(ord, UNSEEN))).split())) for name in names]
    names = [name for name in names if name]
    if not names:
        raise UserError(f"no class names in '{given}': {FORMS}")
    if len(names) == 1:  # often a misspelt file
        raise UserError(f"'{names[0]}' is one class alone: give two or more; {FORMS}")
    if len(set(names)) < len(names):
        raise UserError(f"the class '{next(name for name in names if names.count(name) > 1)}' is named twice")
    return names


def _read(value: str) -> list[str]:
    """The names that one value stands for: a file, or names that were typed."""
    path = Path(value)
    if value.strip() and _exists(path):
        if path.is_dir():
            raise UserError(f"{path} is a folder: {FORMS}")
        names = _from_file(path)
        if names:  # so that a header that was taken for a class can be seen
            log.info("%s: %d class name(s), from %.60r to %.60r", path, len(names), names[0], names[-1])
        return names
    if "\n" in value or _structured(value):  # "$(cat names.txt)"
        return _from_text("what was typed", value)
    alone = "," not in value and re.search(r"[/\\]|\.\w*[A-Za-z]\w*$", value.strip())
    if alone or value.strip().lower().endswith(FILES):
        folder = path.parent if _exists(path.parent) else Path()
        beside = [other.name for other in folder.iterdir()] if folder.is_dir() else []
        raise UserError(f"{value}: no such file ({FORMS}).{did_you_mean(path.name, beside)}")
    return _split(value)


def _exists(path: Path) -> bool:
    """Whether there is such a file or folder, or a pipe, as of ``<(cut -f 1 table.txt)``."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a list of names can be longer than any file name
        return False


def _from_file(path: Path) -> list[str]:
    text, suffix = read_text(path), path.suffix.lower()
    if suffix in STRUCTURED:
        return _from_structure(path, text)
    if suffix in TABLES:
        return _from_table(path, text)
    return _from_text(path, text)


def _from_text(where: object, text: str) -> list[str]:
    """Lines, unless they are a list in JSON or YAML, whatever the file is called."""
    if _structured(text):
        return _from_structure(where, text)
    names = _from_lines(text)
    if names and any(_plain(cell) in HEADERS for cell in re.split(r"[,;\t]", names[0])):
        raise UserError(f"{where} begins with '{names[0]}', the header of a table: leave it out, or call the file .csv")
    if columns := next((name for name in names if "\t" in name), None):
        raise UserError(f"{where} has several columns, as in {columns!r}: leave the class names alone, one per line")
    return names


def _structured(text: str) -> bool:
    """Whether a text begins as a list of JSON does, or each of its lines as those of YAML do."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    dashes = len(lines) > 1 and all(line.startswith("- ") for line in lines)
    return dashes or re.match(r"\s*[\[{]\s*[\"'{]", text) is not None


def _from_lines(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and line != "#" and not line.startswith("# ")]
    if len(lines) == 1:  # one class alone is of no use: a,b,c
        return _split(lines[0])
    return [line[1:-1] if len(line) > 2 and line[0] == line[-1] == '"' else line for line in lines]


def _from_table(path: Path, text: str) -> list[str]:
    """A column of a table: the only one, or the one that the header tells. A table of one row without one is a,b,c."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=first.count)  # of equals the first
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{path} is no table that can be read ({error}): {FORMS}") from error
    header = [_plain(cell) for cell in rows[0]] if rows else []
    column = next((header.index(name) for name in HEADERS if name in header), None)
    if column is not None:
        return [row[column] for row in rows[1:] if len(row) > column]
    if len(rows) == 1:
        return rows[0]
    if widest := next((row for row in rows if len(row) > 1), None):
        raise UserError(
            f"{path} has several columns, as in '{delimiter.join(widest)}': put a header above them that calls one "
            f"'class', or leave one column (class names with a comma stand in quotes)"
        )
    return [row[0] for row in rows]


def _from_structure(where: object, text: str) -> list[str]:
    """A list of names, or of objects with a name, as in a run's model/classes.json."""
    try:
        loaded = load_yaml(text)
    except ValueError as error:
        raise UserError(f"{where} is not valid YAML or JSON: {error}") from error
    rows = loaded if isinstance(loaded, list) else [loaded]
    names = [row.get("name") if isinstance(row, Mapping) else row for row in rows]
    if not isinstance(loaded, list) or not all(isinstance(name, str) for name in names):
        bad = next((row for row, name in zip(rows, names, strict=True) if not isinstance(name, str)), loaded)
        raise UserError(f"{where} must hold a list of class names, each a text, not {bad!r:.60}")
    return names  # type: ignore[return-value]


def _split(line: str) -> list[str]:
    """The names of one line; those with a comma stand in quotes."""
    return next(csv.reader([line], skipinitialspace=True), [])


def _plain(cell: str) -> str:
    return re.sub(r"[\s_-]+", "_", cell.strip(' "\ufeff').lower())

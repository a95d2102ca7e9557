"""SOURCES: every kind of data. A kind is one file here and one line in this dictionary."""

import os
from pathlib import Path

from linnet.data.sources import aviary, folder, lists
from linnet.data.sources.base import Source
from linnet.errors import UserError
from linnet.files import given_path

SOURCES: dict[str, Source] = {
    "aviary": aviary.SOURCE,
    "list": lists.SOURCE,
    "folder": folder.SOURCE,  # the last: any other text is a path
}


def find_source(data: str | None) -> Source:
    """The kind of data that DATA is.

    Raises:
        UserError: no data given, or a word that is also the name of a folder.
    """
    if not data or not data.strip():
        empty = "" if data is None else ": DATA is empty (an unset variable of the shell?)"
        raise UserError(
            f"no data given{empty}: name a folder of images, or another source that 'linnet list data' shows"
        )
    name, source = next((name, source) for name, source in SOURCES.items() if source.matches(data))
    if source is not folder.SOURCE and os.path.exists(data):
        other = f", or {name}: for the source" if ":" not in data else ", or rename it"
        raise UserError(
            f"'{data}' is a source of data and also a path that is there: write ./{data} for the path{other}"
        )
    return source


def as_written(data: str | Path) -> str:
    """DATA as it is kept: ``photos/`` is ``photos``, and what was written as a path stays one (``./aviary``).

    Raises:
        UserError: it is empty.
    """
    plain = str(given_path(data, "DATA"))

    def is_path(text: str) -> bool:
        return next(source for source in SOURCES.values() if source.matches(text)) is folder.SOURCE

    return f"./{plain}" if not is_path(plain) and (isinstance(data, Path) or is_path(data)) else plain


__all__ = ["SOURCES", "Source", "as_written", "find_source"]

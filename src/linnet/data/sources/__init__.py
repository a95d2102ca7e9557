"""SOURCES: every kind of data. A kind is one file here and one line in this dictionary."""

from linnet.data.sources import aviary, folder, lists
from linnet.data.sources.base import Source
from linnet.errors import UserError

SOURCES: dict[str, Source] = {
    "aviary": aviary.SOURCE,
    "list": lists.SOURCE,
    "folder": folder.SOURCE,  # the last: any other text is a path
}


def find_source(data: str | None) -> Source:
    """The kind of data that DATA is.

    Raises:
        UserError: no data given.
    """
    if not data:
        raise UserError("no data given: name a folder of images, or another source that 'linnet list data' shows")
    return next(source for source in SOURCES.values() if source.matches(data))


__all__ = ["SOURCES", "Source", "find_source"]

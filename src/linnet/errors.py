"""The one kind of error a user is meant to see, and what makes it helpful."""

import difflib
import importlib
from collections.abc import Collection, Iterable
from types import ModuleType


class UserError(Exception):
    """Something the user can mend. The command line prints it as one line and exits with 2."""


def closest(name: str, known: Iterable[str]) -> str | None:
    """What was probably meant."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` or the empty string, to be put behind an error message."""
    best = closest(name, known)
    return f" Did you mean '{best}'?" if best else ""


def first_line(error: Exception) -> str:
    """The first line of another library's message, to be put into brackets in ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def require(module: str, extra: str) -> ModuleType:
    """Import a module that comes with an extra, or say how to install it.

    Raises:
        UserError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"'{module}' is needed for this and is not installed: pip install 'linnet[{extra}]'") from error


def some_of(names: Collection[str], most: int = 5) -> str:
    """``a, b, c, d, e, ...`` for a message."""
    return ", ".join(list(names)[:most]) + (", ..." if len(names) > most else "")

"""``linnet list``: what can be chosen."""

import dataclasses
import fnmatch
import typing
from collections.abc import Iterator
from typing import Literal

from linnet.errors import UserError, did_you_mean
from linnet.fields import allowed, field_sentences

What = Literal["methods", "teachers", "students", "data"]


def lines(what: What, pattern: str = "*") -> Iterator[str]:
    """The lines of ``linnet list WHAT PATTERN``.

    Raises:
        UserError: methods of which none is called like ``pattern``.
    """
    if what == "methods":
        yield from _methods(pattern)
    elif what == "students":
        from linnet.students.network import architectures

        yield from architectures(pattern)
    elif what == "teachers":
        from linnet.teachers import KINDS

        yield from _table({form: words for kind in KINDS.values() for form, words in kind.forms.items()})
        if pattern != "*":
            known = [id for kind in KINDS.values() for id in kind.known()]
            yield from (id for id in known if fnmatch.fnmatch(id, pattern) or fnmatch.fnmatch(id, f"*:{pattern}"))
    else:
        from linnet.data.sources import SOURCES

        yield from _table({form: words for source in SOURCES.values() for form, words in source.forms.items()})


def _table(rows: dict[str, str]) -> Iterator[str]:
    width = max(map(len, rows))
    yield from (f"{name:<{width}}  {words}" for name, words in rows.items())


def _methods(pattern: str) -> Iterator[str]:
    """Each method with its sentence; of those that a pattern names also the options."""
    from linnet.methods import METHODS

    chosen = fnmatch.filter(METHODS, pattern)
    if not chosen:
        raise UserError(
            f"there is no method '{pattern}' (known: {', '.join(METHODS)}).{did_you_mean(pattern, METHODS)}"
        )
    for id in chosen:
        yield f"{id:<9}  {METHODS[id].summary}"
        if pattern != "*":
            yield from _options(id, METHODS[id].Options) or ["  (no options)"]
    if pattern == "*":
        yield "linnet list methods METHOD shows the options of one."


def _options(id: str, options: type) -> list[str]:
    shown: list[str] = []
    sentences, hints = field_sentences(options), typing.get_type_hints(options, include_extras=True)
    for option in dataclasses.fields(options):
        default = f"{option.default:.4g}" if isinstance(option.default, float) else option.default
        if default is None:
            default = "auto" if "auto:" in sentences.get(option.name, "") else "none"
        default = str(default).lower() if isinstance(default, bool) else default
        shown.append(f"  --{id}.{option.name.replace('_', '-')}  {allowed(hints[option.name])}  [default: {default}]")
        shown.append(f"      {sentences.get(option.name, '')}".rstrip())
    return shown

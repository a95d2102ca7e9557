"""``linnet list``: what can be chosen."""

import dataclasses
import fnmatch
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linnet.config import TeacherConfig
from linnet.errors import UserError, did_you_mean
from linnet.fields import allowed, field_sentences
from linnet.progress import WIDTH

if TYPE_CHECKING:
    from linnet.methods import Method

What = Literal["methods", "teachers", "students", "data", "runs"]
COUNTED = 40  # students that are built to count their parameters: as many as take a few seconds


def lines(what: What, pattern: str | None = None) -> Iterator[str]:
    """The lines of ``linnet list WHAT PATTERN``; runs have a folder in place of the pattern.

    Raises:
        UserError: methods or students of which none is called like ``pattern``, or a folder without runs.
    """
    if what == "runs":
        from linnet.commands.runs import run_lines

        yield from run_lines(Path(pattern or "runs"))
        return
    if what == "students":
        yield from _edge_students() if pattern is None else _students(pattern)
        return
    pattern = pattern or "*"
    if what == "methods":
        yield from _methods(pattern) if pattern != "*" else _method_table()
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
    for name, words in rows.items():
        first, *more = textwrap.wrap(words, WIDTH - width - 2)
        yield f"{name:<{width}}  {first}"
        yield from (f"{'':<{width}}  {line}" for line in more)


def _edge_students() -> Iterator[str]:
    from linnet.students.edge import EDGE_STUDENTS

    yield "Small students to begin with; M: million parameters, with 1,000 classes. timm knows weights of all."
    yield from _table({name: f"{own.millions:5.2f} M  {own.words}" for name, own in EDGE_STUDENTS.items()})
    yield "linnet list students '*' shows all, and linnet list students 'mobilenet*' those of that name."


def _students(pattern: str) -> Iterator[str]:
    """Name, parameters (of not too many) and whether timm knows weights."""
    from linnet.students.network import architectures, count_millions, has_weights

    names = architectures(pattern)
    if not names:
        raise UserError(f"timm has no network '{pattern}'.{did_you_mean(pattern, architectures())}")
    width = max(map(len, names))
    for name in names:
        counted = f"  {count_millions(name):7.2f} M" if len(names) <= COUNTED else ""
        yield f"{name:<{width}}{counted}  {'weights' if has_weights(name) else 'from scratch only'}"
    if len(names) > COUNTED:
        yield f"{len(names)} networks; of up to {COUNTED} the parameters are shown, too."


def _method_table() -> Iterator[str]:
    """What each method needs and costs, and what it is for."""
    from linnet.methods import METHODS

    rows = [("method", "needs", "cost beside ce", "what for")]
    rows += [(id, _needs(method), _cost(method), method.use) for id, method in METHODS.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
    yield "VLM: a vision-language teacher, as in open_clip:NAME/TAG; once: its answers are cached."
    yield "linnet list methods METHOD shows the options of one."


def _needs(method: type["Method"]) -> str:
    needs = method.needs
    teacher = {"none": "", "any": "any teacher", "vlm": "VLM", "classifier": "classifier"}[needs.teacher]
    parts = ["labels" if needs.data else "no data", teacher, "texts" if needs.texts else ""]
    return ", ".join(part for part in parts if part)


def _cost(method: type["Method"]) -> str:
    """From how its networks are asked, in words: what a step takes depends on networks and machine."""
    if not method.needs.data:
        return "teacher every step"
    if method.needs.teacher == "none":
        return "texts read once" if method.needs.texts else "none"
    views = str(method.defaults.get("teacher", {}).get("views", TeacherConfig.views))
    if views == "online":
        return "teacher every step"
    return f"teacher {views.removeprefix('replay:')} times" if views.startswith("replay") else "teacher once"


def _methods(pattern: str) -> Iterator[str]:
    """Those that a pattern names, each with its sentence and its options."""
    from linnet.methods import METHODS

    chosen = fnmatch.filter(METHODS, pattern)
    if not chosen:
        raise UserError(
            f"there is no method '{pattern}' (known: {', '.join(METHODS)}).{did_you_mean(pattern, METHODS)}"
        )
    for id in chosen:
        yield f"{id:<9}  {METHODS[id].summary}"
        yield from _options(id, METHODS[id].Options) or ["  (no options)"]


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

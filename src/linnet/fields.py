"""Fields of settings: how a dataclass says what a value may be, and how plain values become checked ones.

>>> @dataclass(frozen=True)
... class Options:
...     weight: Annotated[float, Bounds(0.0)] = 1.0
>>> from_dict(Options, {"weight": "0.5"})
Options(weight=0.5)
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from linnet.errors import UserError, did_you_mean

T = typing.TypeVar("T")


@dataclass(frozen=True)
class Bounds:
    """Marks a number field with the values that it may take, both ends included."""

    low: float
    high: float = float("inf")


@dataclass(frozen=True)
class Pattern:
    """Marks a text field with the regular expression that its values match, and how to say that in words."""

    expression: str
    words: str


class Auto:
    """Marks a field that may be "auto" (AUTO) until it is resolved."""


AUTO: Any = None

Count = Annotated[int, Bounds(1)]
NonNegative = Annotated[float, Bounds(0.0)]


def field_sentences(cls: type) -> dict[str, str]:
    """What the docstring below each field of a dataclass says, by the field's name, inherited fields among them.

    Fields without one, and classes whose source text cannot be read, are left out.
    """
    from docstring_parser import parse_from_object

    try:
        parsed = [parse_from_object(base).params for base in reversed(cls.__mro__[:-1])]
    except (OSError, TypeError):  # there is no source text, as in a notebook
        return {}
    return {own.arg_name: " ".join((own.description or "").split()) for params in parsed for own in params}


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain YAML-able values: the inverse of :func:`from_dict`."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """A frozen dataclass from plain values, each checked against its field's type and bounds.

    Raises:
        UserError: an unknown key (with a suggestion), a value of the wrong type or out of range.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where.rstrip('.') or 'the configuration'} must be a mapping of settings, not {values!r}")
    hints = typing.get_type_hints(cls, include_extras=True)
    known = {spec.name: hints[spec.name] for spec in dataclasses.fields(cls)}  # type: ignore[arg-type]
    checked = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise UserError(f"unknown setting '{where}{key}'.{did_you_mean(name, known)}")
        checked[name] = coerce(value, known[name], f"{where}{name}")
    return cls(**checked)


def coerce(value: Any, kind: Any, where: str) -> Any:
    """``value`` (from YAML, Python or a command-line string) as ``kind``.

    Raises:
        UserError: it does not fit, with what was expected.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return value if isinstance(value, kind) else from_dict(kind, value, f"{where}.")
    if origin is Annotated:
        if Auto in args and (value is AUTO or value == "auto"):
            return AUTO
        if Auto in args and value == "none" and value not in typing.get_args(args[0]):
            raise UserError(f"{where} cannot be none: give a value, or auto")
        for mark in args[1:]:
            if isinstance(mark, Pattern) and isinstance(value, str) and not re.fullmatch(mark.expression, value):
                raise UserError(f"{where} must be {mark.words}, not '{value}'")
        value = coerce(value, args[0], where)
        for mark in args[1:]:
            if isinstance(mark, Bounds) and not mark.low <= value <= mark.high:
                upper = "" if mark.high == float("inf") else f" and at most {mark.high:g}"
                raise UserError(f"{where} must be at least {mark.low:g}{upper}, not {value}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(value, args, where)
    if origin is Literal:
        if value not in args:
            raise UserError(
                f"{where} must be one of {', '.join(map(str, args))}, not '{value}'."
                + did_you_mean(str(value), map(str, args))
            )
        return value
    if origin is tuple:
        items = [value] if isinstance(value, str | int | float) else value
        if not isinstance(items, list | tuple):
            raise UserError(f"{where} must be a list, not {value!r}")
        try:
            return tuple(coerce(item, args[0], where) for item in items)
        except UserError as error:
            if any(isinstance(item, str) and "," in item for item in items):
                raise UserError(f"{error}: to give several values, repeat the option") from error
            raise
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{where} must be a mapping, not {value!r}")
        return {str(key): coerce(item, args[1], f"{where}.{key}") for key, item in value.items()}
    return value if kind is Any else _coerce_plain(value, kind, where)


def _coerce_union(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    if any(value in typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is Literal):
        return value  # the recipe "none" is a choice, not the absence of one
    if type(None) in kinds and (value is None or value in ("none", "auto")):
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    for kind in kinds[:-1]:  # the last one reports the error
        try:
            return coerce(value, kind, where)
        except UserError:
            continue
    return coerce(value, kinds[-1], where)


TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


def allowed(kind: Any) -> str:
    """The values that a setting of this type takes, in words."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        for mark in args[1:]:
            if isinstance(mark, Bounds):
                above = mark.high == float("inf")
                words = f"of at least {mark.low:g}" if above else f"from {mark.low:g} to {mark.high:g}"
                return f"{allowed(args[0])} {words}"
            if isinstance(mark, Pattern):
                return mark.words
        return allowed(args[0])
    if origin is Literal:
        *most, last = map(str, args)
        return f"{', '.join(most)} or {last}"
    if origin is tuple:
        return f"{allowed(args[0])}, or several"
    if args:  # X | None
        return " or ".join(allowed(arg) for arg in args if arg is not type(None))
    return TYPE_WORDS[kind]


def _coerce_plain(value: Any, kind: type, where: str) -> Any:
    if kind in (str, Path) and isinstance(value, str) and not value.strip():
        raise UserError(f"{where} is empty (an unset variable of the shell?)")
    if kind is bool:
        words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
    elif kind in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if math.isfinite(number) and (kind is float or number == int(number)):
            return (
                int(value) if kind is int and isinstance(value, str) and value.lstrip("-").isdigit() else kind(number)
            )
    elif kind is Path and isinstance(value, str | Path):
        return Path(value)
    elif kind is str and isinstance(value, str):
        return value
    raise UserError(f"{where} must be {TYPE_WORDS[kind]}, not {value!r}")

"""The settings of :mod:`linnet.config` as options of the command line.

A new one, or a new group, needs no edit here.
"""

import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from typing import Annotated, Any

from cyclopts import (
    UNSET,
    App,
    ArgumentCollection,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    UnusedCliTokensError,
)

from linnet.config import GROUPS, Config
from linnet.errors import UserError, closest
from linnet.fields import AUTO, Auto, field_sentences

BASIC = Group("Basic", help="What you will need first.", sort_key=1)
RUN = Group("The run", help="Starting, resuming, checking and watching a run.", sort_key=2)
TITLES = {"train": "Training"}
PANELS = {
    spec.name: Group(TITLES.get(spec.name, spec.name.capitalize()), help=spec.metadata["words"], sort_key=3 + i)
    for i, spec in enumerate(spec for spec in fields(Config) if spec.name in GROUPS)
}
ADVANCED = Group("Advanced", help="What is rarely needed, and all that only some methods read.", sort_key=99)
# what the last panel shows, by group; a new setting is in its group's own panel until it is named here
RARE = {
    "data": "group_bounds text_columns text_templates novel_images seed store_limit_gb workers",
    "student": "stem crop_mode crop_pct jpeg mean std",
    "teacher": "text_encoder cache",
    "train": "select nesterov milestones decay lr_min half_cycles clip_norm class_weights channels_last "
    "sync_batch_norm checkpoint",
} | {group: " ".join(spec.name for spec in fields(GROUPS[group])) for group in ("prompts", "shots")}
# what "auto" comes to, for the help (:mod:`linnet.defaults` decides; importing it takes seconds)
RESOLVED = {
    "teacher.id": "mini-clip for drawn birds, open_clip:ViT-B-16-SigLIP2/webli for photos",
    "student.name": "resnet10t for drawn birds, mobilenetv3_small_100 for photos",
    "student.pretrained": "false for drawn birds and dfkd, true for photos",
    "student.image_size": "64 for drawn birds, 224 for photos, less where they are smaller",
    "train.epochs": "30 for drawn birds, 60 for photos, 20 for few-shot finetuning, 200 for dfkd",
    "data.views": "light for drawn birds and dfkd, standard for photos",
}
# settings with a short name: the main one of each group, and three more
SHORT = {"data.eval": "eval", "student.image_size": "image-size", "teacher.text_encoder": "text-encoder"} | {
    f"{spec.name}.{spec.metadata['main']}": spec.name for spec in fields(Config) if spec.metadata.get("main")
}
# what most people want to set, in the order of the first panel of distill and compare
FIRST = (
    *("methods", "seeds", "teacher_id", "student_name", "method", "out", "train_epochs", "student_image_size"),
    *("seed", "config", "students", "teachers", "rows"),
)
UNKNOWN = "--[KEYWORD]"  # what cyclopts calls options that no verb names: those of methods, and misspelt ones
TYPED = ("method", "seed", "export", "opset", "logger")  # settings without a group
# of distill alone
WORDS = ("method", "out", "seed", "config", "resume", "overwrite", "dry-run", "export", "no-export", "opset", "logger")

# What was typed, by dotted name. Cyclopts fills in the defaults of what was not, and those must not override a file.
_typed: dict[str, Any] = {}


def remember(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """A hook of cyclopts that sees what was typed before the verb is called."""
    _typed.clear()
    settings = {short: dotted for dotted, short in SHORT.items()}
    for argument in arguments:
        own = argument.name.removeprefix(UNKNOWN).removeprefix("--")
        for token in argument.tokens:
            if own == "" and token.keys[0] in WORDS and len(token.keys) == 1:  # of another verb
                plural = {"method": "methods", "seed": "seeds"}.get(token.keys[0])
                raise UserError(
                    f"unknown option '--{token.keys[0]}'." + (f" Did you mean '--{plural}'?" if plural else "")
                )
            if own == "" and token.keys[0] in WORDS:  # --config.x
                raise UserError(f"unknown option '--{'.'.join(token.keys)}': --{token.keys[0]} has no parts")
            key = ".".join([settings.get(own, own), *token.keys]).lstrip(".")
            value = token.value if token.implicit_value is UNSET else token.implicit_value
            if isinstance(value, str) and not value.strip():
                raise UserError(f"{token.keyword or own} is empty (an unset variable of the shell?)")
            _typed[key] = value if key not in _typed else [*_listed(_typed[key]), value]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def typed_settings() -> dict[str, Any]:
    """What was typed about the run itself: dotted settings and the single words among them."""
    return {key: value for key, value in _typed.items() if "." in key or key in TYPED}


def as_typed(kind: Any, tokens: Any) -> Any:
    """No conversion: what was typed is checked with the rest of the settings, which may also come from a file."""
    return tokens


def listed(words: str | None) -> list[str]:
    """``ce,kd`` as a list.

    Raises:
        UserError: there is nothing between the commas.
    """
    found = [word.strip() for word in (words or "").split(",") if word.strip()]
    if words is not None and not found:
        raise UserError(f"'{words}' names nothing: write what you want with commas between, as in ce,kd or 0,1,2")
    return found


def numbers(words: str | None) -> list[int]:
    """``0,1,2`` as numbers.

    Raises:
        UserError: they are none.
    """
    if not all(word.isdecimal() for word in listed(words)):
        raise UserError(f"--seeds must be whole numbers, as in 0,1,2, not '{words}'")
    return [int(word) for word in listed(words)]


def _settings(without: tuple[str, ...]) -> Iterator[inspect.Parameter]:
    """The settings of :mod:`linnet.config` as options of a verb, but for some groups and single settings."""
    for group, kind in GROUPS.items():
        sentences, hints = field_sentences(kind), typing.get_type_hints(kind, include_extras=True)
        for spec in fields(kind):
            key, name = f"{group}.{spec.name}", f"{group}_{spec.name}"
            if key == "data.source" or group in without or key in without:  # the source is DATA
                continue
            names = [f"--{SHORT[key]}"] if key in SHORT else []
            if SHORT.get(key) != group:
                names.append(f"--{group}.{spec.name.replace('_', '-')}")
            plain = hints[spec.name]
            plain = typing.get_args(plain)[0] if typing.get_origin(plain) is Annotated else plain
            automatic = Auto in typing.get_args(hints[spec.name])
            is_shown = automatic or spec.default is not None
            option = Parameter(
                name=names,
                help=_sentence(sentences[spec.name], key),
                group=_panel(group, spec.name),
                negative=() if plain is not bool else None,
                show_default=partial(_shown, resolved=RESOLVED.get(key)) if is_shown else False,
                converter=as_typed,
            )
            yield inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=spec.default, annotation=Annotated[plain, option]
            )


def _sentence(words: str, key: str) -> str:
    """Without what the default says."""
    return f"{words.partition('; auto:')[0].rstrip('.')}." if key in RESOLVED else words


def _panel(group: str, name: str) -> Group:
    if f"{group}_{name}" in FIRST:
        return BASIC
    if f"{group}.{name}" == "data.eval":
        return RUN
    return ADVANCED if name in RARE.get(group, "").split() else PANELS[group]


def _shown(default: Any, resolved: str | None) -> str:
    if isinstance(default, tuple):
        return ", ".join(map(str, default))
    if isinstance(default, bool):
        return str(default).lower()
    return resolved or "auto" if default is AUTO else str(default)


def with_settings(verb: Callable[..., None], without: tuple[str, ...] = ()) -> Callable[..., None]:
    """Give a verb the settings of a run as options, in the order in which the help shows them.

    Args:
        without: groups and single settings that it does not take; it takes no options of methods then, either.
    """
    own = inspect.signature(verb)
    data, *named, rest = own.parameters.values()
    options = [*named, *_settings(without)]
    options.sort(key=lambda option: FIRST.index(option.name) if option.name in FIRST else len(FIRST))
    parameters = [data, *options, *([] if without else [rest])]
    verb.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    return verb


def with_data_settings(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb those settings that decide which images are trained on, and what texts they have."""
    unsaid = ("eval", "descriptions", "novel_images", "views", "store_limit_gb", "workers")
    others = tuple(group for group in GROUPS if group != "data")
    return with_settings(verb, without=(*others, *(f"data.{name}" for name in unsaid)))


def in_one_line(error: CycloptsError) -> str:
    """What was wrong with the options, and what was probably meant."""
    if isinstance(error, UnusedCliTokensError):
        unexpected = ", ".join(map(repr, error.unused_tokens or []))
        return (
            f"unexpected {unexpected} (a switch such as --no-export takes no value; to give several values, repeat the "
            "option)"
        )
    words = " ".join(str(error).split())
    typed = words.partition(" for ")[2].partition(":")[0]  # "Invalid value for --lr: unable to convert ..."
    if isinstance(error, MissingArgumentError) and "." not in (error.keyword or "."):
        is_known = error.argument is None or error.argument.name != UNKNOWN
        typed = "" if is_known else str(error.keyword)
    elif "dict[str, str]" not in words:  # else: an unknown option was taken for a group of method options
        typed = ""
    if not typed:
        return words
    option = typed.lstrip("-")
    if option == "resume":
        return "there is no --resume here: the same command goes on where it was stopped"
    if option == "data":
        return "DATA is given without a name, as in 'linnet distill photos/'"
    known = {word: word for word in WORDS}
    for group, kind in GROUPS.items():
        for spec in fields(kind):
            name, dotted = spec.name.replace("_", "-"), f"{group}.{spec.name}"
            if dotted == "data.source":
                continue
            right = SHORT.get(dotted, f"{group}.{name}")
            known.setdefault(name, right)
            known[f"{group}-{name}"] = right
    best = closest(option, known)
    return f"unknown option '{typed}'." + (f" Did you mean '--{known[best]}'?" if best else "")

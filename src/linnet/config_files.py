"""Settings on their way: read from files, merged, taken to another folder, compared, written back."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from linnet.config import AUTOMATIC, GROUPS, Config
from linnet.errors import UserError
from linnet.fields import AUTO, to_dict
from linnet.files import load_yaml, write_atomically


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, later ones winning key by key."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
                result[key] = merge(result[key], value)
            else:
                result[key] = value
    return result


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """``{"train.epochs": 3, "kd.temperature": 2}`` as nested settings; groups that are not ours are method options."""
    result: dict[str, Any] = {}
    for key, value in dotted.items():
        group, _, name = key.replace("-", "_").partition(".") if key.split(".")[0] in GROUPS else key.partition(".")
        if not name:
            layer = {group.replace("-", "_"): value}
        elif group in GROUPS:
            layer = {group: {name: value}}
        else:
            layer = {"options": {group: {name.replace("-", "_"): value}}}
        result = merge(result, layer)
    return result


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings of a YAML file.

    Raises:
        UserError: the file is missing, is not YAML or is not a mapping.
    """
    try:
        loaded = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error
    except ValueError as error:  # or it is no UTF-8
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(loaded or {}, Mapping):
        raise UserError(f"{path} must hold a mapping of settings")
    return _with_underscores(loaded or {})


def _with_underscores(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings may be spelled with - or _; method ids, which name groups of options, stay as they are."""

    def names(own: Any) -> Any:
        return {str(key).replace("-", "_"): value for key, value in own.items()} if isinstance(own, Mapping) else own

    plain = {key: names(value) if key in GROUPS else value for key, value in values.items()}
    if isinstance(plain.get("options"), Mapping):
        plain["options"] = {id: names(own) for id, own in plain["options"].items()}
    return plain


def write_yaml(config: Config, path: Path) -> None:
    import yaml

    write_atomically(path, yaml.safe_dump(to_dict(config), sort_keys=False))


PLACES = {  # settings that are paths, or names such as list:PATH with paths in them
    "data": ("source", "eval", "texts", "descriptions"),
    "student": ("pretrained",),
    "teacher": ("id", "text_encoder", "cache"),
}
# run:PATH, hf:PATH, timm:local-dir:PATH, timm:NAME:FILE; mini-clip and timm:resnet50 are names, whatever lies there
TEACHER_PATH = re.compile(r"((?:run|hf|\w+:local-dir|timm:(?!hf-hub:)[^:]+):)(.+)")


def moved_from(folder: Path, config: Config) -> Config:
    """The configuration with every path that is not found from here, but from ``folder``, as one that is."""

    def there(part: str) -> str:
        lies_there = part and not os.path.exists(part) and (folder / part).exists()
        return str(folder / part) if lies_there else part

    def found(group: str, value: Any) -> Any:
        if not isinstance(value, str | Path):
            return value
        if group == "teacher" and isinstance(value, str):
            match = TEACHER_PATH.fullmatch(value)
            return match[1] + there(match[2]) if match else value
        if there(str(value)) != str(value):
            return type(value)(there(str(value)))
        *kind, rest = str(value).split(":", 1)
        return type(value)(":".join([*kind, *map(there, rest.split(":"))]))

    for group, names in PLACES.items():
        own = getattr(config, group)
        config = replace(config, **{group: replace(own, **{name: found(group, getattr(own, name)) for name in names})})
    return config


def difference(old: Config, new: Config) -> list[str]:
    """``train.epochs: 30 -> 60`` for each setting in which two configurations differ; what is still AUTO in the new one
    differs from nothing."""

    def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        rows: dict[str, Any] = {}
        for key, value in values.items():
            rows |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        return rows

    before, after = flat(to_dict(old)), flat(to_dict(new))
    keys = [key for key in before | after if before.get(key) != after.get(key)]
    keys = [key for key in keys if not (after.get(key) is AUTO and key in AUTOMATIC)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys]

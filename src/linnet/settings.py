"""From arguments, a file, the method's defaults and the hardware to one resolved configuration, with the reasons."""

import contextlib
import math
import statistics
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from linnet import methods
from linnet.config import Config, coerce, from_dict, merge, nest, read_yaml
from linnet.data.manifest import find_images
from linnet.errors import UserError

# setting: (for the aviary, for photos, why)
BY_DATA: dict[str, tuple[Any, Any, str]] = {
    "student.name": ("resnet10t", "mobilenetv3_small_100", "the default student"),
    "student.pretrained": (False, True, "photos start from pretrained weights, drawn birds from scratch"),
    "student.image_size": (64, 224, "the default size"),
    "data.views": ("light", "light", "crop and flip"),
    "data.workers": (0, 2, "used only when images are not stored"),
    "train.epochs": (30, 60, "the default length"),
    "train.channels_last": (True, True, "convolutions are faster in this layout"),
}
TEACHERS = (
    ("mini-clip", "it knows drawn birds"),
    ("open_clip:ViT-B-16-SigLIP2/webli", "a strong open model (Apache-2.0)"),
)


METHOD_TRAINING = ("epochs", "lr", "weight_decay", "select")  # those that may be auto


def settings(
    data: str | Path | None = None,
    *,
    teacher: str | None = None,
    student: str | None = None,
    method: str | None = None,
    seed: int | None = None,
    config: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Config, list[str]]:
    """The configuration of a run, every "auto" resolved, with the reasons.

    Args:
        options: any other setting by its dotted name, as on the command line:
            ``{"train.epochs": 30, "kd.temperature": 4}``.

    Raises:
        UserError: unknown or bad settings.
    """
    named = {
        "data.source": None if data is None else str(Path(data)),  # photos/ is photos
        "teacher.id": teacher,
        "student.name": student,
        "method": method,
        "seed": seed,
    }
    arguments = nest({**{key: value for key, value in named.items() if value is not None}, **(options or {})})
    file = read_yaml(config) if config else {}
    chosen = coerce(merge(file, arguments).get("method", Config.method), str, "method")
    parts = [id for id, _ in methods.parse(chosen)]
    if isinstance(file.get("options"), Mapping):
        # the file of a kd run also starts its ce row: kd's options stay behind
        left_out = set(methods.METHODS) - set(parts)
        file["options"] = {id: own for id, own in file["options"].items() if id not in left_out}
    resolved, reasons = resolve(from_dict(Config, merge(methods.defaults(chosen), file, arguments)))
    return replace(resolved, options=methods.check_options(resolved.method, resolved.options)), reasons


def resolve(config: Config) -> tuple[Config, list[str]]:
    """Replace every "auto" once, from the data source, the method and the hardware."""
    if not methods.needs_data(config.method):
        return _resolve_without_data(config)
    if config.data.eval:
        raise UserError(
            f"'{config.method}' is trained on data, whose own val and test images score it: leave out --eval"
        )
    if not config.data.source:
        raise UserError("no data given: name a folder of images or 'aviary'")
    photos = config.data.source.split(":")[0] != "aviary"
    automatic = {name: (row[photos], row[2]) for name, row in BY_DATA.items()}
    if photos and config.student.image_size is None and (side := _typical_side(Path(config.data.source))):
        size = min(224, 32 * math.ceil(side / 32))
        automatic["student.image_size"] = (size, f"the shorter side of the images is about {side} pixels")
    if methods.needs_teacher(config.method):
        automatic["teacher.id"] = TEACHERS[photos]
    scratch = config.student.pretrained is False or (config.student.pretrained is None and not photos)
    start, sgd = "from scratch" if scratch else "from pretrained weights", config.train.optimizer == "sgd"
    # 0.006 is measured (docs/LOG.md); the other three are customary
    rates = {(True, False): 0.006, (False, False): 0.001, (True, True): 0.05, (False, True): 0.01}
    automatic["train.lr"] = (rates[scratch, sgd], f"{config.train.optimizer} {start}")
    automatic["train.weight_decay"] = (5e-4 if sgd else 0.05, f"customary for {config.train.optimizer}")
    automatic["train.select"] = ("val", "the best epoch on val")
    if config.shots.use == "finetune":
        automatic["train.lr"] = (1e-3 if sgd else 2e-4, "few-shot finetuning")
        automatic["train.epochs"] = (20, "few-shot finetuning")
        automatic["train.select"] = ("last", "val holds no image of a novel class")
    config, reasons = _fill_in(config, automatic)
    if config.shots.use == "finetune" and not isinstance(config.student.pretrained, Path):
        raise UserError(
            "few-shot finetuning goes on from a student that knows the base classes: add --student.pretrained "
            "runs/NAME/model, or use --shots.use retrieval"
        )
    return config, reasons


def _fill_in(config: Config, automatic: dict[str, tuple[Any, str]]) -> tuple[Config, list[str]]:
    half = supports_bf16()
    precision = ("bf16" if half else "fp32", f"bf16 is {'' if half else 'not '}computed in hardware")
    reasons = []
    for dotted, (value, reason) in {**automatic, "train.precision": precision}.items():
        group, name = dotted.split(".")
        if getattr(getattr(config, group), name) is None:
            config = replace(config, **{group: replace(getattr(config, group), **{name: value})})
            reasons.append(f"{dotted} = {value}: {reason}")
    if config.train.lr_min > (config.train.lr or 0.0):
        raise UserError(f"train.lr_min ({config.train.lr_min:g}) is above train.lr ({config.train.lr:g}): lower it")
    return config, reasons


def _resolve_without_data(config: Config) -> tuple[Config, list[str]]:
    """The same for a method that makes its own images: their size is the teacher's."""
    method, source, teacher = config.method, config.data.source, config.teacher.id or ""
    if source:
        raise UserError(
            f"'{method}' takes no data: leave '{source}' out, or give it as --eval {source} to score the student"
        )
    if teacher.split(":")[0] not in ("run", "timm"):
        shown = f"; '{teacher}' is none" if teacher else ""
        raise UserError(f"'{method}' needs a classifier to copy: add --teacher run:PATH or timm:NAME{shown}")
    if config.train.select == "val":
        raise UserError(f"'{method}' keeps the last state: --eval scores and never selects; leave train.select out")
    # what still has an effect; all other settings of these groups must stay as they are
    scoring = {"test", "test_fraction", "val_fraction", "seed", "store_limit_gb"}
    heeded = {"data.eval", "teacher.id", "teacher.cache", *(f"data.{name}" for name in scoring if config.data.eval)}
    for group in ("data", "teacher", "prompts", "shots"):
        given, default = getattr(config, group), getattr(Config(), group)
        for name in (spec.name for spec in fields(given)):
            if f"{group}.{name}" not in heeded and getattr(given, name) != getattr(default, name):
                raise UserError(f"'{method}' works without data: {group}.{name} has no effect, leave it out")
    if config.train.label_smoothing:
        raise UserError(f"'{method}' works without labels: train.label_smoothing has no effect, leave it out")
    travelling = methods.defaults(method)["train"]
    automatic: dict[str, tuple[Any, str]] = {
        "student.name": (BY_DATA["student.name"][1], "the default student"),
        "student.pretrained": (False, "it is to know what the teacher knows"),
        "train.channels_last": (True, "convolutions are faster in this layout"),
        **{f"train.{name}": (travelling[name], f"the default of {method}") for name in METHOD_TRAINING},
    }
    if config.student.image_size is None:
        from linnet.teachers import load_teacher

        automatic["student.image_size"] = (load_teacher(teacher).image_shape[0], "the teacher's")
    return _fill_in(config, automatic)


def _typical_side(folder: Path, images: int = 32) -> int | None:
    """Median of the shorter sides of images spread over a folder, from their headers; None if there are none."""
    paths = find_images(folder) if folder.is_dir() else []
    sides = []
    for path in paths[:: max(1, len(paths) // images)]:
        with contextlib.suppress(Exception), Image.open(path) as image:  # a broken file is reported when it is decoded
            sides.append(min(image.size))
    return round(statistics.median(sides)) if sides else None


def supports_bf16() -> bool:
    """Whether the hardware multiplies in bf16 (elsewhere it is emulated, and many times slower)."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())

"""Every setting of a run, in one frozen tree: read from the command line, a YAML file or Python, resolved once,
written back.

Precedence: command line or Python argument, then file, then the method's own defaults, then the defaults below.
``None`` stands for "auto": :func:`linnet.settings.resolve` replaces it and logs the reason.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from linnet.errors import UserError, did_you_mean
from linnet.files import write_atomically


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


Count = Annotated[int, Bounds(1)]
NonNegative = Annotated[float, Bounds(0.0)]


@dataclass(frozen=True)
class DataConfig:
    source: str | None = None
    """A folder of images (train/ val/ test/ or flat) or aviary[:species=60,images=20]."""
    eval: str | None = None
    """Of a method that works without data: such a source, whose val and test images score the student and select
    nothing."""
    test: Literal["auto", "none"] = "auto"
    """auto: the source's own test split, or 20 % of a flat source; none: no test split is made or read."""
    test_fraction: Annotated[float, Bounds(0.01, 0.9)] = 0.2
    """Share of each class that becomes the test split when the source has none."""
    val_fraction: Annotated[float, Bounds(0.01, 0.9)] = 0.1
    """Share of the rest of each class that becomes the validation split when the source has none."""
    limit_per_class: Count | None = None
    """Use at most this many training images of each class that is trained on."""
    descriptions: Path | None = None
    """A YAML or JSON file that maps each class name to a sentence or a list of them, put behind the class name."""
    novel: Annotated[float, Bounds(0.01, 0.99)] | None = None
    """Share of the classes that is kept from training, drawn from data.seed, to be recognised by name alone."""
    novel_classes: tuple[str, ...] | None = None
    """The classes that are kept from training, by name or number: a list, or a file with one per line."""
    novel_images: Literal["all", "test"] = "all"
    """Images of novel classes that are scored: all of them, or those of the test split."""
    seed: Annotated[int, Bounds(0)] = 0
    """Drives splits, limits, novel classes and views, so that rows of a comparison see the same data."""
    views: (
        Literal["none", "light", "standard", "paper:vl2lite", "paper:openvocab", "paper:cifar", "paper:tiny-imagenet"]
        | None
    ) = None
    """How training images are varied: light is crop and flip, standard adds rotation and colour, paper:vl2lite is that
    of VL2Lite and PAND, paper:openvocab that of Li et al., paper:cifar and paper:tiny-imagenet are those of the
    mdistiller benchmark."""
    store_limit_gb: NonNegative = 20.0
    """Decoded images are kept on disk up to this size for each split; a larger one is decoded in every epoch."""
    workers: Annotated[int, Bounds(0)] | None = None
    """Processes that decode images when they are not stored."""


@dataclass(frozen=True)
class TeacherConfig:
    id: str | None = None
    """mini-clip, open_clip:ARCH/TAG, open_clip:local-dir:PATH, open_clip:hf-hub:ORG/NAME, timm:NAME or run:PATH."""
    templates: tuple[str, ...] = ("a photo of a {}.",)
    """Sentences around a class name; their text embeddings are averaged."""
    head: Literal["zero-shot", "prompt", "probe"] = "zero-shot"
    """How embeddings become logits: the text bank as it is, calibrated prompts, or a linear probe on train images."""
    views: Annotated[
        str, Pattern(r"center|online|replay:[1-9][0-9]{0,3}", "center, online or replay:K, as in replay:4")
    ] = "center"
    """center: the teacher's own view of each image, cached; replay:K: K views, cached, that the student sees too, in
    turn; online: the student's own views, computed in every step."""
    cache: Path | None = None
    """Where teacher outputs are kept; by default linnet's cache folder."""

    @property
    def replay(self) -> int | None:
        """K of ``replay:K``."""
        return int(self.views.removeprefix("replay:")) if self.views.startswith("replay:") else None


@dataclass(frozen=True)
class PromptsConfig:
    vectors: Annotated[int, Bounds(1, 64)] = 16
    """Learned context vectors before the text, shared by all classes; fewer if the text tower has no room."""
    text: Literal["template", "name"] = "template"
    """What follows the context vectors: the first template with the class name in it, or the bare name."""
    epochs: Count = 200
    """Passes over the cached training embeddings."""
    max_steps: Count | None = 400
    """Ends the calibration earlier; none: never."""
    batch_size: Count = 128
    """Embeddings per step."""
    lr: Annotated[float, Bounds(1e-8, 100.0)] = 0.02
    """Peak learning rate of SGD with momentum 0.9; it falls to 0 as a cosine."""
    patience: Count = 50
    """Epochs without a better val score (accuracy, of equals the lower cross-entropy) that end the calibration."""


@dataclass(frozen=True)
class ShotsConfig:
    count: Count | None = None
    """Training images of each novel class that few-shot learning may use; they leave the test set."""
    use: Literal["retrieval", "finetune"] = "retrieval"
    """retrieval: as keys beside the class texts, without training; finetune: in half of each batch, from the weights of
    an earlier run (student.pretrained)."""
    views: Count = 10
    """Of retrieval: RandAugment views of each image that the teacher looks at."""
    form: Literal["mean", "released"] = "mean"
    """Of retrieval: the mean over a class's keys, at the scale of the texts; released: the unscaled sum of the
    authors' code."""
    alpha: NonNegative | None = None
    """Of retrieval: weight of the keys; auto: chosen on val, among the base classes (form released: 1)."""
    beta: NonNegative = 5.5
    """Of retrieval: how fast a key's say falls with its distance."""


@dataclass(frozen=True)
class StudentConfig:
    name: str | None = None
    """Any timm architecture."""
    pretrained: bool | Path | None = None
    """true: timm's weights; false: from scratch; a path: a timm checkpoint, or runs/NAME/model to go on from its
    weights."""
    image_size: Annotated[int, Bounds(16, 2048)] | None = None
    """Side of the square image that the student sees, in pixels."""
    stem: Literal["auto", "lowres"] = "auto"
    """lowres: stride 1 in the first convolution and no max-pool, for tiny images; auto: as timm made it."""
    crop_mode: Literal["center", "squash"] = "center"
    """What evaluation and prediction see of an image that is not square: its centre, or all of it, squashed."""


@dataclass(frozen=True)
class TrainConfig:
    epochs: Count | None = None
    """Passes over the training images; auto: 30 for the aviary, 60 for photos, 20 for few-shot finetuning, 200 for
    dfkd, whose epochs are alternations."""
    select: Literal["val", "last"] | None = None
    """The epoch that is kept: the best on val, or the last; auto: val, for few-shot finetuning and dfkd last."""
    batch_size: Annotated[int, Bounds(2)] = 64
    """Images per step over all processes; at most the number of training images."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum 0.9."""
    nesterov: bool = True
    """Of SGD: momentum that looks ahead."""
    lr: Annotated[float, Bounds(1e-8, 100.0)] | None = None
    """Peak learning rate; auto: AdamW 0.006 from scratch, 0.001 from pretrained weights; SGD 0.05 and 0.01; few-shot
    finetuning 0.0002 and 0.001."""
    weight_decay: NonNegative | None = None
    """Applied to weight matrices and kernels only, not to norms and biases; auto: 0.05 for AdamW, 0.0005 for SGD."""
    schedule: Literal["cosine", "step", "one-cycle", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: Annotated[float, Bounds(0.0, 0.9)] = 0.1
    """Share of all steps in which the learning rate rises (for one-cycle: up to the peak)."""
    milestones: tuple[Annotated[float, Bounds(0.0, 1.0)], ...] = (0.6, 0.8)
    """Shares of the training at which schedule step multiplies the learning rate by train.decay."""
    decay: Annotated[float, Bounds(0.0, 1.0)] = 0.1
    """Factor of the learning rate at each milestone of schedule step."""
    lr_min: NonNegative = 0.0
    """Learning rate at which schedule cosine ends."""
    half_cycles: Count = 1
    """Half-waves of schedule cosine: 1 goes down once, 3 goes down, up and down again."""
    clip_norm: Annotated[float, Bounds(1e-6)] | None = 5.0
    """Gradient norm above which gradients are scaled down; none: never."""
    label_smoothing: Annotated[float, Bounds(0.0, 0.99)] = 0.0
    """Label smoothing of the cross-entropy term."""
    precision: Literal["fp32", "bf16"] | None = None
    """bf16 where the hardware computes in it, else fp32."""
    channels_last: bool | None = None
    """Memory layout of the kernels, which the activations follow."""


@dataclass(frozen=True)
class Config:
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    shots: ShotsConfig = field(default_factory=ShotsConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    method: str = "kd"
    """How the student is taught: a method id, or a sum such as kd+other:0.5."""
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Options of each method by its id; on the command line --ID.OPTION."""
    seed: Annotated[int, Bounds(0)] = 0
    """Drives initialisation, order and dropout."""
    export: bool = True
    """Write model.onnx at the end."""


T = typing.TypeVar("T")
GROUPS = ("data", "teacher", "prompts", "shots", "student", "train")


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
        value = coerce(value, args[0], where)
        for mark in args[1:]:
            if isinstance(mark, Bounds) and not mark.low <= value <= mark.high:
                upper = "" if mark.high == float("inf") else f" and at most {mark.high:g}"
                raise UserError(f"{where} must be at least {mark.low:g}{upper}, not {value}")
            if isinstance(mark, Pattern) and not re.fullmatch(mark.expression, value):
                raise UserError(f"{where} must be {mark.words}, not '{value}'")
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
        return tuple(coerce(item, args[0], where) for item in items)
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


def _coerce_plain(value: Any, kind: type, where: str) -> Any:
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
    raise UserError(f"{where} must be {'true or false' if kind is bool else f'a {kind.__name__}'}, not {value!r}")


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
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date that does not exist
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded or {}, Mapping):
        raise UserError(f"{path} must hold a mapping of settings")
    return dict(loaded or {})


def write_yaml(config: Config, path: Path) -> None:
    import yaml

    write_atomically(path, yaml.safe_dump(to_dict(config), sort_keys=False))


def difference(old: Config, new: Config) -> list[str]:
    """``train.epochs: 30 -> 60`` for each setting in which two configurations differ."""

    def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        rows: dict[str, Any] = {}
        for key, value in values.items():
            rows |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        return rows

    before, after = flat(to_dict(old)), flat(to_dict(new))
    keys = [key for key in before | after if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys]

"""From arguments, a file, the method's defaults and the machine to one resolved configuration, with the reasons."""

import contextlib
import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from linnet import methods
from linnet.config import GROUPS, Config, DataConfig, TrainConfig
from linnet.config_files import merge, nest, read_yaml
from linnet.data.sources import Source, as_written, find_source
from linnet.errors import UserError
from linnet.fields import AUTO, coerce, from_dict, to_dict
from linnet.files import given_path
from linnet.run import Run
from linnet.students.network import check_name, has_batch_norm
from linnet.students.precision import choose_precision
from linnet.teachers import check_teacher, find_kind, load_teacher

Automatic = dict[str, tuple[Any, str]]  # dotted setting: (value, reason); without a reason nothing is said

BY_DATA: dict[str, Automatic] = {
    "drawn": {
        "student.name": ("resnet10t", "the default student for drawn birds"),
        "student.pretrained": (False, "drawn birds are learned from scratch"),
        "student.image_size": (64, "the default size of drawn birds"),
        "train.epochs": (30, "the default length for drawn birds"),
        "data.views": ("light", "crop and flip"),
        "data.workers": (0, ""),  # used only where images are not stored
    },
    "photos": {
        "student.name": ("mobilenetv3_small_100", "the default student for photos"),
        "student.pretrained": (True, "photos start from pretrained weights"),
        "student.image_size": (224, "the default size of photos"),
        "train.epochs": (60, "the default length for photos"),
        "data.views": ("standard", "crop, flip, turn and recolour"),
        "data.workers": (2, ""),
    },
}
TEACHERS = {
    "drawn": ("mini-clip", "it knows drawn birds"),
    "photos": ("open_clip:ViT-B-16-SigLIP2/webli", "a strong open model (Apache-2.0)"),
}
METHOD = "on the mean above ce on val on every set measured; it reads logits alone, of either kind of teacher"
LAYOUT = (True, "convolutions are faster in this layout")
METHOD_TRAINING = ("epochs", "lr", "weight_decay", "select")  # what a method without data has its own defaults for
SAMPLE = 32  # images whose sizes decide the default input size


def settings(
    data: str | Path | None = None,
    *,
    teacher: str | None = None,
    student: str | None = None,
    method: str | None = None,
    seed: int | None = None,
    config: Path | None = None,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    timed: bool = True,
) -> tuple[Config, list[str]]:
    """The configuration of a run, every "auto" resolved, with the reasons.

    Args:
        options: any other setting by its dotted name, as on the command line:
            ``{"train.epochs": 30, "kd.temperature": 4}``.
        out: the run folder. resume: it holds a run that goes on: with its own settings, if no config is given, but for
            those that are given here, and with the precision that was measured for it.
        timed: False leaves the precision open, for :func:`with_precision`.

    Raises:
        UserError: unknown or bad settings, or settings that do not go together.
    """
    if resume and out is None:  # it is where a run with what is given here would be
        own: dict[str, Any] = {"teacher": teacher, "student": student, "method": method, "seed": seed}
        typed, _ = settings(data, **own, config=config, options=options, timed=False)
        out = default_folder(typed)
    named = {
        "data.source": None if data is None else as_written(data),
        "teacher.id": teacher,
        "student.name": student,
        "method": method,
        "seed": seed,
    }
    arguments = nest({**{key: value for key, value in named.items() if value is not None}, **(options or {})})
    file = {} if config is None else read_yaml(given_path(config, "config"))
    if resume and out is not None and config is None and Run(Path(out)).config.exists():
        file = to_dict(Run(Path(out)).settings())
        file["train"]["precision"] = AUTO  # :func:`with_precision` takes it from there, and says so
    merged = merge(file, arguments)
    chosen = coerce(merged.get("method", Config.method), str, "method")
    if resume and not file and methods.needs_data(chosen) and "source" not in merged.get("data", {}):
        raise UserError(
            f"there is nothing in {out} to go on with, and no data are given: check --out, or give DATA too"
        )
    fitting = _fitting(file, chosen, merged.get("teacher", {}).get("id"))
    given = from_dict(Config, merge(methods.defaults(chosen), fitting, arguments))
    resolved, reasons = resolve(replace(given, options=methods.check_options(given.method, given.options)))
    if "method" not in merged:
        reasons = [f"method = {chosen}: {METHOD}", *reasons]
    if not timed:
        return resolved, reasons
    precise, more = with_precision(resolved, Run(Path(out or default_folder(resolved))) if resume else None)
    return precise, [*reasons, *more]


def _fitting(file: Mapping[str, Any], method: str, teacher: str | None) -> dict[str, Any]:
    """A file's settings without what another method read: the file of a kd run also starts its ce row."""
    fitting = dict(file)
    if isinstance(file.get("options"), Mapping):
        left_out = set(methods.METHODS) - {id for id, _ in methods.parse(method)}
        fitting["options"] = {id: own for id, own in file["options"].items() if id not in left_out}
    if isinstance(file.get("teacher"), Mapping):
        unread = [] if methods.needs_texts(method) else ["text_encoder"]
        if file["teacher"].get("head") == "val" and not has_choice_of_heads(method, teacher):
            unread.append("head")
        fitting["teacher"] = {name: value for name, value in file["teacher"].items() if name not in unread}
    return fitting


def resolve(config: Config) -> tuple[Config, list[str]]:
    """Replace every "auto" once, from the data source and the method; all but the precision, which may be measured.

    Raises:
        UserError: settings that do not go together.
    """
    if not methods.needs_data(config.method):
        resolved, reasons = _resolve_without_data(config)
    else:
        resolved, reasons = _resolve_with_data(config)
    _check_long_tail(resolved)
    _check_mixing(resolved)
    for name in ("mean", "std"):
        if (value := getattr(resolved.student, name)) is not None and len(value) != 3:
            raise UserError(f"student.{name} must be three numbers, of red, green and blue, not {len(value)}")
    if resolved.teacher.id:  # also of a method that needs none: an id that is not understood is a mistake
        methods.check_teacher(resolved, find_kind(resolved.teacher.id).gives)
    if resolved.shots.count is not None and not methods.takes_names(resolved.method):
        raise UserError(
            f"--shots needs a student that takes class names as text, which '{resolved.method}' does not train: use "
            "--method openvocab or dual"
        )
    if resolved.shots.use == "finetune" and methods.student_head(resolved.method) == "dual":
        raise UserError(
            "the classifier of a dual student has a place for each class of its training: use --shots.use retrieval, "
            "or --method openvocab"
        )
    if resolved.train.lr_min > resolved.train.lr:
        raise UserError(f"train.lr_min ({resolved.train.lr_min:g}) is above train.lr ({resolved.train.lr:g}): lower it")
    return resolved, reasons


def _check_mixing(config: Config) -> None:
    """
    Raises:
        UserError: mixed images where they cannot be, or a strength of mixing without mixing.
    """
    if config.data.mix == "none":
        if config.data.mix_alpha != DataConfig.mix_alpha:
            raise UserError("data.mix_alpha has no effect without data.mix: add mixup, cutmix or both, or leave it out")
        return
    if parts := methods.reads_labels(config.method):
        raise UserError(
            f"'{parts[0]}' asks which class an image is of, and mixed images (data.mix {config.data.mix}) are of two: "
            "leave data.mix out"
        )
    if config.shots.use == "finetune" or config.train.sampling != "natural":
        own = "few-shot finetuning" if config.shots.use == "finetune" else f"train.sampling {config.train.sampling}"
        raise UserError(f"{own} balances the batches, which data.mix would undo: leave one of both out")
    if methods.needs_teacher(config.method, config.options) and config.teacher.views == config.teacher.still:
        raise UserError(
            f"with data.mix {config.data.mix} the student sees mixed images and the teacher ({config.teacher.views}) "
            "would see whole ones: add --teacher.views replay:4 (cached) or online"
        )


def _check_long_tail(config: Config) -> None:
    """
    Raises:
        UserError: two remedies at once, each of which balances the classes by itself, or bounds that are not two.
    """
    train, bounds = config.train, config.data.group_bounds
    remedies = {
        f"train.logit_adjustment {train.logit_adjustment:g}": train.logit_adjustment != 0,
        f"train.sampling {train.sampling}": train.sampling != "natural",
        f"train.class_weights {train.class_weights}": train.class_weights != "none",
    }
    if len(chosen := [name for name, is_chosen in remedies.items() if is_chosen]) > 1:
        raise UserError(f"{' and '.join(chosen)} would balance the classes twice: choose one")
    if chosen and config.shots.use == "finetune":
        raise UserError(f"{chosen[0]} has no place in few-shot finetuning, whose batches are balanced: leave it out")
    if bounds is not None and (len(bounds) != 2 or bounds[0] > bounds[1]):
        raise UserError(
            "data.group_bounds must be two numbers of training images, the smaller one first, as in 20 100, not "
            f"{' '.join(map(str, bounds))}"
        )


def default_folder(config: Config) -> Path:
    """``runs/photos-kd-s0``, ``runs/aviary-species=60-kd-s0``, ``runs/resnet34-dfkd-s0``."""
    if config.data.source:
        name = find_source(config.data.source).run_name(config.data.source)
    else:  # without data: what is copied
        name = Path(str(config.teacher.id).partition(":")[2]).resolve().name
    return Path("runs") / re.sub(r"[^\w.=+-]+", "-", f"{name}-{config.method}-s{config.seed}")


def _resolve_with_data(config: Config) -> tuple[Config, list[str]]:
    if config.data.eval:
        raise UserError(f"'{config.method}' is scored on the val and test images of its own data: leave out --eval")
    data = str(config.data.source)
    source = find_source(config.data.source)
    automatic: Automatic = dict(BY_DATA[source.defaults])
    if config.student.image_size is AUTO and _is_there(data) and (side := _typical_side(source, data)):
        size = min(224, 32 * math.ceil(side / 32))
        automatic["student.image_size"] = (size, f"the shorter side of the images is about {side} pixels")
    if methods.needs_teacher(config.method, config.options):
        automatic["teacher.id"] = TEACHERS[source.defaults]
    if methods.needs_texts(config.method):
        automatic["teacher.text_encoder"] = _text_encoder(config, TEACHERS[source.defaults])
        if config.teacher.text_encoder is not AUTO and find_kind(config.teacher.text_encoder).gives != "vlm":
            raise UserError(
                f"'{config.teacher.text_encoder}' is a classifier, which reads no texts: see --text-encoder"
            )
    elif config.teacher.text_encoder is not AUTO:
        raise UserError(f"'{config.method}' reads no texts: leave --text-encoder out, or use --method vlm-kd")
    automatic["teacher.head"] = ("zero-shot", "")
    if has_choice_of_heads(config.method, config.teacher.id, config.options):
        automatic["teacher.head"] = ("val", "the class texts, or a probe on the embeddings if it is better on val")
    pretrained = config.student.pretrained
    scratch = not (automatic["student.pretrained"][0] if pretrained is AUTO else pretrained)
    sgd = config.train.optimizer == "sgd"
    if config.train.lr is AUTO:
        name = automatic["student.name"][0] if config.student.name is AUTO else config.student.name
        automatic["train.lr"] = _learning_rate(name, scratch, sgd)
    automatic["train.weight_decay"] = (5e-4 if sgd else 0.05, f"customary for {config.train.optimizer}")
    automatic["train.select"] = ("val", "the best epoch on val")
    automatic["train.channels_last"] = LAYOUT
    if config.shots.use == "finetune":
        automatic["train.lr"] = (1e-3 if sgd else 2e-4, "few-shot finetuning")
        automatic["train.epochs"] = (20, "few-shot finetuning")
        automatic["train.select"] = ("last", "val holds no image of a novel class")
    config, reasons = _fill_in(config, automatic)
    if config.shots.use == "finetune" and not isinstance(config.student.pretrained, Path):
        raise UserError(
            "few-shot finetuning continues from a student that knows the base classes: add --student.pretrained "
            "runs/NAME, or use --shots.use retrieval"
        )
    return config, reasons


def _learning_rate(student: str, scratch: bool, sgd: bool) -> tuple[float, str]:
    """0.006 (small networks on drawn birds) and 0.002 (EfficientNet-Lite0 on two sets of photos) are measured
    (docs/LOG.md), the others are customary."""
    if scratch:
        return (0.05, "sgd from scratch") if sgd else (0.006, "adamw from scratch")
    if sgd:
        return (0.01, "sgd from pretrained weights")
    if has_batch_norm(student):
        return (0.002, "adamw from pretrained weights")
    return (0.0003, "adamw from pretrained weights, a network without BatchNorm")


def has_choice_of_heads(method: str, teacher: str | None, options: Mapping[str, Any] | None = None) -> bool:
    """Whether a probe may take the place of a vision-language teacher's class texts; the default teachers are such."""
    return methods.reads_logits_alone(method, options) and (not teacher or find_kind(teacher).gives == "vlm")


def _text_encoder(config: Config, default: tuple[str, str]) -> tuple[str, str]:
    """The teacher, if it reads texts, else the default teacher."""
    id, encoder = config.teacher.id, config.teacher.text_encoder
    is_vlm = bool(id) and find_kind(id).gives == "vlm"
    reads = is_vlm and encoder in (AUTO, id)
    if id and not reads and not methods.needs_teacher(config.method, config.options):
        raise UserError(
            f"the teacher '{id}' would have nothing to do, because no teacher looks at the images: "
            "add --vlm-kd.vision-weight 1, or leave it out"
        )
    return (id, "the teacher reads the texts, too") if id and is_vlm else (default[0], "it reads the texts")


def _resolve_without_data(config: Config) -> tuple[Config, list[str]]:
    """The same for a method that makes its own images: their size is the teacher's."""
    method, source, teacher = config.method, config.data.source, config.teacher.id
    if source:
        raise UserError(
            f"'{method}' takes no data: leave '{source}' out, or give it as --eval {source} to score the student"
        )
    if not teacher or find_kind(teacher).gives != "classifier":
        shown = f"; '{teacher}' is not one" if teacher else ""
        raise UserError(f"'{method}' needs a classifier to copy: add --teacher run:PATH or timm:NAME{shown}")
    if config.train.select == "val":
        raise UserError(f"'{method}' keeps its last epoch, because --eval only scores: leave train.select out")
    # what still has an effect; all other settings of these groups must stay as they are
    scoring = {"test", "test_fraction", "val_fraction", "seed", "store_limit_gb"}
    views = BY_DATA["drawn"]["data.views"][0]
    unread: Automatic = {"data.views": (views, ""), "data.workers": (0, ""), "teacher.head": ("zero-shot", "")}
    heeded = {"data.eval", "teacher.id", "teacher.cache", *(f"data.{name}" for name in scoring if config.data.eval)}
    for group in ("data", "teacher", "prompts", "shots"):
        for name, value in vars(getattr(config, group)).items():
            dotted, default = f"{group}.{name}", getattr(GROUPS[group], name)
            if dotted not in heeded and value not in (default, unread.get(dotted, (default,))[0]):
                raise UserError(f"'{method}' works without data: {dotted} has no effect, leave it out")
    for name in ("label_smoothing", "logit_adjustment", "sampling", "class_weights"):
        if getattr(config.train, name) != getattr(TrainConfig, name):
            raise UserError(f"'{method}' works without labels: train.{name} has no effect, leave it out")
    travelling = methods.defaults(method)["train"]
    automatic: Automatic = {
        "student.name": (BY_DATA["photos"]["student.name"][0], "the default student"),
        "student.pretrained": (False, "it should know only what the teacher knows"),
        "train.channels_last": LAYOUT,
        **{f"train.{name}": (travelling[name], f"the default of {method}") for name in METHOD_TRAINING},
        **unread,
    }
    if config.student.image_size is AUTO:
        check_teacher(teacher)
        check_name(automatic["student.name"][0] if config.student.name is AUTO else config.student.name)
        automatic["student.image_size"] = (load_teacher(teacher).image_shape[0], "the teacher's")
    return _fill_in(config, automatic)


def _fill_in(config: Config, automatic: Automatic) -> tuple[Config, list[str]]:
    reasons = []
    for dotted, (value, reason) in automatic.items():
        group, name = dotted.split(".")
        if getattr(getattr(config, group), name) is AUTO:
            config = replace(config, **{group: replace(getattr(config, group), **{name: value})})
            reasons += [f"{dotted} = {value}: {reason}"] if reason else []
    return config, reasons


def in_a_block(reasons: list[str]) -> str:
    """What was chosen and why, one aligned line each, for the log."""
    rows = []
    for reason in reasons:
        setting, _, rest = reason.partition(" = ")
        value, _, why = rest.partition(": ")
        rows.append((setting, value, why))
    names, values = (max(len(row[i]) for row in rows) for i in (0, 1))
    values = min(values, 24)  # a long teacher's name moves only its own reason
    lines = [f"  {name:<{names}}  {value:<{values}}  {why}" for name, value, why in rows]
    return "\n".join(["settings chosen for you:", *lines])


def with_precision(config: Config, resumed: Run | None = None) -> tuple[Config, list[str]]:
    """The last setting of all, because a step of the real student may have to be timed for it.

    Args:
        resumed: a run that goes on in the precision that it was started with.
    """
    if config.train.precision is not AUTO:
        return config, []
    earlier = resumed.settings().train.precision if resumed is not None and resumed.config.exists() else AUTO
    if not _is_there(config.data.source):
        choice: tuple[str, str] = ("fp32", "not timed, because the data was not found")
    elif earlier is not AUTO:
        choice = (earlier, "as the run was started")
    else:
        student, train = config.student, config.train
        choice = choose_precision(student.name, student.image_size, train.batch_size, student.stem, train.channels_last)
    return _fill_in(config, {"train.precision": choice})


def _is_there(data: str | None) -> bool:
    return data is None or find_source(data).is_there(data)


def _typical_side(source: Source, data: str) -> int | None:
    """Median of the shorter sides of some images, from their headers; None if the source shows none."""
    sides = []
    for path in source.images(data, SAMPLE):
        with contextlib.suppress(Exception), Image.open(path) as image:  # a broken file is reported when it is decoded
            sides.append(min(image.size))
    return round(statistics.median(sides)) if sides else None

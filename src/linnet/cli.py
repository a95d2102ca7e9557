"""The command line: verbs that parse and call, nothing else. Heavy imports live inside the verbs.

The settings of ``distill`` are those of :mod:`linnet.config`: a new one, or a new group, needs no edit here.
"""

import inspect
import logging
import os
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import UNSET, App, ArgumentCollection, CycloptsError, Group, Parameter, UnusedCliTokensError

from linnet.config import GROUPS, Config
from linnet.errors import UserError, closest
from linnet.fields import AUTO, Auto, field_sentences
from linnet.processes import is_first

app = App(
    name="linnet",
    help="Large vision-language models into small, fast image classifiers, and how much was gained.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # main says how to go on
)

BASIC = Group("Basic", help="What you will need first.", sort_key=1)
RUN = Group("The run", help="Starting, resuming and checking a run.", sort_key=2)
PANELS = {
    spec.name: Group(spec.name.capitalize(), help=spec.metadata["words"], sort_key=3 + i)
    for i, spec in enumerate(spec for spec in fields(Config) if spec.name in GROUPS)
}
# settings with a short name: the main one of each group, and three more
SHORT = {"data.eval": "eval", "student.image_size": "image-size", "teacher.text_encoder": "text-encoder"} | {
    f"{spec.name}.{spec.metadata['main']}": spec.name for spec in fields(Config) if spec.metadata.get("main")
}
# what most people want to set, in the order of the first panel
FIRST = ("teacher_id", "student_name", "method", "out", "train_epochs", "student_image_size", "seed", "config")
WORDS = ("method", "out", "seed", "config", "resume", "overwrite", "dry-run", "export", "no-export")  # of distill alone

# What was typed, by dotted name. Cyclopts fills in the defaults of what was not, and those must not override a file.
_typed: dict[str, Any] = {}


def _remember(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    _typed.clear()
    settings = {short: dotted for dotted, short in SHORT.items()}
    for argument in arguments:
        own = argument.name.removeprefix("--").removeprefix("[KEYWORD]")
        for token in argument.tokens:
            if own == "" and token.keys[0] in WORDS:  # --config.x
                raise UserError(f"unknown option '--{'.'.join(token.keys)}': --{token.keys[0]} has no parts")
            key = ".".join([settings.get(own, own), *token.keys]).lstrip(".")
            value = token.value if token.implicit_value is UNSET else token.implicit_value
            _typed[key] = value if key not in _typed else [*_listed(_typed[key]), value]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


app.config = (_remember,)


def _typed_settings() -> dict[str, Any]:
    """What was typed about the run itself: dotted settings and the single words among them."""
    return {key: value for key, value in _typed.items() if "." in key or key in ("method", "seed", "export")}


def _as_typed(kind: Any, tokens: Any) -> Any:
    """No conversion: what was typed is checked with the rest of the settings, which may also come from a file."""
    return tokens


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
            option = Parameter(
                name=names,
                help=sentences[spec.name],
                group=RUN if key == "data.eval" else BASIC if name in FIRST else PANELS[group],
                negative=() if plain is not bool else None,
                show_default=_shown if automatic or spec.default is not None else False,
                converter=_as_typed,
            )
            yield inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=spec.default, annotation=Annotated[plain, option]
            )


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ", ".join(map(str, default))
    return "auto" if default is AUTO else str(default)


def _with_settings(verb: Callable[..., None], without: tuple[str, ...] = ()) -> Callable[..., None]:
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


@app.command
@_with_settings
def distill(
    data: str | None = None,
    /,
    *,
    method: Annotated[str | None, Parameter(group=BASIC)] = None,
    out: Annotated[Path | None, Parameter(group=BASIC)] = None,
    seed: Annotated[int | None, Parameter(group=BASIC, converter=_as_typed)] = None,
    config: Annotated[Path | None, Parameter(group=BASIC)] = None,
    resume: Annotated[bool, Parameter(negative="", group=RUN, show_default=False)] = False,
    overwrite: Annotated[bool, Parameter(negative="", group=RUN, show_default=False)] = False,
    dry_run: Annotated[bool, Parameter(negative="", group=RUN, show_default=False)] = False,
    export: Annotated[bool, Parameter(group=RUN)] = True,
    **settings: Annotated[dict[str, str], Parameter(show=False)],
) -> None:
    """Teach a small student and measure it.

    Options of a method start with its name, as in --kd.temperature 4; 'linnet list methods METHOD' shows them.

    Args:
        data: A folder of images (train/ val/ test/, or one folder per class), or another source that 'linnet list data'
            shows.
        method: How the student is taught: an id of 'linnet list methods', or a sum such as kd+other:0.5. [default: kd]
        out: The run folder. [default: runs/DATA-METHOD-sSEED, with the teacher's name where there is no DATA]
        seed: Drives initialisation, order and dropout. [default: 0]
        config: A YAML file of settings, such as the config.yaml of a run; options given here override it.
        resume: Go on with a run that was stopped.
        overwrite: Delete the run that is in the run folder.
        dry_run: Print the resolved settings and stop.
        export: Write model.onnx at the end.
    """
    from linnet.commands.distill import distill as run_distill
    from linnet.defaults import settings as resolve_settings

    options = _typed_settings()
    if dry_run:
        _print_settings(*resolve_settings(data, config=config, options=options, out=out, resume=resume))
        return
    run = run_distill(data, config=config, options=options, out=out, resume=resume, overwrite=overwrite)
    if is_first():
        print(run.folder)


def _print_settings(config: Config, reasons: list[str]) -> None:
    import yaml

    from linnet.fields import to_dict

    for reason in reasons:
        print(f"# {reason}")
    print(yaml.safe_dump(to_dict(config), sort_keys=False), end="")


def _with_data_settings(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb those settings that decide which images are trained on, and what texts they have."""
    unsaid = ("eval", "descriptions", "novel_images", "views", "store_limit_gb", "workers")
    others = tuple(group for group in GROUPS if group != "data")
    return _with_settings(verb, without=(*others, *(f"data.{name}" for name in unsaid)))


@app.command
@_with_data_settings
def describe(
    data: str | None = None,
    /,
    *,
    vlm: Annotated[str | None, Parameter(group=BASIC)] = None,
    out: Annotated[Path | None, Parameter(group=BASIC)] = None,
    prompt: Annotated[tuple[str, ...], Parameter(group=BASIC, negative="", show_default=False)] = (),
    per: Annotated[Literal["image", "class"], Parameter(group=BASIC)] = "image",
    show: Annotated[int, Parameter(group=BASIC)] = 0,
    config: Annotated[Path | None, Parameter(group=BASIC)] = None,
    max_tokens: Annotated[int, Parameter(group=RUN)] = 77,
    batch_size: Annotated[int, Parameter(group=RUN)] = 8,
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], Parameter(group=RUN)] = "auto",
    examples: Annotated[int, Parameter(group=RUN)] = 1,
    overwrite: Annotated[bool, Parameter(negative="", group=RUN, show_default=False)] = False,
    **settings: Annotated[dict[str, str], Parameter(show=False)],
) -> None:
    """Let a vision-language model write texts about the training images, for --data.texts.

    A command that was stopped goes on where it was. Without --vlm, the texts that the data have are shown, or written
    as one table.

    Args:
        data: As for 'linnet distill': a folder of images, or another source that 'linnet list data' shows.
        vlm: A model of the Hugging Face hub that answers about images, or its folder.
        out: The table, .parquet or .csv; for --per class the descriptions, .yaml or .json.
        prompt: p1 (what can be seen), p2 (what tells the image's class from others), or a text file in which {class}
            is filled in and blank lines separate prompts; may be repeated. [default: p1 and p2]
        per: Texts about each training image, or about each class, for --data.descriptions.
        show: Print this many texts.
        config: A YAML file of settings, such as the config.yaml of a run; its data settings are used.
        max_tokens: Length at which a text is cut off.
        batch_size: Images that go through the model at once.
        precision: Of the model; auto is bf16 or fp16 on a GPU, fp32 without one.
        examples: With --per class: training images of the class that the model looks at.
        overwrite: Forget the texts that are in --out.
    """
    from linnet.commands.describe import describe as write

    file = write(
        data,
        vlm=vlm,
        out=out,
        prompts=prompt,
        per=per,
        examples=examples,
        max_tokens=max_tokens,
        batch_size=batch_size,
        precision=precision,
        show=show,
        config=config,
        options=_typed_settings(),
        overwrite=overwrite,
    )
    if file is not None:
        print(file)


@app.command
def predict(
    model: Path,
    images: list[Path],
    /,
    *,
    classes: str | None = None,
    bank: Path | None = None,
    top: int = 5,
    json: Annotated[bool, Parameter(negative="")] = False,
    csv: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Name the images in files and folders.

    Args:
        model: A run folder, or a model.onnx (torch is not needed then).
        images: Image files and folders.
        classes: Other classes than those of the training, for a student of --method openvocab: a,b,c or a file with
            one per line.
        bank: The same, as a bank file written by 'linnet embed'.
        top: How many classes to show for each image.
        json: One JSON object per line.
        csv: Comma-separated path, class, probability.
    """
    from linnet.commands.predict import predict as run_predict

    run_predict(model, images, classes, bank, top, json, csv)


@app.command
def embed(
    *,
    classes: str,
    out: Path,
    teacher: str | None = None,
    run: Path | None = None,
    templates: Annotated[tuple[str, ...] | None, Parameter(negative="")] = None,
    descriptions: Path | None = None,
) -> None:
    """Write class names as a text bank, for predict --bank.

    Args:
        classes: Their names: a,b,c or a file with one per line.
        out: The bank, a .safetensors file.
        teacher: An id of 'linnet list teachers', or a text_tower.onnx (torch is not needed then).
        run: Instead of a teacher: a run, whose teacher, templates and learned prompts are used.
        templates: Sentences around a class name, as in "a photo of a {}."; their embeddings are averaged.
        descriptions: A YAML or JSON file that maps each class name to a sentence or a list of them.
    """
    from linnet.commands.embed import embed as make_bank

    bank = make_bank(classes, teacher=teacher, run=run, templates=templates, descriptions=descriptions)
    bank.save(out)
    print(out)


@app.command
def export(
    run: Path, /, *, text_tower: Annotated[bool, Parameter(negative="")] = False, out: Path | None = None
) -> None:
    """Write the student of a run as ONNX, or its teacher's text tower.

    Args:
        run: A finished run.
        text_tower: Write the text tower and its tokenizer instead, so that new class names need no torch.
        out: The file. [default: model.onnx or text_tower.onnx in the run]
    """
    from linnet.commands.export import export as write

    print(write(run, text_tower=text_tower, out=out))


@app.command
def demo(*, out: Path = Path("runs/demo"), seed: int = 0) -> None:
    """Distil the shipped mini-CLIP on drawn look-alike birds: ce, kd and pand at equal budget, one table.

    Args:
        out: Folder of the runs; runs that an earlier demo finished there are kept.
        seed: Seed of the students.
    """
    from linnet.commands.demo import demo as run_demo

    run_demo(out, seed)


@app.command(name="list")
def list_(what: Literal["methods", "teachers", "students", "data"] = "methods", pattern: str = "*", /) -> None:
    """List what can be chosen.

    Args:
        what: methods, kinds of teachers, students (timm architectures), or kinds of data.
        pattern: A method, to show its options; or a pattern for students or teachers, as in 'resnet*'.
    """
    from linnet.commands.listing import lines

    for line in lines(what, pattern):
        print(line)


@app.command
def doctor() -> None:
    """Versions, device and extras of this installation."""
    from linnet.commands.doctor import lines

    for line in lines():
        print(line)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: exit 0 when all is well, 2 with one clear line for what the user can mend, 1 with a traceback for
    a bug."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("linnet").setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it prints its warnings itself
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except UserError as error:
        _leave(str(error))
    except CycloptsError as error:
        _leave(_in_one_line(error))
    except BrokenPipeError:  # `linnet list students | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as stopped:
        how = str(stopped) or "a training goes on after its last finished epoch with --resume"
        print(f"linnet: stopped ({how})", file=sys.stderr)
        sys.exit(130)


def _in_one_line(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError):
        unexpected = ", ".join(map(repr, error.unused_tokens or []))
        return (
            f"unexpected {unexpected} (a switch such as --no-export takes no value; to give several values, repeat the "
            "option)"
        )
    words = " ".join(str(error).split())
    if "dict[str, str]" not in words:  # else: an unknown option was taken for a group of method options
        return words
    typed = words.partition(" for ")[2].partition(":")[0]  # "Invalid value for --lr: unable to convert ..."
    option = typed.lstrip("-")
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


def _leave(message: str) -> None:
    print(f"linnet: {message}", file=sys.stderr)
    sys.exit(2)

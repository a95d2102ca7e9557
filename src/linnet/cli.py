"""The command line: verbs that parse and call, nothing else. Heavy imports live inside the verbs."""

import json
import logging
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import UNSET, App, ArgumentCollection, CycloptsError, Parameter, UnusedCliTokensError

from linnet.config import (
    Config,
    DataConfig,
    PromptsConfig,
    ShotsConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
)
from linnet.errors import UserError, closest

app = App(
    name="linnet",
    help="Large vision-language models into small, fast image classifiers, and how much was gained.",
    version_flags=["--version"],
)

# What was typed, by dotted name. Cyclopts fills in the defaults of what was not, and those must not override a file.
_typed: dict[str, Any] = {}


def _group(prefix: str, main: str) -> Parameter:
    """``--teacher`` for the main field of a group, ``--teacher.views`` for the others."""
    return Parameter(
        name="*", name_transform=lambda field: prefix if field == main else f"{prefix}.{field.replace('_', '-')}"
    )


Data = Annotated[DataConfig, _group("data", "source")]
Teacher = Annotated[TeacherConfig, _group("teacher", "id")]
Prompts = Annotated[PromptsConfig, _group("prompts", "")]
Shots = Annotated[ShotsConfig, _group("shots", "count")]
Student = Annotated[StudentConfig, _group("student", "name")]
Train = Annotated[TrainConfig, _group("train", "")]
MAIN_FIELDS = {
    "data": "data.source",
    "teacher": "teacher.id",
    "shots": "shots.count",
    "student": "student.name",
    "eval": "data.eval",
    "image-size": "student.image-size",
}


def _remember(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    _typed.clear()
    spelled: dict[str, str] = {}
    for argument in arguments:
        for token in argument.tokens:
            name = ".".join([argument.name.removeprefix("--").removeprefix("[KEYWORD]"), *token.keys]).lstrip(".")
            key = MAIN_FIELDS.get(name, name)
            if spelled.setdefault(key, name) != name:
                raise UserError(f"--{spelled[key]} and --{name} are the same setting: give one of them")
            value = token.value if token.implicit_value is UNSET else token.implicit_value
            _typed[key] = value if key not in _typed else [*_listed(_typed[key]), value]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


app.config = (_remember,)


def _typed_settings() -> dict[str, Any]:
    """What was typed about the run itself: dotted settings and the single words among them."""
    return {key: value for key, value in _typed.items() if "." in key or key in ("method", "seed", "export")}


@app.command
def distill(
    data: str | None = None,
    /,
    *,
    method: str | None = None,
    out: Path | None = None,
    seed: int | None = None,
    config: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    export: bool = True,
    eval_: Annotated[str | None, Parameter(name="--eval")] = None,
    image_size: int | None = None,
    data_: Data = DataConfig(),
    teacher: Teacher = TeacherConfig(),
    prompts: Prompts = PromptsConfig(),
    shots: Shots = ShotsConfig(),
    student: Student = StudentConfig(),
    train: Train = TrainConfig(),
    **method_options: dict[str, str],
) -> None:
    """Teach a small student and measure it.

    Args:
        data: A folder of images (train/ val/ test/ or flat, one folder per class) or aviary[:species=60,images=20].
        method: How the student is taught: an id of 'linnet list methods', or a sum such as kd+other:0.5. [default: kd]
        out: The run folder. [default: runs/DATA-METHOD-sSEED; without data the teacher's name]
        seed: Drives initialisation, order and dropout. [default: 0]
        config: A YAML file of settings, such as the config.yaml of a run; what is typed here wins over it.
        resume: Go on with a run that was stopped.
        overwrite: Delete the run that is in the run folder.
        dry_run: Print the resolved settings and stop.
        export: Write model.onnx at the end.
        eval_: For a method that works without data (dfkd): a source like DATA that only scores the student.
        image_size: The same as --student.image-size.
        method_options: Options of the method, as in --kd.temperature 4.
    """
    from linnet.pipeline import distill as run_distill
    from linnet.settings import settings

    options = _typed_settings()
    if dry_run:
        _print_settings(*settings(data, config=config, options=options))
        return
    run = run_distill(data, config=config, options=options, out=out, resume=resume, overwrite=overwrite)
    if os.environ.get("RANK", "0") == "0":  # of several processes one is enough
        print(run.folder)


def _print_settings(config: Config, reasons: list[str]) -> None:
    import yaml

    from linnet.config import to_dict

    for reason in reasons:
        print(f"# {reason}")
    print(yaml.safe_dump(to_dict(config), sort_keys=False), end="")


@app.command
def predict(
    model: Path,
    images: list[Path],
    /,
    *,
    classes: str | None = None,
    bank: Path | None = None,
    top: int = 5,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    csv: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Name the images in files and folders.

    Args:
        model: A run folder, or a model.onnx (torch is not needed then).
        images: Image files and folders.
        classes: Other classes than those of the training, for a student of --method openvocab: a,b,c or a file with
            one per line.
        bank: The same as a file that 'linnet embed' wrote.
        top: How many classes to show for each image.
        json_: One JSON object per line.
        csv: Comma-separated path, class, probability.
    """
    from linnet.banks import TextBank
    from linnet.predict import collect, load
    from linnet.vocabulary import bank_for

    if top < 1:
        raise UserError(f"--top must be at least 1, not {top}")
    if classes is not None and bank is not None:
        raise UserError("--classes and --bank exclude one another")
    names = None if bank is None else TextBank.load(bank)
    if classes is not None:
        names = bank_for(model, classes)
    predictor = load(model, names)
    failed = 0
    show = _json_line if json_ else _csv_line if csv else _table_line
    for prediction in predictor.predict(collect(images), top):
        failed += prediction.error is not None
        if prediction.error is not None:
            print(f"linnet: {prediction.error}", file=sys.stderr)
        if json_ or prediction.error is None:
            print(show(prediction), flush=True)
    if failed:
        raise UserError(f"{failed} image(s) could not be read")


def _json_line(prediction: Any) -> str:
    return json.dumps(prediction.as_dict(), ensure_ascii=False)


def _csv_line(prediction: Any) -> str:
    import csv
    import io

    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(
        [prediction.path, prediction.classes[0], f"{prediction.probabilities[0]:.4f}"]
    )
    return line.getvalue()


def _table_line(prediction: Any) -> str:
    shown = "   ".join(
        f"{name} {100 * p:.1f} %" for name, p in zip(prediction.classes, prediction.probabilities, strict=True)
    )
    return f"{prediction.path}   {shown}"


@app.command
def embed(
    *,
    classes: str,
    out: Path,
    teacher: str | None = None,
    run: Path | None = None,
    templates: tuple[str, ...] | None = None,
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
    from linnet.vocabulary import embed as make_bank

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
        text_tower: The text tower and its tokenizer, so that new class names need no torch.
        out: The file. [default: model.onnx or text_tower.onnx in the run]
    """
    from linnet.onnx_export import export as write

    print(write(run, text_tower=text_tower, out=out))


@app.command
def demo(*, out: Path = Path("runs/demo"), seed: int = 0) -> None:
    """Distil the shipped mini-CLIP on drawn look-alike birds: ce, kd and pand at equal budget, one table.

    Args:
        out: Folder of the runs; an earlier demo in it is overwritten.
        seed: Seed of the students.
    """
    from linnet.demo import demo as run_demo

    run_demo(out, seed)


@app.command(name="list")
def list_(what: Literal["methods", "teachers", "students", "data"] = "methods", pattern: str = "*", /) -> None:
    """List what can be chosen.

    Args:
        what: methods with their options, kinds of teachers, students (timm architectures), or kinds of data.
        pattern: For students and teachers, as in 'resnet*'.
    """
    from linnet.listing import lines

    for line in lines(what, pattern):
        print(line)


@app.command
def doctor() -> None:
    """Versions, device and extras of this installation."""
    from linnet.listing import doctor_lines

    for line in doctor_lines():
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
    except KeyboardInterrupt:
        print("linnet: stopped (a training goes on after its last finished epoch with --resume)", file=sys.stderr)
        sys.exit(130)


def _in_one_line(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError):
        unexpected = ", ".join(map(repr, error.unused_tokens or []))
        return f"unexpected {unexpected} (a switch such as --no-export takes no value)"
    words = " ".join(str(error).split())
    if "dict[str, str]" not in words:  # else: an unknown option was taken for a group of method options
        return words
    typed = words.partition(" for ")[2].partition(":")[0]  # "Invalid value for --lr: unable to convert ..."
    option = typed.lstrip("-")
    groups = {
        "data": DataConfig,
        "teacher": TeacherConfig,
        "prompts": PromptsConfig,
        "shots": ShotsConfig,
        "student": StudentConfig,
        "train": TrainConfig,
    }
    known = {spec.name.replace("_", "-"): group for group, kind in groups.items() for spec in fields(kind)}
    best = closest(option, known)
    return f"unknown option '{typed}'." + (f" Did you mean '--{known[best]}.{best}'?" if best else "")


def _leave(message: str) -> None:
    print(f"linnet: {message}", file=sys.stderr)
    sys.exit(2)

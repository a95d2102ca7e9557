"""The command line: verbs that parse and call, nothing else. Heavy imports live inside the verbs."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from linnet.files import check_out, readable
from linnet.options import (
    ADVANCED,
    BASIC,
    PANELS,
    RUN,
    as_typed,
    listed,
    numbers,
    remember,
    typed_settings,
    with_data_settings,
    with_settings,
)
from linnet.processes import is_first

app = App(
    name="linnet",
    help="Large vision-language models into small, fast image classifiers, and how much was gained.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # __main__ says how to go on
)
app.config = (remember,)


@app.command
@with_settings
def distill(
    data: str | None = None,
    /,
    *,
    method: Annotated[str | None, Parameter(group=BASIC)] = None,
    out: Annotated[Path | None, Parameter(group=BASIC)] = None,
    seed: Annotated[int | None, Parameter(group=BASIC, converter=as_typed)] = None,
    config: Annotated[Path | None, Parameter(group=BASIC)] = None,
    resume: Annotated[bool, Parameter(negative="", group=RUN, show_default=False)] = False,
    overwrite: Annotated[bool, Parameter(negative="", group=RUN, show_default=False)] = False,
    dry_run: Annotated[bool, Parameter(negative="", group=RUN, show_default=False)] = False,
    profile: Annotated[bool, Parameter(negative="", group=RUN, show_default=False)] = False,
    export: Annotated[bool, Parameter(group=RUN, show_default=lambda _: "--export")] = True,
    opset: Annotated[int | None, Parameter(group=ADVANCED, converter=as_typed)] = None,
    logger: Annotated[Literal["none", "tensorboard", "trackio", "wandb"], Parameter(group=RUN)] = "none",
    seeds: Annotated[str | None, Parameter(group=PANELS["train"])] = None,
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
        profile: Time some training steps, print where their time goes and what to change, and stop.
        export: Write model.onnx at the end.
        opset: Version of the ONNX operators in model.onnx, for an older runtime. [default: torch's choice]
        logger: Where the numbers of each epoch go beside metrics.jsonl: on this machine, no account is needed.
        seeds: Several seeds, as in 0,1,2: a comparison with ce over these, as by 'linnet compare'.
    """
    if seeds is not None:
        from linnet.commands.compare import Work, several_seeds, tell

        question = several_seeds(data, numbers(seeds), out, config, typed_settings())
        tell(question, Work(overwrite=overwrite), dry_run)
        return
    if profile:
        from linnet.commands.profile import profile as measure

        said = measure(data, config=config, options=typed_settings())
        if is_first():
            print(readable(said))
        return
    from linnet.commands.distill import distill as run_distill
    from linnet.commands.distill import dry_run as resolve

    options = typed_settings()
    if dry_run:
        print(readable(resolve(data, config=config, options=options, out=out, resume=resume)), end="")
        return
    run = run_distill(data, config=config, options=options, out=out, resume=resume, overwrite=overwrite)
    if is_first():
        print(readable(run.folder))


@app.command
@with_settings
def compare(
    *data: str,
    methods: Annotated[str | None, Parameter(group=BASIC)] = None,
    seeds: Annotated[str | None, Parameter(group=BASIC)] = None,
    students: Annotated[str | None, Parameter(group=BASIC)] = None,
    teachers: Annotated[str | None, Parameter(group=BASIC)] = None,
    rows: Annotated[str | None, Parameter(group=BASIC)] = None,
    against: Annotated[str | None, Parameter(group=BASIC)] = None,
    out: Annotated[Path | None, Parameter(group=BASIC)] = None,
    config: Annotated[Path | None, Parameter(group=BASIC)] = None,
    time: Annotated[str | None, Parameter(group=RUN)] = None,
    jobs: Annotated[int, Parameter(group=RUN)] = 1,
    threads: Annotated[int | None, Parameter(group=RUN)] = None,
    cluster: Annotated[str | None, Parameter(group=RUN)] = None,
    dry_run: Annotated[bool, Parameter(negative="", group=RUN, show_default=False)] = False,
    allow_mismatch: Annotated[bool, Parameter(negative="", group=RUN, show_default=False)] = False,
    overwrite: Annotated[bool, Parameter(negative="", group=RUN, show_default=False)] = False,
    export: Annotated[bool, Parameter(group=RUN, show_default=lambda _: "--no-export")] = False,
    opset: Annotated[int | None, Parameter(group=ADVANCED, converter=as_typed)] = None,
    **settings: Annotated[dict[str, str], Parameter(show=False)],
) -> None:
    """Train methods side by side at equal budget, and say which are better than the labels alone.

    Every method and seed is a run, kept as soon as it is finished: the same command goes on where it was stopped, and
    several processes or machines that share the folder share the work.

    Args:
        data: DATA as for 'linnet distill', a YAML grid, or both; or finished runs, which are compared as they are.
        methods: Methods or sums, as in ce,kd,kd+figkd:0.5; ce is always there. [default: ce,kd]
        seeds: Seeds of each method. [default: 0,1,2]
        students: Students, each with a ce row of its own.
        teachers: Teachers, for the methods that have one.
        rows: These rows of the grid alone, as in ce,kd.
        against: The row that all others are compared with. [default: the ce row of each student]
        out: The folder of the runs and of the table: compare.md, compare.json, compare.parquet. [default:
            runs/compare-DATA]
        config: A YAML file of settings for all rows; options given here override it.
        time: A budget such as 30m or 2h: epochs and cells are chosen so that they fit.
        jobs: Cells that are trained side by side.
        threads: Of each cell; the last digits depend on them. [default: an equal share of the processors]
        cluster: The address of a Ray cluster that trains the cells; local starts one on this machine.
        dry_run: Print rows, settings, and a prediction of time and disk from a timed step, and stop.
        allow_mismatch: Compare rows that are not trained alike; the table says so.
        overwrite: Train cells again whose settings have changed.
        export: Write model.onnx in every run.
        opset: Version of the ONNX operators in it, for an older runtime. [default: torch's choice]
    """
    from linnet.commands.compare import Question, Work, tell

    words = (listed(methods), numbers(seeds), listed(students), listed(teachers), listed(rows), out, config)
    question = Question(data, *words, typed_settings(), time, against)
    tell(question, Work(jobs, threads, cluster, overwrite, allow_mismatch), dry_run)


@app.command
@with_data_settings
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
        options=typed_settings(),
        overwrite=overwrite,
    )
    if file is not None:
        print(readable(file))


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
        classes: Other classes than those of the training, for a student of --method openvocab or dual: a,b,c or a file
            with one per line.
        bank: The same, as a bank file written by 'linnet embed'.
        top: How many classes to show for each image.
        json: One JSON object per line.
        csv: Comma-separated, with a header: path, class, probability, class_2, probability_2, ...
    """
    from linnet.commands.predict import predict as run_predict

    run_predict(model, images, classes, bank, top, json, csv)


@app.command
def evaluate(
    model: Path,
    data: str | None = None,
    /,
    *,
    split: Literal["test", "val", "train", "all"] | None = None,
    against: Path | None = None,
    classes: Literal["common"] | None = None,
    bank: Path | None = None,
    out: Path | None = None,
    on_error: Annotated[Literal["stop", "skip"] | None, Parameter(name="--data.on-error")] = None,
    overwrite: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """Score a trained student on labelled images: accuracies with intervals, each class, what it takes for what.

    Args:
        model: A run folder, or a model.onnx (torch is not needed then).
        data: Labelled images whose classes have the same names: a folder, or another source that 'linnet list data'
            shows. [default: the data of the run]
        split: The part of the data. [default: test; all, if data that are given have no test split]
        against: Another run or model.onnx, which is scored on the same images: is the difference real?
        classes: common leaves out images of classes that the model does not know, or that one of two does not know.
        bank: Other class names than those of the training, for a student of --method openvocab or dual: a file written
            by 'linnet embed'.
        out: Folder of the tables: per_class.csv, predictions.parquet, evaluation.json. [default:
            RUN/evaluation/DATA-SPLIT]
        on_error: What images that cannot be read do: stop names all of them, skip leaves them out. [default: as in the
            run]
        overwrite: Replace another evaluation that is in --out.
        json: Print evaluation.json instead of the page.
    """
    from linnet.commands.evaluate import evaluate as run_evaluate

    done = run_evaluate(
        model,
        data,
        split=split,
        against=against,
        classes=classes,
        bank=bank,
        out=out,
        overwrite=overwrite,
        on_error=on_error,
    )
    if json:
        print((done.folder / "evaluation.json").read_text(encoding="utf-8"), end="")
        return
    from linnet.report.evaluation import show

    show(done.numbers, done.classes, done.folder)


@app.command
def embed(
    *,
    classes: str,
    out: Path,
    teacher: str | None = None,
    run: Path | None = None,
    templates: Annotated[tuple[str, ...] | None, Parameter(negative="")] = None,
    descriptions: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """Write class names as a text bank, for predict --bank.

    Args:
        classes: Their names: a,b,c or a file with one per line.
        out: The bank, a .safetensors file.
        teacher: An id of 'linnet list teachers', or a text_tower.onnx (torch is not needed then).
        run: Instead of a teacher: a run, whose teacher, templates and learned prompts are used.
        templates: Sentences around a class name, as in "a photo of a {}."; their embeddings are averaged.
        descriptions: A YAML or JSON file that maps each class name to a sentence or a list of them.
        overwrite: Replace --out, if it exists.
    """
    from linnet.commands.embed import embed as make_bank

    check_out(out, overwrite)
    bank = make_bank(classes, teacher=teacher, run=run, templates=templates, descriptions=descriptions)
    bank.save(out)
    print(readable(out))


@app.command
def export(
    run: Path,
    /,
    *,
    text_tower: Annotated[bool, Parameter(negative="")] = False,
    out: Path | None = None,
    opset: int | None = None,
    overwrite: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> None:
    """Write the student of a run as ONNX, or its teacher's text tower.

    Args:
        run: A finished run.
        text_tower: Write the text tower and its tokenizer instead, so that new class names need no torch.
        out: The file. [default: model.onnx or text_tower.onnx in the run]
        opset: Version of the ONNX operators, for an older runtime. [default: torch's choice]
        overwrite: Replace --out, if it exists.
    """
    from linnet.commands.export import export as write

    print(readable(write(run, text_tower=text_tower, out=out, opset=opset, overwrite=overwrite)))


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
def list_(
    what: Literal["methods", "teachers", "students", "data", "runs"] = "methods", pattern: str | None = None, /
) -> None:
    """List what can be chosen, and the runs that were made.

    Args:
        what: methods, kinds of teachers, students (timm architectures), kinds of data, or runs.
        pattern: A method, to show its options; a pattern for students or teachers, as in 'resnet*'; or the folder of
            runs (default: runs).
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

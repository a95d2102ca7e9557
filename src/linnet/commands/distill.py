"""distill(): the whole story of a run on one page.

data -> teacher (cached) -> method -> training -> val and test -> ONNX
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from linnet import methods
from linnet.commands.checks import check_kept, check_run
from linnet.commands.finish import End, check_end, train_and_finish
from linnet.commands.without_data import distill_without_data, prepare_copy
from linnet.config import Config
from linnet.config_files import difference
from linnet.data.batches import FEW_SHOT_VERSION, TrainLoader, decode
from linnet.data.load import load_manifest
from linnet.data.manifest import Manifest, describe, in_two_classes, leaks
from linnet.data.mixing import VERSION as MIXING_VERSION
from linnet.data.novel import novel_data, training_part
from linnet.data.problems import as_csv, counts, report
from linnet.data.views import RECIPES
from linnet.defaults import default_folder, in_a_block, settings, with_precision
from linnet.deploy.export import check_opset
from linnet.errors import UserError, some_of
from linnet.evaluation.base_novel import NovelTest
from linnet.evaluation.long_tail import score_groups
from linnet.evaluation.score import Evaluation
from linnet.evaluation.verdict import judge_teacher
from linnet.fields import to_dict
from linnet.files import cache_folder, given_path, in_turn
from linnet.methods.base import Context
from linnet.processes import make_accelerator, said_by_the_first, seed_everything, team_around
from linnet.run import Run
from linnet.students.student import Student, check_start, student_of
from linnet.teachers import find_kind, load_teacher, load_text_encoder
from linnet.teachers.answers import Answers, ask, ask_together
from linnet.teachers.base import ClassifierTeacher, Teacher, TextEncoder, VisionLanguageTeacher
from linnet.teachers.heads import class_head
from linnet.teachers.precision import settled_precision
from linnet.teachers.prompts import class_templates, prompt_templates, with_room
from linnet.teachers.texts import check_class_texts, text_bank

log = logging.getLogger("linnet")


def distill(
    data: str | Path | None = None,
    *,
    teacher: str | None = None,
    student: str | None = None,
    method: str | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    config: Path | None = None,
    options: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Teach a small student and measure it. The same words as ``linnet distill``.

    Example:
        >>> run = linnet.distill("photos/", teacher="open_clip:ViT-B-16-SigLIP2/webli", out="runs/photos")
        >>> run.summary()["test.top1"]

    Args:
        out: the run folder. resume: go on with the run in it, with its own settings but for what is given here, which
            must be the same; data may lie elsewhere, if they are the same.
        overwrite: delete what is in it, as soon as all is ready for training. The others: see
            :func:`linnet.defaults.settings`.

    Returns:
        The finished run; its numbers are in ``run.summary()``, the student in ``run.model``, the ONNX file in
        ``run.onnx``.

    Raises:
        UserError: anything the user can mend, in one sentence.
    """
    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite deletes it: give one of them")
    named = {"teacher": teacher, "student": student, "method": method, "seed": seed}
    resolve = partial(settings, data, **named, config=config, options=options, timed=False)  # type: ignore[arg-type]
    run = Run(default_folder(resolve()[0]) if out is None else given_path(out, "out"))
    given, reasons = resolve(out=run.folder, resume=resume)
    check_opset(given.opset)
    accelerator = make_accelerator(None if given.logger == "none" else given.logger, run.folder)
    if not accelerator.is_main_process:
        log.setLevel(logging.ERROR)  # one process tells the story
    if not resume:
        run.check_free(overwrite)
    if overwrite:
        check_kept(given, run.folder)
    check_run(given, accelerator.num_processes, resume)
    story = prepared(given, accelerator)
    resolved, more = precise(given, run if resume else None, accelerator)
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            run = Run.open(run.folder, resolved, resume=resume, overwrite=overwrite)
    with _logging(run, accelerator):
        if resume and run.is_new:
            log.info("there is no run in %s to go on with: a new one begins", run.folder)
        if reasons := [*reasons, *more]:
            log.info("%s", in_a_block(reasons))
        story(resolved, run, accelerator, train_and_finish)
    accelerator.wait_for_everyone()  # or the others would return before summary.json is there
    return run


def dry_run(
    data: str | Path | None = None,
    *,
    config: Path | None = None,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
) -> str:
    """The settings that :func:`distill` would resolve, as YAML, with the reasons in comments.

    Raises:
        UserError: settings that are not understood, or that the method has no use for.
    """
    resolved, reasons = settings(data, config=config, options=options, out=out, resume=resume)
    methods.build(resolved.method, resolved.options).check_settings(resolved)
    comments = "".join(f"# {reason}\n" for reason in reasons)
    return comments + yaml.safe_dump(to_dict(resolved), sort_keys=False)


def prepared(config: Config, accelerator: Any) -> Callable[[Config, Run, Any, End], None]:
    """The rest of the run, with what can be read before its folder is touched; its last argument trains and scores."""
    if not methods.needs_data(config.method):
        return partial(distill_without_data, prepare_copy(config, accelerator))
    with accelerator.local_main_process_first():
        return partial(_distill, load_manifest(config.data))


@contextmanager
def _logging(run: Run, accelerator: Any) -> Iterator[None]:
    """What is logged in the block is in train.log. The run is closed after it."""
    handler = run.log_to_file() if accelerator.is_main_process else logging.NullHandler()
    try:
        if accelerator.is_main_process and run.is_new:  # else not before all is ready
            run.begin()
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
        run.close()


def precise(config: Config, resumed: Run | None, accelerator: Any) -> tuple[Config, list[str]]:
    """The configuration with its precision: the first process decides for all."""
    reasons: list[str] = []
    if accelerator.is_main_process:
        config, reasons = with_precision(config, resumed)
    precision: Any = said_by_the_first(accelerator, str(config.train.precision))
    return replace(config, train=replace(config.train, precision=precision)), reasons


def _tell_unscored(splits: Mapping[str, Manifest], config: Config) -> None:
    for part in ("val", "test"):
        names = splits[part].classes_without_images if part in splits else []
        if names and (part == "test" or config.shots.use != "finetune"):  # of novel classes val has none
            log.warning(
                "%s has no image of %d of %d classes: %s", part, len(names), len(splits[part].classes), some_of(names)
            )


def _distill(manifest: Manifest, config: Config, run: Run, accelerator: Any, end: End) -> None:
    device = accelerator.device
    log.info("data: %s", describe(manifest))
    rows = training_part(manifest, config)
    problems = [*manifest.problems, *in_two_classes(manifest), *leaks(rows)]
    report(problems, run.problems)
    if accelerator.is_main_process:
        run.write_problems(as_csv(problems) if problems else None)
    splits = {part: rows.take(rows.rows(part)) for part in ("train", "val", "test") if len(rows.rows(part))}
    _tell_unscored(splits, config)
    names_as_text = methods.takes_names(config.method)
    if manifest.novel and not names_as_text:
        log.info("novel classes are left out: '%s' trains a classifier, which cannot name them", config.method)
    method = methods.build(config.method, config.options)
    method.check_data(splits["train"])
    unseen = novel_data(manifest, config) if manifest.novel and names_as_text else None
    if accelerator.is_main_process:
        run.pin(data=manifest.content_hash, **{"number of processes": str(accelerator.num_processes)})
        run.pin_version(f"views {config.data.views}", RECIPES[config.data.views].version)
        if config.data.mix != "none":
            run.pin_version("mixed images", MIXING_VERSION)
        if config.shots.use == "finetune":
            run.pin_version("few-shot batches", FEW_SHOT_VERSION)
        if config.data.texts:
            run.pin(texts=manifest.texts_hash)
    config, teacher, encoder, student = _networks(config, manifest, rows, run, accelerator)
    if accelerator.is_main_process:
        check_end(config, run, student, len(manifest))
    with accelerator.local_main_process_first():  # the others find everything in the cache
        images = decode(config, splits)
    answers = _ask_teacher(config, teacher, splits, run, accelerator) if teacher else None
    judged = {}
    if answers and accelerator.is_main_process:
        judged = judge_teacher(config, run, answers, splits["val"])
    novel = None
    if names_as_text:
        assert isinstance(teacher, VisionLanguageTeacher)
        assert answers is not None
        if answers.settled.prompts:
            context_PW = answers.settled.prompts["context_PW"].to(device)
            student.set_bank(text_bank(teacher, rows.classes, prompt_templates(config), context_PW))
        if unseen and accelerator.is_main_process:
            assert student.bank is not None
            novel = NovelTest(config, unseen, teacher, student.bank, device)
    seed_everything(config.seed)
    train, head = splits["train"], answers.settled.head if answers else None
    answer = answers.train if answers else None
    given = (config, student.classes, student.width, teacher, head, train.texts, train.labels, encoder)
    method.prepare(Context(*given, answers=answer))
    del teacher, encoder, given  # its answers are cached: its memory is the student's now, unless novel classes wait
    place = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    loader = TrainLoader(config, splits["train"], images["train"], device, teacher=answer, **place)
    about = {**answers.about(config), **judged} if answers else {}
    logits, groups = answers.logits if answers else {}, score_groups(train, config.data.group_bounds)
    about |= {**method.about(), **groups.about, **counts(problems)}
    evaluation = Evaluation(splits, images, logits, about, groups.classes)
    end(config, run, accelerator, student, method, loader, evaluation, novel)


def _networks(
    config: Config, manifest: Manifest, rows: Manifest, run: Run, accelerator: Any
) -> tuple[Config, Teacher | None, TextEncoder | None, Student]:
    """The teacher, what reads texts, and the student; they fit each other and the classes.

    Args:
        rows: the part of the manifest that is trained on.

    Returns:
        The configuration, with room for novel classes in learned prompts, before the three.
    """
    names_as_text = methods.takes_names(config.method)
    # a teacher that has to know the classes is loaded, and one that is fine-tuned is not, before the student's weights
    # are fetched; an embedding head waits for the teacher's texts
    is_tuned = bool(config.teacher.id) and find_kind(config.teacher.id).fine_tuned
    teacher = None if is_tuned else _teacher(config, rows, accelerator)
    if isinstance(teacher, ClassifierTeacher):
        class_head(teacher, rows.classes, ())  # refuses other classes than its own
    student = None if names_as_text else student_of(config, rows.classes)
    if is_tuned:
        teacher = _teacher(config, rows, accelerator)
    encoder = _text_encoder(config, teacher, run, accelerator)
    named = manifest.classes if names_as_text else rows.classes
    if isinstance(teacher, VisionLanguageTeacher) and methods.needs_class_texts(config):
        check_class_texts(teacher, named, class_templates(config))
    if student is None:
        assert isinstance(teacher, VisionLanguageTeacher)
        if manifest.novel:  # they, too, meet the context vectors at the end
            config = with_room(config, teacher, manifest.classes)
        bank = text_bank(teacher, rows.classes, config.teacher.templates)
        student = student_of(config, rows.classes, bank, methods.student_head(config.method) == "dual")
        if config.shots.use == "finetune":
            novel_names = [manifest.classes[i].name for i in manifest.novel]
            check_start(student, Path(str(config.student.pretrained)), novel_names)
    return config, teacher, encoder, student


def _text_encoder(config: Config, teacher: Teacher | None, run: Run, accelerator: Any) -> TextEncoder | None:
    """What reads texts, for a method that needs it: often the teacher itself. The run is tied to it."""
    id = config.teacher.text_encoder
    if id is None:
        return None
    if isinstance(teacher, VisionLanguageTeacher) and teacher.id == id:
        encoder: TextEncoder = teacher
    else:
        with accelerator.local_main_process_first():
            encoder = load_text_encoder(id).to(accelerator.device)
    if accelerator.is_main_process:
        run.pin(**{"text encoder": encoder.fingerprint()})
    return encoder


def _teacher(config: Config, manifest: Manifest, accelerator: Any) -> Teacher | None:
    """The teacher; None for a method that needs none."""
    if not methods.needs_teacher(config.method, config.options):
        if config.teacher.id and config.teacher.id != config.teacher.text_encoder:
            log.info("the teacher %s is not used: '%s' learns without one", config.teacher.id, config.method)
        return None
    with accelerator.local_main_process_first():
        teacher = load_teacher(config.teacher.id)
    tuned = find_kind(teacher.id).fine_tuned
    if tuned and isinstance(teacher, ClassifierTeacher) and not teacher.knows(manifest.class_names):
        teacher = load_teacher(f"run:{_fine_tuned(config, manifest, teacher)}")
    return teacher.to(accelerator.device)


def _fine_tuned(config: Config, manifest: Manifest, teacher: ClassifierTeacher) -> Path:
    """A timm classifier, trained on this data's classes: once, in linnet's cache, whatever the student and its seed."""
    name, weights = teacher.start
    data = {key: value for key, value in to_dict(config)["data"].items() if not key.startswith("text")}
    options = {f"data.{key}": value for key, value in data.items() if value is not None}
    options |= {"student.pretrained": weights, "student.image_size": config.student.image_size, "export": False}
    options |= {f"student.{name}": getattr(config.student, name) for name in ("crop_mode", "crop_pct", "jpeg")}
    options |= {"train.epochs": config.train.epochs}
    own, _ = settings(config.data.source, method="ce", student=name, seed=0, options=options, timed=False)
    words = difference(Config(), own)  # a setting that is added to linnet later changes nothing
    if weights is not True:  # where they lie does not matter
        words = [*(line for line in words if not line.startswith("student.pretrained:")), teacher.fingerprint()]
    key = hashlib.sha256(json.dumps((manifest.content_hash, words)).encode()).hexdigest()[:16]
    folder = cache_folder() / "teachers" / f"{name}-{key}"
    with in_turn(folder.with_name(f".{folder.name}.lock")):  # several runs may need it at once
        _fine_tune(config, teacher, name, folder, options)
    return folder


def _fine_tune(config: Config, teacher: ClassifierTeacher, name: str, folder: Path, options: Mapping[str, Any]) -> None:
    """Train it, or go on, unless it is finished."""
    finished, damaged = Run(folder).is_finished, False
    if finished:
        try:
            Student.load(Run(folder).model)
        except UserError as error:
            log.warning("%s; the teacher is fine-tuned again", error)
            damaged = True
    if damaged or not finished:
        log.info(
            "teacher %s was trained on other classes: it is fine-tuned on these first, once, for %d epochs, as by "
            "'%s'; to choose how, do that yourself and give --teacher run:runs/teacher",
            *(config.teacher.id, config.train.epochs, teacher.how_to_tune()),
        )
        again = partial(distill, method="ce", student=name, out=folder, seed=0, options=options)
        again(config.data.source, resume=not damaged and Run(folder).config.exists(), overwrite=damaged)


def _ask_teacher(
    config: Config, teacher: Teacher, splits: Mapping[str, Manifest], run: Run, accelerator: Any
) -> Answers:
    """What the teacher says about the images; the run is tied to it."""
    if accelerator.is_main_process:
        run.pin(teacher=teacher.fingerprint())
    device, own = accelerator.device, ""
    if accelerator.is_main_process:
        own = settled_precision(teacher, splits["val"], config.teacher.still, device)
    teacher.precision = said_by_the_first(accelerator, own)
    ask_together(config, teacher, splits, device, team_around(accelerator))
    with accelerator.local_main_process_first():  # what is left, such as learned prompts, is done by one
        answers = ask(config, teacher, splits, device)
    if accelerator.is_main_process and answers.settled.prompts:
        run.write_prompts(answers.settled.prompts)
    return answers

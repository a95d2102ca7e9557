"""distill(): the whole story of a run on one page.

data -> teacher (cached) -> method -> training -> val and test -> ONNX
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from linnet import methods
from linnet.commands.checks import check_run
from linnet.config import Config
from linnet.data.batches import TrainLoader, decode
from linnet.data.load import load_manifest, scored_part
from linnet.data.manifest import Manifest, describe, in_two_classes, leaks
from linnet.data.novel import novel_data, training_part
from linnet.data.problems import as_csv, counts, report
from linnet.defaults import default_folder, settings, with_precision
from linnet.deploy.export import check_exportable, check_opset, export_onnx
from linnet.environment import version
from linnet.errors import UserError
from linnet.evaluation.base_novel import LAST_EPOCHS, NovelTest, in_words, score_novel
from linnet.evaluation.long_tail import score_groups
from linnet.evaluation.score import Evaluation, count_macs, count_parameters, score, student_logits
from linnet.evaluation.verdict import judge_accuracy, judge_teacher, said, verdict
from linnet.fields import to_dict
from linnet.files import cache_folder, check_space, given_path, readable
from linnet.methods.base import Context, Method
from linnet.metrics import top_k_accuracy
from linnet.processes import make_accelerator, said_by_the_first, seed_everything
from linnet.progress import Bar
from linnet.run import Run
from linnet.students.student import Student, check_start, student_of
from linnet.teachers import find_kind, load_teacher, load_text_encoder
from linnet.teachers.answers import Answers, ask, class_head, classifier_logits
from linnet.teachers.base import ClassifierTeacher, Teacher, TextEncoder, VisionLanguageTeacher
from linnet.teachers.prompts import class_templates, prompt_templates, with_room
from linnet.teachers.texts import check_class_texts, text_bank
from linnet.training import Task, TrainResult, train

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
    named = {"teacher": teacher, "student": student, "method": method, "seed": seed}
    resolve = partial(settings, data, **named, config=config, options=options, timed=False)  # type: ignore[arg-type]
    run = Run(default_folder(resolve()[0]) if out is None else given_path(out, "out"))
    given, reasons = resolve(out=run.folder, resume=resume)
    check_opset(given.opset)
    accelerator = make_accelerator()
    if not accelerator.is_main_process:
        log.setLevel(logging.ERROR)  # one process tells the story
    if not resume:
        run.check_free(overwrite)
    check_run(given, accelerator.num_processes)
    story: Callable[[Config, Run, Any], None]
    if methods.needs_data(given.method):
        with accelerator.local_main_process_first():
            story = partial(_distill, load_manifest(given.data))
    else:
        story = partial(_distill_without_data, _prepare_copy(given, accelerator))
    resolved, more = _precise(given, run if resume else None, accelerator)
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            run = Run.open(run.folder, resolved, resume=resume, overwrite=overwrite)
    handler = run.log_to_file() if accelerator.is_main_process else logging.NullHandler()
    try:
        if accelerator.is_main_process and (resume or not run.has_results):  # else not before all is ready
            run.begin()
        for reason in [*reasons, *more]:
            log.info("auto: %s", reason)
        story(resolved, run, accelerator)
    finally:
        log.removeHandler(handler)
        handler.close()
        run.close()
    accelerator.wait_for_everyone()  # or the others would return before summary.json is there
    return run


def _precise(config: Config, resumed: Run | None, accelerator: Any) -> tuple[Config, list[str]]:
    """The configuration with its precision: the first process decides for all."""
    reasons: list[str] = []
    if accelerator.is_main_process:
        config, reasons = with_precision(config, resumed)
    precision: Any = said_by_the_first(accelerator, str(config.train.precision))
    return replace(config, train=replace(config.train, precision=precision)), reasons


def _distill(manifest: Manifest, config: Config, run: Run, accelerator: Any) -> None:
    device = accelerator.device
    log.info("data: %s", describe(manifest))
    rows = training_part(manifest, config)
    problems = [*manifest.problems, *in_two_classes(manifest), *leaks(rows)]
    report(problems, run.problems)
    if accelerator.is_main_process:
        run.write_problems(as_csv(problems) if problems else None)
    splits = {part: rows.take(rows.rows(part)) for part in ("train", "val", "test") if len(rows.rows(part))}
    names_as_text = methods.student_head(config.method) == "embedding"
    if manifest.novel and not names_as_text:
        log.info("novel classes are left out: '%s' trains a classifier, which cannot name them", config.method)
    method = methods.build(config.method, config.options)
    method.check_data(splits["train"])
    unseen = novel_data(manifest, config) if manifest.novel and names_as_text else None
    if accelerator.is_main_process:
        run.pin(data=manifest.content_hash, **{"number of processes": str(accelerator.num_processes)})
        if config.data.texts:
            run.pin(texts=manifest.texts_hash)
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
        student = student_of(config, rows.classes, text_bank(teacher, rows.classes, config.teacher.templates))
        if config.shots.use == "finetune":
            novel_names = [manifest.classes[i].name for i in manifest.novel]
            check_start(student, Path(str(config.student.pretrained)), novel_names)
    if accelerator.is_main_process:
        _check_end(config, run, student, len(manifest))
    with accelerator.local_main_process_first():  # the others find everything in the caches
        images = decode(config, splits)
        answers = _ask_teacher(config, teacher, splits, run, accelerator) if teacher else None
    judged = {}
    if answers and accelerator.is_main_process:
        judged = judge_teacher(config, run, answers, splits["train"], splits["val"])
    novel = None
    if names_as_text:
        assert isinstance(teacher, VisionLanguageTeacher)
        assert answers is not None
        if answers.prompts:
            context_PW = answers.prompts["context_PW"].to(device)
            student.set_bank(text_bank(teacher, rows.classes, prompt_templates(config), context_PW))
        if unseen and accelerator.is_main_process:
            assert student.bank is not None
            novel = NovelTest(config, unseen, teacher, student.bank, device)
    seed_everything(config.seed)
    train, head = splits["train"], answers.head if answers else None
    method.prepare(Context(config, student.classes, student.width, teacher, head, train.texts, train.labels, encoder))
    del teacher, encoder  # its answers are cached: its memory is the student's now, unless novel classes wait for it
    place = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    answer = answers.train if answers else None
    loader = TrainLoader(config, splits["train"], images["train"], device, teacher=answer, **place)
    about = {**answers.about(config), **judged} if answers else {}
    logits, groups = answers.logits if answers else {}, score_groups(train, config.data.group_bounds)
    about |= {**method.about(), **groups.about, **counts(problems)}
    evaluation = Evaluation(splits, images, logits, about, groups.classes)
    _train_and_finish(config, run, accelerator, student, method, loader, evaluation, novel)


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


class Copy(NamedTuple):
    """What a method without data works with: all of it is checked before the run folder is touched."""

    teacher: ClassifierTeacher
    student: Student
    method: Method
    scored: dict[str, Manifest]


def _prepare_copy(config: Config, accelerator: Any) -> Copy:
    """Classes are the teacher's, images the method's own; data only score."""
    teacher = load_teacher(config.teacher.id)
    assert isinstance(teacher, ClassifierTeacher)
    student = student_of(config, teacher.classes)
    scored = scored_part(config, student.classes) if config.data.eval else {}
    if config.train.channels_last:
        teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher.to(accelerator.device)
    seed_everything(config.seed)
    method, shapes = methods.build(config.method, config.options), student.map_shapes()
    method.prepare(Context(config, student.classes, student.width, teacher, None, student_maps=shapes))
    return Copy(teacher, student, method, scored)


def _distill_without_data(copy: Copy, config: Config, run: Run, accelerator: Any) -> None:
    teacher, student, method, scored = copy
    run.pin(teacher=teacher.fingerprint())
    _check_end(config, run, student, sum(map(len, scored.values())))
    log.info("data: none; %s knows %d classes", teacher.id, len(student.classes))
    about: dict[str, Any] = {"teacher.id": teacher.id, "teacher.views": "center", "teacher.head": "classifier"}
    problems = next(iter(scored.values())).problems if scored else ()
    report(problems, run.problems)
    run.write_problems(as_csv(problems) if problems else None)
    about |= counts(problems)
    images, logits = decode(config, scored) if scored else {}, {}
    for part, rows in scored.items():
        logits[part] = classifier_logits(teacher, rows, part, config.teacher.cache, accelerator.device)
        top1 = top_k_accuracy(logits[part], rows.labels)
        log.info("scored on: %d %s images of %s (teacher %.1f %%)", len(rows), part, config.data.eval, 100 * top1)
        about |= {"data.eval": config.data.eval} | ({"teacher.classifier.val.top1": top1} if part == "val" else {})
    if "val" in scored:
        about |= said(*judge_accuracy(teacher.id, logits["val"], scored["val"].labels))
    _train_and_finish(config, run, accelerator, student, method, None, Evaluation(scored, images, logits, about))


def _check_end(config: Config, run: Run, student: Student, images: int) -> None:
    """What only the last steps need is tried before the first.

    Args:
        images: how many there are, whose predictions are written.

    Raises:
        UserError: the student cannot be exported, or the disk has no room for the run.
    """
    weights = 4 * count_parameters(student)
    moments = 1 if config.train.optimizer == "sgd" else 2
    last = (1 + moments) * weights
    # at an epoch's end two checkpoints and the best student; at the run's end one, model/, model.onnx and the logits
    needed = max(2 * last + weights, last + 3 * weights + 4 * images * len(student.classes))
    there = sum(path.stat().st_size for path in run.checkpoints.glob("**/*") if path.is_file())
    check_space(run.folder, needed - there, "the run")
    if config.export:
        check_exportable(student, config.opset)


def _train_and_finish(
    config: Config,
    run: Run,
    accelerator: Any,
    student: Student,
    method: Method,
    loader: TrainLoader | None,
    evaluation: Evaluation,
    novel: NovelTest | None = None,
) -> None:
    device, splits, images = accelerator.device, evaluation.splits, evaluation.images

    def validate(now: Student) -> float | None:
        if "val" not in splits:
            return None
        return top_k_accuracy(student_logits(now, images["val"], device), splits["val"].labels)

    def note(row: dict[str, Any]) -> str:
        val = f"  val top-1 {100 * row['val.top1']:.1f} %" if "val.top1" in row else ""
        return f"loss {row['loss']:.3f}{val}"

    if accelerator.is_main_process:
        run.begin()
    task = Task(student, method, config.train.precision).to(device)
    if config.train.channels_last:
        task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with Bar(f"{config.method} -> {config.student.name}", config.train.epochs) as bar:
        result = train(
            task,
            method.batches(loader, student),
            config.train,
            run,
            accelerator,
            config.seed,
            validate,
            on_epoch=lambda row: bar.update(row["epoch"], note(row)),
            keep_last=LAST_EPOCHS if novel else 0,
            on_step=lambda step, steps: bar.inside(step / steps, f"step {step} of {steps}"),
        )
    if accelerator.is_main_process:
        _finish(config, run, result, evaluation, novel, device)


def _finish(
    config: Config,
    run: Run,
    result: TrainResult,
    evaluation: Evaluation,
    novel: NovelTest | None,
    device: torch.device,
) -> None:
    """Score the kept student on val and, once, on test; save and export it; write summary.json last."""
    try:
        student = Student.load(run.best_student).to(device)
    except UserError as error:
        raise UserError(f"{error}; to train again, delete {run.checkpoints} and give --resume") from error
    student.save(run.model)
    summary: dict[str, Any] = {"method": config.method, "student.name": config.student.name, "seed": config.seed}
    summary |= {
        "data.source": config.data.source and readable(config.data.source),
        "teacher.id": None,
        **evaluation.teacher,
    }
    counts = {f"images.{part}": len(rows) for part, rows in evaluation.splits.items()}
    summary |= {"classes": len(student.classes), **counts}
    summary |= score(student, evaluation, run, device)
    if novel:
        summary |= score_novel(novel, student, run)
        log.info("%s", in_words(summary))
    summary |= {"student.params": count_parameters(student), "student.macs": count_macs(student)}
    summary |= {"train.epochs": config.train.epochs, "train.best_epoch": result.best_epoch}
    summary |= {"train.seconds": round(result.seconds, 2)}
    summary |= {"train.images_per_second": round(result.images_per_second, 1), "linnet.version": version("linnet")}
    if config.export:
        try:  # compared with the student on val images (or test images; without any, on noise)
            images = evaluation.images.get("val", evaluation.images.get("test"))
            summary["onnx.max_difference"] = export_onnx(student, run.onnx, images, config.opset)
        except UserError as error:
            log.warning("model.onnx was not written: %s", error)
    summary |= verdict(run, config, summary)
    run.write_summary(summary)
    if config.train.checkpoint == "drop":
        run.last_checkpoint.unlink(missing_ok=True)
    log.info("%s: %s", readable(run.folder), _in_words(summary))


def _in_words(summary: Mapping[str, Any]) -> str:
    parts = [f"val top-1 {100 * summary['val.top1']:.1f} %"] if "val.top1" in summary else []
    if "test.top1" in summary:
        return ", ".join([*parts, f"test top-1 {100 * summary['test.top1']:.1f} % on {summary['images.test']} images"])
    return f"{parts[0]} (val only: there is no test split)" if parts else "not scored: there are no labelled images"


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
    options |= {"student.crop_mode": config.student.crop_mode, "train.epochs": config.train.epochs}
    own, _ = settings(config.data.source, method="ce", student=name, seed=0, options=options, timed=False)
    words = to_dict(own)
    if weights is not True:  # where they lie does not matter
        words["student"]["pretrained"] = teacher.fingerprint()
    key = hashlib.sha256(json.dumps((manifest.content_hash, words), sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / "teachers" / f"{name}-{key}"
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
        again(config.data.source, resume=not damaged, overwrite=damaged)
    log.info("teacher %s, fine-tuned: %s", config.teacher.id, folder)
    return folder


def _ask_teacher(
    config: Config, teacher: Teacher, splits: Mapping[str, Manifest], run: Run, accelerator: Any
) -> Answers:
    """What the teacher says about the images; the run is tied to it."""
    if accelerator.is_main_process:
        run.pin(teacher=teacher.fingerprint())
    answers = ask(config, teacher, splits, accelerator.device)
    if accelerator.is_main_process and answers.prompts:
        run.write_prompts(answers.prompts)
    return answers

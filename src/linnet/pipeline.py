"""distill(): the whole story of a run on one page.

data -> teacher (cached) -> method -> training -> val and test -> ONNX
"""

import atexit
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from linnet import methods
from linnet.banks import TextBank
from linnet.config import Config, to_dict
from linnet.data.batches import TrainLoader
from linnet.data.images import Images
from linnet.data.manifest import ClassInfo, Manifest, describe, leaked, load_manifest
from linnet.data.names import class_sentences
from linnet.data.novel import novel_data, training_part
from linnet.data.scored import scored_part
from linnet.data.views import RECIPES
from linnet.errors import UserError
from linnet.evaluation.metrics import top_k_accuracy
from linnet.evaluation.novel import LAST_EPOCHS, NovelTest
from linnet.evaluation.score import student_logits
from linnet.files import cache_folder
from linnet.finish import Evaluation, finish
from linnet.methods.base import Context
from linnet.progress import Bar
from linnet.run import Run
from linnet.settings import settings
from linnet.students import Student
from linnet.teachers import ClassifierTeacher, Teacher, VisionLanguageTeacher, knows, load_teacher
from linnet.teachers.answers import Answers, ask, classifier_logits
from linnet.teachers.prompts import prompt_templates
from linnet.teachers.text import text_bank
from linnet.teachers.timm import TimmTeacher
from linnet.training import Task, seed_everything, train

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
        out: the run folder. resume: go on with the run in it (its own settings, if no data and no config are given).
        overwrite: delete what is in it. The others: see :func:`linnet.settings.settings`.

    Returns:
        The finished run; its numbers are in ``run.summary()``, the student in ``run.model``, the ONNX file in
        ``run.onnx``.

    Raises:
        UserError: anything the user can mend, in one sentence.
    """
    if resume and out and data is None and config is None and (Path(out) / "config.yaml").exists():
        config = Path(out) / "config.yaml"
    resolved, reasons = settings(
        data, teacher=teacher, student=student, method=method, seed=seed, config=config, options=options
    )
    accelerator = _accelerator()
    if not accelerator.is_main_process:
        log.setLevel(logging.ERROR)  # one process tells the story
    if methods.needs_data(resolved.method):
        with accelerator.local_main_process_first():
            story = partial(_distill, resolved, load_manifest(resolved.data))
    else:
        story = partial(_distill_without_data, resolved, _prepare_copy(resolved, accelerator))
    run = Run(Path(out or default_folder(resolved)))
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            run = Run.create(run.folder, resolved, resume=resume, overwrite=overwrite)
    handler = run.log_to_file() if accelerator.is_main_process else logging.NullHandler()
    try:
        for reason in reasons:
            log.info("auto: %s", reason)
        story(run, accelerator)
    finally:
        log.removeHandler(handler)
        handler.close()
        run.close()
    accelerator.wait_for_everyone()  # or the others would return before summary.json is there
    return run


def default_folder(config: Config) -> Path:
    """``runs/photos-kd-s0``, ``runs/aviary-species=60-kd-s0``, ``runs/resnet34-dfkd-s0``."""
    source = config.data.source or (config.teacher.id or "").partition(":")[2]  # without data: what is copied
    kind, _, details = source.partition(":")
    name = f"{kind}-{details}".rstrip("-") if kind == "aviary" else Path(source).resolve().name
    return Path("runs") / re.sub(r"[^\w.=+-]+", "-", f"{name}-{config.method}-s{config.seed}")


def _accelerator() -> Any:
    """One process, or those that torchrun or accelerate started."""
    from accelerate import Accelerator, InitProcessGroupKwargs

    # while the first process asks the teacher, the others wait: longer than the half hour that is usual
    patience = InitProcessGroupKwargs(timeout=timedelta(days=1))
    atexit.register(_leave_the_others)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    on_cpu = several and not torch.cuda.is_available()  # Accelerate joins processes without a GPU only if told so
    return Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[patience])


def _leave_the_others() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _distill(config: Config, manifest: Manifest, run: Run, accelerator: Any) -> None:
    device = accelerator.device
    log.info("data: %s", describe(manifest))
    rows = training_part(manifest, config)
    if duplicates := leaked(rows):
        log.warning("%d val or test images are byte for byte also in train: the scores flatter every model", duplicates)
    splits = {part: rows.take(rows.rows(part)) for part in ("train", "val", "test") if len(rows.rows(part))}
    names_as_text = methods.student_head(config.method) == "embedding"
    if config.shots.count is not None and not names_as_text:
        raise UserError(f"--shots needs a student that takes class names as text, and '{config.method}' trains none")
    if manifest.novel and not names_as_text:
        log.info("novel classes are left out: '%s' trains a classifier, which cannot name them", config.method)
    unseen = novel_data(manifest, config) if manifest.novel and names_as_text else None
    # a misspelt student is known before a teacher is loaded; an embedding head waits for the teacher's texts
    student = None if names_as_text else _student(config, rows.classes)
    if accelerator.is_main_process:
        run.pin(data=manifest.content_hash, **{"number of processes": str(accelerator.num_processes)})
    teacher = _teacher(config, rows, accelerator)
    if student is None:
        assert isinstance(teacher, VisionLanguageTeacher)
        config = _with_room(config, teacher.to(device), manifest)
        student = _student(config, rows.classes, text_bank(teacher, rows.classes, config.teacher.templates))
        _check_start(config, student, manifest)
    with accelerator.local_main_process_first():  # the others find everything in the caches
        images = _decode(config, splits)
        answers = _ask_teacher(config, teacher, splits, run, accelerator) if teacher else None
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
    seed_everything(config.seed, 0, 0)
    method, head = methods.build(config.method, config.options), answers.head if answers else None
    method.prepare(Context(config, student.classes, student.width, teacher, head, splits["train"].texts))
    del teacher  # its answers are cached: its memory is the student's now, unless novel classes wait for it
    loader = _loader(config, splits["train"], images["train"], answers, manifest.novel, accelerator)
    about = _about_teacher(config, answers) if answers else {}
    evaluation = Evaluation(splits, images, answers.logits if answers else {}, about, novel)
    _train_and_finish(config, run, accelerator, student, method, loader, evaluation)


class Copy(NamedTuple):
    """What a method without data works with: all of it is checked before the run folder is touched."""

    teacher: ClassifierTeacher
    student: Student
    method: methods.Method
    scored: dict[str, Manifest]


def _prepare_copy(config: Config, accelerator: Any) -> Copy:
    """Classes are the teacher's, images the method's own; data only score."""
    if accelerator.num_processes > 1:
        raise UserError(f"'{config.method}' works in one process: start it without torchrun or accelerate")
    teacher = load_teacher(config.teacher.id or "")
    assert isinstance(teacher, ClassifierTeacher)
    student = _student(config, teacher.classes)
    scored = scored_part(config, student.classes) if config.data.eval else {}
    if config.train.channels_last:
        teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher.to(accelerator.device)
    seed_everything(config.seed, 0, 0)
    method, shapes = methods.build(config.method, config.options), student.map_shapes()
    method.prepare(Context(config, student.classes, student.width, teacher, None, student_maps=shapes))
    return Copy(teacher, student, method, scored)


def _distill_without_data(config: Config, copy: Copy, run: Run, accelerator: Any) -> None:
    teacher, student, method, scored = copy
    run.pin(teacher=teacher.fingerprint())
    log.info("data: none; %s knows %d classes", teacher.id, len(student.classes))
    about: dict[str, Any] = {"teacher.id": teacher.id, "teacher.views": "center", "teacher.head": "classifier"}
    images, logits = _decode(config, scored) if scored else {}, {}
    for part, rows in scored.items():
        logits[part] = classifier_logits(teacher, rows, part, config.teacher.cache, accelerator.device)
        top1 = top_k_accuracy(logits[part], rows.labels)
        log.info("scored on: %d %s images of %s (teacher %.1f %%)", len(rows), part, config.data.eval, 100 * top1)
        about |= {"data.eval": config.data.eval} | ({"teacher.classifier.val.top1": top1} if part == "val" else {})
    _train_and_finish(config, run, accelerator, student, method, None, Evaluation(scored, images, logits, about))


def _train_and_finish(
    config: Config,
    run: Run,
    accelerator: Any,
    student: Student,
    method: methods.Method,
    loader: TrainLoader | None,
    evaluation: Evaluation,
) -> None:
    device, splits, images = accelerator.device, evaluation.splits, evaluation.images

    def validate(now: Student) -> float | None:
        if "val" not in splits:
            return None
        return top_k_accuracy(student_logits(now, images["val"], device), splits["val"].labels)

    def note(row: dict[str, Any]) -> str:
        val = f"  val top-1 {100 * row['val.top1']:.1f} %" if "val.top1" in row else ""
        return f"loss {row['loss']:.3f}{val}"

    task = Task(student, method, config.train.precision or "fp32").to(device)
    if config.train.channels_last:
        task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with Bar(f"{config.method} -> {config.student.name}", config.train.epochs or 0) as bar:
        result = train(
            task,
            method.batches(loader, student),
            config.train,
            run,
            accelerator,
            config.seed,
            validate,
            on_epoch=lambda row: bar.update(row["epoch"], note(row)),
            keep_last=LAST_EPOCHS if evaluation.novel else 0,
        )
    if accelerator.is_main_process:
        finish(config, run, result, evaluation, device)


def _student(config: Config, classes: tuple[ClassInfo, ...], bank: TextBank | None = None) -> Student:
    own = config.student
    seed_everything(config.seed, 0, 0)
    return Student(own.name or "", classes, own.image_size or 0, own.pretrained or False, own.stem, own.crop_mode, bank)


def _check_start(config: Config, student: Student, manifest: Manifest) -> None:
    """Few-shot finetuning goes on from a student of the same teacher that has not seen the novel classes."""
    if config.shots.use != "finetune":
        return
    path = config.student.pretrained
    earlier = Student.load(Path(str(path)))
    if earlier.bank is None or student.bank is None:
        raise UserError(f"the student at {path} has a classifier: finetuning goes on from one of --method openvocab")
    student.bank.check_teacher(earlier.bank.teacher_hash, f"the student at {path}")
    seen = {info.name for info in earlier.classes} & {manifest.classes[i].name for i in manifest.novel}
    if seen:
        raise UserError(
            f"the student at {path} was trained on {len(seen)} of the classes that are novel here, such as "
            f"'{min(seen)}': its score on them would say nothing; give both runs the same --data.novel and --data.seed"
        )


def _loader(
    config: Config, rows: Manifest, images: Images, answers: Answers | None, novel: tuple[int, ...], accelerator: Any
) -> TrainLoader:
    """Batches of the training rows; in few-shot finetuning half of each is of novel classes."""
    return TrainLoader(
        images,
        rows.labels,
        rows.digests,
        recipe=config.data.views or "light",
        batch_size=config.train.batch_size,
        size=config.student.image_size or 0,
        data_seed=config.data.seed,
        seed=config.seed,
        device=accelerator.device,
        teacher=answers.train if answers else None,
        replay=config.teacher.replay,
        few=np.isin(rows.labels, novel) if config.shots.use == "finetune" else None,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=config.data.workers or 0,
    )


def _decode(config: Config, splits: Mapping[str, Manifest]) -> dict[str, Images]:
    size, limit, crop_mode = config.student.image_size or 0, config.data.store_limit_gb, config.student.crop_mode
    fit = RECIPES[config.data.views or "light"].fit
    images = {
        part: Images(rows.paths, rows.digests, size, fit if part == "train" else "eval", limit, crop_mode)
        for part, rows in splits.items()
    }
    stored = sum(part.file.stat().st_size for part in images.values() if part.stored) / 1e6
    folder = next(iter(images.values())).file.parent
    log.info("images: %.0f MB decoded once, memory-mapped from %s", stored, folder)
    return images


def _teacher(config: Config, manifest: Manifest, accelerator: Any) -> Teacher | None:
    """The teacher, checked to be of the kind that the method needs; None for a method that needs none."""
    if not methods.needs_teacher(config.method):
        return None
    with accelerator.local_main_process_first():
        teacher = load_teacher(config.teacher.id or "")
    for need in methods.needs_teacher(config.method) - {"any"}:
        if teacher.kind != need:
            raise UserError(f"the method '{config.method}' needs a {need} teacher; '{teacher.id}' is a {teacher.kind}")
    if methods.student_head(config.method) == "embedding" and config.teacher.head == "probe":
        raise UserError(f"the method '{config.method}' needs class texts, which --teacher.head probe does not use")
    _, _, name = teacher.id.partition("timm:")
    if isinstance(teacher, TimmTeacher) and ":" not in name and not knows(teacher, manifest.class_names):
        return load_teacher(f"run:{_fine_tuned(config, manifest, name)}")
    return teacher


def _with_room(config: Config, teacher: VisionLanguageTeacher, manifest: Manifest) -> Config:
    """No more context vectors than fit before the names of novel classes, too, which meet them at the end. Where none
    fits, learning them is refused as it is for any class text."""
    if not manifest.novel:
        return config
    room = teacher.room([class_sentences(info, prompt_templates(config))[0] for info in manifest.classes])
    return replace(config, prompts=replace(config.prompts, vectors=min(config.prompts.vectors, room)))


def _fine_tuned(config: Config, manifest: Manifest, name: str) -> Path:
    """A timm classifier, trained on this data's classes: once, in linnet's cache, whatever the student and its seed."""
    options = {f"data.{key}": value for key, value in to_dict(config)["data"].items() if value is not None}
    options |= {"student.pretrained": True, "student.image_size": config.student.image_size, "export": False}
    options |= {"student.crop_mode": config.student.crop_mode, "train.epochs": config.train.epochs}
    resolved, _ = settings(config.data.source, method="ce", student=name, seed=0, options=options)
    words = repr((manifest.content_hash, to_dict(resolved)))
    folder = cache_folder() / "teachers" / f"{name}-{hashlib.sha256(words.encode()).hexdigest()[:16]}"
    if not Run(folder).is_finished:
        log.info(
            "teacher timm:%s was trained on other classes: it is fine-tuned on these first, once, for %d epochs, as by "
            "'linnet distill DATA --method ce --student %s --out runs/teacher'; to choose how, do that yourself and "
            "give --teacher run:runs/teacher",
            *(name, config.train.epochs, name),
        )
        distill(config.data.source, method="ce", student=name, out=folder, seed=0, options=options, resume=True)
    log.info("teacher timm:%s, fine-tuned: %s", name, folder)
    return folder


def _ask_teacher(
    config: Config, teacher: Teacher, splits: Mapping[str, Manifest], run: Run, accelerator: Any
) -> Answers:
    """What the teacher says about the images; the run is tied to it."""
    if accelerator.is_main_process:
        run.pin(teacher=teacher.fingerprint())
    answers = ask(config, teacher.to(accelerator.device), splits, accelerator.device)
    if accelerator.is_main_process and answers.prompts:
        run.write_prompts(answers.prompts)
    return answers


def _about_teacher(config: Config, answers: Answers) -> dict[str, Any]:
    about = {"teacher.id": config.teacher.id, "teacher.views": config.teacher.views, "teacher.head": answers.head_name}
    return about | {f"teacher.{head}.val.top1": value for head, value in answers.val_top1.items()}

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
from pathlib import Path
from typing import Any

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
from linnet.data.views import RECIPES
from linnet.errors import UserError
from linnet.evaluation.metrics import agreement, all_metrics, top_k_accuracy
from linnet.evaluation.novel import LAST_EPOCHS, NovelTest, score_novel, words
from linnet.evaluation.score import count_macs, count_parameters, student_logits, write_predictions
from linnet.files import cache_folder
from linnet.methods.base import Context
from linnet.onnx_export import export_onnx
from linnet.progress import Bar
from linnet.run import Run, version
from linnet.settings import settings
from linnet.students import Student
from linnet.teachers import Teacher, VisionLanguageTeacher, knows, load_teacher
from linnet.teachers.answers import Answers, ask
from linnet.teachers.prompts import prompt_templates
from linnet.teachers.text import text_bank
from linnet.teachers.timm import TimmTeacher
from linnet.training import Task, TrainResult, seed_everything, train

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
    with accelerator.local_main_process_first():
        manifest = load_manifest(resolved.data)
    run = Run(Path(out or default_folder(resolved)))
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            run = Run.create(run.folder, resolved, resume=resume, overwrite=overwrite)
    handler = run.log_to_file() if accelerator.is_main_process else logging.NullHandler()
    try:
        for reason in reasons:
            log.info("auto: %s", reason)
        _distill(resolved, manifest, run, accelerator)
    finally:
        log.removeHandler(handler)
        handler.close()
        run.close()
    accelerator.wait_for_everyone()  # or the others would return before summary.json is there
    return run


def default_folder(config: Config) -> Path:
    """``runs/photos-kd-s0``, ``runs/aviary-species=60-kd-s0``."""
    kind, _, details = (config.data.source or "").partition(":")
    name = f"{kind}-{details}".rstrip("-") if kind == "aviary" else Path(config.data.source or "").resolve().name
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
    method = methods.build(config.method, config.options)
    seed_everything(config.seed, 0, 0)
    head, captions = answers.head if answers else None, splits["train"].texts
    method.prepare(Context(config, student.classes, student.width, teacher, head, captions))
    del teacher  # its answers are cached: its memory is the student's now, unless novel classes wait for it
    task = Task(student, method, config.train.precision or "fp32").to(device)
    if config.train.channels_last:
        student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with Bar(f"{config.method} -> {config.student.name}", config.train.epochs or 0) as bar:
        result = train(
            task,
            _loader(config, splits["train"], images["train"], answers, manifest.novel, accelerator),
            config.train,
            run,
            accelerator,
            config.seed,
            validate=lambda now: top_k_accuracy(student_logits(now, images["val"], device), splits["val"].labels),
            on_epoch=lambda row: bar.update(
                row["epoch"], f"loss {row['loss']:.3f}  val top-1 {100 * row['val.top1']:.1f} %"
            ),
            keep_last=LAST_EPOCHS if novel else 0,
        )
    if accelerator.is_main_process:
        _finish(config, run, result, splits, images, answers, novel, device)


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
    log.info("images: %.0f MB decoded once, memory-mapped from %s", stored, images["train"].file.parent)
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


def _finish(
    config: Config,
    run: Run,
    result: TrainResult,
    splits: Mapping[str, Manifest],
    images: Mapping[str, Images],
    answers: Answers | None,
    novel: NovelTest | None,
    device: torch.device,
) -> None:
    """Score the selected student on val and, once, on test; save and export it; write summary.json last."""
    teacher_logits = answers.logits if answers else {}
    student = Student.load(run.checkpoints / "best").to(device)
    student.save(run.model)
    summary: dict[str, Any] = {"method": config.method, "student.name": config.student.name, "seed": config.seed}
    summary |= {"data.source": config.data.source, "teacher.id": config.teacher.id if answers else None}
    if answers:
        summary |= {"teacher.views": config.teacher.views, "teacher.head": answers.head_name}
        summary |= {f"teacher.{head}.val.top1": value for head, value in answers.val_top1.items()}
    summary |= {"classes": len(student.classes), **{f"images.{part}": len(rows) for part, rows in splits.items()}}
    summary |= _score(student, splits, images, teacher_logits, run, device)
    if novel:
        summary |= score_novel(novel, student, run)
        log.info("%s", words(summary))
    summary |= {"student.params": count_parameters(student), "student.macs": count_macs(student)}
    summary |= {"train.epochs": config.train.epochs, "train.best_epoch": result.best_epoch}
    summary |= {"train.seconds": round(result.seconds, 2)}
    summary |= {"train.images_per_second": round(result.images_per_second, 1), "linnet.version": version("linnet")}
    if config.export:
        summary |= _export(student, images["val"], run)
    run.write_summary(summary)
    log.info("%s: val top-1 %.1f %%%s", run.folder, 100 * summary["val.top1"], _test_words(summary))
    if summary.get("teacher.val.top1", 1.0) < summary["val.top1"]:
        log.warning("the teacher is worse than its student on val: consider a better teacher, or ce")


def _score(
    student: Student,
    splits: Mapping[str, Manifest],
    images: Mapping[str, Images],
    teacher_logits: Mapping[str, np.ndarray],
    run: Run,
    device: torch.device,
) -> dict[str, float]:
    """Val, and test once, with the student alone; the teacher on the same images beside it."""
    summary: dict[str, float] = {}
    for name in [name for name in ("val", "test") if name in splits]:
        logits, labels = student_logits(student, images[name], device), splits[name].labels
        summary |= {f"{name}.{key}": value for key, value in all_metrics(logits, labels).items()}
        if name in teacher_logits:
            summary[f"{name}.teacher_agreement"] = agreement(logits, teacher_logits[name])
            summary |= {
                f"teacher.{name}.{key}": value for key, value in all_metrics(teacher_logits[name], labels).items()
            }
        write_predictions(run.predictions / f"{name}.parquet", splits[name], logits, teacher_logits.get(name))
    return summary


def _export(student: Student, images: Images, run: Run) -> dict[str, float]:
    try:
        return {"onnx.max_difference": export_onnx(student, run.onnx, images)}
    except UserError as error:
        log.warning("model.onnx was not written: %s", error)
        return {}


def _test_words(summary: Mapping[str, Any]) -> str:
    if "test.top1" not in summary:
        return " (val only: there is no test split)"
    return f", test top-1 {100 * summary['test.top1']:.1f} % on {summary['images.test']} images"

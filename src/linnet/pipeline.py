"""distill(): the whole story of a run on one page.

data -> teacher (cached) -> method -> training -> val and test -> ONNX
"""

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linnet import methods
from linnet.config import Config
from linnet.data.batches import TrainLoader
from linnet.data.images import Images
from linnet.data.manifest import Manifest, describe, leaked, load_manifest
from linnet.errors import UserError
from linnet.evaluation.metrics import agreement, all_metrics, top_k_accuracy
from linnet.evaluation.score import count_macs, count_parameters, student_logits, write_predictions
from linnet.export import export_onnx
from linnet.methods.base import Context, Method
from linnet.progress import Bar
from linnet.run import Run, version
from linnet.settings import settings
from linnet.students import Student
from linnet.teachers import ClassHead, Teacher, TeacherOutput, class_head, load_teacher
from linnet.teachers.cache import TeacherCache
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
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("linnet trains in one process for now: start it without torchrun or accelerate launch")
    manifest = load_manifest(resolved.data)
    run = Run.create(Path(out or default_folder(resolved)), resolved, resume=resume, overwrite=overwrite)
    handler = run.log_to_file()
    try:
        for reason in reasons:
            log.info("auto: %s", reason)
        _distill(resolved, manifest, run)
    finally:
        log.removeHandler(handler)
        handler.close()
        run.close()
    return run


def default_folder(config: Config) -> Path:
    """``runs/photos-kd-s0``, ``runs/aviary-species=60-kd-s0``."""
    kind, _, details = (config.data.source or "").partition(":")
    name = f"{kind}-{details}".rstrip("-") if kind == "aviary" else Path(config.data.source or "").resolve().name
    return Path("runs") / re.sub(r"[^\w.=+-]+", "-", f"{name}-{config.method}-s{config.seed}")


@dataclass(frozen=True)
class Asked:
    """A teacher that has looked at every image: ``outputs`` maps image digests to what it said."""

    teacher: Teacher
    head: ClassHead
    outputs: Callable[[np.ndarray], TeacherOutput]


def _distill(config: Config, manifest: Manifest, run: Run) -> None:
    from accelerate import Accelerator

    name, size = config.student.name or "", config.student.image_size or 0
    accelerator = Accelerator(mixed_precision="no")
    device = accelerator.device
    log.info("data: %s", describe(manifest))
    if duplicates := leaked(manifest):
        log.warning("%d val or test images are byte for byte also in train: the scores flatter every model", duplicates)
    seed_everything(config.seed, 0, 0)
    student = Student(name, manifest.classes, size, config.student.pretrained or False, config.student.stem)
    splits = {part: manifest.take(manifest.rows(part)) for part in ("train", "val", "test") if len(manifest.rows(part))}
    limit = config.data.store_limit_gb
    images = {
        part: Images(rows.paths, rows.digests, size, "train" if part == "train" else "eval", limit)
        for part, rows in splits.items()
    }
    stored = sum(part.file.stat().st_size for part in images.values() if part.stored) / 1e6
    log.info("images: %.0f MB decoded once, memory-mapped from %s", stored, images["train"].file.parent)
    run.pin(data=manifest.content_hash)
    asked = _ask_teacher(config, splits, run, device) if methods.needs_teacher(config.method) else None
    teacher_logits = _teacher_logits(asked, splits) if asked else {}

    method = _prepare_method(config, student, asked)
    task = Task(student, method, config.train.precision or "fp32").to(device)
    if config.train.channels_last:
        student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loader = TrainLoader(
        images["train"],
        splits["train"].labels,
        splits["train"].digests,
        recipe=config.data.views or "light",
        batch_size=config.train.batch_size,
        size=size,
        data_seed=config.data.seed,
        seed=config.seed,
        device=device,
        teacher=asked.outputs if asked else None,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=config.data.workers or 0,
    )
    del asked  # its answers are cached: the teacher's memory is the student's now
    with Bar(f"{config.method} -> {name}", config.train.epochs or 0) as bar:
        result = train(
            task,
            loader,
            config.train,
            run,
            accelerator,
            config.seed,
            validate=lambda now: top_k_accuracy(student_logits(now, images["val"], device), splits["val"].labels),
            on_epoch=lambda row: bar.update(
                row["epoch"], f"loss {row['loss']:.3f}  val top-1 {100 * row['val.top1']:.1f} %"
            ),
        )
    if accelerator.is_main_process:
        _finish(config, run, result, splits, images, teacher_logits, device)


def _ask_teacher(config: Config, splits: Mapping[str, Manifest], run: Run, device: torch.device) -> Asked:
    """Load the teacher, check that it fits, and have it look at every image that it has not seen before."""
    teacher = load_teacher(config.teacher.id or "")
    run.pin(teacher=teacher.fingerprint())
    for need in methods.needs_teacher(config.method) - {"any"}:
        if teacher.kind != need:
            raise UserError(f"the method '{config.method}' needs a {need} teacher; '{teacher.id}' is a {teacher.kind}")
    classes = splits["train"].classes
    names, prompt_names = [info.name for info in classes], [info.prompt_name for info in classes]
    head = class_head(teacher.to(device), names, prompt_names, config.teacher.templates)
    cache = TeacherCache(teacher, config.teacher.views, config.teacher.cache, device)
    paths = [path for part in splits.values() for path in part.paths]
    start = time.perf_counter()
    with Bar(f"teacher {teacher.id}", len(paths)) as bar:
        cache.fill(paths, np.concatenate([part.digests for part in splits.values()]), bar.update)
    log.info("teacher: %d of %d images looked at in %.1f s", cache.computed, len(paths), time.perf_counter() - start)
    rows = cache.rows  # keeps the memory-mapped rows, not the teacher
    return Asked(teacher, head, lambda digests: head(rows(digests)))


def _teacher_logits(asked: Asked, splits: Mapping[str, Manifest]) -> dict[str, np.ndarray]:
    """The teacher's logits on val and test; its own val accuracy is said before training starts."""
    logits = {part: asked.outputs(rows.digests).logits_BC.numpy() for part, rows in splits.items() if part != "train"}
    val = top_k_accuracy(logits["val"], splits["val"].labels)
    log.info("teacher %s: val top-1 %.1f %%", asked.teacher.id, 100 * val)
    return logits


def _prepare_method(config: Config, student: Student, asked: Asked | None) -> Method:
    method = methods.build(config.method, config.options)
    teacher, head = (asked.teacher, asked.head) if asked else (None, None)
    seed_everything(config.seed, 0, 0)
    method.prepare(Context(student.classes, student.width, teacher, head, config.train.label_smoothing, config.seed))
    return method


def _finish(
    config: Config,
    run: Run,
    result: TrainResult,
    splits: Mapping[str, Manifest],
    images: Mapping[str, Images],
    teacher_logits: Mapping[str, np.ndarray],
    device: torch.device,
) -> None:
    """Score the selected student on val and, once, on test; save and export it; write summary.json last."""
    student = Student.load(run.checkpoints / "best").to(device)
    student.save(run.model)
    summary: dict[str, Any] = {"method": config.method, "student.name": config.student.name, "seed": config.seed}
    summary |= {"data.source": config.data.source, "teacher.id": config.teacher.id if teacher_logits else None}
    summary |= {"classes": len(student.classes), **{f"images.{part}": len(rows) for part, rows in splits.items()}}
    summary |= _score(student, splits, images, teacher_logits, run, device)
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

"""The second half of every run: train the student, score it, write what is kept."""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from linnet.config import Config
from linnet.data.batches import TrainLoader
from linnet.deploy.export import check_exportable, export_onnx
from linnet.environment import version
from linnet.errors import UserError
from linnet.evaluation.base_novel import LAST_EPOCHS, NovelTest, in_words, score_novel
from linnet.evaluation.score import Evaluation, count_macs, count_parameters, look, look_at_splits, score
from linnet.evaluation.verdict import verdict
from linnet.files import check_space, readable
from linnet.methods.base import Method
from linnet.metrics import top_k_accuracy
from linnet.progress import Bar
from linnet.run import Run
from linnet.students.student import Student
from linnet.training import Task, TrainResult, train

log = logging.getLogger("linnet")


def check_end(config: Config, run: Run, student: Student, images: int) -> None:
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


def train_and_finish(
    config: Config,
    run: Run,
    accelerator: Any,
    student: Student,
    method: Method,
    loader: TrainLoader | None,
    evaluation: Evaluation,
    novel: NovelTest | None = None,
) -> None:
    if accelerator.is_main_process:
        run.begin()
    accelerator.wait_for_everyone()  # or the others would go on from a checkpoint that is about to be deleted
    if run.is_finished and not run.last_checkpoint.exists():  # it was dropped, and there is nothing left to train
        done = run.summary()
        result = TrainResult(*(done[f"train.{key}"] for key in ("best_epoch", "seconds", "images_per_second")))
    else:
        task = Task(student, method, config.train.precision).to(accelerator.device)
        result = _train(config, run, accelerator, task, loader, evaluation, LAST_EPOCHS if novel else 0)
    if accelerator.is_main_process:
        _finish(config, run, result, evaluation, novel, accelerator.device)


def _train(
    config: Config,
    run: Run,
    accelerator: Any,
    task: Task,
    loader: TrainLoader | None,
    evaluation: Evaluation,
    keep_last: int,
) -> TrainResult:
    """Train, with a bar, validating on val if there is one."""
    splits, images = evaluation.splits, evaluation.images

    def validate(now: Student) -> float | None:
        if "val" not in splits:
            return None
        return top_k_accuracy(look(now, images["val"], accelerator.device).logits_NC, splits["val"].labels)

    def note(row: dict[str, Any]) -> str:
        val = f"  val top-1 {100 * row['val.top1']:.1f} %" if "val.top1" in row else ""
        return f"loss {row['loss']:.3f}{val}"

    if config.train.channels_last:
        task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with Bar(f"{config.method} -> {config.student.name}", config.train.epochs) as bar:
        return train(
            task,
            task.method.batches(loader, task.student),
            config.train,
            run,
            accelerator,
            config.seed,
            validate,
            on_epoch=lambda row: bar.update(row["epoch"], note(row)),
            keep_last=keep_last,
            on_step=lambda step, steps: bar.inside(step / steps, f"step {step} of {steps}"),
        )


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
        raise UserError(f"{error}; to train again, give --overwrite instead of --resume") from error
    student.save(run.model)
    summary: dict[str, Any] = {"method": config.method, "student.name": config.student.name, "seed": config.seed}
    summary |= {
        "data.source": config.data.source and readable(config.data.source),
        "teacher.id": None,
        **evaluation.teacher,
    }
    counts = {f"images.{part}": len(rows) for part, rows in evaluation.splits.items()}
    summary |= {"classes": len(student.classes), **counts}
    seen = look_at_splits(student, evaluation, device)
    summary |= score(seen, evaluation, run)
    if novel:
        summary |= score_novel(novel, student, seen, run, result.best_epoch)
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

"""The second half of every run: train the student, score it, write what is kept."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from linnet.commands.ending import confused_on_val, ending, measured
from linnet.config import Config
from linnet.data.batches import TrainLoader
from linnet.deploy.export import check_exportable, export_onnx
from linnet.environment import version
from linnet.errors import UserError
from linnet.evaluation.base_novel import LAST_EPOCHS, NovelTest, score_novel
from linnet.evaluation.dual import choose_mix
from linnet.evaluation.score import Evaluation, count_macs, count_parameters, look_at_splits, score, top1
from linnet.evaluation.verdict import is_loss, verdict
from linnet.files import check_space, readable
from linnet.methods.base import Method
from linnet.progress import BY_THE_BAR, Bar
from linnet.report.loggers import Note, logging_numbers
from linnet.run import Run
from linnet.students.student import Student
from linnet.training import Task, TrainResult, train

log = logging.getLogger("linnet")

# what a run comes to, when all is ready: train_and_finish
End = Callable[[Config, Run, Any, Student, Method, TrainLoader | None, Evaluation, NovelTest | None], None]


def check_end(config: Config, run: Run, student: Student, images: int) -> None:
    """What only the last steps need is tried before the first.

    Args:
        images: how many there are, whose predictions are written.

    Raises:
        UserError: the student cannot be exported, or the disk has no room for the run.
    """
    weights = 4 * count_parameters(student)
    moments = 1 if config.train.optimizer == "sgd" else 2
    last = (1 + moments + (config.train.ema is not None)) * weights
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
    with logging_numbers(config, run, accelerator) as note:
        if run.is_finished and not run.last_checkpoint.exists():  # it was dropped, and there is nothing left to train
            done = run.summary()
            result = TrainResult(*(done[f"train.{key}"] for key in ("best_epoch", "seconds", "images_per_second")))
        else:
            task = Task(student, method, config.train.precision).to(accelerator.device)
            result = _train(config, run, accelerator, task, loader, evaluation, LAST_EPOCHS if novel else 0, note)
        if accelerator.is_main_process:
            summary = _finish(config, run, result, evaluation, novel, accelerator.device)
            note({f"summary/{name}": value for name, value in summary.items()}, config.train.epochs)


def _train(
    config: Config,
    run: Run,
    accelerator: Any,
    task: Task,
    loader: TrainLoader | None,
    evaluation: Evaluation,
    keep_last: int,
    note: Note,
) -> TrainResult:
    """Train, with a bar, validating on val if there is one."""
    splits, images = evaluation.splits, evaluation.images

    def validate(now: Student) -> float | None:
        if "val" not in splits:
            return None
        return top1(now, images["val"], splits["val"].labels, accelerator.device)

    def tell(row: dict[str, Any]) -> None:
        words = _epoch(row, run, config.train.epochs)
        log.info("%s", words, extra=BY_THE_BAR)
        bar.update(row["epoch"], words)
        note({name: value for name, value in row.items() if name not in ("epoch", "step")}, row["epoch"])

    if config.train.channels_last:
        task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with Bar(f"{config.method} -> {config.student.name}", config.train.epochs, keep=True) as bar:
        return train(
            task,
            task.method.batches(loader, task.student),
            config.train,
            run,
            accelerator,
            config.seed,
            validate,
            on_epoch=tell,
            keep_last=keep_last,
            on_step=lambda step, steps: bar.inside(step / steps, f"step {step} of {steps}"),
        )


def _epoch(row: Mapping[str, Any], run: Run, epochs: int) -> str:
    """``epoch  3 of 30  loss  2.608  val top-1  20.0 %  best    1.2 s``: best of all so far."""
    words = f"epoch {row['epoch']:>{len(str(epochs))}} of {epochs}  loss {row['loss']:6.3f}"
    if "val.top1" in row:
        earlier = [other.get("val.top1", 0.0) for other in run.metrics() if other["epoch"] < row["epoch"]]
        mark = "best" if row["val.top1"] >= max(earlier, default=0.0) else "    "
        words += f"  val top-1 {100 * row['val.top1']:5.1f} %  {mark}"
    return f"{words}  {row['seconds']:5.1f} s"


def _finish(
    config: Config,
    run: Run,
    result: TrainResult,
    evaluation: Evaluation,
    novel: NovelTest | None,
    device: torch.device,
) -> dict[str, Any]:
    """Score the kept student on val and, once, on test; save and export it; write summary.json last."""
    try:
        student = Student.load(run.best_student).to(device)
    except UserError as error:
        raise UserError(f"{error}; to train again, give --overwrite instead of --resume") from error
    mixed: dict[str, float] = {}
    if student.dual and "val" in evaluation.splits:
        mixed = choose_mix(student, evaluation.images["val"], evaluation.splits["val"].labels, device)
    student.save(run.model)
    summary: dict[str, Any] = {"method": config.method, "student.name": config.student.name, "seed": config.seed}
    summary |= {
        "data.source": config.data.source and readable(config.data.source),
        "teacher.id": None,
        **evaluation.teacher,
    }
    counts = {f"images.{part}": len(rows) for part, rows in evaluation.splits.items()}
    summary |= {"classes": len(student.classes), **counts}
    unscored = {part: rows.classes_without_images for part, rows in evaluation.splits.items()}
    summary |= {f"classes.without_images.{part}": names for part, names in unscored.items() if names}
    seen = look_at_splits(student, evaluation, device)
    summary |= score(seen, evaluation, run) | mixed
    if novel:
        summary |= score_novel(novel, student, seen, run, result.best_epoch)
    summary |= {"student.params": count_parameters(student), "student.macs": count_macs(student)}
    summary |= {"train.epochs": config.train.epochs, "train.best_epoch": result.best_epoch}
    summary |= {"train.seconds": round(result.seconds, 2)}
    summary |= {"train.images_per_second": round(result.images_per_second, 1), "linnet.version": version("linnet")}
    if config.export:
        try:  # compared with the student on val images (or test images; without any, on noise)
            images = evaluation.images.get("val", evaluation.images.get("test"))
            summary["onnx.max_difference"] = export_onnx(student, run.onnx, images, config.opset, run.model)
        except UserError as error:
            log.warning("model.onnx was not written: %s", error)
    summary |= {**verdict(run, config, summary), **measured(run, summary)}
    run.write_summary(summary)
    if config.train.checkpoint == "drop":
        run.last_checkpoint.unlink(missing_ok=True)
    confused = confused_on_val(evaluation.splits["val"], seen["val"]) if "val" in seen else []
    log.log(logging.WARNING if is_loss(summary) else logging.INFO, "%s", ending(run, config, summary, confused))
    return summary

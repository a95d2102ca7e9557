"""The training loop: optimiser, schedule, checkpoints, resume. It sums the terms a method returns and knows nothing
else about it.

Exact resume without random state: every generator is a function of (seed, purpose, epoch, process), the global one is
seeded again at each epoch, the learning rate is a function of the step. A run that was killed and resumed ends with the
same weights as one that was not: to the last bit on a CPU, on a GPU as far as its kernels are deterministic.
"""

import logging
import math
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from linnet.config import TrainConfig
from linnet.environment import freed_memory_kept
from linnet.errors import UserError, first_line
from linnet.files import damaged, new_file
from linnet.methods.base import Batches, Method
from linnet.processes import seed_everything
from linnet.report.gallery import add_row, is_moment
from linnet.run import Run
from linnet.step import Batch, Progress
from linnet.students.student import Student

log = logging.getLogger("linnet")


class Task(nn.Module):
    """Student and method in one module: the only thing given to Accelerate, so one backward pass reaches both."""

    def __init__(self, student: Student, method: Method, precision: str = "fp32"):
        super().__init__()
        self.student, self.method, self.precision = student, method, precision

    def forward(self, batch: Batch, progress: Progress) -> dict[str, torch.Tensor]:
        device = batch.images.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            output = self.student(batch.images, self.method.needs.maps, self.method.needs.detached)
        with torch.autocast(device, enabled=False):  # losses are computed in float32
            return self.method(batch, output.float(), progress)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """The learning rate of a step (counted from 0): a pure function, so that it needs no state.

    A linear warm-up over the first ``warmup`` share of the steps, then constant, or a cosine to ``lr_min`` (with
    several ``half_cycles`` down and up again, as torch's CosineAnnealingLR beyond its T_max), or x ``decay`` at each
    milestone. One-cycle (Smith and Topin 2018, in the two-phase form that torch uses): a cosine up from lr/25, then a
    cosine down to lr/25e4.

    Deviation: papers that step a schedule once per epoch get the same curve, stepped at every step.
    """
    rise = config.warmup * steps
    share = min(1.0, max(0.0, (step + 1 - rise) / max(1.0, steps - rise)))
    if step + 1 < rise:
        up = (step + 1) / rise
        return config.lr * (_cosine(1 / 25, 1.0, up) if config.schedule == "one-cycle" else up)
    if config.schedule == "cosine":
        return config.lr * _cosine(1.0, config.lr_min / config.lr, config.half_cycles * share)
    if config.schedule == "one-cycle":
        return config.lr * _cosine(1.0, 1 / 25e4, share)
    if config.schedule == "step":
        return config.lr * config.decay ** sum(step >= milestone * steps for milestone in config.milestones)
    return config.lr


def group_rate(group: Mapping[str, Any], step: int, steps: int, config: TrainConfig) -> float:
    """The learning rate of a group of the optimiser: one that waits has none while the head warms up, and its schedule
    in the steps that are left."""
    if not group.get("waits"):
        return learning_rate(step, steps, config)
    waiting = waiting_steps(steps, config)
    return 0.0 if step < waiting else learning_rate(step - waiting, steps - waiting, config)


def waiting_steps(steps: int, config: TrainConfig) -> int:
    """Steps in which only the head learns."""
    return round(config.head_warmup * steps)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def make_optimizer(module: nn.Module, config: TrainConfig, head: Iterable[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """Optimiser over what is trained; weight decay on matrices and kernels only. The loop sets the learning rate.

    Args:
        head: what learns from the first step on. With ``head_warmup`` all other weights are in groups that wait.
    """
    trained, first = [p for p in module.parameters() if p.requires_grad], {id(p) for p in head}
    groups: list[dict[str, Any]] = []
    for waits in (False, True) if config.head_warmup else (False,):
        own = [p for p in trained if not config.head_warmup or (id(p) not in first) == waits]
        groups.append({"params": [p for p in own if p.ndim > 1], "weight_decay": config.weight_decay, "waits": waits})
        groups.append({"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0, "waits": waits})
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=config.nesterov, fused=True)
    return torch.optim.AdamW(groups, fused=True)


def synchronise_batch_norm(student: Student, accelerator: Any) -> None:
    """Let the BatchNorm layers see the batch of all processes; where that would change nothing, or cannot be, it is
    said. The weights, their names and evaluation stay the same."""
    layers = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in student.modules())
    if not layers:
        log.info("train.sync_batch_norm has no effect: this student has no BatchNorm layers")
    elif accelerator.num_processes == 1:
        log.info("train.sync_batch_norm has no effect: one process sees the whole batch")
    elif accelerator.device.type != "cuda":
        log.warning("train.sync_batch_norm has no effect without GPUs: each process normalises its own part of a batch")
    else:
        from timm.layers import convert_sync_batchnorm  # torch's own would lose the activations of timm's layers

        student.backbone = convert_sync_batchnorm(student.backbone)
        log.info("train.sync_batch_norm: %d layers see the batch of all processes", layers)


@dataclass(frozen=True)
class TrainResult:
    """``best_epoch`` is the one with the best val top-1 (of equals, the last), or with ``select: last`` the last; its
    student is in checkpoints/best, those of the last epochs that were to be kept in checkpoints/epoch-N."""

    best_epoch: int
    seconds: float
    images_per_second: float


@freed_memory_kept()
def train(
    task: Task,
    loader: Batches,
    config: TrainConfig,
    run: Run,
    accelerator: Any,
    seed: int,
    validate: Callable[[Student], float | None],
    on_epoch: Callable[[dict[str, Any]], None],
    keep_last: int = 0,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> TrainResult:
    """Train, keeping a checkpoint of everything at each epoch's end and the best student by ``validate``.

    Args:
        validate: student -> val top-1, or None without val images. on_epoch: told the row that went into metrics.jsonl.
        keep_last: students of this many epochs at the end are kept, too. on_step: told the steps of the epoch that are
            done, and how many it has.

    Raises:
        UserError: the loss is no longer finite; the last good checkpoint stays.
    """
    epochs, steps = config.epochs, config.epochs * len(loader)
    if config.sync_batch_norm:
        synchronise_batch_norm(task.student, accelerator)
    optimizer = make_optimizer(task, config, [*task.student.last_parameters(), *task.method.parameters()])
    averaged = moving_average(task.student, config.ema) if config.ema is not None else None
    kept: Any = task.student if averaged is None else averaged.module
    state = load_checkpoint(run.last_checkpoint, task, optimizer, averaged)
    if accelerator.is_main_process:
        run.cut_metrics(state["epoch"])
    prepared, prepared_optimizer = accelerator.prepare(task, optimizer)
    task.method.hand_over(task.student)
    for epoch in range(state["epoch"], epochs):
        start = time.perf_counter()
        seed_everything(seed, epoch, accelerator.process_index)
        task.train()
        terms = train_epoch(prepared, prepared_optimizer, loader, config, accelerator, epoch, steps, on_step, averaged)
        train_seconds = time.perf_counter() - start
        state = {**state, "epoch": epoch + 1, "seconds": state["seconds"] + train_seconds}
        task.method.hand_over(kept)
        if accelerator.is_main_process:
            val = validate(kept)
            if config.select == "last" or (val is not None and val >= state["best_val"]):
                state |= {"best_val": val, "best_epoch": epoch + 1}
                kept.save(run.best_student)
            if epoch >= epochs - keep_last:
                kept.save(run.epoch_student(epoch + 1))
            done = (epoch + 1) * len(loader)
            row = {"epoch": epoch + 1, "step": done, "lr": learning_rate(done - 1, steps, config), **terms}
            row |= {**task.method.numbers(), **({} if val is None else {"val.top1": val})}
            row |= {"seconds": round(train_seconds, 3)}
            if is_moment(epoch + 1, epochs) and (images := task.method.pictures()) is not None:
                add_row(run.gallery, run.gallery_picture, epoch + 1, images)
            run.add_metrics(row)
            save_checkpoint(run.last_checkpoint, task, optimizer, state, averaged)
            on_epoch(row)
        accelerator.wait_for_everyone()
    seen = state["epoch"] * len(loader) * loader.batch_size
    return TrainResult(state["best_epoch"], state["seconds"], seen / max(state["seconds"], 1e-9))


def train_epoch(
    task: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Batches,
    config: TrainConfig,
    accelerator: Any,
    epoch: int,
    steps: int,
    on_step: Callable[[int, int], None],
    averaged: Any = None,
) -> dict[str, float]:
    """One pass over the data; returns the mean of the total loss and of each term."""
    sums: dict[str, torch.Tensor | float] = defaultdict(float)
    student = accelerator.unwrap_model(task).student
    for i, batch in enumerate(loader.epoch(epoch)):
        step = epoch * len(loader) + i
        waits = step < waiting_steps(steps, config)
        if config.head_warmup and student.backbone.training == waits:
            student.backbone.train(not waits)  # what waits keeps its statistics, too
        for group in optimizer.param_groups:
            group["lr"] = group_rate(group, step, steps, config)
        terms = task(batch, Progress(epoch, config.epochs))
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            shown = ", ".join(f"{name} {value.item():g}" for name, value in terms.items())
            kept = "the checkpoint of the epoch before is kept" if epoch else "there is no checkpoint yet"
            raise UserError(f"the loss is not finite at step {step} ({shown}): lower --train.lr; {kept}")
        optimizer.zero_grad()
        accelerator.backward(loss)
        if waits:
            drop_gradients(optimizer)
        if config.clip_norm is not None:
            accelerator.clip_grad_norm_(task.parameters(), config.clip_norm)
        optimizer.step()
        if averaged is not None:
            averaged.update(student, step + 1)
        for name, value in {"loss": loss, **terms}.items():
            sums[name] = sums[name] + value.detach()
        on_step(i + 1, len(loader))
    means = accelerator.reduce(torch.stack([torch.as_tensor(value) for value in sums.values()]), reduction="mean")
    return {name: float(value) / len(loader) for name, value in zip(sums, means, strict=True)}


def moving_average(student: Student, factor: float) -> Any:
    """The average of a student's weights and statistics, which forgets its beginning (timm's warm-up of the factor)."""
    from timm.utils import ModelEmaV3

    return ModelEmaV3(student, decay=factor, use_warmup=True)


def drop_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Those of weights that wait: they count neither in the norm that is clipped nor in the optimiser's averages."""
    for group in optimizer.param_groups:
        for weight in group["params"] if group["waits"] else ():
            weight.grad = None


def save_checkpoint(
    path: Path, task: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], averaged: nn.Module | None
) -> None:
    """Replace the last checkpoint; it stays if the new one cannot be written."""
    parts = {"task": task.state_dict(), "optimizer": optimizer.state_dict(), "state": state}
    if averaged is not None:
        parts["averaged"] = averaged.state_dict()
    with new_file(path) as file:
        torch.save(parts, file)


def load_checkpoint(
    path: Path, task: nn.Module, optimizer: torch.optim.Optimizer, averaged: nn.Module | None
) -> dict[str, Any]:
    """Restore task and optimiser in place; returns where training stands (from nothing: epoch 0).

    Raises:
        UserError: the checkpoint is damaged.
    """
    if not path.exists():
        return {"epoch": 0, "best_val": -1.0, "best_epoch": 0, "seconds": 0.0}
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not compare the checksums
            if broken := archive.testzip():
                raise zipfile.BadZipFile(f"{broken} does not match its checksum")
        with path.open("rb") as file:
            saved = torch.load(file, map_location="cpu", weights_only=True)
        task.load_state_dict(saved["task"])
        optimizer.load_state_dict(saved["optimizer"])
        if averaged is not None:
            averaged.load_state_dict(saved["averaged"])
        return saved["state"]
    except Exception as error:  # of zipfile, pickle and torch, each with its own
        advice = "delete it, and --resume trains from the first epoch again"
        raise damaged(path, first_line(error), advice) from error

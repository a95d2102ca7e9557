"""``linnet distill --profile``: where a training step's time goes, and how far it is from the student alone."""

import copy
import itertools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from linnet.commands.distill import precise, prepared
from linnet.config import Config, TrainConfig
from linnet.data.batches import TrainLoader
from linnet.defaults import settings
from linnet.environment import device_words, freed_memory_kept
from linnet.evaluation.base_novel import NovelTest
from linnet.evaluation.score import Evaluation
from linnet.methods.base import Batches, Method
from linnet.processes import make_accelerator, seed_everything
from linnet.run import Run
from linnet.step import Batch
from linnet.students.student import Student
from linnet.timing import duration
from linnet.training import Task, make_optimizer, train_epoch

WARM_UP, STEPS = 3, 12  # steps that do not count, and of each kind as many that do
BATCH = "batch: views, answers of the teacher"
GOOD = 0.9  # share of the bound from which on only the student matters

Milliseconds = dict[str, float]


class Setup(NamedTuple):
    """A run, ready for its first step."""

    config: Config
    task: Task
    batches: Batches
    accelerator: Any
    is_stored: bool


class Times(NamedTuple):
    """Milliseconds of steps that were taken in turn: of each part, in their order, and of the student alone."""

    parts: dict[str, list[float]]
    alone: list[float]

    def medians(self) -> Milliseconds:
        return {part: statistics.median(times) for part, times in self.parts.items()}


def profile(
    data: str | Path | None = None, *, config: Path | None = None, options: Mapping[str, Any] | None = None
) -> str:
    """Prepare a run as :func:`linnet.distill` does, the teacher's answers included, time some of its steps in place of
    training, and say what they consist of. Nothing is kept but what linnet caches.

    Raises:
        UserError: as for a run.
    """
    pages: list[str] = []

    def end(setup: Setup) -> None:
        pages.append(page(setup.config, len(setup.batches), measure(setup, STEPS), setup.is_stored))

    in_place_of_training(end, data, config=config, options=options)
    return pages[0]


def in_place_of_training(
    end: Callable[[Setup], None],
    data: str | Path | None = None,
    *,
    config: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Prepare a run as :func:`linnet.distill` does, in a folder that is deleted, and do something else with it."""
    given, _ = settings(data, config=config, options={**(options or {}), "export": False}, timed=False)
    accelerator = make_accelerator()
    story = prepared(given, accelerator)
    resolved, _ = precise(given, None, accelerator)

    def ready(
        config: Config,
        run: Run,
        accelerator: Any,
        student: Student,
        method: Method,
        loader: TrainLoader | None,
        evaluation: Evaluation,
        novel: NovelTest | None,
    ) -> None:
        task = Task(student, method, config.train.precision).to(accelerator.device)
        if config.train.channels_last:
            task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        seed_everything(config.seed)
        is_stored = loader is None or loader.images.stored
        end(Setup(config, task, method.batches(loader, student), accelerator, is_stored))

    with tempfile.TemporaryDirectory() as folder:
        run = Run.open(Path(folder) / "profile", resolved)
        try:
            story(resolved, run, accelerator, ready)
        finally:
            run.close()


@freed_memory_kept()
def measure(setup: Setup, rounds: int, alone: Callable[[], None] | None = None) -> Times:
    """Steps as in training and steps of the student alone, in turn.

    Args:
        alone: another step to compare with than that of a copy of the student, with images in memory and cross-entropy
            as the loss.
    """
    config, task, batches, accelerator, _ = setup
    alone = alone or bare_step(task, next(iter(batches.epoch(0))), config.train)
    optimizer = make_optimizer(task, config.train)
    prepared_task, prepared_optimizer = accelerator.prepare(task, optimizer)
    clock = _Clock(task, optimizer, batches, accelerator.device)
    task.train()
    times = Times(clock.times, [])
    steps = config.train.epochs * len(batches)
    for step in range(WARM_UP + rounds):
        if step == WARM_UP:
            times.parts.clear()
            times.alone.clear()
        train_epoch(
            prepared_task, prepared_optimizer, clock, config.train, accelerator, 0, steps, lambda done, of: None
        )
        start = _now(accelerator.device)
        alone()
        times.alone.append(1e3 * (_now(accelerator.device) - start))
    return times


def bare_step(task: Task, batch: Batch, config: TrainConfig) -> Callable[[], None]:
    """A step of a copy of the student, as short as it can be: the bound of all that distillation may cost."""
    student: Any = copy.deepcopy(task.student).train()
    optimizer = make_optimizer(student, config)
    images, labels, device = batch.images, batch.labels.clamp(min=0), batch.images.device.type

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=task.precision == "bf16"):
            logits_BC = student(images).logits_BC
        optimizer.zero_grad()
        F.cross_entropy(logits_BC.float(), labels % logits_BC.shape[1]).backward()
        optimizer.step()

    return step


class _Clock:
    """Batches that come one an epoch and measure what is done with them, by hooks: the training loop is the real
    one."""

    def __init__(self, task: Task, optimizer: torch.optim.Optimizer, batches: Batches, device: torch.device):
        self.batch_size, self.device, self._batches = batches.batch_size, device, batches
        self._endless = itertools.chain.from_iterable(map(batches.epoch, itertools.count()))
        self.times: dict[str, list[float]] = defaultdict(list)
        self._last = 0.0
        task.student.register_forward_pre_hook(lambda *_: self._note(BATCH))
        task.student.register_forward_hook(lambda *_: self._note("student, forward"))
        task.register_forward_hook(lambda *_: self._note("loss of the method"))
        optimizer.register_step_pre_hook(lambda *_: self._note("backward"))
        optimizer.register_step_post_hook(lambda *_: self._note("update of the weights"))

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, number: int) -> Iterator[Batch]:
        self._last = _now(self.device)
        yield next(self._endless)
        self._note("the rest")

    def _note(self, part: str) -> None:
        now = _now(self.device)
        self.times[part].append(1e3 * (now - self._last))
        self._last = now


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def page(config: Config, steps: int, times: Times, is_stored: bool) -> str:
    """What is printed.

    Args:
        steps: in an epoch.
    """
    parts, alone_ms = times.medians(), statistics.median(times.alone)
    train, student, whole = config.train, config.student, sum(parts.values())
    lines = [
        f"a step of {config.method} -> {student.name} at {student.image_size} pixels, {train.batch_size} images, "
        f"{train.precision}, on {device_words()}",
        *(f"  {part:<38}{ms:9.1f} ms {100 * ms / whole:5.1f} %" for part, ms in parts.items()),
        f"  {'all of it':<38}{whole:9.1f} ms",
        f"  {'the student alone, images in memory':<38}{alone_ms:9.1f} ms",
        f"share of the bound: {alone_ms / whole:.2f} (1.00: training costs what the student alone costs)",
        f"training: {train.epochs} epochs of {steps} steps, about {duration(train.epochs * steps * whole / 1e3)}, "
        "beside scoring",
        *(f"to change: {advice}" for advice in advices(config, parts, alone_ms, is_stored)),
    ]
    return "\n".join(lines)


def advices(config: Config, parts: Milliseconds, alone_ms: float, is_stored: bool) -> list[str]:
    """What would make a step shorter, the largest first."""
    whole, batch = sum(parts.values()), parts[BATCH]
    if alone_ms >= GOOD * whole:
        return [
            "nothing around the student: a smaller --student.image-size, another student ('linnet list students') "
            "or fewer --train.epochs"
        ]
    found: list[tuple[float, str]] = []
    if not is_stored:
        found.append((batch, "images are decoded at every step: raise --data.store-limit-gb or --data.workers"))
    elif config.data.views not in ("none", "light"):
        found.append((batch, f"views '{config.data.views}' turn, blur or recolour: --data.views light costs less"))
    if config.teacher.views == "online":
        found.append((batch, "the teacher is asked at every step: --teacher.views replay:4, or center"))
    found.append(
        (parts["loss of the method"], f"the loss of '{config.method}': 'linnet list methods' shows cheaper ones")
    )
    found.append((parts["update of the weights"], "the update of the weights: a larger --train.batch-size"))
    found = [(ms, words) for ms, words in found if ms > 0.05 * whole]
    return [f"{words} ({ms:.0f} ms)" for ms, words in sorted(found, reverse=True)]

"""How long a comparison will take, from a timed step, and what of it fits into a given time."""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from linnet import methods
from linnet.commands.comparison.cells import state
from linnet.commands.comparison.grid import Compared, Row
from linnet.config import Config
from linnet.data.load import load_manifest
from linnet.data.manifest import Manifest
from linnet.data.novel import training_part
from linnet.environment import freed_memory_kept
from linnet.errors import UserError
from linnet.timing import duration

STEPS = 3  # timed after one that does not count
LOOKED = 8  # images that the teacher is timed on
START_SECONDS = 4.0  # of a cell: data, teacher and student are loaded, its files are written
FEWEST_SEEDS = 3  # more of them are the first thing to be given up
FEWEST_EPOCHS = 1 / 3  # of those asked for
NOT_INCLUDED = (
    "decoding photos for the first time, calibrated prompts (pand), export, and what else runs on this machine"
)


@dataclass(frozen=True)
class RowForecast:
    """What a cell of a row takes. ``stays``: it cannot be given up, because others are compared with it."""

    name: str
    stays: bool
    epochs: int
    epoch_seconds: float
    fixed_seconds: float
    megabytes: float = 0.0

    def seconds(self, epochs: int | None = None) -> float:
        return (epochs or self.epochs) * self.epoch_seconds + self.fixed_seconds


@dataclass(frozen=True)
class Forecast:
    """``teacher_seconds``: its answers that are not cached yet, which all cells share; ``asked``: how many."""

    rows: tuple[RowForecast, ...]
    teacher_seconds: float = 0.0
    asked: int = 0
    images: tuple[int, int, int] = (0, 0, 0)

    def seconds(self, seeds: int, jobs: int = 1, rows: Sequence[str] | None = None, epochs: int | None = None) -> float:
        own = [row for row in self.rows if rows is None or row.name in rows]
        return self.teacher_seconds + seeds * sum(row.seconds(epochs) for row in own) / jobs


@dataclass(frozen=True)
class Choice:
    """What fits into a time, and what was given up for it."""

    rows: tuple[str, ...]
    epochs: int
    seeds: tuple[int, ...]
    gave_up: tuple[str, ...] = ()


def seconds_of(words: str) -> float:
    """``30m``, ``2h``, ``90s`` or ``1h30m`` in seconds.

    Raises:
        UserError: it is something else.
    """
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", words.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    if not (total := 3600 * hours + 60 * minutes + seconds):
        raise UserError(f"--time must be a length of time, as in 30m, 2h or 90s, not '{words}'")
    return float(total)


def fit(budget: float, words: str, forecast: Forecast, seeds: Sequence[int], jobs: int = 1) -> Choice:
    """What of a comparison fits into a budget of seconds.

    Seeds above three are given up first, then epochs down to a third, then rows from the end, then seeds; of what is
    left, as many epochs as fit are trained.

    Args:
        words: the budget as it was given.

    Raises:
        UserError: not even ``ce`` and one row with one seed and a third of the epochs fits, or rows differ in epochs.
    """
    if len({row.epochs for row in forecast.rows}) > 1:
        raise UserError("--time chooses one number of epochs for all rows, and these have different ones: leave it out")
    full = forecast.rows[0].epochs
    fewest = math.ceil(FEWEST_EPOCHS * full)
    rows, kept = [row.name for row in forecast.rows], list(seeds)
    others = [row.name for row in forecast.rows if not row.stays]

    def fits(epochs: int) -> bool:
        return forecast.seconds(len(kept), jobs, rows, epochs) <= budget

    while not fits(full) and len(kept) > FEWEST_SEEDS:
        kept.pop()
    while not fits(fewest) and len(others) > 1:
        rows.remove(others.pop())
    while not fits(fewest) and len(kept) > 1:
        kept.pop()
    if not fits(fewest):
        least, all_of_it = forecast.seconds(1, jobs, rows, fewest), forecast.seconds(len(seeds), jobs)
        raise UserError(
            f"--time {words} is too short: {' and '.join(rows)} with one seed and {fewest} of {full} epochs need about "
            f"{duration(least)}, everything about {duration(all_of_it)}"
        )
    epochs = max(own for own in range(fewest, full + 1) if fits(own))
    told = [f"{len(kept)} of {len(seeds)} seeds"] if len(kept) < len(seeds) else []
    told += [f"{epochs} of {full} epochs"] if epochs < full else []
    gone = [row.name for row in forecast.rows if row.name not in rows]
    told += [f"without {', '.join(gone)}"] if gone else []
    return Choice(tuple(rows), epochs, tuple(kept), (f"--time {words}: {'; '.join(told)}",) if told else ())


def measure(compared: Compared, threads: int) -> Forecast:
    """Time a few steps of each student and a few images of each teacher. Nothing is written into the comparison's
    folder."""
    from linnet.commands.comparison.workers import with_threads

    with_data = [row for row in compared.rows if methods.needs_data(row.config.method)]
    if len(with_data) < len(compared.rows):
        raise UserError("how long methods without data take cannot be predicted: leave --dry-run and --time out")
    first = with_data[0].config
    manifest = load_manifest(first.data)
    part = training_part(manifest, replace(first, shots=type(first.shots)()))
    counts = tuple(len(part.rows(name)) for name in ("train", "val", "test"))
    students: dict[Any, tuple[float, float, float]] = {}
    teachers: dict[str, tuple[float, int]] = {}
    with with_threads(threads):
        rows = []
        for row in compared.rows:
            config = row.config
            key = (config.student.name, config.student.image_size, config.train.batch_size, config.train.precision)
            if key not in students:
                students[key] = _student(config, part)
            taught = bool(methods.needs_teacher(config.method, config.options))
            if taught and str(config.teacher.id) not in teachers:
                teachers[str(config.teacher.id)] = _teacher(config, part)
            online = teachers[str(config.teacher.id)][0] if taught and config.teacher.views == "online" else 0.0
            stays = row.is_baseline or row.name == compared.against
            rows.append(_row(row, stays, students[key], counts, online))
    replayed = {
        (row.config.teacher.id, row.config.teacher.replay) for row in compared.rows if row.config.teacher.replay
    }
    more = sum(teachers[str(id)][0] * (views or 0) * counts[0] for id, views in replayed if str(id) in teachers)
    asked = sum(missing for _, missing in teachers.values())
    seconds = sum(each * missing for each, missing in teachers.values()) + more
    return Forecast(tuple(rows), seconds, asked, counts)  # type: ignore[arg-type]


def _row(
    row: Row, stays: bool, student: tuple[float, float, float], counts: tuple[int, ...], online: float
) -> RowForecast:
    """From seconds of a training image and of a scored one, and megabytes of weights."""
    learn, look, megabytes = student
    train, val, test = counts
    epoch = train * (learn + online) + val * look
    moments = 1 if row.config.train.optimizer == "sgd" else 2
    kept = (1 + moments if row.config.train.checkpoint == "keep" else 0) + 2 + int(row.config.export)
    return RowForecast(
        row.name,
        stays,
        int(row.config.train.epochs),
        epoch,
        START_SECONDS + (val + test) * look,
        kept * megabytes,
    )


@freed_memory_kept()
def _student(config: Config, part: Manifest) -> tuple[float, float, float]:
    """Seconds of an image in training and in scoring, and megabytes of weights, with random pixels."""
    import torch
    import torch.nn.functional as F

    from linnet.data.batches import cut_views
    from linnet.evaluation.score import count_parameters
    from linnet.students.student import student_of

    student: Any = student_of(replace(config, student=replace(config.student, pretrained=False)), part.classes)
    if config.train.channels_last:
        student.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    size, count = int(config.student.image_size), min(config.train.batch_size, len(part.rows("train")))
    chance = np.random.default_rng(0)
    wide = round(1.15 * size)
    pixels = [chance.integers(0, 256, (wide, wide, 3), dtype=np.uint8) for _ in range(count)]
    digests = chance.integers(0, 256, (count, 16), dtype=np.uint8)
    labels = torch.arange(count) % len(part.classes)

    def step(view: int) -> None:
        images = cut_views(pixels, digests, config.data.views, view, 0, size, torch.device("cpu"))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.train.precision == "bf16"):
            logits_BC = student(images).logits_BC
        optimizer.zero_grad()
        F.cross_entropy(logits_BC.float(), labels).backward()
        optimizer.step()

    student.train()
    learn = _seconds(step) / count
    student.eval()
    images = torch.rand(min(count, 64), 3, size, size)
    with torch.inference_mode():
        look = _seconds(lambda _: student(images)) / len(images)
    return learn, look, 4 * count_parameters(student) / 1e6


def _seconds(call: Any) -> float:
    call(0)
    start = time.perf_counter()
    for number in range(1, STEPS + 1):
        call(number)
    return (time.perf_counter() - start) / STEPS


@freed_memory_kept()
def _teacher(config: Config, part: Manifest) -> tuple[float, int]:
    """Seconds of an image, and how many images it has not answered yet."""
    import torch

    from linnet.teachers import load_teacher
    from linnet.teachers.cache import TeacherCache, live_rows

    teacher = load_teacher(config.teacher.id)
    images = torch.rand(LOOKED, 3, *teacher.image_shape)
    with torch.inference_mode():
        seconds = _seconds(lambda _: live_rows(teacher, images)) / LOOKED
    cache = TeacherCache(teacher, config.teacher.still, config.teacher.cache)
    return seconds, len(cache.missing(part.digests))


def lines(compared: Compared, forecast: Forecast, threads: int, jobs: int) -> list[str]:
    """What --dry-run prints."""
    grid = compared.grid
    left = [cell for cell in grid.cells() if state(cell) != "finished"]
    each = {row.name: row for row in forecast.rows}
    seconds = forecast.teacher_seconds + sum(each[cell.row].seconds() for cell in left) / jobs
    megabytes = sum(each[cell.row].megabytes for cell in left)
    train, val, test = forecast.images
    first = compared.rows[0].config
    side = f"; {jobs} side by side" if jobs > 1 else ""
    told = [
        f"{grid.out}: {_some(len(each), 'row')} x {_some(len(grid.seeds), 'seed')}, {len(left)} of "
        f"{_some(len(grid.cells()), 'cell')} to train",
        f"data: {first.data.source}: {train} train, {val} val, {test} test images; views {first.data.views}",
        f"all rows: {_some(int(first.train.epochs), 'epoch')}, batch {first.train.batch_size}, "
        f"{first.train.optimizer}, lr {first.train.lr:g}, {first.train.schedule}, {first.train.precision}, "
        f"{_some(threads, 'thread')} a cell",
    ]
    width = max(len(name) for name in each)
    for row in compared.rows:
        own = each[row.name]
        student, taught = row.config.student, methods.needs_teacher(row.config.method, row.config.options)
        teacher = f", teacher {row.config.teacher.id}" if taught else ""
        told.append(
            f"  {row.name:{width}}  {row.config.method} -> {student.name} at {student.image_size} px{teacher}: "
            f"{duration(own.seconds())} a cell"
        )
    if forecast.asked:
        told.append(f"teacher: {_some(forecast.asked, 'image')} to look at first, {duration(forecast.teacher_seconds)}")
    told += [f"about {duration(seconds)}{side}, {megabytes:.0f} MB on disk", f"not included: {NOT_INCLUDED}"]
    return [*told, *compared.notes]


def _some(count: int, what: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count} {what}{'s' if count != 1 else ''}"

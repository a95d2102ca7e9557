"""(a) A training step against the student alone, and (e) a step with many classes against one with few."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import timm
import torch
import torch.nn.functional as F
from measuring import Row, in_turn, photos, row, taking_steps

from linnet import methods
from linnet.commands.profile import Setup, in_place_of_training, measure
from linnet.config import Config
from linnet.environment import freed_memory_kept
from linnet.methods.base import Context
from linnet.step import Batch, Progress
from linnet.students.student import Student
from linnet.teachers import load_teacher
from linnet.teachers.heads import class_head
from linnet.text.classes import class_table
from linnet.training import Task

STUDENTS = ("resnet18", "mobilenetv3_small_100", "lcnet_035")
SIZES = (64, 128, 224)
ASKED = {"ce": 0.92, "kd": 0.92, "pand": 0.88}
BATCH = 64


def steps(students: tuple[str, ...] = STUDENTS, sizes: tuple[int, ...] = SIZES, rounds: int = 9) -> Iterator[Row]:
    """(a) The share of a step that the bare student takes: timm's network on normalised images in memory, forward,
    cross-entropy, backward, update."""
    folder = photos(8, 160)  # some steps in an epoch: its first batch is not made ahead
    for size, student in itertools.product(sizes, students):
        for method, views in (*((method, "light") for method in ASKED), ("ce", "standard")):
            ratios: list[float] = []
            options = {
                "method": method,
                "student.name": student,
                "student.pretrained": False,
                "student.image_size": size,
                "data.views": views,
                "train.batch_size": BATCH,
                "train.precision": "fp32",
                "teacher.id": None if method == "ce" else "mini-clip",
            }
            given = {key: value for key, value in options.items() if value is not None}
            in_place_of_training(partial(_compare, ratios, rounds), folder, options=given)
            least = 0.85 if views == "standard" else ASKED[method]
            yield row("a", f"{student}, {size} px, {method}, {views}", ratios, at_least=least)


def _compare(ratios: list[float], rounds: int, setup: Setup) -> None:
    student: torch.nn.Module = timm.create_model(setup.config.student.name, num_classes=8).train()
    if setup.config.train.channels_last:
        student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    side = setup.config.student.image_size
    images, labels = torch.randn(BATCH, 3, side, side), torch.arange(BATCH) % 8
    times = measure(setup, rounds, taking_steps(student, lambda: F.cross_entropy(student(images), labels)))
    whole = np.sum(list(times.parts.values()), axis=0)
    ratios += (np.array(times.alone) / whole).tolist()


def classes(student: str = "mobilenetv3_small_100", size: int = 224, rounds: int = 7) -> Iterator[Row]:
    """(e) pand's step, on images and answers of the teacher in memory, with more and more classes."""
    calls = {count: _step("pand", student, size, count) for count in (20, 1000, 5000)}
    with freed_memory_kept():
        times = in_turn({str(count): call for count, call in calls.items()}, rounds)
    for count in ("1000", "5000"):
        ratios = [many / few for many, few in zip(times[count], times["20"], strict=True)]
        yield row(
            "e", f"pand, {student}, {size} px: {count} classes / 20", ratios, at_most=1.3 if count == "5000" else None
        )


def _step(method: str, name: str, size: int, count: int) -> Callable[[], None]:
    torch.manual_seed(0)
    table = class_table([f"bird of kind {i:05d}" for i in range(count)])
    student, teacher = Student(name, table, size), load_teacher("mini-clip")
    head = class_head(teacher, table, ("{}",))
    own = methods.build(method, {})
    labels = np.arange(BATCH) % count
    config = Config(method=method)
    config = replace(config, train=replace(config.train, epochs=30, batch_size=BATCH))
    own.prepare(Context(config, table, student.width, teacher, head, labels_N=labels))
    task = Task(student, own).train()
    rows = F.normalize(torch.randn(BATCH, head.bank_CE.shape[1]), dim=1)
    batch = Batch(torch.arange(BATCH), 0, torch.rand(BATCH, 3, size, size), torch.from_numpy(labels), head(rows))
    return taking_steps(task, lambda: torch.stack(list(task(batch, Progress(1, 30)).values())).sum())

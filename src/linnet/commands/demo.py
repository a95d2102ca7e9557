"""``linnet demo``: the shortest proof. Three students of equal budget, two of them taught by the mini-CLIP as well."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from linnet.commands.comparison import Comparison, Summary, gains
from linnet.evaluation.score import count_parameters
from linnet.files import readable
from linnet.students.student import Student
from linnet.teachers import load_teacher
from linnet.teachers.open_clip import OpenClipTeacher
from linnet.timing import median_ms

DATA = "aviary:species=40,images=10"
OPTIONS: dict[str, Any] = {"train.epochs": 20, "train.batch_size": 32}
METHODS = ("ce", "kd", "pand")


def demo(out: Path, seed: int = 0, data: str = DATA, options: Mapping[str, Any] = OPTIONS) -> dict[str, Summary]:
    """Train ``ce``, ``kd`` and ``pand`` students on look-alike species and print one table; what an earlier demo has
    finished in the folder is kept.

    Returns:
        The runs' summaries by method.
    """
    rows = {method: {"method": method} for method in METHODS}
    comparison = Comparison(out, {"data.source": data, **options}, rows, [seed])
    table = comparison.table()
    summaries = {method: own[0] for method, own in table.items()}
    runs = {method: comparison.run(method, seed) for method in METHODS}
    console = Console()
    console.print(_table({method: Student.load(run.model) for method, run in runs.items()}, summaries))
    shown = ", ".join(f"{method} - ce: {gains(table, method, 'ce')[0]:+.1f}" for method in METHODS[1:])
    seconds = sum(summary["train.seconds"] for summary in summaries.values())
    console.print(f"{shown} points with seed {seed}; {seconds:.0f} s of training", highlight=False)
    for run in runs.values():
        onnx = (
            run.onnx
            if run.onnx.exists()
            else f"(no model.onnx: pip install 'linnet[onnx]', then linnet export {run.folder})"
        )
        console.print(readable(f"{run.folder}  {onnx}"), highlight=False, markup=False, soft_wrap=True)
    return summaries


def _table(students: Mapping[str, Student], summaries: Mapping[str, Summary]) -> Table:
    kd = summaries["kd"]  # its teacher is not calibrated: the plain mini-CLIP
    sizes = f"{kd['classes']} look-alike species, {kd['images.train']} training and {kd['images.test']} test images"
    table = Table(title=sizes)
    for column in ("model", "test top-1", "parameters", "ms per image"):
        table.add_column(column, justify="left" if column == "model" else "right")
    teacher = load_teacher(kd["teacher.id"])
    assert isinstance(teacher, OpenClipTeacher)
    size = students["kd"].image_size
    image = torch.rand(1, 3, size, size)
    with torch.inference_mode():
        weights = count_parameters(teacher.network.get_submodule("visual"))
        speed = median_ms(partial(teacher.embed_images, image))
        table.add_row("teacher: mini-CLIP, zero-shot", *_cells(kd["teacher.test.top1"], weights, speed))
        for method, student in students.items():
            speed = median_ms(partial(student, image))
            cells = _cells(summaries[method]["test.top1"], count_parameters(student), speed)
            table.add_row(f"{method}: {student.name}", *cells)
    return table


def _cells(top1: float, parameters: int, milliseconds: float) -> tuple[str, str, str]:
    return f"{100 * top1:.1f} %", f"{parameters / 1e6:.2f} M", f"{milliseconds:.1f}"

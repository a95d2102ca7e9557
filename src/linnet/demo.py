"""``linnet demo``: the shortest proof. Three students of equal budget, two of them taught by the mini-CLIP as well."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from linnet.evaluation.score import count_parameters
from linnet.pipeline import distill
from linnet.students import Student
from linnet.teachers import MINI_CLIP, load_teacher
from linnet.teachers.open_clip import OpenClipTeacher

DATA = "aviary:species=40,images=10"
OPTIONS: dict[str, Any] = {"train.epochs": 20, "train.batch_size": 32}
METHODS = ("ce", "kd", "pand")


def demo(out: Path, seed: int = 0, data: str = DATA, options: Mapping[str, Any] = OPTIONS) -> dict[str, dict[str, Any]]:
    """Train ``ce``, ``kd`` and ``pand`` students on look-alike species and print one table.

    Returns:
        The runs' summaries by method.
    """
    start = time.perf_counter()
    runs = {
        method: distill(data, method=method, out=out / method, seed=seed, options=options, overwrite=True)
        for method in METHODS
    }
    summaries = {method: run.summary() for method, run in runs.items()}
    console = Console()
    console.print(_table(out, summaries))
    top1 = {method: 100 * summary["test.top1"] for method, summary in summaries.items()}
    gains = ", ".join(f"{method} - ce: {top1[method] - top1['ce']:+.1f}" for method in METHODS[1:])
    seconds = time.perf_counter() - start
    console.print(f"{gains} points with seed {seed}, in {seconds:.0f} s", highlight=False)
    for run in runs.values():
        onnx = run.onnx if run.onnx.exists() else "(no model.onnx: pip install 'linnet[onnx]')"
        console.print(f"{run.folder}  {onnx}", highlight=False, soft_wrap=True)
    return summaries


def _table(out: Path, summaries: dict[str, dict[str, Any]]) -> Table:
    kd = summaries["kd"]  # its teacher is not calibrated: the plain mini-CLIP
    sizes = f"{kd['classes']} look-alike species, {kd['images.train']} training and {kd['images.test']} test images"
    table = Table(title=sizes)
    for column in ("model", "test top-1", "parameters", "ms per image"):
        table.add_column(column, justify="left" if column == "model" else "right")
    teacher = load_teacher(MINI_CLIP)
    assert isinstance(teacher, OpenClipTeacher)
    size = Student.load(out / "kd" / "model").image_size
    weights = count_parameters(teacher.network.get_submodule("visual"))
    speed = latency_ms(teacher.embed_images, size)
    table.add_row("teacher: mini-CLIP, zero-shot", *_cells(kd["teacher.test.top1"], weights, speed))
    for method, summary in summaries.items():
        student = Student.load(out / method / "model")
        cells = _cells(summary["test.top1"], count_parameters(student), latency_ms(student, size))
        table.add_row(f"{method}: {student.name}", *cells)
    return table


def latency_ms(network: Callable[[torch.Tensor], Any], size: int, repeats: int = 30) -> float:
    """Median time of one image through a torch network, after a warm-up."""
    image, times = torch.rand(1, 3, size, size), []
    with torch.inference_mode():
        for _ in range(repeats + 5):
            start = time.perf_counter()
            network(image)
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[5:])


def _cells(top1: float, parameters: int, milliseconds: float) -> tuple[str, str, str]:
    return f"{100 * top1:.1f} %", f"{parameters / 1e6:.2f} M", f"{milliseconds:.1f}"

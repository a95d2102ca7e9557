"""``linnet demo``: the shortest proof. Two students of one budget, one taught by labels, one by labels and the
mini-CLIP."""

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from linnet.pipeline import distill
from linnet.predict import OnnxNetwork

DATA = "aviary:species=60,images=20"
OPTIONS: dict[str, Any] = {"train.epochs": 30}


def demo(out: Path, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Train ``ce`` and ``kd`` students on look-alike species and print one table.

    Returns:
        The two runs' summaries by method.
    """
    start = time.perf_counter()
    summaries = {}
    for method in ("ce", "kd"):
        run = distill(DATA, method=method, out=out / method, seed=seed, options=OPTIONS, overwrite=True)
        summaries[method] = run.summary()
    _print_table(summaries, out)
    console = Console()
    gain = 100 * (summaries["kd"]["test.top1"] - summaries["ce"]["test.top1"])
    console.print(
        f"kd - ce: {gain:+.1f} points on {summaries['kd']['images.test']} test images, "
        f"in {time.perf_counter() - start:.0f} s",
        highlight=False,
    )
    for method in summaries:
        console.print(f"{out / method}  {out / method / 'model.onnx'}", highlight=False)
    return summaries


def _print_table(summaries: dict[str, dict[str, Any]], out: Path) -> None:
    table = Table(title=f"{DATA}: 60 look-alike species, 20 training images each")
    for column in ("model", "test top-1", "test per class", "parameters", "ms per image"):
        table.add_column(column, justify="left" if column == "model" else "right")
    kd = summaries["kd"]
    table.add_row(
        "teacher (mini-CLIP, zero-shot)",
        _percent(kd["teacher.test.top1"]),
        _percent(kd["teacher.test.mean_per_class"]),
        "",
        "",
    )
    for method, summary in summaries.items():
        milliseconds = f"{latency_ms(out / method / 'model.onnx'):.2f}"
        row = (
            _percent(summary["test.top1"]),
            _percent(summary["test.mean_per_class"]),
            f"{summary['student.params'] / 1e6:.2f} M",
            milliseconds,
        )
        table.add_row(f"{method} -> {summary['student.name']}", *row)
    Console().print(table)


def latency_ms(path: Path, repeats: int = 50) -> float:
    """Median time of one image through the ONNX file, after a warm-up."""
    network = OnnxNetwork(path)
    image = np.random.default_rng(0).random((1, 3, network.image_size, network.image_size), dtype=np.float32)
    times = []
    for _ in range(repeats + 5):
        start = time.perf_counter()
        network.logits(image)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[5:])


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"

"""What all parts share: photos to measure on, times taken in turn, child processes, and one table of ratios."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from linnet.files import cache_folder


@dataclass(frozen=True)
class Row:
    """One ratio: ``what`` it is of, its median with the smallest and largest of the repetitions, and what is asked of
    it (``at_least`` or ``at_most``, if anything)."""

    part: str
    what: str
    ratio: float
    low: float
    high: float
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}: {'yes' if self.ratio >= self.at_least else 'no'}"
        if self.at_most is not None:
            return f"≤ {self.at_most:g}: {'yes' if self.ratio <= self.at_most else 'no'}"
        return ""


def row(part: str, what: str, ratios: Sequence[float], **more: Any) -> Row:
    return Row(part, what, statistics.median(ratios), min(ratios), max(ratios), **more)


def in_turn(calls: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each of several calls, taken one after the other, ``rounds`` times: a busy moment meets them all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for done in range(warm_up + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if done >= warm_up:
                times[name].append(time.perf_counter() - start)
    return times


def taking_steps(module: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """A call that takes one step: the loss, its gradients, the update of the weights."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        now = loss()
        optimizer.zero_grad()
        now.backward()
        optimizer.step()

    return step


def photos(classes: int, images: int, size: tuple[int, int] = (500, 375), seed: int = 0) -> Path:
    """A folder with so many JPEG files of each class, smooth colours with some noise; made once."""
    folder = cache_folder() / "bench" / f"photos-{classes}-{images}-{size[0]}x{size[1]}-{seed}"
    if (folder / "whole").exists():
        return folder / "photos"
    rng = np.random.default_rng([seed, classes, images])
    for c in range(classes):
        own = folder / "photos" / f"kind {c:05d}"
        own.mkdir(parents=True, exist_ok=True)
        for i in range(images):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
            pixels += rng.integers(-4, 5, (size[1], size[0], 1), dtype=np.int16)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(own / f"{i:05d}.jpg", quality=90)
    (folder / "whole").touch()
    return folder / "photos"


def in_a_process(code: str, *arguments: object, **environment: str) -> Any:
    """What a program of its own prints as JSON in its last line."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(rows: Sequence[Row]) -> str:
    """Markdown: what was asked and missed is bold. Steps (part a) are a table of their own: a row for each student and
    size, a column for each method and its views."""
    return "\n\n".join(part for part in (_steps([own for own in rows if own.part == "a"]), _others(rows)) if part)


def _steps(rows: Sequence[Row]) -> str:
    cells: dict[str, dict[str, Row]] = {}
    for own in rows:
        student, size, column = own.what.split(", ", 2)
        cells.setdefault(f"{student}, {size}", {})[f"{column}, ≥ {own.at_least}"] = own
    if not cells:
        return ""
    columns = list(next(iter(cells.values())))
    lines = [f"| student alone / training step | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    lines += [f"| {name} | {' | '.join(_cell(own[column]) for column in columns)} |" for name, own in cells.items()]
    return "\n".join(lines)


def _others(rows: Sequence[Row]) -> str:
    lines = ["| measured | median (smallest to largest) | asked |", "|---|---|---|"]
    for own in rows:
        if own.part != "a":
            lines.append(f"| {own.what}{f' ({own.note})' if own.note else ''} | {_cell(own)} | {own.verdict} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _cell(own: Row) -> str:
    """Without a range, what was measured once."""
    ratio, span = f"{own.ratio:.3g}", f" ({own.low:.3g} to {own.high:.3g})" if own.low < own.high else ""
    return f"{f'**{ratio}**' if own.verdict.endswith('no') else ratio}{span}"


def write(file: Path, machine: str, rows: Sequence[Row]) -> None:
    """Keep the rows as JSON: those of parts that were not measured now stay as they were."""
    now = {own.part for own in rows}
    earlier = [Row(**own) for own in json.loads(file.read_text())["rows"]] if file.exists() else []
    kept = sorted([*(own for own in earlier if own.part not in now), *rows], key=lambda own: own.part)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": machine, "rows": [asdict(own) for own in kept]}, indent=1) + "\n")


def page(guide: Path, results: Path) -> str:
    """The guide with the table of the results in the place of the one before."""
    before, mark, rest = guide.read_text().partition("<!-- make bench -->\n")
    _, end, after = rest.partition("\n<!-- end of make bench -->")
    found = json.loads(results.read_text())
    return f"{before}{mark}{found['machine']}:\n\n{table([Row(**own) for own in found['rows']])}{end}{after}"

"""fp32 or bf16: on a CPU by timing a step of this student in both.

A processor flag does not tell: of two machines that compute bf16 in hardware one trained twice as fast with it, the
other up to 2.7 times slower.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from linnet.environment import computes_bf16, cpu_name
from linnet.errors import UserError
from linnet.files import cache_folder, write_atomically
from linnet.students.student import Stem, Student
from linnet.text.classes import class_table
from linnet.timing import best_ms_in_turn

Precision = Literal["fp32", "bf16"]
log = logging.getLogger("linnet")

MARGIN = 0.8  # bf16 must take at most this share of the time: it costs digits, and times vary
SECONDS = 5.0  # no further round of steps starts after this time
CLASSES = 100


def choose_precision(
    name: str, image_size: int, batch_size: int, stem: Stem, channels_last: bool
) -> tuple[Precision, str]:
    """The precision to train in on this machine, and why.

    On a CPU that computes bf16 in hardware a few steps of the student are timed in both; the times are kept for this
    machine, student, size and batch. On a GPU with bf16, bf16.

    Args:
        batch_size: over all processes together.

    Raises:
        UserError: there is no such student, or it cannot work at this size.
    """
    if not computes_bf16():
        return "fp32", "bf16 is not computed in hardware"
    if torch.cuda.is_available():
        return "bf16", "the GPU computes it in hardware"
    batch_size = max(2, batch_size // int(os.environ.get("WORLD_SIZE", "1")))
    own = {"student": name, "image_size": image_size, "batch_size": batch_size}
    key = {**_machine(), **own, "stem": stem, "channels_last": channels_last}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = folder() / f"{digest}.json"
    row = _read(path)
    if row is None:
        log.info("precision: a few steps of %s at %d pixels are timed in fp32 and bf16, once", name, image_size)
        row = {**key, "ms": _measure(name, image_size, batch_size, stem, channels_last)}
        with suppress(UserError, OSError):  # a cache that cannot be written: timed again next time
            write_atomically(path, json.dumps(row, indent=1))
    ms = row["ms"]
    faster: Precision = "bf16" if ms["bf16"] <= MARGIN * ms["fp32"] else "fp32"
    words = f"a step takes {ms['fp32']:.0f} ms in fp32, {ms['bf16']:.0f} in bf16, on this CPU"
    return faster, words


def folder() -> Path:
    """Where the times are kept."""
    return cache_folder() / "precision"


def measured_here() -> Iterator[dict[str, Any]]:
    """What was measured on this machine so far: student, image_size, batch_size, threads, and ms by precision."""
    machine = {name: value for name, value in _machine().items() if name != "threads"}
    for path in sorted(folder().glob("*.json")):
        row = _read(path)
        if row is not None and machine.items() <= row.items():
            yield row


def _read(path: Path) -> dict[str, Any] | None:
    """A measurement; None if there is none, or a damaged one."""
    try:
        row = json.loads(path.read_bytes())
        return row if all(row["ms"][precision] > 0 for precision in ("fp32", "bf16")) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _machine() -> dict[str, Any]:
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    return {"cpu": cpu_name(), "isa": isa, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _measure(name: str, image_size: int, batch_size: int, stem: Stem, channels_last: bool) -> dict[str, float]:
    """A step is forward, backward and update, as in a run with method ce."""
    with torch.random.fork_rng(devices=[]):
        student: Any = Student(name, class_table([str(i) for i in range(CLASSES)]), image_size, False, stem)
        images, labels = torch.rand(batch_size, 3, image_size, image_size), torch.arange(batch_size) % CLASSES
    if channels_last:
        student.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)

    def step(precision: Precision) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits_BC = student(images).logits_BC
        optimizer.zero_grad()
        F.cross_entropy(logits_BC.float(), labels).backward()
        optimizer.step()

    return best_ms_in_turn({"fp32": partial(step, "fp32"), "bf16": partial(step, "bf16")}, seconds=SECONDS)

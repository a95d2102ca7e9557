"""What linnet runs on: versions, extras, hardware."""

import ctypes
import importlib.metadata
import importlib.util
import math
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PACKAGES = (
    "linnet",
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "accelerate",
    "numpy",
    "safetensors",
    "onnx",
    "onnxruntime",
)

# of malloc.h: what glibc's mallopt sets, and what it is set to from the start
M_TRIM_THRESHOLD, TRIM_THRESHOLD = -1, 128 * 1024
M_MMAP_MAX, MMAP_MAX = -4, 65536

CGROUP = Path("/sys/fs/cgroup")
EXTRAS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime", "tokenizers", "ftfy"),
    "hf": ("transformers",),
    "heif": ("pillow_heif",),
    "ray": ("ray",),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}


def environment() -> dict[str, Any]:
    """What a number was measured with."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processors": available_cpus(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "folder": os.getcwd(),
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "packages": {name: version(name) for name in PACKAGES},
    }


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing_modules(extra: str) -> list[str]:
    """The modules of an extra that are not installed."""
    return [module for module in EXTRAS[extra] if importlib.util.find_spec(module) is None]


def device_words() -> str:
    """The GPU, or the CPU with its threads."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    usable, there = available_cpus(), os.cpu_count() or 1
    shown = f"{usable} of {there}" if usable < there else str(there)
    return f"{cpu_name()}, {shown} processors, {torch.get_num_threads()} thread(s)"


def available_cpus() -> int:
    """How many processors this process may use: those of its affinity (``taskset``), at most the quota of its container
    (cgroups). More threads than that wait for one another."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, _quota(CGROUP) or usable))


def _quota(folder: Path) -> int | None:
    """Whole processors of a cgroup's share of time, rounded up; None if it is not limited. Versions 2 and 1."""
    with suppress(OSError, ValueError):
        share, period = (folder / "cpu.max").read_text().split()
        return None if share == "max" else math.ceil(int(share) / int(period))
    with suppress(OSError, ValueError, ZeroDivisionError):
        share, period = ((folder / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return math.ceil(int(share) / int(period)) if int(share) > 0 else None
    return None


def cpu_name() -> str:
    """The processor's own name where the system tells it, and what its vector units are called."""
    import torch

    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def computes_bf16() -> bool:
    """Whether the hardware multiplies in bf16 (elsewhere it is emulated, and many times slower). On a CPU that does,
    bf16 is not always faster: see :func:`linnet.students.precision.choose_precision`."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


_keeping: list[bool] = []  # not empty while a block keeps what is freed


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """In the block, what is freed is kept for what is allocated next, and handed back at its end.

    glibc gives large pieces back to the system at once. The activations of each training step are such pieces, and the
    system clears every page of them anew: a quarter of a step of a small network on a CPU. Elsewhere nothing changes.
    In a block within a block the outer one decides.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt") or _keeping:
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, -1)
    _keeping.append(True)
    try:
        yield
    finally:
        _keeping.clear()
        library.mallopt(M_MMAP_MAX, MMAP_MAX)
        library.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
        if hasattr(library, "malloc_trim"):  # musl has none
            library.malloc_trim(0)

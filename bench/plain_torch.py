"""What torch itself takes on this CPU, without linnet: ``python bench/plain_torch.py``.

* compile: a training step of a student, eager and compiled, and how long compiling takes.
* looks: a network that only looks at images, by layout, by how many it is shown at once, and with what it frees kept.

Behind the numbers of docs/LOG.md and the words on torch.compile in docs/guides/speed.md. Takes some ten minutes; names
restrict it: ``python bench/plain_torch.py looks``.
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import timm
import torch
import torch.nn.functional as F

from linnet.environment import device_words, freed_memory_kept

STUDENTS = (("mobilenetv3_small_100", 128), ("lcnet_035", 64), ("resnet18", 64))
LOOKING = (("tf_efficientnet_lite2", 260), ("resnet50", 224), ("convnext_tiny", 224), ("vit_base_patch32_224", 224))
BATCH, ROUNDS = 64, 5


def seconds(call: Callable[[], object], rounds: int) -> list[float]:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def compiling() -> None:
    for name, size in STUDENTS:
        labels, images = torch.arange(BATCH) % 50, torch.rand(BATCH, 3, size, size)
        for compiled in (False, True):
            torch._dynamo.reset()
            student: torch.nn.Module = timm.create_model(name, num_classes=50).train()
            student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, fused=True)
            called = torch.compile(student) if compiled else student

            def step() -> None:
                loss = F.cross_entropy(called(images), labels)  # noqa: B023  (called before the next round)
                optimizer.zero_grad()  # noqa: B023
                loss.backward()
                optimizer.step()  # noqa: B023

            first, _, *rest = seconds(step, 2 + ROUNDS)
            how = "compiled" if compiled else "eager"
            print(f"{name}, {size} px, {how}: first step {first:.1f} s, then {1000 * statistics.median(rest):.0f} ms")


def looks() -> None:
    for name, size in LOOKING:
        images = torch.rand(BATCH, 3, size, size)
        for kept, layout in ((False, "contiguous"), (True, "contiguous"), (True, "channels last")):
            network: torch.nn.Module = timm.create_model(name).eval()
            if layout == "channels last":
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            with torch.inference_mode(), freed_memory_kept() if kept else nullcontext():
                for at_once in (64, 8):
                    part = images[:at_once]
                    ms = 1000 * statistics.median(seconds(lambda: network(part), 1 + ROUNDS)[1:]) / at_once  # noqa: B023
                    words = f"{layout}, {at_once} at once" + (", what is freed is kept" if kept else "")
                    print(f"{name}, {size} px, {words}: {ms:.1f} ms an image", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(device_words())
    parts = {"compile": compiling, "looks": looks}
    if unknown := set(sys.argv[1:]) - set(parts):
        sys.exit(f"no part {', '.join(sorted(unknown))}: choose of {', '.join(parts)}")
    for chosen in sys.argv[1:] or parts:
        parts[chosen]()

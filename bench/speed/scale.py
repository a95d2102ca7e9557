"""(d) Seconds and memory of an epoch with more and more images: small files, the smallest student, a process each."""

import math
from collections.abc import Iterator

from measuring import Row, in_a_process, photos, row

SIZES = (2_000, 8_000, 32_000, 128_000)
CLASSES = 20

RUN = """
import json, re, sys, time
from functools import partial
from pathlib import Path
from linnet.commands.profile import in_place_of_training
from linnet.training import make_optimizer, train_epoch

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def end(found, setup):
    config, task, batches, accelerator, _ = setup
    optimizer, task = make_optimizer(task, config.train), task.train()
    run = partial(train_epoch, task, optimizer, batches, config.train, accelerator)
    found["before"] = anonymous()
    for epoch in range(2):  # the first one warms up what is read from the disk
        start = time.perf_counter()
        run(epoch, 2 * len(batches), lambda done, of: None)
        found["seconds"] = (time.perf_counter() - start) / len(batches)
        found["steps"], found["memory"] = len(batches), anonymous()

found = {}
options = {"method": "ce", "student.name": "lcnet_035", "student.pretrained": False, "student.image_size": 32}
options |= {"train.batch_size": 128, "train.precision": "fp32", "data.test": "none", "train.epochs": 2}
start = time.perf_counter()
in_place_of_training(partial(end, found), sys.argv[1], options=options)
print(json.dumps(found))
"""


def scale(sizes: tuple[int, ...] = SIZES, rounds: int = 1) -> Iterator[Row]:
    """The exponent of seconds per epoch in the number of images, and the anonymous memory at the end of an epoch."""
    folders = {size: photos(CLASSES, size // CLASSES, (40, 40)) for size in sizes}
    found = [{size: in_a_process(RUN, folder) for size, folder in folders.items()} for _ in range(rounds)]
    seconds = [{size: own["seconds"] * own["steps"] for size, own in one.items()} for one in found]
    second, last = sizes[1], sizes[-1]
    exponents = [math.log(one[last] / one[second]) / math.log(last / second) for one in seconds]
    shown = ", ".join(f"{size:,}: {seconds[0][size]:.1f} s, {found[0][size]['memory']:.0f} MB" for size in sizes)
    yield row("d", f"exponent of seconds per epoch, {second:,} to {last:,} images", exponents, at_most=1.05, note=shown)
    memory = [one[last]["memory"] / one[second]["memory"] for one in found]
    yield row("d", f"anonymous memory, {last:,} / {second:,} images", memory, at_most=1.1)

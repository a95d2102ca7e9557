"""What a large text bank costs a predictor: ``python bench/names.py RUN``, a run of --method openvocab.

The image side is one call of the network with a bank of 10 and of 10,000 names, in turn, on ONNX Runtime and on torch;
the whole of a prediction adds reading the image, the softmax and the sorting. Memory is the process's own peak.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from linnet.banks import TextBank
from linnet.onnx_export import export_onnx
from linnet.predict import Predictor, load
from linnet.students import Student

REPEATS, NAMES = 300, (10, 10_000)


def bank(own: TextBank, names: int) -> TextBank:
    rows = np.random.default_rng(0).normal(size=(names, own.rows_CE.shape[1])).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return TextBank(tuple(map(str, range(names))), rows, own.teacher, own.teacher_hash, own.templates)


def milliseconds(calls: list[Callable[[], object]]) -> list[float]:
    """Median time of each call; they take turns, so that all of them see the same disturbances."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(REPEATS + 10):
        for own, call in zip(times, calls, strict=True):
            start = time.perf_counter()
            call()
            if repeat >= 10:
                own.append(1000 * (time.perf_counter() - start))
    return [statistics.median(own) for own in times]


def main(arguments: argparse.Namespace) -> None:
    student = Student.load(arguments.run / "model")
    assert student.bank is not None
    model = arguments.run / "model.onnx"
    if not model.exists():
        export_onnx(student, model)
    side = student.image_size
    image = np.random.default_rng(1).random((1, 3, side, side), dtype=np.float32)
    banks = [bank(student.bank, names) for names in NAMES]
    peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]
    for kind, path in (("ONNX Runtime", model), ("torch", arguments.run)):
        predictors: list[Predictor] = [load(path, own) for own in banks]
        few, many = milliseconds([lambda p=p: p.network.logits(image) for p in predictors])  # type: ignore[misc]
        print(f"{kind}, {student.name} at {side} px, one image: {few:.2f} ms with {NAMES[0]} names, {many:.2f} ms with "
              f"{NAMES[1]}: {many / few:.2f} x")  # fmt: skip
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    size = banks[1].rows_CE.nbytes / 1e6
    print(f"peak memory {peaks[0]:.0f} MB before, {peaks[-1]:.0f} MB after; {NAMES[1]} names are {size:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    main(parser.parse_args())

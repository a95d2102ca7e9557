"""What a large text bank costs a predictor: ``python bench/names.py RUN``, a run of --method openvocab.

A call of the network with a bank of 10 and of 10,000 names, and the whole prediction from a JPEG file of 500 x 375
pixels, on ONNX Runtime and on torch; for the student of the run or, with ``--student NAME --size PIXELS``, for an
untrained one with the same teacher. Memory is the process's peak.
"""

import argparse
import resource
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from linnet.deploy.export import export_onnx
from linnet.deploy.predictor import Predictor, load
from linnet.run import Run
from linnet.students.student import Student
from linnet.text.bank import TextBank
from linnet.timing import median_ms

ROUNDS, NAMES = 20, (10, 10_000)


def bank(own: TextBank, names: int) -> TextBank:
    rows = np.random.default_rng(0).normal(size=(names, own.rows_CE.shape[1])).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return TextBank(tuple(map(str, range(names))), rows, own.teacher, own.teacher_hash, own.templates)


def milliseconds(predictor: Predictor, banks: list[TextBank], call: Callable[[], object]) -> list[float]:
    """Median time of a call with each bank. As in use, one bank stays for a while: they change after every 10 calls."""
    times: list[list[float]] = [[] for _ in banks]
    for _ in range(ROUNDS):
        for own, bank in zip(times, banks, strict=True):
            predictor.network.set_bank(bank)
            own.append(median_ms(call, repeats=10, warm_up=1))
    return [statistics.median(own) for own in times]


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: argparse.Namespace) -> None:
    student = Student.load(Run(arguments.run).model)
    assert student.bank is not None
    if arguments.student:
        student = Student(arguments.student, student.classes, arguments.size, bank=student.bank).eval()
    assert student.bank is not None
    folder = Path(tempfile.mkdtemp())
    student.save(folder / "model")
    export_onnx(student, folder / "model.onnx")
    side, banks = student.image_size, [bank(student.bank, names) for names in NAMES]
    Image.effect_noise((500, 375), 60).convert("RGB").save(folder / "photo.jpg")
    for kind, path in (("ONNX Runtime", folder / "model.onnx"), ("torch", folder)):
        predictor = load(path)
        one, some = (np.random.default_rng(1).random((n, 3, side, side), dtype=np.float32) for n in (1, 16))
        calls: dict[str, Callable[[], object]] = {
            "1 image": lambda own=predictor, images=one: own.network.logits(images),  # type: ignore[misc]
            "16 images": lambda own=predictor, images=some: own.network.logits(images),  # type: ignore[misc]
            "from a file": lambda own=predictor: list(own.predict([folder / "photo.jpg"])),  # type: ignore[misc]
        }
        for what, call in calls.items():
            before = megabytes()
            few, many = milliseconds(predictor, banks, call)
            print(f"{kind}, {student.name} at {side} px, {what}: {few:.2f} ms with {NAMES[0]} names, {many:.2f} ms "
                  f"with {NAMES[1]}: {many / few:.2f} x; peak memory +{megabytes() - before:.0f} MB")  # fmt: skip
    print(f"{NAMES[1]} names are {banks[1].rows_CE.nbytes / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--student")
    parser.add_argument("--size", type=int, default=224)
    main(parser.parse_args())

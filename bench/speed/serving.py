"""(f) The exported student against its teacher, and ``predict`` against a bare loop; (g) what a job costs that is not
training."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measuring import Row, in_a_process, in_turn, photos, row
from PIL import Image
from teachers import ARCHITECTURE, STUDENT, teacher_folder

import linnet
from linnet.deploy.export import export_onnx
from linnet.deploy.onnx_session import open_session
from linnet.files import cache_folder
from linnet.students.student import Student
from linnet.teachers import load_teacher
from linnet.text.classes import class_table

SIZE, BATCH = 224, 64

JOB = """
import json, sys, time
start = time.perf_counter()
import linnet
options = {"student.pretrained": False, "student.image_size": int(sys.argv[3]), "train.epochs": 10}
words = {"student": "mobilenetv3_small_100", "method": "ce", "out": sys.argv[2], "overwrite": True}
run = linnet.distill(sys.argv[1], options={**options, "train.precision": "fp32"}, **words)
print(json.dumps({"seconds": time.perf_counter() - start, "training": run.summary()["train.seconds"]}))
"""


def student_file() -> Path:
    path = cache_folder() / "bench" / f"{STUDENT}-{SIZE}.onnx"
    if not path.exists():
        torch.manual_seed(0)
        path.parent.mkdir(parents=True, exist_ok=True)
        export_onnx(Student(STUDENT, class_table([f"kind {c}" for c in range(50)]), SIZE), path)
    return path


def serving(images: int = 384, rounds: int = 5) -> Iterator[Row]:
    """(f) Images a second, one process: files to names, the same files through PIL and ONNX Runtime in a bare loop that
    decodes as a thread pool would; and one image through student and teacher."""
    file, paths = student_file(), sorted(photos(8, images // 8).glob("*/*.jpg"))
    predictor, session = linnet.load(file), open_session(file, str(file))

    def pixels(path: Path) -> np.ndarray:
        image = Image.open(path).convert("RGB")
        side = SIZE * 256 // 224
        width, height = (side * length // min(image.size) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - SIZE) // 2, (height - SIZE) // 2
        return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))

    def bare() -> None:
        for start in range(0, len(paths), BATCH):
            batch = np.stack([pixels(path) for path in paths[start : start + BATCH]])
            session.run(None, {"images": batch.transpose(0, 3, 1, 2).astype(np.float32) / 255})

    times = in_turn({"linnet": lambda: predictor.predict(paths), "bare": bare}, rounds)
    ratios = [loop / own for loop, own in zip(times["bare"], times["linnet"], strict=True)]
    note = f"{len(paths) / min(times['linnet']):.0f} images/s"
    yield row("f", "predict / a bare loop of Pillow and ONNX Runtime, images/s", ratios, at_least=0.9, note=note)
    teacher, one = load_teacher(f"open_clip:local-dir:{teacher_folder()}"), torch.rand(1, 3, SIZE, SIZE)
    image = one.numpy()
    times = in_turn(
        {"student": lambda: session.run(None, {"images": image}), "teacher": lambda: teacher.embed_images(one)},
        4 * rounds,
    )
    ratios = [large / small for large, small in zip(times["teacher"], times["student"], strict=True)]
    note = f"{1000 * min(times['student']):.1f} ms"
    yield row("f", f"one image: {ARCHITECTURE} / exported {STUDENT}, {SIZE} px", ratios, note=note)


def fixed_costs(sizes: tuple[int, ...] = (224,), rounds: int = 1) -> Iterator[Row]:
    """(g) A job of 1,000 photos and 10 epochs: the share of its time that is not training; caches are warm."""
    source = photos(10, 100)
    for size in sizes:
        shares = []
        for done in range(1 + rounds):
            found = in_a_process(JOB, source, cache_folder() / "bench" / "job", size)
            if done:
                shares.append(1 - found["training"] / found["seconds"])
        note = f"{found['seconds']:.0f} s, of which {found['seconds'] - found['training']:.1f} s are no training"
        yield row("g", f"not training, ce, {STUDENT}, {size} px", shares, at_most=0.15, note=note)

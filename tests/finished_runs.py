"""Finished runs made by hand, with the files that verdicts read: no training."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from linnet.config import Config, StudentConfig, TeacherConfig
from linnet.config_files import write_yaml
from linnet.data.manifest import Manifest
from linnet.evaluation.score import write_predictions
from linnet.run import Run
from linnet.text.classes import class_table

CONFIG = Config(teacher=TeacherConfig(id="fake"), student=StudentConfig(name="net"))


def rows(images: int, classes: int = 4) -> Manifest:
    labels = np.arange(images) % classes
    paths = tuple(Path(f"{i}.jpg") for i in range(images))
    digests = np.arange(16 * images, dtype=np.uint8).reshape(images, 16)
    return Manifest(paths, labels, np.full(images, "val"), digests, class_table([f"bird {c}x" for c in range(classes)]))


def logits_with(right: int, manifest: Manifest) -> np.ndarray:
    """The first ``right`` images are named right, the others as the next class."""
    classes = len(manifest.classes)
    named = np.where(np.arange(len(manifest)) < right, manifest.labels, (manifest.labels + 1) % classes)
    return np.eye(classes)[named]


def made_run(
    folder: Path,
    val: Manifest,
    right: int,
    method: str = "ce",
    student: str = "net",
    data: str = "this data",
    config: Config = CONFIG,
) -> Run:
    """A finished run with the files that a verdict reads."""
    run = Run(folder)
    folder.mkdir(parents=True)
    own = replace(config, method=method, student=StudentConfig(name=student))
    write_yaml(own, run.config)
    run.pin(data=data)
    write_predictions(run.predictions_of("val"), val, logits_with(right, val), None)
    run.write_summary({"method": method, "student.name": student, "val.top1": right / len(val)})
    return run

"""Finished run folders without a training: settings, a summary, and which images the student names right."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from linnet.config_files import write_yaml
from linnet.defaults import settings
from linnet.run import Run

DATA = "aviary:species=4,genus=2,images=20"
TINY = {"student.name": "test_resnet", "student.image_size": 32, "train.precision": "fp32", "export": False}


def write_run(
    folder: Path,
    method: str = "ce",
    seed: int = 0,
    right: Sequence[bool] = (),
    val: float = 0.5,
    options: Mapping[str, Any] = {},
    summary: Mapping[str, Any] = {},
    data: str = "hash",
    novel: tuple[Sequence[bool], Sequence[bool], Sequence[str]] | None = None,
) -> Run:
    """``right``: of each test image. ``novel``: of each of novel classes, by student and teacher, and its class."""
    config, _ = settings(DATA, method=method, seed=seed, options={**TINY, **options})
    run = Run(folder)
    folder.mkdir(parents=True)
    write_yaml(config, run.config)
    run.environment.write_text("[{}]")
    run.inputs.write_text(json.dumps({"data": data}))
    right_N = np.array(right, dtype=bool)
    own: dict[str, Any] = {"method": method, "student.name": config.student.name, "seed": seed, "student.params": 1000}
    own |= {"teacher.id": None, "images.test": len(right_N), "images.val": 10, "val.top1": val, "train.seconds": 2.0}
    if method != "ce":
        own |= {
            "teacher.id": "mini-clip",
            "teacher.test.top1": 0.8,
            "teacher.val.top1": 0.7,
            "teacher.head": "zero-shot",
        }
    if len(right_N):
        own["test.top1"] = float(right_N.mean())
        write_predictions(run.predictions_of("test"), right_N)
    if novel:
        write_predictions(run.predictions_of("ood"), *(np.array(own) for own in novel))
    run.summary_file.write_text(json.dumps(own | dict(summary)))
    return run


def write_predictions(
    file: Path, right_N: np.ndarray, by_teacher_N: np.ndarray | None = None, labels_N: np.ndarray | None = None
) -> None:
    labels_N = np.full(len(right_N), "a") if labels_N is None else labels_N
    file.parent.mkdir(exist_ok=True)
    table = {"path": [f"{i}.jpg" for i in range(len(right_N))], "label": labels_N.tolist()}
    for column, named_N in {"prediction": right_N, "teacher_prediction": by_teacher_N}.items():
        if named_N is not None:
            table[column] = np.where(named_N, labels_N, "none of them").tolist()
    pyarrow.parquet.write_table(pyarrow.table(table), file)

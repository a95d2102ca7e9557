"""Two processes with torchrun, on one CPU: the real command in real processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest

import linnet
from linnet.run import Run

OPTIONS = {
    "student.image_size": 32,
    "student.pretrained": False,
    "train.batch_size": 16,
    "train.epochs": 8,
    "prompts.max_steps": 4,
    "export": False,
}


def torchrun(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "linnet"]
    flags = [
        word
        for name, value in OPTIONS.items()
        if name != "export"
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return subprocess.run(
        [*command, "distill", str(data), "--teacher", "mini-clip", "--student", "test_resnet", "--method", "pand", *flags, "--no-export", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip


def test_two_processes_train_one_student_and_score_every_image_once(make_folder: Callable[..., Path], tmp_path: Path):
    photos = make_folder(images=40)
    alone = linnet.distill(
        photos, teacher="mini-clip", student="test_resnet", method="pand", out=tmp_path / "alone", options=OPTIONS
    )
    done = torchrun(photos, "--out", str(tmp_path / "both"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path / "both")]  # said once, by one process
    both = Run(tmp_path / "both")
    ours, theirs = alone.summary(), both.summary()
    for split in ("val", "test"):
        paths = [
            pyarrow.parquet.read_table(run.predictions / f"{split}.parquet")["path"].to_pylist()
            for run in (alone, both)
        ]
        assert paths[0] == paths[1]
        assert len(set(paths[1])) == len(paths[1]) == theirs[f"images.{split}"]
    assert theirs["teacher.test.top1"] == ours["teacher.test.top1"]
    for summary in (ours, theirs):  # three colours: whoever learns anything knows them
        assert summary["test.top1"] > 0.8
    assert [row["step"] for row in both.metrics()] == [row["step"] for row in alone.metrics()]
    # each process normalises its own 8 images: the same batches, not the same numbers
    assert both.metrics()[0]["loss"] == pytest.approx(alone.metrics()[0]["loss"], rel=0.3)


def test_an_error_is_said_and_nobody_waits_for_ever(make_folder: Callable[..., Path], tmp_path: Path):
    done = torchrun(
        make_folder(), "--out", str(tmp_path / "r"), "--teacher.head", "zero-shot", "--teacher.templates", "no place"
    )
    assert done.returncode != 0
    assert "linnet: teacher.templates must be sentences with one {}" in done.stderr

"""Two processes on one CPU, started by torchrun: the real command in real processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file

import linnet
from linnet.run import Run

# Every term is a mean over the batch, no layer looks at other images (test_vit has no batch statistics), and SGD does not
# magnify rounding: so two halves of a batch, if their gradients are averaged, train the very student that one whole does.
OPTIONS = {
    "student.image_size": 32,
    "student.pretrained": False,
    "train.optimizer": "sgd",
    "train.batch_size": 16,
    "train.epochs": 3,
    "train.precision": "fp32",
    "prompts.max_steps": 4,
    "pand.nsd_weight": 0.0,
}
WORDS = {"teacher": "mini-clip", "student": "test_vit", "method": "pand"}


def torchrun(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


def teacher_rows(cache: Path) -> list[dict[bytes, np.ndarray]]:
    """Of each shard of a cache: row key -> what the teacher said."""
    shards = [load_numpy(path) for path in (cache / "teacher").glob("*/*.safetensors")]
    return [{key.tobytes(): row for key, row in zip(own["keys"], own["rows"], strict=True)} for own in shards]


def test_two_processes_train_the_student_that_one_does_and_score_every_image_once(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Processes that never joined, or never averaged their gradients, would train on half of each batch, silently. Each
    asks the teacher about its own half of the images."""
    photos, caches = make_folder(images=20), {name: tmp_path / f"cache-{name}" for name in ("alone", "both")}
    monkeypatch.setenv("LINNET_CACHE", str(caches["alone"]))
    alone = linnet.distill(photos, **WORDS, out=tmp_path / "alone", options={**OPTIONS, "export": False})
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**OPTIONS, **WORDS}.items()]
    done = torchrun("-m", "linnet", "distill", str(photos), *flags, "--no-export", "--out", str(tmp_path / "both"), LINNET_CACHE=str(caches["both"]))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path / "both")]  # said once, by one process
    shards, halves = teacher_rows(caches["alone"]), teacher_rows(caches["both"])
    expected = {key: row for shard in shards for key, row in shard.items()}
    found = {key: row for shard in halves for key, row in shard.items()}
    assert len(halves) == 2 * len(shards)  # of train, val and test, one by each
    assert len(found) == sum(map(len, halves)) == 60
    assert max(map(len, halves)) < max(map(len, shards))
    assert expected.keys() == found.keys()
    assert all(np.allclose(found[key], expected[key], atol=1e-3) for key in found)
    both = Run(tmp_path / "both")
    for split in ("val", "test"):
        runs = [pyarrow.parquet.read_table(run.predictions / f"{split}.parquet") for run in (alone, both)]
        paths = [run["path"].to_pylist() for run in runs]
        assert paths[0] == paths[1]
        assert len(set(paths[1])) == len(paths[1]) == both.summary()[f"images.{split}"]
    assert both.summary()["test.top1"] == alone.summary()["test.top1"]
    for ours, theirs in zip(alone.metrics(), both.metrics(), strict=True):
        assert theirs["step"] == ours["step"]
        for term in ("loss", "ce", "vision", "text"):
            assert theirs[term] == pytest.approx(ours[term], rel=1e-3)
    weights = [load_file(run.model / "model.safetensors") for run in (alone, both)]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0])
    with pytest.raises(linnet.UserError, match="the number of processes changed since"):
        linnet.distill(photos, **WORDS, out=both.folder, options={**OPTIONS, "export": False}, resume=True)


@pytest.mark.slow
def test_an_embedding_head_with_learned_prompts_and_few_shots_trains_on_two_processes(tmp_path: Path):
    """Terms without a contrast in the batch: two halves train the student and the prompts that one whole does."""
    source, words = "aviary:species=6,images=10,genus=1", {"teacher": "mini-clip", "student": "test_vit"}
    options = {
        **{key: value for key, value in OPTIONS.items() if not key.startswith(("pand", "prompts"))},
        "data.novel": 0.5, "data.novel_images": "test", "openvocab.contrast_weight": 0.0, "openvocab.filter": False,
        "openvocab.learn_prompts": True, "prompts.vectors": 2,
    }  # fmt: skip
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**options, **words}.items()]
    start = linnet.distill(
        source, **words, method="openvocab", out=tmp_path / "start", options={**options, "export": False}
    )
    tune = {"shots.count": 2, "shots.use": "finetune", "student.pretrained": str(start.model), "train.lr": 0.01}
    alone = linnet.distill(source, **words, method="openvocab", out=tmp_path / "alone",
                           options={**options, **tune, "export": False})  # fmt: skip
    flags += [
        "--method=openvocab",
        *(f"--{name.replace('count', '').rstrip('.')}={value}" for name, value in tune.items()),
    ]
    flags = [flag for flag in flags if flag != "--student.pretrained=False"]
    done = torchrun("-m", "linnet", "distill", source, *flags, "--no-export", "--out", str(tmp_path / "both"))
    assert done.returncode == 0, done.stderr
    both = Run(tmp_path / "both")
    for ours, theirs in zip(alone.metrics(), both.metrics(), strict=True):
        for term in ("loss", "ce", "mse", "align"):
            assert theirs[term] == pytest.approx(ours[term], rel=1e-3)
    for name in ("model.safetensors", "bank.safetensors"):
        first, second = (load_file(run.model / name) for run in (alone, both))
        assert all(torch.allclose(first[key], second[key], atol=1e-4) for key in first)
    assert both.summary()["ood.mean_per_class"] == pytest.approx(alone.summary()["ood.mean_per_class"], abs=0.02)


@pytest.mark.slow
def test_processes_can_train_twice_and_nobody_waits_for_one_that_failed(
    make_folder: Callable[..., Path], tmp_path: Path
):
    script = tmp_path / "twice.py"
    script.write_text(f"""
import sys, time, linnet
from linnet.run import Run
begin = Run.begin
def slowly(run):
    time.sleep(1)
    begin(run)
Run.begin = slowly
words = dict(method="ce", student="test_resnet")
options = {{"student.image_size": 32, "student.pretrained": False, "train.epochs": 1, "train.batch_size": 8, "train.precision": "fp32", "export": False}}
for name in ("one", "two", "one"):  # the second time it is replaced
    run = linnet.distill({str(make_folder(images=10))!r}, **words, out={str(tmp_path)!r} + "/" + name, options=options, overwrite=True)
    print("top1", run.summary()["test.top1"], flush=True)
linnet.distill({str(tmp_path / "nowhere")!r}, **words, out={str(tmp_path)!r} + "/three", options=options)
""")
    done = torchrun(str(script))
    assert done.returncode != 0
    assert done.stdout.count("top1") == 6  # three runs, two processes
    assert "nowhere" in done.stderr


def test_a_method_without_data_works_in_one_process(tmp_path: Path):
    done = torchrun("-m", "linnet", "distill", "--method", "dfkd", "--teacher", "run:/nowhere", "--image-size", "32")
    assert done.returncode != 0
    assert "linnet: 'dfkd' works in one process: start it without torchrun or accelerate" in done.stderr
    assert "exitcode  : 2" in done.stderr

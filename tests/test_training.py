import itertools
import logging
import math
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hand_made import SCALE, B, C, bank, fake_teacher, text_batch
from safetensors.torch import load_file

import linnet
from linnet import methods
from linnet.config import Config, TrainConfig
from linnet.defaults import settings
from linnet.methods.base import Context
from linnet.run import Run
from linnet.step import Batch, Progress, TeacherOutput
from linnet.students.student import Student, student_of
from linnet.teachers.base import ClassHead
from linnet.text.bank import TextBank
from linnet.text.classes import class_table
from linnet.training import (
    Task,
    group_rate,
    learning_rate,
    make_optimizer,
    moving_average,
    synchronise_batch_norm,
)

DATA = "aviary:species=4,images=16"


OPTIONS = {
    "student.image_size": 32, "train.batch_size": 16, "train.epochs": 12, "train.precision": "fp32", "export": False,
}  # fmt: skip
# "linnet", but from epoch 6 on it waits to be killed, however fast the machine
WAITS = """
import time
from linnet.__main__ import main
from linnet.run import Run
add_metrics = Run.add_metrics
def wait(run, row):
    add_metrics(run, row)
    time.sleep(60 * (row["epoch"] >= 6))
Run.add_metrics = wait
main()
"""


def start(out: Path, *more: str, waits: bool = False) -> subprocess.Popen:
    words = [f"--{key.replace('_', '-')}={value}" for key, value in OPTIONS.items() if key != "export"]
    program = ["-c", WAITS] if waits else ["-m", "linnet"]
    command = [
        sys.executable,
        *program,
        "distill",
        DATA,
        "--student=test_resnet",
        "--no-export",
        f"--out={out}",
        *words,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def rows_without_times(run: Run) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.metrics()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """One uninterrupted run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield linnet.distill(
        DATA, student="test_resnet", method="kd", out=tmp_path_factory.mktemp("r") / "whole", options=OPTIONS
    )
    torch.set_num_threads(threads)


@pytest.mark.parametrize("after", [pytest.param("config.yaml", marks=pytest.mark.slow), "checkpoints/last.pt"])
def test_a_killed_run_ends_as_if_nothing_had_happened(whole, tmp_path: Path, after: str):
    """SIGKILL at a random moment, --resume in a new process: the same weights, the same metrics, to the last bit.

    Once while data and teacher are being prepared or the first epoch runs, once after a checkpoint was written.
    """
    out = tmp_path / "killed"
    process = start(out, waits=True)
    deadline = time.monotonic() + 120
    while not (out / after).exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "summary.json").exists(), "it finished before it was killed: the test shows nothing"
    again = start(out, "--resume")
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    expected, resumed = load_file(whole.model / "model.safetensors"), load_file(out / "model" / "model.safetensors")
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)
    assert rows_without_times(Run(out)) == rows_without_times(whole)


def test_one_seed_gives_one_result_and_another_gives_another(whole, tmp_path: Path):
    again = linnet.distill(DATA, student="test_resnet", method="kd", out=tmp_path / "again", options=OPTIONS)
    assert rows_without_times(again) == rows_without_times(whole)
    assert (again.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()
    other = linnet.distill(DATA, student="test_resnet", method="kd", seed=1, out=tmp_path / "other", options=OPTIONS)
    assert rows_without_times(other) != rows_without_times(whole)


def test_stopped_and_resumed_with_half_a_line_of_metrics(whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "stopped"

    def interrupt(bar: object, done: int, note: str = "") -> None:
        if "val top-1" in note and done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("linnet.commands.finish.Bar.update", interrupt)
        with pytest.raises(KeyboardInterrupt):
            linnet.distill(DATA, student="test_resnet", method="kd", out=out, options=OPTIONS)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "step": 12}\n{"epoch": 4, "st')
    resumed = linnet.distill(DATA, student="test_resnet", method="kd", out=out, options=OPTIONS, resume=True)
    assert rows_without_times(resumed) == rows_without_times(whole)


def test_the_best_epoch_by_val_is_the_one_that_is_kept(whole):
    rows, summary = whole.metrics(), whole.summary()
    best = max(row["val.top1"] for row in rows)
    assert summary["val.top1"] == best
    assert summary["train.best_epoch"] == max(row["epoch"] for row in rows if row["val.top1"] == best)


def test_training_that_diverges_stops_with_the_step_and_keeps_the_checkpoint(tmp_path: Path):
    with pytest.raises(linnet.UserError, match="the loss is not finite at step .* lower --train.lr"):
        linnet.distill(
            DATA, student="test_resnet", method="kd", out=tmp_path / "r",
            options={**OPTIONS, "train.optimizer": "sgd", "train.lr": 99.0, "train.clip_norm": None, "train.warmup": 0.0},
        )  # fmt: skip
    assert not (tmp_path / "r" / "summary.json").exists()


@pytest.mark.parametrize(("epoch", "words"), [(0, "there is no checkpoint yet"), (1, "the epoch before is kept")])
def test_a_checkpoint_is_promised_only_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, words: str
):
    from linnet.methods.ce import CrossEntropy

    forward = CrossEntropy.forward

    def diverge(method: CrossEntropy, batch: Batch, output: object, progress: Progress) -> dict[str, torch.Tensor]:
        terms = forward(method, batch, output, progress)
        return {name: value * (float("nan") if progress.epoch == epoch else 1.0) for name, value in terms.items()}

    monkeypatch.setattr(CrossEntropy, "forward", diverge)
    with pytest.raises(linnet.UserError, match=f"the loss is not finite at step .*{words}"):
        linnet.distill(DATA, student="test_resnet", method="ce", out=tmp_path / "r", options=OPTIONS)
    assert (tmp_path / "r" / "checkpoints" / "last.pt").exists() == bool(epoch)


def test_cosine_with_warmup_by_hand():
    config = TrainConfig(lr=2.0, schedule="cosine", warmup=0.2)
    rates = [learning_rate(step, 10, config) for step in range(10)]
    assert rates[0] == pytest.approx(1.0)
    assert rates[1] == pytest.approx(2.0)
    assert rates[5] == pytest.approx(1.0)
    assert rates[9] == pytest.approx(0.0, abs=1e-12)
    assert all(a >= b for a, b in itertools.pairwise(rates[1:]))


def test_step_schedule():
    config = TrainConfig(lr=1.0, schedule="step", warmup=0.0, milestones=(0.5, 0.8))
    assert [learning_rate(step, 10, config) for step in (0, 4, 5, 7, 8, 9)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def rates_of_torch(make, lr: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps_per_epoch", [1, 7])
def test_step_decay_is_the_step_lr_of_torch(steps_per_epoch: int):
    """StepLR(30, 0.5) over 300 epochs."""
    steps = 300 * steps_per_epoch
    config = TrainConfig(
        lr=1e-4, schedule="step", warmup=0.0, decay=0.5, milestones=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    )
    theirs = rates_of_torch(lambda o: torch.optim.lr_scheduler.StepLR(o, 30 * steps_per_epoch, 0.5), 1e-4, steps)
    assert [learning_rate(step, steps, config) for step in range(steps)] == pytest.approx(theirs)


@pytest.mark.parametrize(("half_cycles", "lr_min"), [(1, 0.0), (1, 1e-5), (3, 1e-5)])
def test_cosine_waves_are_the_cosine_annealing_of_torch(half_cycles: int, lr_min: float):
    config = TrainConfig(lr=1e-4, schedule="cosine", warmup=0.0, lr_min=lr_min, half_cycles=half_cycles)
    theirs = rates_of_torch(
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 300 // half_cycles, eta_min=lr_min), 1e-4, 301
    )
    ours = [learning_rate(step, 300, config) for step in range(300)]
    assert ours == pytest.approx(theirs[1:], rel=1e-6, abs=1e-12)  # ours is a step ahead: the last step is the floor
    assert ours[-1] == pytest.approx(lr_min, abs=1e-15)


def test_a_floor_above_the_peak_is_refused():
    with pytest.raises(linnet.UserError, match=r"train.lr_min \(0.01\) is above train.lr \(0.006\)"):
        settings("aviary", options={"train.lr_min": 0.01})


def test_one_cycle_is_that_of_torch():
    config = TrainConfig(lr=0.3, schedule="one-cycle", warmup=0.3)
    theirs = rates_of_torch(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=1000, pct_start=0.3), 0.1, 1000
    )
    ours = [learning_rate(step, 1000, config) for step in range(1000)]
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 0.3 * 0.006  # ours is half a step ahead


@pytest.mark.parametrize("schedule", ["cosine", "step", "one-cycle", "constant"])
def test_every_schedule_is_finite_and_within_its_peak(schedule):
    for steps in (1, 2, 7):
        for warmup in (0.0, 0.1, 0.9):
            config = TrainConfig(lr=0.5, schedule=schedule, warmup=warmup)
            rates = [learning_rate(step, steps, config) for step in range(steps)]
            assert all(math.isfinite(rate) and 0 <= rate <= 0.5 for rate in rates)


def test_frozen_weights_are_not_given_to_the_optimiser_and_norms_are_not_decayed():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    module[2].requires_grad_(False)
    decayed, others = make_optimizer(module, TrainConfig(weight_decay=0.1)).param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0.0
    assert len(others["params"]) == 3


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgds_second_step_looks_ahead_or_does_not(nesterov: bool):
    """With a gradient of 1 twice: momentum is 1, then 1.9; looking ahead adds 0.9 of it to the gradient."""
    weight = torch.nn.Parameter(torch.zeros(1))
    module = torch.nn.Module()
    module.weight = weight
    optimizer = make_optimizer(module, TrainConfig(optimizer="sgd", lr=1.0, weight_decay=0.0, nesterov=nesterov))
    for group in optimizer.param_groups:
        group["lr"] = 1.0  # the loop sets it
    for _ in range(2):
        weight.grad = torch.ones(1)
        optimizer.step()
    assert -weight.item() == pytest.approx((1 + 0.9 + 1 + 0.9 * 1.9) if nesterov else (1 + 1.9))


def test_while_the_head_warms_up_the_rest_waits_and_then_has_a_schedule_of_its_own():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    config = TrainConfig(lr=0.5, weight_decay=0.1, warmup=0.1, head_warmup=0.25)
    groups = make_optimizer(module, config, module[2].parameters()).param_groups
    by_id = {id(p): group for group in groups for p in group["params"]}
    assert len(by_id) == sum(1 for _ in module.parameters())
    assert [by_id[id(p)]["waits"] for p in module.parameters()] == [True] * 4 + [False] * 2
    head, base = by_id[id(module[2].weight)], by_id[id(module[0].weight)]
    assert [group_rate(head, step, 40, config) for step in range(40)] == [
        learning_rate(step, 40, config) for step in range(40)
    ]
    waiting = [group_rate(base, step, 40, config) for step in range(40)]
    assert waiting[:10] == [0.0] * 10
    assert waiting[10:] == [learning_rate(step, 30, config) for step in range(30)]


def test_without_a_head_warm_up_nothing_waits():
    module = torch.nn.Linear(4, 2)
    groups = make_optimizer(module, TrainConfig(), module.parameters()).param_groups
    assert not any(group["waits"] for group in groups)


def test_while_the_head_warms_up_the_base_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of two epochs the first is the head's alone."""
    saved: list[dict[str, torch.Tensor]] = []
    save = Student.save

    def keep(student: Student, folder: Path) -> None:
        saved.append({name: p.detach().clone() for name, p in student.state_dict().items()})
        save(student, folder)

    monkeypatch.setattr(Student, "save", keep)
    options = {**OPTIONS, "train.epochs": 2, "train.head_warmup": 0.5, "train.select": "last", "data.test": "none"}
    run = linnet.distill(DATA, student="test_resnet", method="kd", out=tmp_path / "run", options=options)
    start = student_of(run.settings(), Student.load(run.model).classes)
    last = {id(p) for p in start.last_parameters()}
    head = {name for name, p in start.named_parameters() if id(p) in last}
    trained = {
        name for name, value in start.backbone.state_dict(prefix="backbone.").items() if value.is_floating_point()
    }
    for name in trained:
        assert torch.equal(saved[0][name], start.state_dict()[name]) == (name not in head), name
        assert not torch.equal(saved[1][name], start.state_dict()[name]), name
    optimizer = torch.load(run.last_checkpoint, weights_only=True)["optimizer"]["state"]
    steps = {int(state["step"]) for state in optimizer.values()}
    assert len(steps) == 2 and max(steps) == 2 * min(steps)  # what waited has no averages of its waiting


def test_the_average_by_hand():
    """Weights and statistics move by 1 - factor, less in the first steps (1 - (1 + t)^(-2/3) at most); whole numbers, such
    as the columns of a dual student, are the student's own, whatever the factor."""
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
    module.register_buffer("columns", torch.arange(200))
    for factor in (0.8, 0.9, 0.9999):
        averaged, optimizer = moving_average(module, factor), make_optimizer(module, TrainConfig(weight_decay=0.0))
        expected = {name: value.double() for name, value in module.state_dict().items()}
        for step in range(8):
            module(torch.randn(8, 2, generator=torch.Generator().manual_seed(step))).square().mean().backward()
            for group in optimizer.param_groups:
                group["lr"] = 0.1
            optimizer.step()
            averaged.update(module, step + 1)
            own = min(factor, 1 - (1 + step) ** (-2 / 3))
            for name, value in module.state_dict().items():
                expected[name] = own * expected[name] + (1 - own) * value.double()
        state = averaged.module.state_dict()
        for name, value in state.items():
            if value.is_floating_point():
                assert torch.allclose(value.double(), expected[name], atol=1e-5), name
            else:
                assert torch.equal(value, module.state_dict()[name]), name
        assert not torch.allclose(state["1.weight"], module[1].weight, atol=1e-3)


def test_the_average_is_what_is_validated_and_saved_and_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = {**OPTIONS, "train.epochs": 3, "train.ema": 0.8, "train.select": "last", "data.test": "none"}
    distill = partial(linnet.distill, DATA, student="test_resnet", method="kd")
    whole = distill(out=tmp_path / "whole", options=options)
    saved = load_file(whole.model / "model.safetensors")
    kept = torch.load(whole.last_checkpoint, weights_only=True)
    for name, value in saved.items():
        assert torch.equal(value, kept["averaged"][f"module.backbone.{name}"])
    assert not torch.equal(saved["fc.weight"], kept["task"]["student.backbone.fc.weight"])
    assert whole.metrics()[-1]["val.top1"] == whole.summary()["val.top1"]

    def interrupt(bar: object, done: int, note: str = "") -> None:
        if "val top-1" in note and done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("linnet.commands.finish.Bar.update", interrupt)
        with pytest.raises(KeyboardInterrupt):
            distill(out=tmp_path / "stopped", options=options)
    resumed = distill(out=tmp_path / "stopped", options=options, resume=True)
    again = load_file(resumed.model / "model.safetensors")
    assert all(torch.equal(saved[name], again[name]) for name in saved)
    assert rows_without_times(resumed) == rows_without_times(whole)


@pytest.mark.parametrize(("method", "layers"), [
    ("kd", 0), ("vl2lite", 4), ("pand", 4), ("embedding", 1), ("specmatch", 1), ("dual", 0),
])  # fmt: skip
def test_losses_are_float32_under_bf16(method: str, layers: int):
    """Also in the ``layers`` of the method, whose weights are float32."""
    names = TextBank(tuple("abcd"), bank().float().numpy(), "fake", "", ())
    more = {"bank": names, "dual": True} if method == "dual" else {}
    net = Student("test_resnet", class_table("abcd"), 32, **more)
    head = ClassHead(bank_CE=bank().float(), scale=SCALE)
    made = methods.build(method, {})
    images = TeacherOutput(torch.zeros(B, C), bank().float().repeat(2, 1)[:B])
    context = Context(
        Config(), net.classes, net.width, fake_teacher("vlm"), head,
        labels_N=np.zeros(B, dtype=np.int64), answers=lambda index, view: images,
    )  # fmt: skip
    made.prepare(context)
    seen: list[torch.dtype] = []
    for module in made.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    data = text_batch()
    outputs = TeacherOutput(data.teacher.logits_BC.float(), data.teacher.embedding_BE.float())
    data = Batch(data.index, 0, torch.rand(B, 3, 32, 32), data.labels, outputs)

    def check(module: torch.nn.Module, inputs: tuple) -> None:
        out = inputs[1]
        told = [part for part in (out.features_BD, out.logits_BC, out.embedding_BE) if part is not None]
        assert {part.dtype for part in told} == {torch.float32} and not torch.is_autocast_enabled("cpu")

    made.register_forward_pre_hook(check)
    terms = Task(net, made, "bf16")(data, Progress(1, 10))
    assert {term.dtype for term in terms.values()} == {torch.float32}
    assert set(seen) <= {torch.float32}
    assert len(seen) == layers


def several(device: str, processes: int) -> SimpleNamespace:
    return SimpleNamespace(device=torch.device(device), num_processes=processes)


@pytest.mark.parametrize("name", ["test_efficientnet", "resnet10t"])  # layers of timm, with activations, and of torch
def test_synchronised_batch_norm_is_the_same_student(name: str, tmp_path: Path):
    torch.manual_seed(0)
    student = Student(name, class_table(["a", "b"]), 32)
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[operator]
    images = torch.rand(2, 3, 32, 32)
    before, parameters = student.eval()(images).logits_BC, dict(student.named_parameters())
    layers = sum(isinstance(module, torch.nn.BatchNorm2d) for module in student.modules())
    synchronise_batch_norm(student, several("cuda", 4))
    assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in student.modules()) == layers > 0
    after = dict(student.named_parameters())
    assert all(after[name] is value for name, value in parameters.items())
    assert len(after) == len(parameters)
    assert torch.equal(student.eval()(images).logits_BC, before)
    student.save(tmp_path)
    assert torch.equal(Student.load(tmp_path)(images).logits_BC, before)


@pytest.mark.parametrize(
    ("student", "place", "words"),
    [
        ("test_resnet", several("cuda", 1), "one process sees the whole batch"),
        ("test_resnet", several("cpu", 2), "no effect without GPUs"),
        ("test_vit", several("cuda", 2), "has no BatchNorm layers"),
    ],
    ids=["one process", "no GPU", "no layers"],
)
def test_synchronised_batch_norm_without_effect_is_said(
    student: str, place: SimpleNamespace, words: str, caplog: pytest.LogCaptureFixture
):
    network = Student(student, class_table(["a", "b"]), 32)
    with caplog.at_level(logging.INFO, logger="linnet"):
        synchronise_batch_norm(network, place)
    assert words in caplog.text
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in network.modules())


def test_mean_and_deviation_of_the_pixels_are_resumed_exported_and_saved(
    tmp_path: Path, killed_after, caplog: pytest.LogCaptureFixture
):
    pixels = {"student.mean": [0.5, 0.4, 0.3], "student.std": (0.3, 0.3, 0.2), "train.sync_batch_norm": True}
    options = {**OPTIONS, **pixels, "train.epochs": 3, "export": True}
    words = {"method": "ce", "student": "test_resnet"}
    with killed_after(2):
        linnet.distill(DATA, **words, out=tmp_path / "run", options=options)
    with caplog.at_level(logging.INFO, logger="linnet"):
        run = linnet.distill(DATA, **words, out=tmp_path / "run", options=options, resume=True)
    assert "sync_batch_norm has no effect: one process" in caplog.text
    assert run.settings().student.mean == (0.5, 0.4, 0.3)
    student = Student.load(run.model)
    assert student.normalize.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert student.normalize.std.flatten().tolist() == pytest.approx([0.3, 0.3, 0.2])
    assert run.summary()["onnx.max_difference"] < 1e-4
    plain = linnet.distill(DATA, **words, out=tmp_path / "plain", options={**OPTIONS, "train.epochs": 3})
    assert plain.metrics()[0]["loss"] != run.metrics()[0]["loss"]


@pytest.mark.parametrize("value", [(0.5,), (0.5, 0.5), (0.1, 0.2, 0.3, 0.4)])
def test_mean_and_deviation_are_three_numbers(value: tuple[float, ...]):
    with pytest.raises(linnet.UserError, match=r"student.std must be three numbers, of red, green and blue, not [124]"):
        settings(DATA, options={"student.std": value})

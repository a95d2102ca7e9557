"""Which precision a CPU trains in: measured, where the hardware has both."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from linnet.defaults import settings
from linnet.errors import UserError
from linnet.run import Run
from linnet.students import precision
from linnet.students.precision import MARGIN, choose_precision, measured_here

ARGUMENTS = ("test_resnet", 32, 4, "auto", True)


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[tuple]]:
    """``capable(fp32=100, bf16=70)``: a CPU that computes bf16, and what a measurement finds there. Returns the
    measurements that were made."""

    def make(**ms: float) -> list[tuple]:
        made = []
        monkeypatch.setattr(precision, "computes_bf16", lambda: True)
        monkeypatch.setenv("LINNET_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(precision, "_measure", lambda *arguments: made.append(arguments) or ms)
        return made

    return make


def test_without_the_hardware_nothing_is_measured(capable: Callable, monkeypatch: pytest.MonkeyPatch):
    made = capable(fp32=100.0, bf16=1.0)
    monkeypatch.setattr(precision, "computes_bf16", lambda: False)
    assert choose_precision(*ARGUMENTS) == ("fp32", "bf16 is not computed in hardware")
    assert not made


@pytest.mark.parametrize(
    ("bf16", "chosen"), [(50.0, "bf16"), (1000 * MARGIN - 1, "bf16"), (1000 * MARGIN + 1, "fp32"), (2700.0, "fp32")]
)
def test_bf16_must_be_faster_by_a_margin(capable: Callable, bf16: float, chosen: str):
    assert 0.5 < MARGIN <= 0.9
    capable(fp32=1000.0, bf16=bf16)
    found, reason = choose_precision(*ARGUMENTS)
    assert found == chosen
    assert "1000 ms in fp32" in reason
    assert f"{bf16:.0f} in bf16" in reason


def test_a_measurement_is_kept_for_machine_student_size_and_batch(capable: Callable, monkeypatch: pytest.MonkeyPatch):
    made = capable(fp32=100.0, bf16=70.0)
    first = choose_precision(*ARGUMENTS)
    assert choose_precision(*ARGUMENTS) == first
    assert made == [ARGUMENTS]
    (row,) = measured_here()
    assert (row["student"], row["image_size"], row["batch_size"]) == ("test_resnet", 32, 4)
    others = [
        ("test_vit", *ARGUMENTS[1:]), ("test_resnet", 48, *ARGUMENTS[2:]), ("test_resnet", 32, 8, *ARGUMENTS[3:]),
        ("test_resnet", 32, 4, "lowres", True), ("test_resnet", 32, 4, "auto", False),
    ]  # fmt: skip
    for other in others:
        choose_precision(*other)
    assert made == [ARGUMENTS, *others]
    monkeypatch.setattr(precision, "cpu_name", lambda: "another CPU")
    choose_precision(*ARGUMENTS)
    assert len(made) == 7
    assert len(list(measured_here())) == 1


@pytest.mark.parametrize("content", ["", "[]", '{"ms": {"fp32": 1}}', '{"ms": {"fp32": 0, "bf16": 1}}'])
def test_a_damaged_measurement_is_made_again(capable: Callable, content: str):
    made = capable(fp32=100.0, bf16=70.0)
    first = choose_precision(*ARGUMENTS)
    (file,) = precision.folder().glob("*.json")
    file.write_text(content)
    assert not list(measured_here())
    assert choose_precision(*ARGUMENTS) == first
    assert len(made) == 2
    assert len(list(measured_here())) == 1


def test_a_cache_that_cannot_be_written_stops_nobody(capable: Callable, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path, content: str) -> None:
        raise UserError(f"cannot write {path}")

    made = capable(fp32=100.0, bf16=70.0)
    monkeypatch.setattr(precision, "write_atomically", refuse)
    assert [choose_precision(*ARGUMENTS)[0] for _ in range(2)] == ["bf16", "bf16"]
    assert len(made) == 2


def test_each_of_several_processes_has_its_share_of_the_batch(capable: Callable, monkeypatch: pytest.MonkeyPatch):
    made = capable(fp32=100.0, bf16=70.0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    choose_precision("test_resnet", 32, 64, "auto", True)
    assert made == [("test_resnet", 32, 32, "auto", True)]


def test_real_steps_are_timed_and_leave_the_random_state_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "SECONDS", 0.0)
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    ms = precision._measure(*ARGUMENTS)
    assert set(ms) == {"fp32", "bf16"}
    assert all(value > 0 for value in ms.values())
    assert (torch.rand(1), np.random.rand()) == expected


def test_a_student_that_is_not_there_is_one_clear_error(capable: Callable, monkeypatch: pytest.MonkeyPatch):
    measure = precision._measure
    capable()
    monkeypatch.setattr(precision, "_measure", measure)
    with pytest.raises(UserError, match="Did you mean 'resnet18'"):
        choose_precision("resnet188", *ARGUMENTS[1:])
    assert not list(measured_here())


def test_a_run_goes_on_in_the_precision_that_it_was_started_in(capable: Callable, tmp_path: Path):
    """Whatever is faster by now, or on this machine."""
    made = capable(fp32=100.0, bf16=70.0)
    options = {"student.image_size": 32, "student.name": "test_resnet"}
    config, reasons = settings("aviary", method="ce", options=options)
    assert config.train.precision == "bf16"
    assert any(reason.startswith("train.precision = bf16: a step takes 100 ms") for reason in reasons)
    Run.create(tmp_path / "run", replace(config, train=replace(config.train, precision="fp32"))).close()
    resumed, reasons = settings("aviary", method="ce", options=options, out=tmp_path / "run", resume=True)
    assert resumed.train.precision == "fp32"
    assert "train.precision = fp32: as the run was started" in reasons
    assert settings("aviary", method="ce", options={**options, "train.precision": "fp32"})[0].train.precision == "fp32"
    assert len(made) == 1

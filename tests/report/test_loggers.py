"""Loggers get each epoch's numbers and the summary's; nothing of a run depends on them."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, on_main_process
from accelerate.utils import LoggerType

import linnet
from linnet.config import Config
from linnet.errors import UserError
from linnet.report.loggers import check_logger
from linnet.run import Run

DATA = "aviary:species=3,images=4,genus=1"
OPTIONS = {"student.name": "test_resnet", "student.pretrained": False, "student.image_size": 32, "train.epochs": 3}
OPTIONS |= {"train.batch_size": 8, "export": False, "logger": "tensorboard"}


class Fake(GeneralTracker):
    """Stands for TensorBoard's."""

    name = "tensorboard"
    requires_logging_directory = True
    seen: ClassVar[list[tuple[str, Any]]] = []

    def __init__(self, run_name: str, logging_dir: Path, **_: Any):
        super().__init__()
        self.seen.append(("folder", Path(logging_dir) / run_name))

    def start(self) -> None: ...

    @property
    def tracker(self) -> list:
        return self.seen

    @on_main_process
    def store_init_configuration(self, values: dict) -> None:
        self.seen.append(("settings", values))

    @on_main_process
    def log(self, values: dict, step: int | None = None, **_: Any) -> None:
        self.seen.append(("numbers", (step, values)))

    @on_main_process
    def finish(self) -> None:
        self.seen.append(("finished", None))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    monkeypatch.setattr(Fake, "seen", [])
    monkeypatch.setattr("linnet.report.loggers.require", lambda module, extra: None)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", Fake)
    return Fake.seen


def test_a_resumed_run_goes_on_at_its_epoch(
    seen: list[tuple[str, Any]], tmp_path: Path, killed_after: Callable[[int], Any]
):
    with killed_after(2):
        linnet.distill(DATA, method="ce", out=tmp_path / "run", options={**OPTIONS, "train.checkpoint": "drop"})
    run = linnet.distill(out=tmp_path / "run", resume=True)
    linnet.distill(out=tmp_path / "run", resume=True)  # it is finished, and its checkpoint is gone
    numbers = [what for kind, what in seen if kind == "numbers"]
    assert [step for step, _ in numbers] == [1, 2, 3, 3, 3]  # epoch 2 died before its numbers were told
    assert {"loss", "ce", "val.top1", "lr", "seconds"} <= numbers[0][1].keys()
    assert numbers[-1][1]["summary/test.top1"] == run.summary()["test.top1"]
    assert all(isinstance(value, int | float) for _, told in numbers for value in told.values())
    kinds = [kind for kind, _ in seen]
    assert kinds.count("folder") == kinds.count("finished") == 3
    assert kinds.count("settings") == 1
    (settings,) = [what for kind, what in seen if kind == "settings"]
    assert settings["train.epochs"] == 3
    assert {what for kind, what in seen if kind == "folder"} == {run.logs}


def test_the_logger_of_a_run_that_goes_on_does_not_matter(tmp_path: Path):
    run = Run.create(tmp_path / "run", Config())
    run.close()
    assert run.changes(replace(Config(), logger="wandb")) == []


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_logger_that_is_not_installed_is_refused_before_any_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(module: str) -> None:
        raise ImportError(module)

    monkeypatch.setattr("linnet.errors.importlib.import_module", refuse)
    with pytest.raises(UserError, match=rf"pip install 'linnet\[{name}\]'"):
        check_logger(replace(Config(), logger=name))


def test_tensorboard_itself(tmp_path: Path):
    pytest.importorskip("tensorboard")
    run = linnet.distill(DATA, method="ce", out=tmp_path / "run", options=OPTIONS)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(os.fspath(run.logs))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert events.Scalars("summary/val.top1")[0].value == pytest.approx(run.summary()["val.top1"], abs=1e-6)

"""What is shown of work in progress, without a terminal and on one; the time is made by hand."""

import io
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

import linnet
from linnet import progress
from linnet.progress import BY_THE_BAR, Bar, TerminalHandler


@pytest.fixture
def sleep(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    return pass_time


def test_without_a_terminal_a_long_epoch_says_how_far_it_is(
    sleep: Callable[[float], None], capsys: pytest.CaptureFixture[str]
):
    with Bar("kd", 4) as bar:
        for step in range(1, 101):
            sleep(1)
            bar.inside(step / 100, f"step {step} of 100")
        bar.update(1, "loss 2.0")
        sleep(20)
        bar.inside(0.2, "step 20 of 100")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("  ")[0] for line in lines] == ["kd: 0/4", "kd: 0/4", "kd: 0/4", "kd: 1/4"]
    assert "step 30 of 100  370 s left" in lines[0]
    assert "step 90 of 100" in lines[2]
    assert "loss 2.0" in lines[3]


def test_short_epochs_are_shown_as_a_whole(sleep: Callable[[float], None], capsys: pytest.CaptureFixture[str]):
    with Bar("kd", 4) as bar:
        for epoch in range(1, 5):
            for step in range(10):
                sleep(0.2)
                bar.inside(step / 10, f"step {step}")
            bar.update(epoch, "loss")
    assert "step" not in capsys.readouterr().err


def test_on_a_terminal_the_bar_moves_inside_a_long_epoch(
    sleep: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=sys.stderr, force_terminal=True))
    with Bar("kd", 4) as bar:
        assert bar._progress is not None
        (task,) = bar._progress.tasks
        bar.update(1, "loss 2.0")
        sleep(1)
        bar.inside(0.25, "step 1 of 4")
        assert (task.completed, task.fields["note"]) == (1, "loss 2.0")
        sleep(5)
        bar.inside(0.5, "step 2 of 4")
        assert (task.completed, task.fields["note"]) == (1.5, "step 2 of 4  loss 2.0")
        bar.update(2, "loss 1.0")
        assert (task.completed, task.fields["note"]) == (2, "loss 1.0")


def test_lines_that_are_kept_stand_above_the_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=sys.stderr, force_terminal=True, width=60))
    with Bar("kd", 2, keep=True) as bar:
        assert bar._progress is not None
        bar.update(1, "epoch 1 of 2  loss [2.0]")
        assert bar._progress.tasks[0].fields["note"] == ""
    assert "epoch 1 of 2  loss [2.0]" in capsys.readouterr().err


def test_without_a_terminal_kept_lines_come_first_last_and_every_ten_seconds(
    sleep: Callable[[float], None], capsys: pytest.CaptureFixture[str]
):
    with Bar("kd", 30, keep=True) as bar:
        for epoch in range(1, 31):
            sleep(1)
            bar.update(epoch, f"epoch {epoch} of 30")
    assert [line.partition("  ")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"epoch {n} of 30" for n in (1, 11, 21, 30)
    ]


def test_other_bars_say_nothing_where_they_are_quick(
    sleep: Callable[[float], None], capsys: pytest.CaptureFixture[str]
):
    with Bar("checking images", 3) as bar:
        for done in range(1, 4):
            sleep(1)
            bar.update(done)
    assert capsys.readouterr().err == ""


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made, handler = logging.getLogger("linnet.tests.terminal"), TerminalHandler()
    made.addHandler(handler)
    made.propagate = False
    made.setLevel(logging.INFO)
    yield made
    made.removeHandler(handler)


def test_the_terminal_shows_what_no_bar_has_shown(logger: logging.Logger, capsys: pytest.CaptureFixture[str]):
    logger.info("data: 3 classes")
    logger.info("epoch 1", extra=BY_THE_BAR)
    assert capsys.readouterr().err == "data: 3 classes\n"


def test_what_is_logged_beside_a_bar_does_not_tear_it(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch):
    """The bar clears its line, the log's line follows as a whole, then the bar is drawn anew."""
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(stderr=True, force_terminal=True, width=60))
    with Bar("kd", 2) as bar:
        bar.update(1, "note")
        logger.warning("a warning")
    shown = terminal.getvalue()
    assert "\x1b[2Ka warning" in shown.replace("\x1b[0m", "").replace("\r", "")


def test_a_training_tells_its_steps(
    make_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(progress, "LONG_PLAIN_SECONDS", -1.0)
    options = {"student.image_size": 32, "student.pretrained": False, "train.epochs": 1, "train.batch_size": 4}
    linnet.distill(make_folder(images=8), student="test_resnet", method="ce", out=tmp_path / "run",
                   options={**options, "export": False})  # fmt: skip
    err = capsys.readouterr().err
    assert err.count("epoch 1 of 1  loss ") == 1
    assert (tmp_path / "run" / "train.log").read_text().count("epoch 1 of 1  loss ") == 1
    told = [line.split("  ")[1] for line in err.splitlines() if line.startswith("ce -> test_resnet: 0/1")]
    assert told == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]

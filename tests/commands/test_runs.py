"""The table of runs, from folders made by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest

from linnet.commands.runs import find_runs, run_lines
from linnet.defaults import settings
from linnet.errors import UserError
from linnet.files import is_locked
from linnet.run import Run


def start(folder: Path, epochs: int = 0, **options: object) -> Run:
    config, _ = settings(
        "aviary", method="ce", options={"train.epochs": 5, "student.name": "net", **options}, timed=False
    )
    run = Run.create(folder, config)
    for epoch in range(1, epochs + 1):
        run.add_metrics({"epoch": epoch})
    return run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that is finished, one that was stopped, deeper down, and what is no run."""
    monkeypatch.chdir(tmp_path)
    done = start(Path("runs/done"), 5, seed=7)
    done.write_summary({"val.top1": 0.5, "test.top1": 0.125})
    done.close()
    start(Path("runs/table/ce-s0"), 2).close()
    Path("runs/notes").mkdir()
    Path("runs/notes/config.yaml").write_text("mine")
    return Path("runs")


def test_each_run_has_a_line(runs: Path):
    head, *shown = run_lines(runs)
    assert head.split() == ["folder", "method", "student", "seed", "val", "test", "when", "state"]
    assert [line.split()[0] for line in shown] == ["runs/done", "runs/table/ce-s0"]
    assert shown[0].split()[1:8] == ["ce", "net", "7", "50.0", "%", "12.5", "%"]
    assert shown[0].endswith("finished")
    assert shown[1].split()[3:6] == ["0", "-", "-"]
    assert shown[1].endswith("stopped, epoch 2 of 5")


def test_a_run_that_another_process_works_on_is_running(runs: Path):
    run = start(runs / "later", 3)
    assert any(line.startswith("runs/later") and line.endswith("running, epoch 3 of 5") for line in run_lines(runs))
    run.close()
    assert not is_locked(run.lock_file)
    assert any(line.startswith("runs/later") and line.endswith("stopped, epoch 3 of 5") for line in run_lines(runs))


def test_looking_changes_nothing(runs: Path):
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    list(run_lines(runs))
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before


def test_damaged_runs_are_listed(runs: Path):
    (runs / "done" / "summary.json").write_text("{")
    (runs / "done" / "config.yaml").write_text("{")
    (line,) = [line for line in run_lines(runs) if line.startswith("runs/done")]
    assert line.split()[1:6] == ["-", "-", "-", "-", "-"]
    assert line.endswith("stopped, epoch 5")


def test_a_run_inside_a_run_is_a_part_of_it(runs: Path):
    start(runs / "done" / "inner").close()
    assert [run.folder for run in find_runs(runs)] == [runs / "done", runs / "table" / "ce-s0"]


def test_links_to_runs_are_followed_and_never_in_a_circle(runs: Path, tmp_path: Path):
    start(tmp_path / "large disk" / "far").close()
    (runs / "elsewhere").symlink_to(tmp_path / "large disk")
    (runs / "again").symlink_to(runs.resolve())
    assert [run.folder for run in find_runs(runs)] == [runs / "done", runs / "elsewhere/far", runs / "table/ce-s0"]


def test_numbers_that_are_none(runs: Path):
    (runs / "done" / "summary.json").write_text('{"val.top1": "high", "test.top1": null}')
    (runs / "table" / "ce-s0" / "metrics.jsonl").write_text('{"epoch": "first"}\n{"epoch": 2}\n')
    _, done, stopped = run_lines(runs)
    assert done.split()[4:6] == ["-", "-"]
    assert stopped.endswith("stopped, epoch 2 of 5")


def test_a_name_with_a_line_break_is_on_one_line(runs: Path):
    start(runs / "two\nlines").close()
    assert any(line.startswith(r"runs/two\nlines ") for line in run_lines(runs))


def test_no_runs(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="there are no runs in"):
            list(run_lines(folder))


def test_it_is_quick_and_plain(runs: Path, run_without_torch: Callable[[str], str]):
    shown = run_without_torch("from linnet.__main__ import main; main(['list', 'runs'])")
    assert shown.splitlines() == list(run_lines(runs))

"""The verb, with real trainings of a second."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hand_made_runs import write_run

import linnet
from linnet.__main__ import main
from linnet.commands.compare import several_seeds
from linnet.commands.comparison import cells, costs
from linnet.errors import UserError

DATA = "aviary:species=3,images=8"
TINY = {"student.name": "test_resnet", "student.image_size": 32, "train.batch_size": 8, "train.epochs": 2}
WORDS = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """(folder, whether it goes on) of every training that a comparison starts."""
    told, real = [], cells.distill

    def distill(out: Path, options: dict, resume: bool, overwrite: bool) -> object:
        told.append((out.name, resume))
        return real(out=out, options=options, resume=resume, overwrite=overwrite)

    monkeypatch.setattr(cells, "distill", distill)
    monkeypatch.setattr(costs, "_students", lambda students: {})
    return told


def test_from_the_command_to_the_table(tmp_path: Path, started: list, capsys: pytest.CaptureFixture[str]):
    command = ["compare", DATA, "--methods", "kd", "--seeds", "0,1", "--out", str(tmp_path / "out"), *WORDS]
    longer = [word.replace("epochs=2", "epochs=3") for word in command]
    main(command)
    told = capsys.readouterr()
    assert started == [("ce-s0", False), ("kd-s0", False), ("ce-s1", False), ("kd-s1", False)]
    assert "[1/4] ce seed 0: val" in told.err and "[4/4] kd seed 1: val" in told.err
    assert "chosen for you" not in told.err and "teacher" not in told.err  # that is in each cell's train.log
    assert "chosen for you" in (tmp_path / "out" / "kd-s0" / "train.log").read_text()
    assert "better than ce?" in told.out and "added: ce" in told.out
    for name in ("compare.md", "compare.json", "compare.parquet"):
        assert (tmp_path / "out" / name).exists()
    page = (tmp_path / "out" / "compare.md").read_text()
    main(command)  # nothing is trained again, and the table is the same
    assert len(started) == 4 and (tmp_path / "out" / "compare.md").read_text() == page
    with pytest.raises(SystemExit):
        main(longer)
    assert "ce-s0 (and 3 more) was trained with other settings (train.epochs: 2 -> 3)" in capsys.readouterr().err
    main(
        [
            "compare",
            *(str(tmp_path / "out" / f"{name}-s{seed}") for name in ("ce", "kd") for seed in (0, 1)),
            "--out",
            str(tmp_path / "again"),
        ]
    )
    assert (tmp_path / "again" / "compare.md").read_text().splitlines()[2:4] == page.splitlines()[2:4]


def test_a_stopped_cell_goes_on_and_a_finished_one_stays(tmp_path: Path, started: list, killed_after: Callable):
    def again() -> object:
        return linnet.compare(DATA, methods=["ce"], seeds=[0, 1], out=tmp_path, options={**TINY, "train.epochs": 3})

    with killed_after(2):
        again()
    before = cells.Run(tmp_path / "ce-s0").metrics()
    report = again()
    assert started == [("ce-s0", False), ("ce-s0", True), ("ce-s1", False)]
    after = cells.Run(tmp_path / "ce-s0").metrics()
    assert after[0] == before[0]  # even the seconds that it took
    assert [row["epoch"] for row in after] == [1, 2, 3]
    assert report.result("ce").seeds == (0, 1)


@pytest.mark.slow
def test_a_process_that_is_killed_loses_no_finished_cell(tmp_path: Path):
    """And two processes that go on at once end with the table of an undisturbed one, to the last digit."""
    words = ["compare", DATA, "--methods", "ce,kd,pand", "--seeds", "0,1", "--threads", "1", *WORDS]
    command = [sys.executable, "-m", "linnet", *words, "--train.precision", "fp32"]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
    while len(finished := sorted((tmp_path / "killed").glob("*/summary.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {file: file.stat().st_mtime_ns for file in finished}
    again = [subprocess.Popen([*command, "--out", str(tmp_path / "killed")]) for _ in range(2)]
    assert [process.wait() for process in again] == [0, 0]
    assert {file: file.stat().st_mtime_ns for file in finished} == before
    subprocess.run([*command, "--out", str(tmp_path / "whole"), "--jobs", "2"], check=True)
    told = [json.loads((tmp_path / name / "compare.json").read_text())["rows"] for name in ("killed", "whole")]
    for first, second in zip(*told, strict=True):
        for key in ("values", "over_images", "over_seeds", "p_holm", "better", "retention"):
            assert first[key] == second[key]


def test_a_cell_that_fails_is_named_and_the_others_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], started: list, monkeypatch: pytest.MonkeyPatch
):
    real = cells.distill

    def diverges(out: Path, options: dict, resume: bool, overwrite: bool) -> object:
        if options["method"] == "kd":
            raise UserError("the loss is not finite")
        return real(out=out, options=options, resume=resume, overwrite=overwrite)

    monkeypatch.setattr(cells, "distill", diverges)
    command = ["compare", DATA, "--methods", "ce,kd", "--seeds", "0", "--out", str(tmp_path / "out"), *WORDS]
    with pytest.raises(SystemExit) as left:
        main(command)
    told = capsys.readouterr()
    assert left.value.code == 2
    assert "1 of 2 cells failed (kd-s0: the loss is not finite); the same command tries them again" in told.err
    assert "missing: kd-s0: the loss is not finite" in told.out
    assert (tmp_path / "out" / "ce-s0" / "summary.json").exists()
    monkeypatch.setattr(cells, "distill", real)
    main(command)
    assert started == [("ce-s0", False), ("kd-s0", False)]


@pytest.mark.parametrize(
    ("sources", "how", "error"),
    [
        ((), {}, "nothing to compare"),
        ((DATA, DATA), {}, "one DATA and one grid at most"),
        ((DATA,), {"methods": ["kdd"]}, "unknown method 'kdd'"),
        ((DATA,), {"jobs": 0}, "must be at least 1"),
        ((DATA,), {"against": "kdd"}, "--against kdd: there are the rows ce, kd. Did you mean 'kd'?"),
        (("nowhere/",), {}, "nowhere"),
    ],
)
def test_what_is_refused_before_anything_is_written(sources: tuple, how: dict, error: str, tmp_path: Path):
    with pytest.raises(UserError, match=error):
        linnet.compare(*sources, out=tmp_path / "out", options=TINY, **how)
    assert not (tmp_path / "out").exists()


def test_finished_runs_beside_one_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    right = {"ce": [True] * 40 + [False] * 60, "kd": [True] * 70 + [False] * 30, "dist": [True] * 72 + [False] * 28}
    runs = [str(write_run(tmp_path / name, name, 0, own).folder) for name, own in right.items()]
    main(["compare", *runs, "--against", "kd", "--out", str(tmp_path / "table")])
    assert "better?" in capsys.readouterr().out
    told = json.loads((tmp_path / "table" / "compare.json").read_text())
    assert told["against"] == "kd" and [row["compared_with"] for row in told["rows"]] == ["kd", None, "kd"]
    with pytest.raises(UserError, match="--against kdd: there are the rows ce, kd, dist"):
        linnet.compare(*runs, against="kdd", out=tmp_path / "table")


def test_a_run_is_no_folder_of_runs(tmp_path: Path):
    write_run(tmp_path / "ce-s0")
    with pytest.raises(UserError, match="ce-s0 is a run.*choose another --out"):
        linnet.compare(DATA, out=tmp_path / "ce-s0", options=TINY)
    with pytest.raises(UserError, match=r"holds runs, such as .*ce-s0: name the runs"):
        linnet.compare(tmp_path)


def test_one_method_or_seed_is_not_what_compare_takes(capsys: pytest.CaptureFixture[str]):
    for word in ("method", "seed"):
        with pytest.raises(SystemExit):
            main(["compare", DATA, f"--{word}", "kd"])
        assert f"unknown option '--{word}'. Did you mean '--{word}s'?" in capsys.readouterr().err


def test_several_seeds_of_one_method(tmp_path: Path, started: list, capsys: pytest.CaptureFixture[str]):
    main(["distill", DATA, "--method", "dist", "--seeds", "3", "--out", str(tmp_path), "--no-export", *WORDS])
    assert [name for name, _ in started] == ["ce-s3", "dist-s3"]
    assert "better than ce?" in capsys.readouterr().out
    question = several_seeds(DATA, [0], None, None, {"method": "kd+figkd:0.5"})
    assert (question.out, question.options) == ("runs/compare-aviary-species=3-images=8-kd+figkd-0.5", {"export": True})
    with pytest.raises(UserError, match="leave one of them out"):
        several_seeds(DATA, [0], None, None, {"seed": 1})
    with pytest.raises(UserError, match="needs DATA"):
        several_seeds(None, [0], None, None, {})

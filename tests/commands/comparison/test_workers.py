import json
import logging
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hand_made_runs import DATA, TINY, write_run

from linnet.commands.comparison.cells import Cell
from linnet.commands.comparison.workers import (
    claims_of,
    failure_of,
    forget_failures,
    is_ready,
    quiet,
    refuse_circles,
    train_on_cluster,
    train_side_by_side,
    work,
)
from linnet.commands.ending import ending
from linnet.errors import UserError
from linnet.files import lock


def cells_in(out: Path, seeds: int = 3) -> list[Cell]:
    return [
        Cell("ce", seed, out / f"ce-s{seed}", {"data.source": DATA, "method": "ce", "seed": seed, **TINY})
        for seed in range(seeds)
    ]


def fake(cell: Cell) -> None:
    """A training that notes in whose process it ran."""
    with (cell.folder.parent / "told").open("a") as file:
        file.write(f"{cell.name} {os.getpid()}\n")
    time.sleep(0.1)
    write_run(cell.folder, seed=cell.seed)


def trained(out: Path) -> list[str]:
    return [line.split()[0] for line in (out / "told").read_text().splitlines()]


def test_every_cell_is_trained_once_and_never_again(tmp_path: Path):
    changes = []
    for _ in range(2):
        work(cells_in(tmp_path), fake, lambda: changes.append(1))
    assert trained(tmp_path) == ["ce-s0", "ce-s1", "ce-s2"]
    assert len(changes) >= 6


def _slowly(out: Path) -> None:
    work(cells_in(out, 4), fake)


def test_two_processes_at_once_share_the_cells(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_slowly, args=(tmp_path,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(trained(tmp_path)) == ["ce-s0", "ce-s1", "ce-s2", "ce-s3"]


def _hang(cell: Cell) -> None:
    (cell.folder.parent / "begun").touch()
    time.sleep(600)


def test_a_killed_process_loses_its_claim(tmp_path: Path):
    process = multiprocessing.get_context("fork").Process(target=work, args=(cells_in(tmp_path), _hang))
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    with pytest.raises(BlockingIOError):
        lock(claims_of(tmp_path) / "ce-s0.lock")
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    work(cells_in(tmp_path), fake)
    assert trained(tmp_path) == ["ce-s0", "ce-s1", "ce-s2"]


def test_one_cell_that_fails_stops_no_other_one(tmp_path: Path):
    def diverges(cell: Cell) -> None:
        if cell.seed == 1:
            raise UserError("the loss is not finite")
        fake(cell)

    cells = cells_in(tmp_path)
    work(cells, diverges)
    assert trained(tmp_path) == ["ce-s0", "ce-s2"]
    assert [failure_of(cell) for cell in cells] == [None, "the loss is not finite", None]
    work(cells, fake)  # a worker beside it does not try it again
    assert trained(tmp_path) == ["ce-s0", "ce-s2"]
    forget_failures(cells)
    work(cells, fake)
    assert trained(tmp_path) == ["ce-s0", "ce-s2", "ce-s1"]


def test_a_cell_waits_for_the_one_that_it_goes_on_from(tmp_path: Path):
    full, *_ = cells_in(tmp_path, 1)
    tuned = Cell("tuned", 0, tmp_path / "tuned-s0", {**full.options, "student.pretrained": str(full.folder)})
    longer = Cell("tuned", 0, tmp_path / "x", {**full.options, "student.pretrained": f"{full.folder}0"})
    assert not is_ready(tuned, [tuned, full]) and is_ready(longer, [longer, full])
    work(
        [tuned, full],
        lambda cell: write_run(
            cell.folder, options={"student.pretrained": cell.options.get("student.pretrained", False)}
        ),
    )
    assert is_ready(tuned, [tuned, full])


def test_cells_that_wait_for_one_another_are_refused(tmp_path: Path):
    first, second, third = cells_in(tmp_path)
    second = replace(second, options={**second.options, "teacher.id": f"run:{first.folder}"})
    refuse_circles([third, second, first])
    first = replace(first, options={**first.options, "student.pretrained": f"{second.folder}/model"})
    with pytest.raises(UserError, match="ce-s1, ce-s0 cannot begin: each goes on from another"):
        refuse_circles([third, second, first])


def test_the_story_of_a_cell_is_not_told_but_its_warnings_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    scores = {"val.top1_interval": [0.2, 0.8], "val.mean_per_class": 0.5, "train.epochs": 2, "train.best_epoch": 1}
    run = write_run(tmp_path / "ce-s0", summary=scores)
    with quiet(tmp_path):
        logging.getLogger("linnet").info("auto: this")
        logging.getLogger("linnet.teachers").warning("beware\nof that")
        logging.getLogger("linnet").warning(ending(run, run.settings(), run.summary(), []))  # a loss
    assert (claims_of(tmp_path) / "warnings").read_text() == "beware of that\n"
    assert not caplog.records


@pytest.mark.slow
def test_workers_side_by_side_and_one_that_fails_at_once(tmp_path: Path):
    cells = cells_in(tmp_path, 2)
    for cell in cells:
        write_run(cell.folder, seed=cell.seed)
    ticks = []
    train_side_by_side(cells, 2, 1, False, lambda: ticks.append(1))
    assert ticks
    broken = [Cell("ce", 0, tmp_path / "broken-s0", {"data.source": DATA, "method": "nothing"})]
    with pytest.raises(UserError, match="unknown method"):
        work(broken, fake)
    with pytest.raises(UserError):
        train_side_by_side(broken, 1, 1, False, lambda: None)


def test_a_cluster_without_ray_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"linnet\[ray\]"):
        train_on_cluster(cells_in(tmp_path), "local", 1, False, lambda: None)


@pytest.mark.slow
def test_cells_on_a_local_ray(tmp_path: Path):
    pytest.importorskip("ray")
    cells = [Cell("ce", 0, tmp_path / "ce-s0", {**cells_in(tmp_path)[0].options, "train.epochs": 1})]
    train_on_cluster(cells, "local", 1, False, lambda: None)
    assert json.loads(cells[0].run.summary_file.read_text())["seed"] == 0

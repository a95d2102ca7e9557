from collections.abc import Callable
from pathlib import Path

import pytest

from linnet.commands import comparison
from linnet.commands.comparison import Comparison, baseline, gains, mean_sd, percent

SHARED = {
    "data.source": "aviary:species=3,images=8", "student.name": "test_resnet", "student.image_size": 32,
    "train.batch_size": 8, "train.epochs": 2, "export": False,
}  # fmt: skip
CE = {"ce": {"method": "ce"}}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """(folder, whether it goes on) of every training that a comparison starts."""
    told, real = [], comparison.distill

    def distill(out: Path, options: dict, resume: bool, overwrite: bool) -> object:
        assert resume != overwrite
        told.append((out.name, resume))
        return real(out=out, options=options, resume=resume, overwrite=overwrite)

    monkeypatch.setattr(comparison, "distill", distill)
    return told


def test_every_cell_is_trained_once_and_told_seed_by_seed(tmp_path: Path, started: list):
    rows, told = {**CE, "smooth": {"method": "ce", "train.label_smoothing": 0.1}}, []
    whole = Comparison(tmp_path, SHARED, rows, [3, 5])
    table = whole.table(lambda row, seed, summary: told.append((row, seed, summary["seed"])))
    assert told == [("ce", 3, 3), ("smooth", 3, 3), ("ce", 5, 5), ("smooth", 5, 5)]
    assert started == [(f"{row}-s{seed}", False) for row, seed, _ in told]
    assert [summary["seed"] for summary in table["smooth"]] == [3, 5]
    assert whole.run("smooth", 3).settings().train.label_smoothing == 0.1
    assert whole.run("smooth", 3).settings().train.epochs == 2
    assert whole.table() == table
    assert len(started) == 4


def test_a_cell_of_other_settings_is_trained_again(tmp_path: Path, started: list):
    Comparison(tmp_path, SHARED, CE, [0]).cell("ce", 0)
    Comparison(tmp_path, {**SHARED, "train.lr": 0.006}, CE, [0]).cell("ce", 0)  # what "auto" is here: no other one
    assert len(started) == 1
    changed = Comparison(tmp_path, {**SHARED, "train.epochs": 1}, CE, [0])
    assert changed.cell("ce", 0)["train.epochs"] == 1
    assert started[1:] == [("ce-s0", False)]
    assert len(changed.run("ce", 0).metrics()) == 1


def test_a_stopped_cell_goes_on_where_it_was(tmp_path: Path, started: list, killed_after: Callable):
    whole = Comparison(tmp_path, {**SHARED, "train.epochs": 3}, CE, [0])
    with killed_after(2):
        whole.cell("ce", 0)
    before = whole.run("ce", 0).metrics()
    whole.cell("ce", 0)
    assert started == [("ce-s0", False), ("ce-s0", True)]
    after = whole.run("ce", 0).metrics()
    assert after[0] == before[0]  # even the seconds that it took
    assert [row["epoch"] for row in after] == [1, 2, 3]


def test_a_row_can_be_a_function_of_the_seed(tmp_path: Path):
    rows = {"own lr": lambda seed: {"method": "ce", "train.lr": 0.001 * (1 + seed)}}
    whole = Comparison(tmp_path, {**SHARED, "train.epochs": 1}, rows, [0, 1])
    whole.table()
    assert [whole.run("own lr", seed).settings().train.lr for seed in (0, 1)] == pytest.approx([0.001, 0.002])


def test_names_of_rows_become_names_of_folders(tmp_path: Path):
    name = Comparison(tmp_path, {}, {}, []).run("pand+figkd:0.5 (replay/4)", 2).folder.name
    assert name == "pand+figkd-0.5-replay-4-s2"


TABLE = {
    "ce": [{"method": "ce", "val.top1": 0.5, "test.top1": 0.5}, {"method": "ce", "val.top1": 0.7, "test.top1": 0.6}],
    "ce views": [{"method": "ce", "val.top1": v, "test.top1": v} for v in (0.62, 0.6)],
    "kd": [{"method": "kd", "val.top1": 0.9, "test.top1": t, "few": 0.5} for t in (0.7, 0.9)],
}


def test_gains_are_over_the_best_row_without_distillation():
    """Chosen on val, where the worse of the two on test would win."""
    assert baseline(TABLE) == "ce views"
    assert baseline({"kd": TABLE["kd"]}) is None
    assert gains(TABLE, "kd", "ce") == pytest.approx([20, 30])
    assert gains(TABLE, "kd", "ce", "val.top1") == pytest.approx([40, 20])
    assert percent([*TABLE["kd"], *TABLE["ce"]], "few") == [50, 50]


def test_mean_and_sample_standard_deviation():
    assert mean_sd([70, 80, 75]) == "75.00 ± 5.00"
    assert mean_sd([3.14159]) == "3.14"
    assert mean_sd([]) == ""

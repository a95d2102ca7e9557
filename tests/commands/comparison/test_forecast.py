from dataclasses import replace
from pathlib import Path

import pytest
from hand_made_runs import DATA, TINY

from linnet.commands.compare import Question, Work, planned, predict
from linnet.commands.compare import asked as asked_for
from linnet.commands.comparison import plan as plan_module
from linnet.commands.comparison.cells import Grid
from linnet.commands.comparison.forecast import Choice, Forecast, RowForecast, fit, measure, seconds_of
from linnet.commands.comparison.grid import Compared
from linnet.commands.comparison.plan import decide, follow, keep, read_plan, with_time
from linnet.config import Config
from linnet.errors import UserError

# 10 epochs of 10 s and 0 s beside: 100 s a cell
ROWS = tuple(RowForecast(name, name == "ce", 10, 10.0, 0.0) for name in ("ce", "kd", "pand"))
FORECAST = Forecast(ROWS, teacher_seconds=100.0)
SEEDS = (0, 1, 2, 3, 4)


@pytest.mark.parametrize(("words", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400)])
def test_lengths_of_time(words: str, seconds: int):
    assert seconds_of(words) == seconds


@pytest.mark.parametrize("words", ["", "30", "m", "0s", "-3m", "1d"])
def test_what_is_no_length_of_time(words: str):
    with pytest.raises(UserError, match="--time must be a length of time"):
        seconds_of(words)


def test_the_sum_of_all_cells():
    assert FORECAST.seconds(5) == 100 + 5 * 300
    assert FORECAST.seconds(5, jobs=2) == 100 + 5 * 150
    assert FORECAST.seconds(2, rows=["ce", "kd"], epochs=5) == 100 + 2 * 100


@pytest.mark.parametrize(
    ("budget", "rows", "epochs", "seeds"),
    [
        (1600, 3, 10, 5),  # everything
        (1599, 3, 10, 4),  # seeds above three go first
        (1000, 3, 10, 3),
        (999, 3, 9, 3),  # then epochs
        (460, 3, 4, 3),  # down to a third of ten
        (459, 2, 5, 3),  # then rows from the end: the time that this leaves is spent on epochs
        (340, 2, 4, 3),
        (339, 2, 5, 2),  # then seeds
        (180, 2, 4, 1),
    ],
)
def test_what_is_given_up_and_in_what_order(budget: int, rows: int, epochs: int, seeds: int):
    choice = fit(budget, "x", FORECAST, SEEDS)
    assert (len(choice.rows), choice.epochs, len(choice.seeds)) == (rows, epochs, seeds)
    assert "ce" in choice.rows
    assert FORECAST.seconds(seeds, 1, choice.rows, epochs) <= budget


def test_what_was_given_up_is_said():
    assert fit(1600, "1h", FORECAST, SEEDS) == Choice(("ce", "kd", "pand"), 10, SEEDS)
    assert fit(339, "339s", FORECAST, SEEDS).gave_up == ("--time 339s: 2 of 5 seeds; 5 of 10 epochs; without pand",)


def test_a_budget_that_is_too_short_says_what_is_needed():
    with pytest.raises(
        UserError, match="--time 3m is too short: ce and kd with one seed and 4 of 10 epochs need about 3 min"
    ):
        fit(179, "3m", FORECAST, SEEDS)


def test_rows_of_different_lengths_are_not_fitted():
    with pytest.raises(UserError, match="different ones"):
        fit(1000, "x", Forecast((ROWS[0], RowForecast("kd", False, 5, 1, 0))), SEEDS)


def test_the_row_that_others_are_compared_with_is_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compared = asked_for(replace(question(tmp_path), methods=["kd", "dist"], against="dist"))
    monkeypatch.setattr("linnet.commands.comparison.forecast._student", lambda *_: (1.0, 0.0, 0.0))
    monkeypatch.setattr("linnet.commands.comparison.forecast._teacher", lambda *_: (0.0, 0))
    forecast = measure(compared, threads=1)
    assert [(row.name, row.stays) for row in forecast.rows] == [("ce", True), ("kd", False), ("dist", True)]
    stays = tuple(replace(row, stays=row.name != "kd") for row in ROWS)
    four = (*stays[:2], replace(ROWS[2], name="dist"), stays[2])
    assert fit(130, "130s", Forecast(four), (0,)).rows == ("ce", "kd", "pand")


def question(out: Path, **words: object) -> Question:
    return Question((DATA,), methods=["kd"], seeds=[0, 1], out=out, options={**TINY, "train.epochs": 3}, **words)


def test_a_dry_run_writes_nothing_and_tells_time_and_disk(tmp_path: Path):
    told = "\n".join(predict(question(tmp_path / "out"), Work()))
    assert "2 rows x 2 seeds, 4 of 4 cells to train" in told and "80 train, 40 val, 200 test images" in told
    assert "MB on disk" in told and "not included" in told and "added: ce" in told
    assert not (tmp_path / "out").exists()


def test_the_choice_of_a_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = tuple(RowForecast(name, name == "ce", 3, 10.0, 0.0) for name in ("ce", "kd"))
    measured = []
    monkeypatch.setattr("linnet.commands.comparison.plan.measure", lambda *_: measured.append(1) or Forecast(rows))
    for _ in range(2):
        compared, _ = planned(asked_for(question(tmp_path)), Work(), "80s")
        assert {row.config.train.epochs for row in compared.rows} == {2}
        assert any("2 of 3 epochs" in note for note in compared.notes)
    assert len(measured) == 1
    planned(asked_for(question(tmp_path, against="kd")), Work(), "80s")
    assert len(measured) == 1  # of the same cells
    compared, _ = planned(asked_for(question(tmp_path)), Work(), "41s")
    assert {row.config.train.epochs for row in compared.rows} == {1}


def test_a_row_that_was_given_up_is_nothing_to_compare_with(tmp_path: Path):
    compared = asked_for(replace(question(tmp_path), methods=["kd", "dist"], against="dist"))
    plan = {"threads": 1, "precision": "fp32", "choice": {"epochs": 3, "rows": ["ce", "kd"]}}
    with pytest.raises(UserError, match="--against dist: there are the rows ce, kd"):
        follow(compared, plan)


def test_threads_and_precision_are_those_of_the_first_command(tmp_path: Path):
    compared = asked_for(question(tmp_path))
    left_open = {key: value for key, value in compared.grid.shared.items() if key != "train.precision"}
    compared = replace(compared, grid=replace(compared.grid, shared=left_open))
    assert decide(compared, jobs=1, threads=3) == {"threads": 3, "precision": "fp32"}
    plan = keep(tmp_path, {"threads": 3, "precision": "bf16"})
    assert read_plan(tmp_path) == plan
    assert keep(tmp_path, {"threads": 1, "precision": "fp32"}) == plan  # another process was first
    assert decide(compared, jobs=2, threads=None) == plan
    assert {cell.options["train.precision"] for cell in follow(compared, plan).grid.cells()} == {"bf16"}
    with pytest.raises(UserError, match="trained with 3 threads each"):
        decide(compared, jobs=1, threads=2)


def test_a_plan_that_was_typed_stays(tmp_path: Path):
    grid = Grid(tmp_path, {"data.source": DATA, **TINY, "train.precision": "bf16"}, {"ce": {"method": "ce"}}, (0,))
    followed = follow(Compared(grid, ()), {"threads": 1, "precision": "fp32"})
    assert [row.config.train.precision for row in followed.rows] == ["bf16"]


def test_what_fits_is_decided_anew_for_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another student takes another time."""
    told = list[float]()
    monkeypatch.setattr(plan_module, "measure", lambda *_: told.append(1.0) or FORECAST)
    own = asked_for(question(tmp_path))
    larger = replace(own, rows=tuple(replace(row, config=_at_64(row.config)) for row in own.rows))
    plan = with_time(own, {"threads": 1, "precision": "fp32"}, "1h", 1)
    assert with_time(own, plan, "1h", 1) == plan and len(told) == 1
    assert with_time(larger, plan, "1h", 1)["asked"] != plan["asked"] and len(told) == 2


def _at_64(config: Config) -> Config:
    return replace(config, student=replace(config.student, image_size=64))

import json
from pathlib import Path

import pytest
from hand_made_runs import DATA, TINY, write_run
from rich.console import Console

from linnet.commands.comparison.cells import Cell
from linnet.commands.comparison.live import Watch, duration
from linnet.commands.comparison.workers import claims_of


def cells_in(out: Path, **options: object) -> list[Cell]:
    own = {"data.source": DATA, "method": "ce", **TINY, **options}
    return [Cell("ce", seed, out / f"ce-s{seed}", {**own, "seed": seed}) for seed in range(3)]


def test_a_line_for_each_finished_cell_with_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_run(tmp_path / "ce-s0")
    with Watch(cells_in(tmp_path), {"ce": 30}, tmp_path) as watch:
        write_run(tmp_path / "ce-s1", seed=1, val=0.712)
        watch.refresh()
        claims_of(tmp_path).mkdir()
        (claims_of(tmp_path) / "ce-s2.failed").write_text("the loss is not finite")
        watch.refresh()
        watch.refresh()
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "1 of 3 cells are finished"
    assert told[1].startswith("[2/3] ce seed 1: val 71.2, 2.0 s; about ") and told[1].endswith(" left")
    assert told[2:] == ["[3/3] ce seed 2: failed: the loss is not finite"]


def test_a_warning_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    claims_of(tmp_path).mkdir()
    file = claims_of(tmp_path) / "warnings"
    file.write_text("an earlier one\n")
    with Watch(cells_in(tmp_path), {"ce": 30}, tmp_path) as watch:
        for text in ("beware\n", "beware\n", "half"):
            with file.open("a") as opened:
                opened.write(text)
            watch.refresh()
    assert capsys.readouterr().err == "warning: beware\n"


def test_cells_that_are_trained_again_are_not_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_run(tmp_path / "ce-s0")
    with Watch(cells_in(tmp_path, **{"train.epochs": 7}), {"ce": 7}, tmp_path):
        pass
    assert capsys.readouterr().err == ""


def test_the_table_of_cells(tmp_path: Path):
    write_run(tmp_path / "ce-s0", val=0.712)
    (tmp_path / "ce-s1").mkdir()
    (tmp_path / "ce-s1" / "metrics.jsonl").write_text(json.dumps({"epoch": 4, "val.top1": 0.5}) + "\n")
    watch = Watch(cells_in(tmp_path), {"ce": 30}, tmp_path)
    with watch:
        console = Console(width=100, record=True)
        console.print(watch._table(), markup=False)  # as beside a warning
    shown = console.export_text()
    assert "[" not in shown
    for words in ("71.2", "epoch 4/30: 50.0", "waiting", "seed 2", "1 of 3 cells"):
        assert words in shown


@pytest.mark.parametrize(("seconds", "words"), [(34.4, "34 s"), (300, "5 min"), (7800, "2 h 10 min")])
def test_durations(seconds: float, words: str):
    assert duration(seconds) == words

from pathlib import Path

import pytest
from hand_made_runs import DATA, TINY

from linnet.commands.comparison.grid import Request, baselines_of, build, check_all, check_fair, unequal
from linnet.errors import UserError


def rows(compared: object) -> list[str]:
    return [row.name for row in compared.rows]


def asked(tmp_path: Path, yaml: str = "", **request: object) -> object:
    file = None
    if yaml:
        file = tmp_path / "grid.yaml"
        file.write_text(yaml)
    return build(Request(DATA, file, options={**TINY, **request.pop("options", {})}, **request))


def test_methods_times_students_times_teachers(tmp_path: Path):
    compared = asked(
        tmp_path,
        methods=("ce", "kd", "dist"),
        students=("resnet10t", "resnet18"),
        teachers=("mini-clip", "timm:resnet50"),
    )
    assert rows(compared)[:5] == ["ce resnet10t", "kd resnet10t mini-clip", "dist resnet10t mini-clip", "kd resnet10t timm:resnet50", "dist resnet10t timm:resnet50"]  # fmt: skip
    assert len(rows(compared)) == 10
    assert compared.rows[8].config.student.name == "resnet18" and compared.rows[8].config.teacher.id == "timm:resnet50"
    assert compared.grid.seeds == (0, 1, 2)
    assert compared.grid.out == Path("runs/compare-aviary-species=4-genus=2-images=20")


def test_ce_is_always_there_and_said_to_be(tmp_path: Path):
    compared = asked(tmp_path, methods=("kd",))
    assert rows(compared) == ["ce", "kd"]
    assert "added: ce" in compared.notes[0]
    assert not asked(tmp_path, methods=("kd", "ce")).notes
    both = asked(tmp_path, methods=("kd",), students=("resnet10t", "resnet18"))
    assert rows(both) == ["ce resnet10t", "ce resnet18", "kd resnet10t", "kd resnet18"]


def test_replayed_views_get_a_ce_row_of_the_same_views(tmp_path: Path):
    compared = asked(tmp_path, methods=("ce", "kd"), options={"teacher.views": "replay:2"})
    assert rows(compared) == ["ce replay:2", "ce", "kd"]
    assert [row.config.teacher.views for row in compared.rows] == ["replay:2", "center", "replay:2"]
    assert [row.is_baseline for row in compared.rows] == [True, True, False]
    grid = "rows: {fresh: {method: kd}, again: {method: kd, teacher.views: replay:4}}"
    assert rows(asked(tmp_path, grid)) == ["ce", "ce replay:4", "fresh", "again"]


def test_a_grid_in_yaml(tmp_path: Path):
    compared = asked(
        tmp_path,
        """
        shared: {train: {epochs: 4, batch-size: 8}, train.lr: 0.1, kd: {temperature: 3}}
        rows:
          ce: {method: ce}
          kd: {method: kd}
          hot: {method: kd, kd.temperature: 9}
          smooth: {method: ce, train.label-smoothing: 0.1}
        seeds: [5, 6]
        """,
        options={"train.lr": 0.2},
    )
    assert (compared.grid.seeds, compared.grid.out) == ((5, 6), Path("runs/compare-grid"))
    by_name = {row.name: row for row in compared.rows}
    assert list(by_name) == ["ce", "kd", "hot", "smooth"]
    assert [by_name[name].config.options["kd"]["temperature"] for name in ("kd", "hot")] == [3, 9]
    assert {(row.config.train.epochs, row.config.train.batch_size, row.config.train.lr) for row in compared.rows} == {
        (4, 8, 0.2)
    }
    assert [name for name, row in by_name.items() if row.is_baseline] == ["ce"]  # ce with a remedy is a row like others


@pytest.mark.parametrize(
    ("yaml", "request_", "error"),
    [
        ("row: {ce: {method: ce}}", {}, "unknown key 'row'. Did you mean 'rows'"),
        ("rows: {a: {method: kd}}", {"methods": ("kd",)}, "leave --methods out"),
        ("rows: {a: {method: kd}}\nmethods: [ce]", {}, "has rows: leave methods out"),
        ("rows: [a]", {}, "'rows' must map"),
        ("rows: {a: {method: kdd}}", {}, "row 'a': unknown method 'kdd'.*Did you mean"),
        ("rows: {a: {method: kd, train.epoch: 3}}", {}, "row 'a': unknown setting 'train.epoch'.*epochs"),
        ("rows: {a: {method: kd, seed: 3}}", {}, "--seeds"),
        ("rows: {'?': {method: kd}}", {}, "'\\?' cannot be the name of a row"),
        ('rows: {"a\\nb": {method: kd}}', {}, "cannot be the name of a row"),
        ("shared: [a]", {}, "'shared' must be a mapping"),
        ("rows: {1: {method: kd}}", {"only": ("2",)}, "has no row '2'"),
        ("seeds: [1.5]", {}, "seeds must be whole numbers.*1.5"),
        ("rows: {a b: {method: kd}, a/b: {method: kd}}", {}, "would share a folder"),
        ("rows: {ce: {method: kd}}", {}, "the row 'ce' is not ce"),
        ("seeds: [x]", {}, "seeds must be whole numbers"),
        ("", {"seeds": (1, 1)}, "a seed is named twice"),
        ("", {"options": {"seed": 3}}, "--seeds"),
        ("", {"methods": ("kd",), "options": {"kd.heat": 2}}, "unknown setting 'kd.heat'"),
        ("", {"methods": ("kd",), "options": {"dkd.alpha": 2}}, "'dkd.alpha' has no effect: no row's method is dkd"),
    ],
)  # fmt: skip
def test_what_is_refused(yaml: str, request_: dict, error: str, tmp_path: Path):
    with pytest.raises(UserError, match=error):
        asked(tmp_path, yaml, **request_)


@pytest.mark.parametrize(
    "own", ["train.epochs: 7", "train.batch_size: 8", "data.limit_per_class: 3", "student.image_size: 64"]
)
def test_rows_that_are_not_trained_alike_are_refused(own: str, tmp_path: Path):
    compared = asked(tmp_path, f"rows: {{longer: {{method: kd, {own}}}}}")
    with pytest.raises(UserError, match=f"not trained alike \\(longer: {own.partition(':')[0]}.*--allow-mismatch"):
        check_fair(compared.rows, allow_mismatch=False)
    (said,) = check_fair(compared.rows, allow_mismatch=True)
    assert said.startswith(f"unequal to ce: longer: {own.partition(':')[0]}")


def test_what_rows_may_differ_in_and_what_is_named(tmp_path: Path):
    grid = "rows: {a: {method: kd, kd.temperature: 9, teacher.head: probe}, b: {method: kd, train.lr: 0.1}}"
    unfair, others = unequal(asked(tmp_path, grid).rows)
    assert unfair == {} and others == {"b": "train.lr: 0.006 -> 0.1"}


def test_rows_are_checked_before_a_cell_begins(tmp_path: Path):
    compared = asked(tmp_path, "rows: {a: {method: kd, teacher.id: run:nowhere}}")
    with pytest.raises(UserError, match="row 'a': .*nowhere"):
        check_all(compared)


def test_a_runs_settings_start_a_grid_that_its_rows_and_words_override(tmp_path: Path):
    """Those of its method and of methods that no row has are left out; a choice of heads, where there is none, too."""
    base = {
        "method": "dkd", "seed": 7, "train": {"lr": 0.1, "epochs": 9}, "teacher": {"head": "val"},
        "options": {"dkd": {"beta": 3.0}, "kd": {"temperature": 7.0}, "figkd": {"weight": 3.0}},
    }  # fmt: skip
    grid = "{shared: {train.epochs: 4}, rows: {ce: {method: ce}, kd: {method: kd}, sum: {method: kd+figkd}, pand: {method: pand}}}"  # fmt: skip
    by_name = {row.name: row.config for row in asked(tmp_path, grid, base=base).rows}
    assert {(own.train.lr, own.train.epochs) for own in by_name.values()} == {(0.1, 4)}
    assert by_name["kd"].options["kd"]["temperature"] == 7.0
    assert (by_name["sum"].options["figkd"]["weight"], by_name["sum"].options["kd"]["temperature"]) == (3.0, 7.0)
    assert [by_name[name].teacher.head for name in ("kd", "sum", "pand")] == ["val", "val", "prompt"]
    shared = "{shared: {method: figkd}, rows: {ce: {method: ce}, own: {}}}"
    assert asked(tmp_path, shared, base={"figkd.weight": 3.0}).rows[1].config.options["figkd"]["weight"] == 3.0


def test_a_row_is_measured_against_the_ce_of_its_size(tmp_path: Path):
    grid = """
        rows:
          ce: {method: ce}
          kd: {method: kd}
          ce small: {method: ce, student.image_size: 64}
          kd small: {method: kd, student.image_size: 64}
          kd smaller: {method: kd, student.image_size: 40}
        """
    found = asked(tmp_path, grid).rows
    counted = {row.name: [own.name for own in baselines_of(row, found)] for row in found}
    assert counted["kd"] == ["ce"] and counted["kd small"] == ["ce small"]
    assert counted["kd smaller"] == ["ce", "ce small"]  # none at its size: unequal, and said to be

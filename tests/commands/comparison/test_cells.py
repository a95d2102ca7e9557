from pathlib import Path

import pytest
from hand_made_runs import DATA, TINY, write_run

from linnet.commands.comparison.cells import Cell, Grid, check_folders, fitting, folder_name, state, train_cell
from linnet.config_files import write_yaml
from linnet.errors import UserError


def cell(folder: Path, **options: object) -> Cell:
    own = {"data.source": DATA, "method": "ce", "seed": 0, **TINY, **options}
    return Cell("ce", 0, folder, own)


def test_cells_go_seed_by_seed_into_folders_of_their_names():
    rows = {"ce": {"method": "ce"}, "pand+figkd:0.5 (replay/4)": {"method": "pand+figkd:0.5"}}
    cells = Grid(Path("out"), {}, rows, (3, 5)).cells()
    assert [own.name for own in cells] == ["ce-s3", "pand+figkd-0.5-replay-4-s3", "ce-s5", "pand+figkd-0.5-replay-4-s5"]
    assert [own.options["seed"] for own in cells] == [3, 3, 5, 5]


def test_a_row_can_name_its_seed_and_the_folder():
    rows = {"finetuned": {"method": "openvocab", "student.pretrained": "{out}/full-s{seed}"}}
    assert Grid(Path("there"), {}, rows, (7,)).cells()[0].options["student.pretrained"] == "there/full-s7"


def test_a_row_takes_of_the_shared_settings_what_it_has_a_use_for():
    shared = {"train.lr": 1, "kd.temperature": 2, "teacher.id": "x", "teacher.text_encoder": "y", "shots.count": 5}
    assert fitting(shared, {"method": "ce"}) == {"train.lr": 1}
    assert fitting(shared, {"method": "kd"}) == {"train.lr": 1, "kd.temperature": 2, "teacher.id": "x"}
    assert fitting(shared, {"method": "openvocab"}) == {"train.lr": 1, "teacher.id": "x", "shots.count": 5}
    assert fitting(shared, {"method": "vlm-kd"}) == {"train.lr": 1, "teacher.id": "x", "teacher.text_encoder": "y"}
    unknown = {"kdd.temperature": 2}
    assert fitting(unknown, {"method": "ce"}) == unknown  # resolving it says that it is unknown


def test_what_a_folder_holds(tmp_path: Path):
    assert state(cell(tmp_path / "new")) == "new"
    write_run(tmp_path / "run")
    assert state(cell(tmp_path / "run")) == "finished"
    assert (
        state(cell(tmp_path / "run", export=True, logger="tensorboard", **{"train.checkpoint": "drop"})) == "finished"
    )  # no number depends on it
    assert state(cell(tmp_path / "run", **{"train.epochs": 7})) == "other"
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"epoch": 1}\n')
    assert state(cell(tmp_path / "run")) == "stopped"


def test_another_way_to_the_same_images_is_no_other_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "run")
    write_yaml(cell(run.folder, **{"data.source": str(tmp_path / "photos")}).config(), run.config)
    assert state(cell(run.folder, **{"data.source": "photos"})) == "finished"
    (tmp_path / "others").mkdir()
    assert state(cell(run.folder, **{"data.source": "others"})) == "other"


def test_a_method_that_makes_its_own_images_is_scored_on_the_others():
    shared = {"data.source": "photos", "data.test": "none", "data.views": "light"}
    expected = {"data.test": "none", "data.eval": "photos"}
    assert fitting(shared, {"method": "dfkd"}) == expected


def test_a_finished_cell_of_other_settings_is_refused_and_kept(tmp_path: Path):
    write_run(tmp_path / "ce-s0")
    other = cell(tmp_path / "ce-s0", **{"train.epochs": 7})
    for refuse in (lambda: check_folders([other]), lambda: train_cell(other)):
        with pytest.raises(
            UserError, match=r"ce-s0 was trained with other settings \(train.epochs: 30 -> 7\): .*--overwrite"
        ):
            refuse()
    assert (tmp_path / "ce-s0" / "summary.json").exists()


@pytest.mark.parametrize(("given", "start"), [({}, None), ({"train.epochs": 7}, (False, True))])
def test_what_is_trained_again(given: dict, start: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_run(tmp_path / "ce-s0")
    told = []
    monkeypatch.setattr(
        "linnet.commands.comparison.cells.distill", lambda **how: told.append((how["resume"], how["overwrite"]))
    )
    train_cell(cell(tmp_path / "ce-s0", **given), overwrite=True)
    assert told == ([] if start is None else [start])


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_somebody_else_put_there_is_refused_and_kept(overwrite: bool, tmp_path: Path):
    (tmp_path / "ce-s0").mkdir()
    (tmp_path / "ce-s0" / "mine.txt").touch()
    (tmp_path / "ce-s1").touch()
    for name, error in (("ce-s0", "holds files that linnet did not write"), ("ce-s1", "is not a folder")):
        with pytest.raises(UserError, match=error):
            check_folders([cell(tmp_path / name)], overwrite)
    assert (tmp_path / "ce-s0" / "mine.txt").exists()


def test_names_of_folders():
    assert [folder_name(row) for row in ("kd+figkd:0.5", "Häher", "a/../b [c]")] == [
        "kd+figkd-0.5",
        "Häher",
        "a-..-b-c",
    ]


def test_a_cell_that_learned_from_other_images_is_refused(tmp_path: Path):
    write_run(tmp_path / "ce-s0", data="before")
    own = cell(tmp_path / "ce-s0")
    check_folders([own], data={own.row: "before"})
    with pytest.raises(UserError, match="the images have changed since .*ce-s0 was trained"):
        check_folders([own], data={own.row: "after"})

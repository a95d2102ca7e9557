import logging
import os
from pathlib import Path

import pytest

import linnet
from linnet.processes import PLACE, Team, drop_leftovers, is_first

WHOLE = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch):
    for name in (*PLACE, "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever the test deletes
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "left",
    [
        {"WORLD_SIZE": "2"},
        {"RANK": "3"},
        {"LOCAL_RANK": "0"},
        {"LOCAL_WORLD_SIZE": "4"},
        {"WORLD_SIZE": "many"},
        {"RANK": ""},
        *({key: value for key, value in WHOLE.items() if key != missing} for missing in PLACE),
        {**WHOLE, "RANK": "2"},
        {**WHOLE, "LOCAL_RANK": "7"},
        {**WHOLE, "WORLD_SIZE": "0"},
        {**WHOLE, "WORLD_SIZE": "-2"},
        {**WHOLE, "MASTER_PORT": "tcp"},
        {**WHOLE, "MASTER_ADDR": ""},
    ],
)
def test_what_another_program_left_is_no_place_among_processes(left, monkeypatch, caplog):
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING, "linnet"):
        drop_leftovers()
        drop_leftovers()
    assert not {*PLACE, "LOCAL_WORLD_SIZE"} & {*os.environ}
    assert is_first()
    assert caplog.text.count("is ignored: neither torchrun nor accelerate has started this process") == 1


@pytest.mark.parametrize(
    "given", [{}, WHOLE, {**WHOLE, "LOCAL_WORLD_SIZE": "2"}, {"MASTER_ADDR": "a", "MASTER_PORT": "1"}]
)
def test_a_place_that_was_given_is_kept(given, monkeypatch, caplog):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    drop_leftovers()
    assert {name: os.environ[name] for name in given} == given
    assert not caplog.text


@pytest.mark.parametrize("left", [{"WORLD_SIZE": "2"}, {"RANK": "3"}, {"LOCAL_RANK": "0"}])
def test_a_run_is_trained_and_told_of(left, monkeypatch, capsys, tmp_path: Path):
    from linnet.__main__ import main

    for name, value in left.items():
        monkeypatch.setenv(name, value)
    words = ["--method", "ce", "--student", "test_resnet", "--image-size", "32", "--train.epochs", "1", "--no-export"]
    main(["distill", "aviary:species=2,images=3", *words, "--out", str(tmp_path / "run")])
    assert capsys.readouterr().out == f"{tmp_path / 'run'}\n"
    assert linnet.load(tmp_path / "run")


@pytest.mark.parametrize("said", [[True, False], [False, True], [True, True]])
def test_a_team_ends_with_whoever_fails(said):
    heard = []

    def tell(well: bool) -> list[bool]:
        heard.append(well)
        return [well, said[1]]

    def work() -> str:
        if not said[0]:
            raise OSError("here")
        return "done"

    team = Team(0, 2, tell)
    if not said[0]:
        with pytest.raises(OSError, match="here"):
            team.together("working", work)
    elif not said[1]:
        with pytest.raises(linnet.UserError, match="process 1 of the others failed while working"):
            team.together("working", work)
    else:
        assert team.together("working", work) == "done"
    assert heard == [said[0]]


def test_one_process_is_a_team_of_its_own():
    assert Team().together("working", lambda: 3) == 3

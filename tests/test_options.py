"""The panels of the help."""

import re
from dataclasses import fields

import pytest

from linnet.__main__ import main
from linnet.config import GROUPS
from linnet.defaults import BY_DATA, TEACHERS
from linnet.options import RARE, RESOLVED


@pytest.fixture(scope="module")
def panels() -> dict[str, str]:
    """The help of distill at 100 columns: title -> what is in it."""
    import os
    import subprocess
    import sys

    code = "from linnet.__main__ import main; main(['distill', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "COLUMNS": "100"})  # fmt: skip
    assert max(map(len, done.stdout.splitlines())) <= 100
    parts = re.split(r"╭─ (.+?) ─+╮", done.stdout)
    return {
        title: " ".join(words.replace("│", " ").split()) for title, words in zip(parts[1::2], parts[2::2], strict=True)
    }


def options(panel: str) -> list[str]:
    return [word for word in panel.split() if re.fullmatch(r"--[a-z][\w.-]*", word)]


def test_the_panels_come_in_this_order(panels: dict[str, str]):
    assert list(panels) == [
        "Arguments", "Basic", "The run", "Data", "Student", "Teacher", "Training", "Advanced"
    ]  # fmt: skip


def test_the_basic_panel_has_eight_options_with_what_their_defaults_come_to(panels: dict[str, str]):
    basic = panels["Basic"]
    assert set(options(basic)) - {"--student.image-size"} == {
        "--teacher", "--student", "--method", "--out", "--train.epochs", "--image-size", "--seed", "--config"
    }  # fmt: skip
    assert "[default: auto]" not in basic
    assert "[default: kd]" in basic
    assert "mini-clip for drawn birds" in basic


def test_the_options_of_a_run_are_where_one_looks(panels: dict[str, str]):
    for option in ("--resume", "--overwrite", "--dry-run", "--eval", "--export", "--logger"):
        assert option in options(panels["The run"])
    assert {"--opset", "--prompts.lr", "--shots", "--train.sync-batch-norm"} <= set(options(panels["Advanced"]))


def test_rare_settings_are_settings():
    for group, names in RARE.items():
        assert set(names.split()) <= {spec.name for spec in fields(GROUPS[group])}


def test_the_defaults_of_the_help_are_the_defaults():
    for key, words in RESOLVED.items():
        group, name = key.split(".")
        assert name in {spec.name for spec in fields(GROUPS[group])}
        for kind, said in (("drawn", "drawn birds"), ("photos", "photos")):
            if key == "teacher.id":
                value = TEACHERS[kind][0]
            elif key in BY_DATA[kind]:
                value = BY_DATA[kind][key][0]
            else:
                continue
            assert re.search(rf"{re.escape(str(value).lower())} for [^,]*{said}|{said}[^,]*, {value}", words.lower())


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("compare x --resume", "there is no --resume here: the same command goes on where it was stopped"),
        ("distill x --overwritee", "unknown option '--overwritee'. Did you mean '--overwrite'?"),
        ("compare x --foo", "unknown option '--foo'."),
        ("distill x --out", "--out requires an argument"),
        ("distill x --kd.temperature", "--kd.temperature requires an argument"),
    ],
)
def test_a_last_word_that_is_no_option_is_unknown_and_not_in_want_of_a_value(
    typed: str, told: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as left:
        main(typed.split())
    assert left.value.code == 2
    assert told in capsys.readouterr().err

"""The panels of the help."""

import re
from dataclasses import fields

import pytest

from linnet.config import GROUPS
from linnet.defaults import BY_DATA, TEACHERS
from linnet.options import FIRST, RARE, RESOLVED


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
    assert len(FIRST) == 8
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

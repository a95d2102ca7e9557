from pathlib import Path

import pytest

from linnet.errors import UserError
from linnet.text.questions import ABOUT_CLASS, P1, P2, ask_about, read_questions


def test_the_prompts_of_linnet():
    assert read_questions([]) == {"p1": P1, "p2": P2}
    assert read_questions(["p2"]) == {"p2": P2}
    assert read_questions([], "class") == {"class": ABOUT_CLASS}
    assert "{class}" not in P1 and '"heron"' in ask_about(P2, "heron")


def test_blank_lines_separate_the_prompts_of_a_file(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("What colour is\nthe {class}?\n")
    (tmp_path / "two.txt").write_text("\nOne?\n \n\nAnother?")
    questions = read_questions([str(tmp_path / "mine.txt"), "p1", str(tmp_path / "two.txt")])
    assert questions == {"mine": "What colour is the {class}?", "p1": P1, "two-1": "One?", "two-2": "Another?"}


@pytest.mark.parametrize(
    ("content", "given", "per", "message"),
    [
        ("A {clas}?", ["mine.txt"], "image", r"the placeholder \{clas\}, and only \{class\} is known"),
        (" \n", ["mine.txt"], "image", "holds no prompt"),
        ("A?", ["mine.txt", "mine.txt"], "image", "two prompts are called 'mine'"),
        ("A?", ["mine.txt"], "class", "asks about no class"),
        (
            "A?",
            ["clas"],
            "image",
            "there is no prompt 'clas': expected p1, p2, class or a text file. Did you mean 'class'",
        ),
    ],
)
def test_what_is_wrong_with_a_prompt_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, given: list, per: str, message: str
):
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        read_questions(given, per)  # type: ignore[arg-type]


def test_a_prompt_that_is_also_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p1").write_text("What is it?")
    with pytest.raises(UserError, match="'p1' is a prompt of linnet and also a file"):
        read_questions(["p1"])
    assert read_questions(["./p1"]) == {"p1": "What is it?"}

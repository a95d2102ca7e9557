import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from linnet.__main__ import main
from linnet.errors import UserError
from linnet.files import readable
from linnet.students.student import Student
from linnet.text.classes import ClassInfo

NAMES = ["rose, red", 'the "wild" one', "two\nlines", "🌹 rosé", "carriage\rreturn", "tab\there", " 'a' | b; c", "öl"]


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run whose class names are hard to print."""
    Student("test_resnet", tuple(ClassInfo(name, name) for name in NAMES), image_size=32).save(tmp_path / "run/model")
    shutil.copytree(tiny_run / "images", tmp_path / "a,b")
    return tmp_path / "run"


def test_csv_has_a_header_and_all_classes_that_were_asked_for(run: Path, capsys: pytest.CaptureFixture[str]):
    for top, shown in (("1", 1), ("3", 3), ("50", 8)):
        main(["predict", str(run), str(run.parent / "a,b"), "--csv", "--top", top])
        text = capsys.readouterr().out
        header, *lines = csv.reader(io.StringIO(text, newline=""))
        main(["predict", str(run), str(run.parent / "a,b"), "--json", "--top", top])
        expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert header[:3] == ["path", "class", "probability"]
        assert header[3:] == [f"{word}_{i}" for i in range(2, shown + 1) for word in ("class", "probability")]
        assert len(lines) == len(expected) == 4
        for cells, own in zip(lines, expected, strict=True):
            assert cells[0] == own["path"]
            assert cells[1::2] == [row["class"] for row in own["top"]]
            assert [float(cell) for cell in cells[2::2]] == pytest.approx([row["probability"] for row in own["top"]])
    assert sorted(lines[0][1::2]) == sorted(NAMES)


def test_an_image_is_one_line_whatever_its_class_is_called(run: Path, capsys: pytest.CaptureFixture[str]):
    main(["predict", str(run), str(run.parent / "a,b"), "--top", "8"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for name in ("rose, red", 'the "wild" one', r"two\nlines", "🌹 rosé", r"carriage\rreturn", r"tab\there", "öl"):
        assert f"   {name} " in lines[0]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("form", ["--csv", "--json", None])
def test_a_terminal_that_cannot_show_a_name_shows_an_escape(
    encoding: str, form: str | None, run: Path, monkeypatch: pytest.MonkeyPatch
):
    try:
        photo = run.parent / "caf\udce9.jpg"  # a name in Latin-1
        shutil.copy(run.parent / "a,b" / "0.jpg", photo)
    except (OSError, UnicodeError):  # this file system takes UTF-8 only
        photo = run.parent / "a,b" / "0.jpg"
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, encoding=encoding, errors="strict"))
    main(["predict", str(run), str(photo), "--top", "8", *([form] if form else [])])
    text = out.getvalue().decode(encoding)
    if form == "--json":
        (line,) = text.splitlines()
        assert json.loads(line)["path"] == readable(photo)
        assert sorted(row["class"] for row in json.loads(line)["top"]) == sorted(NAMES)
    else:
        assert ("🌹 rosé" if encoding == "utf-8" else r"\U0001f339 ros") in text


def test_forms_and_counts_that_do_not_go_together(run: Path):
    from linnet.commands.predict import predict

    for top, forms, message in ((0, (False, False), "--top must be at least 1"), (5, (True, True), "--json or --csv")):
        with pytest.raises(UserError, match=message):
            predict(run, [run.parent / "a,b"], None, None, top, *forms)

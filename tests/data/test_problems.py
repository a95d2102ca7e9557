import csv
import io
import os
from pathlib import Path

import pytest

from linnet.data.problems import LINES, Problem, as_csv, counts, in_words, report


def problems(kind: str, count: int) -> list[Problem]:
    return [Problem(kind, Path(f"a/{i}.jpg"), "why") for i in range(count)]


@pytest.mark.parametrize("kind", LINES)
def test_each_kind_is_one_line_with_a_few_names_and_all_in_the_file(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    report(problems(kind, 9), tmp_path / "p.csv")
    (record,) = caplog.records
    assert record.message.startswith("9 ") and "a/0.jpg" in record.message
    assert "a/8.jpg" not in record.message and f"all are in {tmp_path / 'p.csv'}" in record.message
    rows = list(csv.reader(io.StringIO(as_csv(problems(kind, 9)).decode(), newline="")))
    assert rows == [["kind", "path", "detail"], *([kind, f"a/{i}.jpg", "why"] for i in range(9))]


def test_nothing_is_said_where_nothing_is_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    report([], tmp_path / "p.csv")
    assert not caplog.records


def test_one_file_is_one_file():
    assert in_words(problems("unused", 1)) == "1 file was not used: 1 why: a/0.jpg"
    assert in_words(problems("leak", 1)).startswith("1 val or test image is byte for byte also in train")


def test_they_are_counted_by_kind():
    assert counts([*problems("unused", 2), *problems("two classes", 1)]) == {
        "images.unused": 2,
        "images.two_classes": 1,
    }


def test_names_may_be_any_bytes():
    problem = Problem("unused", Path(os.fsdecode(b"caf\xe9,\n.jpg")), "why")
    in_words([problem]).encode()
    assert "caf\\xe9,\n.jpg" in as_csv([problem]).decode()

from pathlib import Path

import pytest

from linnet.errors import UserError
from linnet.text.journal import Asked, Journal, Written

ONE, TWO, THREE = (Asked(digest, "heron", "p1") for digest in ("aa", "bb", "cc"))


def answer(text: str) -> Written:
    return Written(text, 30, len(text))


def test_half_a_last_line_is_a_batch_that_was_not_written(tmp_path: Path):
    journal = Journal(tmp_path / "t.parquet")
    journal.open({"vlm": "some"})
    journal.add([ONE, TWO], [answer("grey – tall"), answer("")])
    journal.close()
    whole = journal.file.read_bytes()
    journal.file.write_bytes(whole + b'[[["cc", "her')
    again = Journal(tmp_path / "t.parquet")
    assert again.provenance == {"vlm": "some"}
    assert again.written == {ONE: answer("grey – tall"), TWO: answer("")}
    again.open({"vlm": "other"})
    again.add([THREE], [answer("blue")])
    again.close()
    assert again.file.read_bytes().startswith(whole)
    last = Journal(tmp_path / "t.parquet")
    assert list(last.written) == [ONE, TWO, THREE]
    assert last.provenance == {"vlm": "some"}
    last.remove()
    assert Journal(tmp_path / "t.parquet").provenance is None


def test_two_processes_do_not_write_one_journal(tmp_path: Path):
    first, second = Journal(tmp_path / "t.csv"), Journal(tmp_path / "t.csv")
    first.open({})
    with pytest.raises(UserError, match="in use by another linnet process"):
        second.open({})
    first.close()


@pytest.mark.parametrize("content", ["hello\n", '{"other": 1}\n', '{"linnet": {}}\n[1]\n'])
def test_another_file_is_not_taken_for_a_journal(tmp_path: Path, content: str):
    (tmp_path / "t.csv.journal").write_text(content)
    with pytest.raises(UserError, match="is not a journal of linnet"):
        Journal(tmp_path / "t.csv")

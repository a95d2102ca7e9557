from pathlib import Path

import pytest

from linnet.evaluation.looks import count_looks, earlier_looks, in_words, note_look
from linnet.run import Run


def test_a_line_for_each_look_also_after_a_kill(tmp_path: Path):
    run = Run(tmp_path)
    assert earlier_looks(run) == []
    assert count_looks(run, "these", scored_in_training=True) == 2
    note_look(run, "these", "test", "model", 0.5)
    note_look(run, "others", "all", "model", 0.25)
    with run.evaluations.open("a") as file:
        file.write('{"data": "the')
    note_look(run, "these", "all", "model", 0.75)
    assert [row["top1"] for row in earlier_looks(run)] == [0.5, 0.25, 0.75]
    assert set(earlier_looks(run)[0]) == {"when", "data", "split", "model", "top1", "linnet"}
    assert count_looks(run, "these", scored_in_training=False) == 3
    assert count_looks(run, "others", scored_in_training=True) == 3


@pytest.mark.parametrize(("looks", "words"), [(1, "once, now"), (2, "twice"), (3, "3 times")])
def test_words(looks: int, words: str):
    assert in_words(looks, False) == f"these images have been looked at {words}"
    assert in_words(looks, True).endswith(f"{words} (the first at the end of training)")

import copy
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet.data import paths as module
from linnet.data.paths import Paths

NAMES = ["a.jpg", "/a.jpg", "birds/wren/1.jpg", "birds/wren/2.jpg", "../x/1.jpg", "/data/ä ö/ü.jpg", "birds/ 3 .jpg", "a", ".", "x\ny/\udce9.jpg", "/"]  # fmt: skip


@given(st.lists(st.sampled_from(NAMES)), st.lists(st.integers(0, 30)))
def test_they_are_what_a_tuple_of_paths_is(names: list[str], rows: list[int]):
    expected = tuple(map(Path, names))
    paths = Paths(expected)
    assert tuple(paths) == expected and paths == expected and len(paths) == len(expected)
    rows = [row for row in rows if row < len(names)]
    assert tuple(paths.take(np.array(rows, dtype=int))) == tuple(expected[row] for row in rows)
    assert [paths[row] for row in rows] == [expected[row] for row in rows]
    assert tuple(paths[1::2]) == expected[1::2] and tuple(paths[::-1]) == expected[::-1]
    taken = paths.take(np.array(rows, dtype=int))
    assert tuple(taken[1:] + expected) == (*taken[1:], *expected)
    assert copy.deepcopy(paths) == paths  # taken apart and put together as for another process
    assert all(path in paths and paths.index(path) == expected.index(path) for path in expected)


def test_what_is_no_row_is_refused():
    paths = Paths([Path("a"), Path("b")])
    assert paths[-1] == Path("b")
    with pytest.raises(IndexError):
        paths[2]
    assert paths != (Path("a"),) and paths != (Path("a"), Path("c")) and paths != "ab"


def test_an_image_takes_few_bytes():
    def held() -> int:
        own = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, module.__file__)])
        return sum(trace.size for trace in own.traces)

    tracemalloc.start()
    try:
        paths = Paths(Path(f"photos/class{i % 50}/{i:06d}.jpg") for i in range(20_000))
        kept = held()
        parts = [paths.take(np.arange(start, 20_000, 3)) for start in range(3)]
        more = held() - kept
    finally:
        tracemalloc.stop()
    assert 20 * len(paths) < kept < 50 * len(paths)
    assert more < 10 * sum(map(len, parts))
    assert os.fspath(parts[1][0]) == "photos/class1/000001.jpg"

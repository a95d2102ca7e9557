"""A file is hashed once, and whatever happens to it or to what is remembered of it, its digest is that of its bytes."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from linnet.data import digests as module
from linnet.data.digests import KeyTable, as_bytes, digest_files, distinct


@pytest.fixture
def paths(tmp_path: Path, cache: Path) -> list[Path]:
    """Ten files that were written long ago; nothing is known of them."""
    for file in (cache / "digests").glob("*"):
        file.unlink()
    return [write(tmp_path / f"{i}.jpg", bytes([i]) * 10) for i in range(10)]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute has passed since the files were written."""
    real = module.time.time_ns
    monkeypatch.setattr(module.time, "time_ns", lambda: real() + 60 * 10**9)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read, from now on."""
    names: list[str] = []
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.suffix == ".jpg":
            names.append(path.name)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    return names


def plain(paths: list[Path]) -> list[bytes]:
    return [hashlib.blake2b(path.read_bytes(), digest_size=16).digest() for path in paths]


def test_rows_as_bytes():
    assert as_bytes(np.array([[1, 0], [0, 0], [7, 0]], np.uint8)) == [b"\1\0", b"\0\0", b"\7\0"]
    assert as_bytes(np.empty((0, 16), np.uint8)) == []


def test_a_key_is_found_by_all_of_its_bytes():
    """Zeros at the end count, which numpy's strings drop, and so does a half that is shared."""
    known = np.array([[1, 2, 3, 0], [1, 2, 0, 0], [0, 0, 0, 0], [1, 2, 3, 0], [255, 0, 0, 1]], dtype=np.uint8)
    table = KeyTable(known)
    assert table.find(known).tolist() == [0, 1, 2, 0, 4]  # of equal ones the first
    assert table.find(np.array([[1, 2, 3, 4], [1, 0, 0, 0], [255, 255, 255, 255]], dtype=np.uint8)).tolist() == [-1] * 3
    assert table.find(known[:0]).tolist() == []
    assert KeyTable(known[:0]).find(known).tolist() == [-1] * 5
    assert distinct(known).tolist() == [0, 1, 2, 4]


def test_a_key_table_does_as_a_dictionary():
    rng = np.random.default_rng(0)
    known = rng.integers(0, 3, (200, 5), dtype=np.uint8)  # many twins
    first: dict[bytes, int] = {}
    for row, key in enumerate(as_bytes(known)):
        first.setdefault(key, row)
    wanted = rng.integers(0, 4, (300, 5), dtype=np.uint8)
    assert KeyTable(known).find(wanted).tolist() == [first.get(key, -1) for key in as_bytes(wanted)]
    assert distinct(known).tolist() == sorted(first.values())


def test_digests_are_those_of_the_bytes_in_the_order_of_the_paths(paths: list[Path]):
    assert as_bytes(digest_files(paths[::-1])) == plain(paths[::-1])
    assert digest_files([]).shape == (0, 16)


@pytest.mark.usefixtures("later")
def test_only_a_sample_is_read_again(paths: list[Path], read: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SAMPLED", 3)
    first = digest_files(paths)
    assert sorted(read) == sorted(path.name for path in paths)
    seen = set()
    for _ in range(40):
        read.clear()
        assert np.array_equal(digest_files(paths), first)
        assert len(set(read)) == len(read) == 3
        seen.update(read)
    assert len(seen) == 10  # each start draws others


@pytest.mark.usefixtures("later")
def test_a_part_of_the_files_and_new_ones(paths: list[Path], read: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SAMPLED", 0)
    digest_files(paths[:6])
    read.clear()
    assert as_bytes(digest_files(paths[:1:-1])) == plain(paths[:1:-1])
    read.clear()
    digest_files(paths)  # those that the second start did not ask for are still known
    assert read == []


CHANGES: dict[str, Callable[[Path], object]] = {
    "longer": lambda path: path.write_bytes(b"longer than before"),
    "as long": lambda path: path.write_bytes(b"0123456789"),
    "as long, with the old time": lambda path: (
        (old := path.stat()),
        path.write_bytes(b"0123456789"),
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns)),
    ),
    "replaced by another file": lambda path: write(path.with_name("new"), b"0123456789").replace(path),
}


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changed_is_hashed_again(paths: list[Path], change: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SAMPLED", 0)
    digest_files(paths)
    CHANGES[change](paths[4])
    assert as_bytes(digest_files(paths)) == plain(paths)


def test_files_that_were_just_written_are_not_trusted(paths: list[Path], read: list[str]):
    """The next change may leave the size and, within one tick of the clock, the times as they are."""
    digest_files(paths)
    read.clear()
    digest_files(paths)
    assert len(read) == 10


@pytest.mark.usefixtures("later")
def test_a_disk_whose_times_tell_lies_is_found_out(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    real, seen = os.stat, {path: os.stat(path) for path in paths}
    monkeypatch.setattr(module.os, "stat", lambda path, **how: seen.get(path) or real(path, **how))
    digest_files(paths)
    for path in paths:
        path.write_bytes(b"0123456789")
    assert as_bytes(digest_files(paths)) == plain(paths)
    assert caplog.text.count("other bytes, though their size and times have not changed: all are read again") == 1
    caplog.clear()
    assert as_bytes(digest_files(paths)) == plain(paths)
    assert not caplog.text


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("damage", ["empty", "cut", "one byte", "other shapes"])
def test_a_damaged_memory_is_ignored(paths: list[Path], damage: str, cache: Path, caplog: pytest.LogCaptureFixture):
    from safetensors.numpy import save

    digest_files(paths)
    (file,) = (cache / "digests").glob("*")
    content = file.read_bytes()
    spoilt = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
    other = save({"looks": np.zeros((10, 8), np.uint8), "digests": np.zeros((9, 16), np.uint8)})
    file.write_bytes({"empty": b"", "cut": content[:-7], "one byte": spoilt, "other shapes": other}[damage])
    assert as_bytes(digest_files(paths)) == plain(paths)
    assert file.read_bytes() == content  # it was written again
    assert not caplog.text


@pytest.mark.usefixtures("later")
def test_a_file_that_cannot_be_read_is_not_remembered(paths: list[Path], monkeypatch: pytest.MonkeyPatch):
    real = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == "3.jpg":
            raise OSError(5, "Input/output error")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        broken = digest_files(paths)
        assert np.array_equal(digest_files(paths), broken)
    assert as_bytes(digest_files(paths)) == plain(paths)
    with monkeypatch.context() as patch:  # it was known, and is gone now
        patch.setattr(Path, "read_bytes", fail)
        assert np.array_equal(digest_files(paths), broken)


@pytest.mark.usefixtures("later")
def test_without_a_cache_files_are_hashed_all_the_same(paths: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LINNET_CACHE", str(paths[0]))  # a file: nothing can be written below it
    assert as_bytes(digest_files(paths)) == plain(paths)


@pytest.mark.usefixtures("later")
def test_what_is_remembered_does_not_grow_without_end(paths: list[Path], cache: Path):
    for i in range(6):
        for path in paths:
            path.write_bytes(bytes([i]) * 5)
        digest_files(paths)
    (file,) = (cache / "digests").glob("*")
    assert len(module.remembered(file, "looks")[0]) == 20  # as many as there are, and as many of before

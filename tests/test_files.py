import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from linnet import files
from linnet.errors import UserError
from linnet.files import cache_folder, cache_words, check_out, clear_leftovers, load_yaml, new_file, read_json, readable


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("kind", ["bytes", "torch", "rename"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    """torch makes a RuntimeError of it, whose message does not say what happened."""
    path = tmp_path / "own.pt"
    path.write_text("old")

    class Full:
        write = flush = full

    def write() -> None:
        with new_file(path):
            if kind == "torch":
                torch.save({"a": torch.rand(100)}, Full())
            elif kind == "bytes":
                full()

    if kind == "rename":
        monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(UserError, match=r"the disk is full: cannot write .*own.pt \(\d+ MB are free there\)"):
        write()
    assert path.read_text() == "old"
    assert [own.name for own in tmp_path.iterdir()] == ["own.pt"]


def test_an_error_that_no_file_made_is_not_taken_for_one(tmp_path: Path):
    with pytest.raises(RuntimeError, match="a bug"), new_file(tmp_path / "x"):
        raise RuntimeError("a bug")
    with pytest.raises(UserError, match="cannot read nowhere"), new_file(tmp_path / "x"):
        files.read_text(Path("nowhere"))
    assert not list(tmp_path.iterdir())


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    done = []
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: done.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(files.os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    files.write_atomically(tmp_path / "x", "text")
    assert done == ["fsync", "replace"]


HELD = """
import sys, time
from pathlib import Path
from linnet.files import new_file
with new_file(Path(sys.argv[1])) as file:
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_leftovers_go_unless_somebody_writes_them(tmp_path: Path):
    import subprocess

    names = (".model.onnx.0a1b2c3d.tmp", ".model.onnx.4711.tmp", ".last.pt.99.tmp")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    others = (".mine.tmp", "model.onnx.4711.tmp", ".model.onnx.4711.tmp.bak")
    for name in others:
        (tmp_path / name).write_bytes(b"")
    with subprocess.Popen(
        [sys.executable, "-c", HELD, str(tmp_path / "held")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        files.write_atomically(tmp_path / "model.onnx", "new")  # clears what is left of this file
        assert not any((tmp_path / name).exists() for name in names[:2])
        assert (tmp_path / names[2]).exists()
        clear_leftovers(tmp_path)
        (held,) = tmp_path.glob(".held.*.tmp")
        writer.communicate()
    assert writer.returncode == 0
    assert (tmp_path / "held").exists()
    assert {path.name for path in tmp_path.iterdir()} == {*others, "model.onnx", "held"}
    assert not held.exists()


@pytest.mark.parametrize("content", [b"", b"\0\0\0\0", b'{"a": ', b'{"a": "\xe9"}', b"[1]"])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "own.json").write_bytes(content)
    with pytest.raises(UserError, match=r"own.json is damaged \(.*\): do this"):
        read_json(tmp_path / "own.json", dict, "do this")


@pytest.mark.parametrize("loader", ["SafeLoader", "CSafeLoader"])
def test_yaml_is_read_with_and_without_its_library_in_c(loader: str, monkeypatch: pytest.MonkeyPatch):
    import yaml

    if loader == "SafeLoader":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert load_yaml("a: [1, 2.5, x, true, null]\nb: {c: '1'}") == {"a": [1, 2.5, "x", True, None], "b": {"c": "1"}}
    assert load_yaml('{"a": "\\u00e9"}') == {"a": "é"}
    for text in ("a: [1", "a: 2020-13-45", "!!python/object/apply:os.getcwd []"):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            load_yaml(text)


def test_a_user_without_a_home_is_told_of_the_variable(monkeypatch: pytest.MonkeyPatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("LINNET_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UserError, match="set LINNET_CACHE to a folder"):
        cache_folder()
    assert "set LINNET_CACHE" in cache_words()


def test_a_cache_below_a_file_is_told_of_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        monkeypatch.setenv("LINNET_CACHE", str(folder))
        assert "file is not a folder: set LINNET_CACHE" in cache_words()
        with pytest.raises(UserError, match="cannot write .*set LINNET_CACHE"):
            files.write_atomically(cache_folder() / "images" / "x", "")
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path / "new"))
    assert cache_words() == str(tmp_path / "new")


def test_where_a_file_cannot_go_is_said_before_it_is_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    check_out(tmp_path / "new" / "folders" / "x.onnx", overwrite=False)
    check_out(tmp_path / "file")
    for path, words in {
        tmp_path: "is a folder: --out must be a file",
        tmp_path / "file" / "x": "file is not a folder",
        tmp_path / ("x" * 300): "File name too long",
    }.items():
        with pytest.raises(UserError, match=words):
            check_out(path)
    with pytest.raises(UserError, match="file exists: choose another --out, or replace it with --overwrite"):
        check_out(tmp_path / "file", overwrite=False)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\xe9.jpg"),
        ("café 🐦", "café 🐦"),
        ("\ud83d", r"\ud83d"),
        (os.fsdecode("🐦".encode()), "🐦"),
        ("\udcf0\udc9f\udc90\udca6", "🐦"),  # as a C locale reads it
    ],
)
def test_every_name_can_be_written(name: str, shown: str):
    assert readable(name) == shown
    readable(name).encode()
    json.loads(json.dumps(readable(name), ensure_ascii=False).encode())


def test_no_name_is_too_long(tmp_path: Path):
    for name in ("x" * 255, "é" * 127, "🐦" * 63):
        files.write_atomically(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


def test_what_is_written_survives_a_strict_terminal(run_python: Callable[[str], str], tmp_path: Path):
    name = os.fsdecode(b"\xe9") + "🐦"
    code = f"""
import os, sys
os.environ.pop("PYTHONIOENCODING", None)
sys.stdout.reconfigure(encoding="ascii", errors="strict")
from linnet.__main__ import main
from linnet.cli import app
@app.command
def say(): print({name!r})
main(["say"])
"""
    assert run_python(code) == r"\udce9\U0001f426"

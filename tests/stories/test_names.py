"""Names that are not plain text, all the way: folders, files and the run folder itself."""

import io
import json
import os
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from pictures import write_image

import linnet
from linnet.__main__ import main

CLASSES = [
    b"caf\xe9",
    "\U0001f426bird".encode(),
    b"two\nlines",
    b"q\"uo'te, comma",
    b"-dash",
    b"back\\slash",
    b"[red]",
    b"x" * 200,
]
SHOWN = {name.decode("utf-8", "backslashreplace") for name in CLASSES}
OUT = b"~no \xe9/s3:b%41{}#?"
OPTIONS = {"method": "ce", "student.name": "test_resnet", "student.image_size": 32, "student.pretrained": False}
OPTIONS |= {"train.epochs": 1, "train.precision": "fp32"}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory):
    """A run in a folder that libraries would expand or take for an address, on classes and files with odd names."""
    root = tmp_path_factory.mktemp("odd")
    picture = write_image(root / "x.png", (20, 90, 40), seed=0, size=(36, 36))
    try:
        for c, name in enumerate(CLASSES):
            folder = Path(os.fsdecode(os.fsencode(root / "photos") + b"/" + name))
            folder.mkdir(parents=True)
            for i in range(6):
                file = os.fsencode(folder) + b"/caf\xe9 %d.png" % i
                with open(file, "wb") as copy:
                    copy.write(picture.read_bytes() + bytes([c, i]))  # other bytes, the same picture
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)  # a path that begins with ~
        yield linnet.distill("photos", out=os.fsdecode(OUT), options=OPTIONS)


def test_a_run_ends_with_all_its_files(odd):
    assert odd.onnx.is_file()
    assert not Path(os.path.expanduser("~no ")).exists()
    table = pyarrow.parquet.read_table(pyarrow.py_buffer(odd.predictions_of("test").read_bytes())).to_pydict()
    assert {path.split("/")[1] for path in table["path"]} == SHOWN
    assert all(r"caf\xe9 " in path for path in table["path"])
    assert set(table["label"]) == SHOWN
    assert odd.summary()["classes"] == len(CLASSES)
    again = linnet.distill(out=odd.folder, options={"export": False}, resume=True)
    assert again.settings().data == odd.settings().data


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("model", ["run", "onnx"])
def test_every_name_is_shown_on_every_terminal(odd, encoding: str, model: str, monkeypatch: pytest.MonkeyPatch):
    image = os.fsdecode(b"photos/-dash/caf\xe9 1.png")
    for how in ("--json", "--csv", None):
        screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
        monkeypatch.setattr(sys, "stdout", screen)
        path = odd.onnx if model == "onnx" else odd.folder
        main(["predict", str(path), image, "--top", "8", *([how] if how else [])])
        shown = screen.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        assert shown
        if how == "--json":
            row = json.loads(shown)
            assert row["path"] == r"photos/-dash/caf\xe9 1.png"
            assert {own["class"] for own in row["top"]} == SHOWN

"""docs/add-a-method.md, followed to the letter: its code blocks are written to a file, registered and trained."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import linnet
from linnet.methods import METHODS

PAGE = Path(__file__).parents[1] / "docs" / "add-a-method.md"


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "cosine.py").write_text("\n".join(["from linnet.methods import METHODS", *blocks]))
    spec = importlib.util.spec_from_file_location("cosine", tmp_path / "cosine.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cosine", module)  # the sentences below its options are read from its file
    spec.loader.exec_module(module)
    yield METHODS["cosine"]
    del METHODS["cosine"]


def test_the_four_steps(registered, tmp_path: Path):
    run = linnet.distill(
        "aviary:species=3,images=16", student="test_resnet", method="cosine", out=tmp_path / "run",
        options={"student.image_size": 32, "train.epochs": 8, "train.batch_size": 16, "cosine.weight": 2.0, "export": False},
    )  # fmt: skip
    rows = run.metrics()
    assert rows[-1]["cosine"] < 0.7 * rows[0]["cosine"]
    assert rows[-1]["loss"] == pytest.approx(rows[-1]["ce"] + rows[-1]["cosine"], rel=1e-5)
    assert "warmup: 0.05" in (run.folder / "config.yaml").read_text()
    from safetensors.numpy import load_file

    assert not any("projection" in name for name in load_file(run.model / "model.safetensors"))


def test_its_needs_are_checked(registered, tmp_path: Path):
    options = {"student.image_size": 32, "train.epochs": 1, "export": False}
    data = "aviary:species=3,images=8"
    teacher = linnet.distill(data, student="test_resnet", method="ce", out=tmp_path / "teacher", options=options)
    with pytest.raises(linnet.UserError, match="needs a vision-language model as teacher; 'run:.*' is a classifier"):
        linnet.distill(
            data,
            teacher=f"run:{teacher.folder}",
            student="test_resnet",
            method="cosine",
            out=tmp_path / "r",
            options=options,
        )

import json
from pathlib import Path

import pytest

from linnet.commands import doctor
from linnet.students import precision
from linnet.students.precision import choose_precision


def test_versions_extras_and_the_cache_are_told(cache: Path):
    shown = "\n".join(doctor.lines())
    for word in ("python", "torch", "timm", "open_clip_torch", "device", "extra onnx", "extra hf", str(cache)):
        assert word in shown


def test_a_cache_that_cannot_be_used_is_a_line_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path / "file" / "x"))
    assert list(doctor.lines())[-1].endswith("set LINNET_CACHE to a folder that can be written")

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LINNET_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert "no home directory" in list(doctor.lines())[-1]


@pytest.mark.parametrize(("capable", "words"), [(True, "computed by the hardware"), (False, "fp32 is used")])
def test_what_was_measured_on_this_machine_is_shown(
    capable: bool, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "computes_bf16", lambda: capable)
    monkeypatch.setattr(precision, "computes_bf16", lambda: True)
    monkeypatch.setattr(precision, "_measure", lambda *_: {"fp32": 100.0, "bf16": 70.0})
    choose_precision("test_resnet", 32, 4, "auto", True)
    (file,) = (tmp_path / "precision").glob("*.json")
    (file.parent / "other.json").write_text(json.dumps({**json.loads(file.read_text()), "cpu": "another"}))
    shown = list(doctor.lines())
    assert any(line.startswith("bf16 ") and words in line for line in shown)
    measured = [line for line in shown if "a step of" in line]
    assert len(measured) == 1
    assert "a step of test_resnet at 32 px, batch 4, " in measured[0]
    assert measured[0].endswith("thread(s): 100 ms in fp32, 70 ms in bf16")
    assert any(str(tmp_path / "precision") in line for line in shown)  # where to delete it

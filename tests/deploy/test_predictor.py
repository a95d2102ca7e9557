import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from linnet.data.manifest import digest_files
from linnet.data.store import Images
from linnet.deploy.export import export_onnx
from linnet.deploy.predictor import collect, largest, load
from linnet.errors import UserError
from linnet.students.student import Student


def test_run_and_onnx_file_say_the_same(tiny_run: Path):
    paths = collect([tiny_run / "images"])
    from_run = list(load(tiny_run / "run").predict(paths))
    from_onnx = list(load(tiny_run / "run" / "model.onnx").predict(paths))
    assert [p.path for p in from_run] == paths
    for a, b in zip(from_run, from_onnx, strict=True):
        assert a.classes == b.classes
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
        assert sum(a.probabilities) == pytest.approx(1)
        assert list(a.probabilities) == sorted(a.probabilities, reverse=True)


@pytest.mark.parametrize("count", [1, 3, 7, 50])
def test_the_largest_are_those_of_a_stable_sort(count: int):
    for seed in range(20):
        row = np.random.default_rng(seed).integers(0, 12, size=30).astype(np.float32)  # many ties
        assert np.array_equal(largest(row, count), np.argsort(-row, kind="stable")[:count])


def test_the_onnx_file_is_all_that_is_needed(tiny_run: Path, run_without_torch, tmp_path: Path):
    """Class names, size and normalisation are in the file, and torch, timm and open_clip are not imported."""
    (tmp_path / "m.onnx").write_bytes((tiny_run / "run" / "model.onnx").read_bytes())
    code = f"""
from linnet.cli import main
main(["predict", {str(tmp_path / "m.onnx")!r}, {str(tiny_run / "images")!r}, "--json", "--top", "2"])
"""
    lines = [json.loads(line) for line in run_without_torch(code).splitlines()]
    expected = list(load(tiny_run / "run").predict(collect([tiny_run / "images"]), top=2))
    assert [line["class"] for line in lines] == [p.classes[0] for p in expected]
    assert [[row["class"] for row in line["top"]] for line in lines] == [list(p.classes) for p in expected]


def test_a_bad_image_is_reported_and_the_others_are_named(tiny_run: Path, tmp_path: Path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    first, second = load(tiny_run / "run").predict([tmp_path / "bad.jpg", tiny_run / "images" / "0.jpg"])
    assert first.error
    assert "bad.jpg" in first.error
    assert second.error is None
    assert len(second.classes) == 3


def test_bad_models_and_paths(tiny_run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="neither a run folder nor an .onnx file"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "nowhere.onnx")
    with pytest.raises(UserError, match="no saved student"):
        load(tmp_path)
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="ONNX Runtime cannot load"):
        load(tmp_path / "x.onnx")
    with pytest.raises(UserError, match="no such file or folder"):
        collect([tmp_path / "gone.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images in"):
        collect([tmp_path / "empty"])


def test_an_onnx_file_of_somebody_else_is_refused(tiny_run: Path, tmp_path: Path):
    import onnx

    model = onnx.load(tiny_run / "run" / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="not written by linnet"):
        load(tmp_path / "foreign.onnx")


def test_squashed_images_are_squashed_by_every_predictor(tiny_run: Path, tmp_path: Path):
    """Torch and ONNX agree on an image that is not square, and see another picture than with a centre crop."""
    wide = Image.fromarray(np.tile(np.arange(160, dtype=np.uint8), (40, 1))).convert("RGB")  # brighter to the right
    wide.save(tmp_path / "wide.png")
    paths, seen = [tmp_path / "wide.png"], {}
    student = Student.load(tiny_run / "run" / "model")
    student.backbone.get_classifier().weight.data.mul_(10)  # random weights barely tell two pictures apart
    for mode in ("center", "squash"):
        student.crop_mode = mode
        student.save(tmp_path / mode / "model")
        images = Images(paths, digest_files(paths), 32, "eval", crop_mode=mode)
        export_onnx(student, tmp_path / mode / "model.onnx", images)
        (from_run,) = load(tmp_path / mode).predict(paths)
        (from_onnx,) = load(tmp_path / mode / "model.onnx").predict(paths)
        logits = student(torch.from_numpy(images[0].copy()).permute(2, 0, 1)[None].float() / 255).logits_BC
        assert from_run.classes == from_onnx.classes
        assert from_run.probabilities == pytest.approx(from_onnx.probabilities, abs=1e-4)
        assert from_run.probabilities[0] == pytest.approx(logits.softmax(dim=1).max().item(), abs=1e-4)
        seen[mode] = dict(zip(from_run.classes, from_run.probabilities, strict=True))
    assert seen["center"] != pytest.approx(seen["squash"], abs=1e-3)

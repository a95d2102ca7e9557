from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from linnet.data.manifest import digest_files
from linnet.data.store import Images
from linnet.deploy import export
from linnet.deploy.export import export_onnx
from linnet.deploy.predictor import collect
from linnet.errors import UserError
from linnet.students.student import Student


def test_an_onnx_file_that_disagrees_with_torch_is_not_kept(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Wrong:
        def __init__(self, *_: object): ...

        def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.full((len(inputs["images"]), 3), 7.0)]

    monkeypatch.setattr(export, "open_session", Wrong)
    paths = collect([tiny_run / "images"])
    with pytest.raises(UserError, match="does not agree with torch"):
        export_onnx(
            Student.load(tiny_run / "run" / "model"),
            tmp_path / "x.onnx",
            Images(paths, digest_files(paths), 32, "eval"),
        )
    assert not list(tmp_path.iterdir())


def test_the_onnx_file_takes_any_batch_of_images_in_zero_to_one(tiny_run: Path):
    session = onnxruntime.InferenceSession(str(tiny_run / "run" / "model.onnx"), providers=["CPUExecutionProvider"])
    student = Student.load(tiny_run / "run" / "model")
    for count in (1, 3, 7):
        images = torch.rand(count, 3, 32, 32)
        (logits,) = session.run(None, {"images": images.numpy()})
        assert np.abs(logits - student(images).logits_BC.detach().numpy()).max() < 1e-4

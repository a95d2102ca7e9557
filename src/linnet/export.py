"""The student as an ONNX file: images in [0, 1] in, logits out, everything a predictor needs in the metadata."""

import copy
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from linnet.data.batches import eval_batches
from linnet.data.images import Images
from linnet.errors import UserError, first_line, require
from linnet.evaluation.score import evaluating
from linnet.files import atomic_path
from linnet.students import Student

TOLERANCE = 1e-3  # largest difference of a logit between ONNX and torch, relative to the largest logit
CHECKED_IMAGES = 64


class _Logits(nn.Module):
    def __init__(self, student: Student):
        super().__init__()
        self.student = student

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.student(images).logits_BC


def export_onnx(student: Student, path: Path, images: Images) -> float:
    """Write the student as ONNX and check it against torch on real images.

    The input ``images`` is (batch, 3, S, S) float32 in [0, 1], any batch size; normalisation is inside. The output
    is ``logits`` (batch, C). The metadata key ``linnet`` holds image size, crop mode and class names
    as JSON.

    Args:
        images: evaluation images; the first 64 are compared.

    Returns:
        The largest difference of a logit between ONNX Runtime and torch, relative to the largest logit (if above 1).

    Raises:
        UserError: the extra is not installed, the network cannot be exported, or the file does not agree with torch.
    """
    onnx = require("onnx", "onnx")
    require("onnxscript", "onnx")
    require("onnxruntime", "onnx")
    student = copy.deepcopy(student).float().cpu()
    student.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    example = torch.rand(2, 3, student.image_size, student.image_size)
    with evaluating(student), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                _Logits(student).eval(),
                (example,),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            raise UserError(f"'{student.name}' could not be exported to ONNX ({first_line(error)})") from error
    assert program is not None
    model = program.model_proto
    meta = {
        "image_size": student.image_size,
        "crop_mode": student.crop_mode,
        "classes": [info.name for info in student.classes],
        "architecture": student.name,
    }
    onnx.helper.set_model_props(model, {"linnet": json.dumps(meta, ensure_ascii=False)})
    with atomic_path(path) as temporary:
        onnx.save_model(model, temporary)
        difference = _difference(student, temporary, images)
        if difference > TOLERANCE:
            raise UserError(
                f"the ONNX file of '{student.name}' does not agree with torch "
                f"(a logit differs by {difference:.2g}); it was not kept"
            )
    return difference


def _difference(student: Student, path: Path, images: Images) -> float:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a dozen of its own
        raise UserError(f"ONNX Runtime cannot run the exported '{student.name}' ({first_line(error)})") from error
    batch = next(eval_batches(images, CHECKED_IMAGES))
    with evaluating(student):
        expected = student(batch).logits_BC.numpy()
    (logits,) = session.run(None, {"images": batch.numpy()})
    return float(np.abs(logits - expected).max() / max(1.0, np.abs(expected).max()))

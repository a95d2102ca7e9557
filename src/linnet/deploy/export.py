"""ONNX files: a student (images in [0, 1] in, logits out) and a teacher's text tower, each with all that a predictor
needs in its metadata."""

import copy
import hashlib
import json
import logging
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from linnet.data.batches import eval_batches
from linnet.data.images import decoded_side, resized_side
from linnet.data.store import Images
from linnet.deploy.onnx_session import model_hash, open_session
from linnet.deploy.text_tower import Tokenizer, portable_tokenizer
from linnet.environment import missing_modules, version
from linnet.errors import UserError, first_line, require
from linnet.files import cache_folder, write_atomically
from linnet.students.student import Student, evaluating
from linnet.teachers.base import VisionLanguageTeacher
from linnet.teachers.hf import HuggingFaceTeacher, vectors
from linnet.teachers.open_clip import OpenClipTeacher
from linnet.text.bank import TextBank

log = logging.getLogger("linnet")

TOLERANCE = 1e-3  # largest difference of an output between ONNX and torch, relative to the largest output
CHECKED_IMAGES = 64
OLDEST_OPSET = 18  # torch leaves a file at 18 where an older one is asked for


class _Logits(nn.Module):
    def __init__(self, student: Student):
        super().__init__()
        self.student = student

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.student(images).logits_BC


class _Names(nn.Module):
    """The same with the text bank as a second input, and of a dual student the bank's places in the classifier."""

    def __init__(self, student: Student):
        super().__init__()
        self.student = student

    def forward(self, images: torch.Tensor, bank: torch.Tensor, columns: torch.Tensor | None = None) -> torch.Tensor:
        return self.student.named(*self.student.heads(images), bank, columns)


class _Texts(nn.Module):
    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.network.encode_text(tokens).float(), dim=1)


class _MaskedTexts(nn.Module):
    """The same of a model of transformers, which may have to be told where the padding is."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        output = self.network.get_text_features(input_ids=tokens, attention_mask=mask)
        return F.normalize(vectors(output), dim=1)


def export_onnx(
    student: Student, path: Path, images: Images | None = None, opset: int | None = None, saved: Path | None = None
) -> float:
    """Write the student as ONNX and check it against torch on images.

    The input ``images`` is (batch, 3, S, S) float32 in [0, 1], any batch size; normalisation is inside. The output
    is ``logits`` (batch, C). A student with an embedding head has a second input ``bank`` (C, E), whose default is the
    bank that the student carries: give another and other classes are named. A dual student has a third input
    ``columns`` (C,): the place of each row of the bank in its classifier, -1 for a new name. The metadata
    key ``linnet`` holds class names, the teacher of the bank, and all that makes an input of an image, as JSON; so do
    the descriptions of inputs and outputs in words.

    Args:
        images: evaluation images, of which the first 64 are compared; without any, random ones.
        opset: version of the ONNX operators; by default torch's.
        saved: the folder in which the student is saved: the file then tells whose it is.

    Returns:
        The largest difference of a logit between ONNX Runtime and torch, relative to the largest logit (if above 1).

    Raises:
        UserError: the extra is not installed, the network cannot be exported, or the file does not agree with torch.
    """
    onnx = require("onnx", "onnx")
    student = copy.deepcopy(student).float().cpu()
    student.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for part in student.modules():  # what works in place is rewritten first, which takes torch half of the time
        if hasattr(part, "inplace"):
            part.inplace = False  # type: ignore[assignment]
    side = student.image_size
    inputs: dict[str, torch.Tensor] = {"images": torch.rand(2, 3, side, side)}
    meta: dict[str, Any] = {
        "image_size": side,
        "crop_mode": student.crop_mode,
        "crop_pct": student.crop_pct,
        "jpeg": student.jpeg,
        "classes": [info.name for info in student.classes],
        "architecture": student.name,
        "input": preprocessing(student),
    }
    module: nn.Module = _Logits(student)
    if bank := student.bank:
        module, inputs["bank"] = _Names(student), student.bank_CE
        if student.dual:
            inputs["columns"] = student.columns_C
            meta["classifier"] = [(info.name, info.prompt_name) for info in student.classes]
        meta |= {"classes": list(bank.names), "teacher": bank.teacher, "teacher_hash": bank.teacher_hash}
    if saved:
        meta["model_hash"] = model_hash(saved)
    axes = {"images": "batch", "bank": "classes", "columns": "classes"}
    model = _to_onnx(module, inputs, axes, "logits", meta, student.name, opset)
    _describe(model, student)
    if bank:  # an input that has an initialiser may be left out
        for name in list(inputs)[1:]:
            model.graph.initializer.append(onnx.numpy_helper.from_array(inputs[name].numpy(), name))
    batch = torch.rand(8, 3, side, side) if images is None else next(eval_batches(images, CHECKED_IMAGES))
    with evaluating(student):
        expected = student(batch).logits_BC.numpy()
    return _write(model, path, {"images": batch.numpy()}, expected, f"'{student.name}'")


def preprocessing(student: Student) -> dict[str, Any]:
    """How an image becomes the input ``images``, for whoever reads the file without linnet."""
    side, center = student.image_size, student.crop_mode == "center"
    resized = resized_side(side, student.crop_pct)
    return {
        "name": "images",
        "layout": "NCHW",
        "type": "float32",
        "colour_order": "RGB",
        "range": [0.0, 1.0],
        "normalisation": "inside the model",
        "orientation": "upright, by the photo's EXIF",
        "jpeg_decoding": jpeg_decoding(student),
        "resize": {
            "shorter_side" if center else "both_sides": resized,
            "interpolation": "bicubic",
            "antialias": True,
            **({"longer_side": "rounded down"} if center else {}),
        },
        "crop": {"center": [side, side], "offset": "half the rest, rounded half to even"}
        if center or resized > side
        else None,
    }


def jpeg_decoding(student: Student) -> dict[str, Any] | str:
    side = decoded_side("eval", student.image_size, student.crop_pct, student.jpeg)
    if side is None:
        return "at full size"
    return {"scales": [8, 4, 2], "if_both_sides_are_multiples_and_remain_at_least": side}


def _describe(model: Any, student: Student) -> None:
    """The same in words, where tools such as Netron show them."""
    side = student.image_size
    resized = resized_side(side, student.crop_pct)
    how = f"the middle of the image, shorter side {resized}" if student.crop_mode == "center" else "the whole, squashed"
    if student.crop_mode == "squash" and resized > side:
        how = f"the middle of the whole, squashed to {resized} x {resized}"
    words = {
        "images": f"(batch, 3, {side}, {side}), RGB (not BGR), in [0, 1]: {how}, bicubic with antialiasing; normalised "
        "inside",
        "bank": "(classes, width), unit vectors of other class names, by 'linnet embed'; may be left out",
        "columns": "(classes,), the place of each name of the bank in 'classifier' of the metadata, -1 for a new one; "
        "given with the bank or left out with it",
        "logits": "(batch, classes); softmax gives probabilities; class names: metadata 'linnet'",
    }
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = words[value.name]


def check_opset(opset: int | None) -> None:
    """
    Raises:
        UserError: no file can be written with these operators.
    """
    if opset is None:
        return
    newest = require("onnx", "onnx").defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise UserError(f"--opset must be from {OLDEST_OPSET}, the oldest that torch writes, to {newest}, not {opset}")


def check_exportable(student: Student, opset: int | None = None) -> None:
    """Try the export of a student before it is trained: once on this machine for each network, size and version.

    Raises:
        UserError: it does not work.
    """
    if {"onnx", "onnxscript", "onnxruntime"} & {*missing_modules("onnx")}:
        return  # which is said when there is something to export
    own = (student.name, student.stem, student.image_size, student.bank is None, student.dual, opset)
    packages = ("linnet", "torch", "timm", "onnx", "onnxscript", "onnxruntime")
    words = json.dumps([*own, *map(version, packages)])
    note = cache_folder() / "export" / hashlib.sha256(words.encode()).hexdigest()[:24]
    if note.is_file() and note.read_bytes() == words.encode():
        return
    log.info("export: %s at %d pixels is tried as ONNX, once", student.name, student.image_size)
    try:
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
            export_onnx(student, Path(folder, "model.onnx"), opset=opset)
    except UserError as error:
        raise UserError(
            f"{error}; nothing was trained yet: choose another student, or train without model.onnx (--no-export)"
        ) from error
    with suppress(UserError):  # a cache that cannot be written: tried again next time
        write_atomically(note, words)


def export_text_tower(teacher: VisionLanguageTeacher, bank: TextBank, path: Path, opset: int | None = None) -> float:
    """Write the teacher's text tower as ONNX with its tokenizer, so that names become banks without torch.

    The input ``tokens`` is (texts, L) int64, and so is ``mask``, if the tower needs one: 1 on tokens, 0 on padding. The
    output ``embeddings`` is (texts, E) of unit length.

    Args:
        bank: a student's, whose templates are used again and whose names are compared on.
        opset: version of the ONNX operators; by default torch's.

    Returns:
        The largest difference of a coordinate between ONNX Runtime and torch.

    Raises:
        UserError: the extra is not installed; the bank is of another teacher or its prompts were learned; tokenizer or
            tower cannot be exported, or do not agree with the teacher's own.
    """
    fingerprint = teacher.fingerprint()
    bank.check_teacher(fingerprint, f"'{teacher.id}'")
    if bank.context_PW is not None:
        raise UserError(
            "this student's prompts were learned, and a text tower cannot apply them: make banks with "
            "'linnet embed --run RUN' on a machine with torch"
        )
    if not isinstance(teacher, OpenClipTeacher | HuggingFaceTeacher):
        raise UserError(f"the text tower of '{teacher.id}' cannot be exported: use 'linnet embed'")
    sentences = [template.replace("{}", name) for template in bank.templates for name in bank.names[:256]]
    tokenizer = portable_tokenizer(teacher.tokenize, sentences)
    meta = {
        "teacher": teacher.id,
        "teacher_hash": fingerprint,
        "templates": list(bank.templates),
        "tokenizer": tokenizer,
    }
    network, few = copy.deepcopy(teacher.network).float().cpu(), sentences[:16]
    encoded = Tokenizer(tokenizer).encode(few)  # as the teacher's own reads them: that was compared
    module: nn.Module = _Texts(network)
    if isinstance(teacher, HuggingFaceTeacher):
        module = _MaskedTexts(network)
    if not (isinstance(teacher, HuggingFaceTeacher) and teacher.tokenize.gives_mask):
        del encoded["mask"]
    inputs = {name: torch.from_numpy(rows[:2]) for name, rows in encoded.items()}
    model = _to_onnx(module, inputs, dict.fromkeys(inputs, "texts"), "embeddings", meta, "the text tower", opset)
    expected = teacher.embed_texts(few).cpu().numpy()
    return _write(model, path, encoded, expected, "the text tower")


def _to_onnx(
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    dynamic: dict[str, str],
    output: str,
    meta: dict[str, Any],
    name: str,
    opset: int | None,
) -> Any:
    """A model proto; the first axis of each input is dynamic and called by ``dynamic``."""
    onnx = require("onnx", "onnx")
    require("onnxscript", "onnx")
    require("onnxruntime", "onnx")
    check_opset(opset)
    with evaluating(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=tuple({0: torch.export.Dim(dynamic[key])} for key in inputs),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            raise UserError(f"{name} could not be exported to ONNX ({first_line(error)})") from error
    assert program is not None
    model = program.model_proto
    written = next(one.version for one in model.opset_import if not one.domain)
    if opset not in (None, written):
        raise UserError(f"{name} cannot be written with opset {opset}: torch made it {written}; leave --opset out")
    onnx.helper.set_model_props(model, {"linnet": json.dumps(meta, ensure_ascii=False)})
    return model


def _write(model: Any, path: Path, inputs: dict[str, np.ndarray], expected: np.ndarray, name: str) -> float:
    """Write the file if ONNX Runtime makes of it what torch does; returns the relative difference."""
    content = model.SerializeToString()
    (seen,) = open_session(content, f"the exported {name}").run(None, inputs)
    difference = float(np.abs(seen - expected).max() / max(1.0, np.abs(expected).max()))
    if not difference <= TOLERANCE:
        raise UserError(
            f"the ONNX file of {name} does not agree with torch (an output differs by {difference:.2g}): it was not "
            "kept"
        )
    write_atomically(path, content)
    return difference

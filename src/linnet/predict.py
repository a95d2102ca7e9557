"""Prediction from a run folder or from an ONNX file alone; for the latter torch is not imported."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from linnet.data.images import CropMode, eval_pixels, read_image
from linnet.data.manifest import find_images
from linnet.errors import UserError, first_line, require
from linnet.evaluation.metrics import softmax

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first, or why there are none."""

    path: Path
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        if self.error is not None:
            return {"path": str(self.path), "error": self.error}
        top = [
            {"class": name, "probability": round(p, 6)}
            for name, p in zip(self.classes, self.probabilities, strict=True)
        ]
        return {"path": str(self.path), "class": self.classes[0], "probability": top[0]["probability"], "top": top}


class _Network(Protocol):
    image_size: int
    crop_mode: CropMode
    class_names: list[str]

    def logits(self, images: np.ndarray) -> np.ndarray: ...


class Predictor:
    """A trained student, ready to name images.

    Example:
        >>> predictor = linnet.load("runs/photos")        # or linnet.load("model.onnx")
        >>> [p.classes[0] for p in predictor.predict([Path("a.jpg"), Path("b.jpg")])]
    """

    def __init__(self, network: _Network):
        self.network = network

    def predict(self, paths: list[Path], top: int = 5) -> Iterator[Prediction]:
        """One prediction for each image file, in order; a file that cannot be read gives one with an ``error``."""
        for start in range(0, len(paths), BATCH):
            yield from self._predict_batch(paths[start : start + BATCH], top)

    def _predict_batch(self, paths: list[Path], top: int) -> list[Prediction]:
        pixels, errors = {}, {}
        for path in paths:
            try:
                pixels[path] = eval_pixels(read_image(path), self.network.image_size, self.network.crop_mode)
            except UserError as error:
                errors[path] = str(error)
        named: dict[Path, Prediction] = {path: Prediction(path, error=error) for path, error in errors.items()}
        if pixels:
            images = np.stack(list(pixels.values())).transpose(0, 3, 1, 2).astype(np.float32) / 255
            for path, row in zip(pixels, softmax(self.network.logits(images)), strict=True):
                best = np.argsort(-row, kind="stable")[:top]
                named[path] = Prediction(
                    path, tuple(self.network.class_names[i] for i in best), tuple(float(row[i]) for i in best)
                )
        return [named[path] for path in paths]


def load(path: str | Path) -> Predictor:
    """A predictor from a run folder, a saved model folder or an ONNX file written by linnet.

    Raises:
        UserError: there is no such thing at ``path``.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        return Predictor(OnnxNetwork(path))
    if not path.is_dir():
        raise UserError(f"{path}: no run folder and no .onnx file")
    return Predictor(TorchNetwork(path / "model" if (path / "model").is_dir() else path))


class OnnxNetwork:
    """A student from an ONNX file and nothing else."""

    def __init__(self, path: Path):
        runtime = require("onnxruntime", "onnx")
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        try:
            self._session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            meta = json.loads(self._session.get_modelmeta().custom_metadata_map["linnet"])
        except KeyError as error:
            raise UserError(f"{path} was not written by linnet: it carries no class names") from error
        except Exception as error:
            raise UserError(f"{path} is no ONNX file that ONNX Runtime can read ({first_line(error)})") from error
        self.image_size: int = meta["image_size"]
        self.crop_mode: CropMode = meta.get("crop_mode", "center")  # older files have none
        self.class_names: list[str] = meta["classes"]

    def logits(self, images: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"images": images})[0]


class TorchNetwork:
    """A student from a saved model folder."""

    def __init__(self, folder: Path):
        from linnet.students import Student

        self._student = Student.load(folder)
        self.image_size, self.crop_mode = self._student.image_size, self._student.crop_mode
        self.class_names = [info.name for info in self._student.classes]

    def logits(self, images: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return self._student(torch.from_numpy(images)).logits_BC.numpy()


def collect(arguments: list[Path]) -> list[Path]:
    """Image files out of files and folders, in the order given.

    Raises:
        UserError: a path that does not exist, or no image at all.
    """
    paths: list[Path] = []
    for argument in arguments:
        if argument.is_dir():
            paths += find_images(argument)
        elif argument.exists():
            paths.append(argument)
        else:
            raise UserError(f"{argument}: no such file or folder")
    if not paths:
        raise UserError(f"no images in {', '.join(map(str, arguments))}")
    return paths

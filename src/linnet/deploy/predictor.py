"""Prediction from a run folder or from an ONNX file alone; for the latter torch is not imported."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from linnet.data.discovery import look_through
from linnet.data.images import CropMode, eval_pixels, read_image
from linnet.data.problems import report
from linnet.deploy.onnx_session import open_session, read_meta
from linnet.errors import UserError
from linnet.files import given_path, readable
from linnet.metrics import softmax
from linnet.run import Run
from linnet.text.bank import TextBank

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
            return {"path": readable(self.path), "error": readable(self.error)}
        top = [
            {"class": name, "probability": round(p, 6)}
            for name, p in zip(self.classes, self.probabilities, strict=True)
        ]
        return {"path": readable(self.path), "class": self.classes[0], "probability": top[0]["probability"], "top": top}


class _Network(Protocol):
    image_size: int
    crop_mode: CropMode
    class_names: list[str]

    def logits(self, images: np.ndarray) -> np.ndarray: ...

    def set_bank(self, bank: TextBank) -> None: ...


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
                best = largest(row, top)
                named[path] = Prediction(
                    path, tuple(self.network.class_names[i] for i in best), tuple(float(row[i]) for i in best)
                )
        return [named[path] for path in paths]


def largest(row: np.ndarray, count: int) -> np.ndarray:
    """Indices of the largest values, best first, of equals the first; ten thousand classes are not sorted for five."""
    if count < len(row):
        candidates = np.flatnonzero(row >= np.partition(row, -count)[-count])
        return candidates[np.argsort(-row[candidates], kind="stable")[:count]]
    return np.argsort(-row, kind="stable")


def load(path: str | Path, bank: TextBank | None = None) -> Predictor:
    """A predictor from a run folder, a saved model folder or an ONNX file written by linnet.

    Args:
        bank: names other classes than those of the training, for a student with an embedding head: see
            :func:`linnet.embed`.

    Raises:
        UserError: nothing that can be loaded lies at ``path``, or the bank is not for this student.
    """
    path = given_path(path, "the model")
    if path.suffix != ".onnx" and not path.is_dir():
        raise UserError(f"{path} is neither a run folder nor an .onnx file")
    network: _Network = OnnxNetwork(path) if path.suffix == ".onnx" else TorchNetwork(model_folder(path))
    if bank is not None:
        network.set_bank(bank)
    return Predictor(network)


def model_folder(path: Path) -> Path:
    """Where the saved student of a run lies; a path that is not a run folder may be the saved student itself."""
    return Run(path).model if Run(path).model.is_dir() else path


class OnnxNetwork:
    """A student from an ONNX file and nothing else."""

    def __init__(self, path: Path):
        self._session = open_session(path, str(path))
        meta = read_meta(self._session, path)
        if not {"image_size", "crop_mode", "classes"} <= meta.keys():
            raise UserError(f"{path} is not a student: give the model.onnx of a run")
        self.image_size: int = meta["image_size"]
        self.crop_mode: CropMode = meta["crop_mode"]
        self.class_names: list[str] = meta["classes"]
        self._name, self._teacher_hash = str(path), meta.get("teacher_hash")
        self._bank: dict[str, np.ndarray] = {}  # without one the file uses its own

    def check_takes_names(self) -> str:
        """
        Returns:
            The hash of the teacher whose banks it takes.

        Raises:
            UserError: the student has a classifier.
        """
        if self._teacher_hash is None:
            raise UserError(
                f"{self._name} has a classifier for its {len(self.class_names)} classes and cannot name others: "
                "train one with --method openvocab"
            )
        return self._teacher_hash

    def set_bank(self, bank: TextBank) -> None:
        bank.check_teacher(self.check_takes_names(), self._name)
        self._bank, self.class_names = {"bank": bank.rows_CE}, list(bank.names)

    def logits(self, images: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"images": images, **self._bank})[0]


class TorchNetwork:
    """A student from a saved model folder."""

    def __init__(self, folder: Path):
        from linnet.students.student import Student

        self._student = Student.load(folder)
        self.image_size, self.crop_mode = self._student.image_size, self._student.crop_mode
        self.class_names = [info.name for info in self._student.classes]

    def set_bank(self, bank: TextBank) -> None:
        self._student.set_bank(bank)
        self.class_names = list(bank.names)

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
            found = look_through(argument)
            report(found.unused)
            paths += found.images
        elif argument.exists():
            paths.append(argument)
        else:
            raise UserError(f"{argument}: no such file or folder")
    if not paths:
        raise UserError(f"no images in {', '.join(map(str, arguments))}")
    return paths

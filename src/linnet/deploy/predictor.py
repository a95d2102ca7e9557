"""Prediction from a run folder or from an ONNX file alone; for the latter torch is not imported."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from linnet.data.ahead import ahead
from linnet.data.discovery import look_through
from linnet.data.images import CropMode, Jpeg, decoded_side, eval_pixels
from linnet.data.problems import report
from linnet.deploy.inputs import ImageLike, Readable, each, to_rgb
from linnet.deploy.onnx_session import model_hash, open_session, read_meta
from linnet.errors import UserError
from linnet.files import given_path, readable
from linnet.metrics import softmax
from linnet.run import Run, model_folder
from linnet.text.bank import TextBank

BATCH = 16  # what is computed of larger ones does not stay in the processor's caches


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first, or why there are none.

    Attributes:
        path: the file; None for an image that was given otherwise.
    """

    path: Path | None
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        path = None if self.path is None else readable(self.path)
        if self.error is not None:
            return {"path": path, "error": readable(self.error)}
        top = [
            {"class": name, "probability": round(p, 6)}
            for name, p in zip(self.classes, self.probabilities, strict=True)
        ]
        return {"path": path, "class": self.classes[0], "probability": top[0]["probability"], "top": top}


class _Network(Protocol):
    image_size: int
    crop_mode: CropMode
    crop_pct: float
    jpeg: Jpeg
    class_names: list[str]

    def logits(self, images: np.ndarray) -> np.ndarray: ...

    def set_bank(self, bank: TextBank) -> None: ...


class Predictor:
    """A trained student, ready to name images.

    Example:
        >>> predictor = linnet.load("runs/photos")        # or linnet.load("model.onnx")
        >>> predictor.predict("a.jpg")[0].classes[0]
        >>> [prediction.classes[0] for prediction in predictor.predict(["a.jpg", "b.jpg"])]
    """

    def __init__(self, network: _Network):
        self.network = network

    def predict(self, images: ImageLike | Iterable[ImageLike], top: int = 5) -> list[Prediction]:
        """A list with one prediction for each image, in order; also for a single image.

        Args:
            images: one, or several: a path (a folder stands for the images in it), a Pillow image, bytes or an open
                file, or an array (height, width, 3), RGB (OpenCV's are BGR: ``image[:, :, ::-1]``), uint8 or floating
                point in [0, 1]. An image that cannot be read gives a prediction with an ``error``.
            top: how many classes, at most.

        Raises:
            UserError: something that is no image, or ``top`` below 1.
        """
        return list(self.stream(images, top))

    def stream(self, images: ImageLike | Iterable[ImageLike], top: int = 5) -> Iterator[Prediction]:
        """The same one by one, for more images than fit into memory."""
        if top < 1:
            raise UserError(f"top must be at least 1, not {top}")
        looked = ahead(self._look, each(images))
        while batch := list(islice(looked, BATCH)):
            yield from self._predict_batch(batch, top)

    def _look(self, image: Readable) -> tuple[Path | None, np.ndarray | str]:
        """The path, if it is a file, and what the network sees of it, or why there is nothing to see."""
        path, own = image if isinstance(image, Path) else None, self.network
        side = decoded_side("eval", own.image_size, own.crop_pct, own.jpeg)
        try:
            return path, eval_pixels(to_rgb(image, side), own.image_size, own.crop_mode, own.crop_pct)
        except UserError as error:
            return path, str(error)

    def _predict_batch(self, looked: list[tuple[Path | None, np.ndarray | str]], top: int) -> Iterator[Prediction]:
        pixels = [seen for _, seen in looked if not isinstance(seen, str)]
        rows = iter(())
        if pixels:
            batch = np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 255
            rows = iter(softmax(self.network.logits(batch)))
        for path, seen in looked:
            yield Prediction(path, error=seen) if isinstance(seen, str) else self._named(path, next(rows), top)

    def _named(self, path: Path | None, row: np.ndarray, top: int) -> Prediction:
        best = largest(row, top)
        classes = tuple(self.network.class_names[j] for j in best)
        return Prediction(path, classes, tuple(float(row[j]) for j in best))


def largest(row: np.ndarray, count: int) -> np.ndarray:
    """Indices of the largest values, best first, of equals the first; ten thousand classes are not sorted for five."""
    if count < len(row):
        candidates = np.flatnonzero(row >= np.partition(row, -count)[-count])
        return candidates[np.argsort(-row[candidates], kind="stable")[:count]]
    return np.argsort(-row, kind="stable")


def load(path: str | Path, bank: TextBank | None = None, device: str | None = None) -> Predictor:
    """A predictor from a run folder, a saved model folder or an ONNX file written by linnet.

    A run is opened as its own ``model.onnx``, if that was made of the very student in it: importing torch takes
    seconds, and the file was compared with torch when it was written.

    Args:
        bank: names other classes than those of the training, for a student with an embedding head: see
            :func:`linnet.embed`.
        device: where torch computes the student of a run, as torch calls it; by default the CPU, with or without
            torch. An ONNX file computes on the CPU.

    Raises:
        UserError: nothing that can be loaded lies at ``path``, torch is needed and not installed, or the bank is not
            for this student.
    """
    path = given_path(path, "the model")
    is_onnx = path.suffix.lower() == ".onnx"
    if not is_onnx and not path.is_dir():
        raise UserError(f"{path} is neither a run folder nor an .onnx file")
    network: _Network
    if is_onnx:
        network = OnnxNetwork(path)
    else:
        network = (_onnx_of(path) if device is None else None) or TorchNetwork(model_folder(path), device or "cpu")
    if bank is not None:
        network.set_bank(bank)
    return Predictor(network)


def _onnx_of(run: Path) -> "OnnxNetwork | None":
    """A run's model.onnx; None if there is none, if it cannot be opened here, or is not of the student in the run."""
    with suppress(UserError):
        network = OnnxNetwork(Run(run).onnx)
        if network.model_hash == model_hash(model_folder(run)):
            return network
    return None


class OnnxNetwork:
    """A student from an ONNX file and nothing else."""

    def __init__(self, path: Path):
        self._session = open_session(path, str(path))
        meta = read_meta(self._session, path)
        if not {"image_size", "crop_mode", "classes"} <= meta.keys():
            raise UserError(f"{path} is not a student: give the model.onnx of a run")
        self.image_size: int = meta["image_size"]
        self.crop_mode: CropMode = meta["crop_mode"]
        self.crop_pct: float = meta.get("crop_pct", 1.0)
        self.jpeg: Jpeg = meta.get("jpeg", "full")
        self.class_names: list[str] = meta["classes"]
        self.model_hash: str | None = meta.get("model_hash")
        self._name, self._teacher_hash = str(path), meta.get("teacher_hash")
        self._trained: list[list[str]] | None = meta.get("classifier")
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
                "train one with --method openvocab or dual"
            )
        return self._teacher_hash

    def set_bank(self, bank: TextBank) -> None:
        bank.check_teacher(self.check_takes_names(), self._name)
        self._bank, self.class_names = {"bank": bank.rows_CE}, list(bank.names)
        if self._trained is not None:
            self._bank["columns"] = bank.columns(self._trained)

    def logits(self, images: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"images": images, **self._bank})[0]


class TorchNetwork:
    """A student from a saved model folder."""

    def __init__(self, folder: Path, device: str = "cpu"):
        try:
            from linnet.students.student import Student
        except ImportError as error:
            raise UserError(
                f"torch is needed for {folder} and is not installed ({error}); a run does without if its model.onnx "
                "was made of the student in it ('linnet export RUN') and ONNX Runtime is installed (pip install "
                "'linnet[onnx]')"
            ) from error
        self._student, self._device = Student.load(folder).to(device), device
        self.image_size, self.crop_mode = self._student.image_size, self._student.crop_mode
        self.crop_pct, self.jpeg = self._student.crop_pct, self._student.jpeg
        self.class_names = [info.name for info in self._student.classes]

    def set_bank(self, bank: TextBank) -> None:
        self._student.set_bank(bank)
        self.class_names = list(bank.names)

    def logits(self, images: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return self._student(torch.from_numpy(images).to(self._device)).logits_BC.cpu().numpy()


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

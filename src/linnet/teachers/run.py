"""``run:PATH``: the student of an earlier run."""

from pathlib import Path

import torch
from PIL import Image

from linnet.data.images import VERSION as STORE_VERSION
from linnet.data.images import eval_pixels
from linnet.errors import UserError
from linnet.run import Run
from linnet.step import TeacherOutput
from linnet.students.network import last_weights
from linnet.students.student import Student
from linnet.teachers.base import ClassifierTeacher, Kind


class RunTeacher(ClassifierTeacher):
    """The student of an earlier run, seen through the evaluation transform that it was trained with.

    Raises:
        UserError: the folder is not a finished run.
    """

    def __init__(self, id: str, path: Path):
        student = Student.load(Run(path).model)
        size, crop_mode, crop_pct = student.image_size, student.crop_mode, student.crop_pct
        share = "" if crop_pct == 1 else f" {crop_pct}"
        mean, std = (part.flatten().tolist() for part in (student.normalize.mean, student.normalize.std))
        words = f"linnet eval {size} {crop_mode}{share}, mean {mean}, std {std}, version {STORE_VERSION}"

        def transform(image: Image.Image) -> torch.Tensor:
            pixels = eval_pixels(image, size, crop_mode, crop_pct).copy()
            return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255

        super().__init__(id, student, transform, words)
        self.start = (student.name, path)
        self.classes, self.class_names = student.classes, tuple(info.name for info in student.classes)
        # an embedding head compares with a bank of its classes; its own last layer knows none
        self.class_weights = last_weights(student.backbone) if student.bank is None else student.bank_CE.clone()

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images).logits_BC.float()

    def watch(self, images: torch.Tensor, with_maps: bool = False) -> TeacherOutput:
        seen = self.network(images, with_maps)
        return TeacherOutput(seen.logits_BC, features_BD=seen.features_BD, maps=seen.maps)


def _check(id: str, name: str, reads_texts: bool) -> None:
    model = Run(Path(name)).model
    if not (model / "config.json").is_file():
        raise UserError(f"the teacher '{id}' is no finished run: {model} holds no saved student")


KIND = Kind(
    gives="classifier",
    load=lambda id, name: RunTeacher(id, Path(name)),
    check=_check,
    forms={"run:PATH": "the student of an earlier linnet run"},
)

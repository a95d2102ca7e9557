"""Classifier teachers: any timm model with weights, and the student of an earlier run."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from linnet.data.images import eval_pixels
from linnet.data.manifest import ClassInfo, prompt_names
from linnet.errors import UserError, did_you_mean, first_line
from linnet.students import Student, architectures, look
from linnet.teachers.base import ClassifierTeacher, Normalize, TeacherOutput


class TimmTeacher(ClassifierTeacher):
    """A timm classifier: ``NAME[.TAG]`` with timm's weights, ``local-dir:PATH`` or ``hf-hub:ORG/NAME``.

    Raises:
        UserError: unknown name (with a suggestion), or weights that cannot be had.
    """

    def __init__(self, id: str, name: str):
        import timm
        from timm.data import create_transform, resolve_data_config

        plain, known = name.split(".")[0], architectures()
        if ":" not in name and plain not in known:
            raise UserError(f"timm knows no model '{name}'.{did_you_mean(plain, known)}")
        if name.startswith("local-dir:") and not (Path(name.removeprefix("local-dir:")) / "config.json").is_file():
            raise UserError(f"the teacher folder {name.removeprefix('local-dir:')} has no config.json (timm's layout)")
        try:
            network: Any = timm.create_model(name, pretrained=True)
        except Exception as error:
            raise UserError(
                f"the teacher '{id}' could not be loaded ({first_line(error)}): check the name and the network"
            ) from error
        settings = resolve_data_config(model=network)
        transform = create_transform(**{**settings, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}, is_training=False)
        super().__init__(id, network, transform, repr(sorted(settings.items())))
        self.network: Any
        self.normalize = Normalize(settings["mean"], settings["std"]).eval()
        self.class_names, self.class_weights = _label_names(network), _last_weights(network)
        names = list(self.class_names or map(str, range(network.num_classes)))
        names = [name if names.count(name) == 1 else f"{name} {i}" for i, name in enumerate(names)]  # ImageNet's cranes
        self.classes = tuple(ClassInfo(*pair) for pair in zip(names, prompt_names(names), strict=True))

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(self.normalize(images)).float()

    def watch(self, images: torch.Tensor, with_maps: bool = False) -> TeacherOutput:
        last, maps = look(self.network, self.normalize(images), with_maps)
        features_BD = self.network.forward_head(last, pre_logits=True).flatten(1)
        return TeacherOutput(self.network.forward_head(last), features_BD=features_BD, maps=maps)


class RunTeacher(ClassifierTeacher):
    """The student of an earlier run, seen through the evaluation transform that it was trained with.

    Raises:
        UserError: the folder is no finished run.
    """

    def __init__(self, id: str, path: Path):
        student = Student.load(path / "model")
        size, crop_mode = student.image_size, student.crop_mode
        words = f"linnet eval {size}" + (" squash" if crop_mode == "squash" else "")

        def transform(image: Image.Image) -> torch.Tensor:
            return torch.from_numpy(eval_pixels(image, size, crop_mode).copy()).permute(2, 0, 1).float() / 255

        super().__init__(id, student, transform, words)
        self.classes, self.class_names = student.classes, tuple(info.name for info in student.classes)
        # an embedding head compares with a bank of its classes; its own last layer knows none
        self.class_weights = _last_weights(student.backbone) if student.bank is None else student.bank_CE.clone()

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images).logits_BC.float()

    def watch(self, images: torch.Tensor, with_maps: bool = False) -> TeacherOutput:
        seen = self.network(images, with_maps)
        return TeacherOutput(seen.logits_BC, features_BD=seen.features_BD, maps=seen.maps)


def _last_weights(network: Any) -> torch.Tensor | None:
    layer = network.get_classifier()
    return layer.weight.detach().float().clone() if isinstance(layer, nn.Linear) else None


def _label_names(network: nn.Module) -> tuple[str, ...] | None:
    settings = getattr(network, "pretrained_cfg", {})
    if names := settings.get("label_names"):
        return tuple(names)
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if subset := infer_imagenet_subset(network):
        info = ImageNetInfo(subset)
        return tuple(info.index_to_description(i) for i in range(info.num_classes()))
    return None

"""``timm:NAME``: any timm classifier with weights."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from linnet.errors import UserError, did_you_mean
from linnet.hub import reach_hub, reason
from linnet.step import TeacherOutput
from linnet.students.network import Normalize, architectures, last_weights, look
from linnet.teachers.base import ClassifierTeacher, Kind
from linnet.text.classes import class_table


class TimmTeacher(ClassifierTeacher):
    """A timm classifier: ``NAME[.TAG]`` with timm's weights, ``local-dir:PATH`` or ``hf-hub:ORG/NAME``.

    Raises:
        UserError: unknown name (with a suggestion), or weights that cannot be loaded.
    """

    def __init__(self, id: str, name: str):
        import timm
        from timm.data import create_transform, resolve_data_config

        plain, known = name.split(".")[0], architectures()
        if ":" not in name and plain not in known:
            raise UserError(f"timm has no model '{name}'.{did_you_mean(plain, known)}")
        if name.startswith("local-dir:") and not (Path(name.removeprefix("local-dir:")) / "config.json").is_file():
            raise UserError(f"the teacher folder {name.removeprefix('local-dir:')} has no config.json (timm's layout)")
        if not name.startswith("local-dir:"):
            reach_hub(f"the teacher '{id}'")
        try:
            network: Any = timm.create_model(name, pretrained=True)
        except Exception as error:
            raise UserError(
                f"the teacher '{id}' could not be loaded ({reason(error)}): check the name and the network"
            ) from error
        settings = resolve_data_config(model=network)
        transform = create_transform(**{**settings, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}, is_training=False)
        super().__init__(id, network, transform, repr(sorted(settings.items())))
        self.network: Any
        self.normalize = Normalize(settings["mean"], settings["std"]).eval()
        self.class_names, self.class_weights = _label_names(network), last_weights(network)
        names = list(self.class_names or map(str, range(network.num_classes)))
        names = [name if names.count(name) == 1 else f"{name} {i}" for i, name in enumerate(names)]  # ImageNet's cranes
        self.classes = class_table(names)

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(self.normalize(images)).float()

    def watch(self, images: torch.Tensor, with_maps: bool = False) -> TeacherOutput:
        last, maps = look(self.network, self.normalize(images), with_maps)
        features_BD = self.network.forward_head(last, pre_logits=True).flatten(1)
        return TeacherOutput(self.network.forward_head(last), features_BD=features_BD, maps=maps)


def _label_names(network: nn.Module) -> tuple[str, ...] | None:
    settings = getattr(network, "pretrained_cfg", {})
    if names := settings.get("label_names"):
        return tuple(names)
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if subset := infer_imagenet_subset(network):
        info = ImageNetInfo(subset)
        return tuple(info.index_to_description(i) for i in range(info.num_classes()))
    return None


def _check(id: str, name: str, reads_texts: bool) -> None:
    source, _, place = name.partition(":")
    if source == "local-dir" and not Path(place, "config.json").is_file():
        raise UserError(f"the teacher folder {place} has no config.json (timm's layout)")
    if source not in ("local-dir", "hf-hub") and source.split(".")[0] not in architectures():
        raise UserError(f"timm has no model '{name}'.{did_you_mean(source.split('.')[0], architectures())}")


KIND = Kind(
    gives="classifier",
    load=TimmTeacher,
    check=_check,
    forms={
        "timm:NAME": "a timm classifier; fine-tuned first if it was trained on other classes",
        "timm:local-dir:PATH": "a folder in timm's layout whose classes are the data's (also timm:hf-hub:ORG/NAME)",
    },
    fine_tuned=True,
)

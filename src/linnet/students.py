"""Students: a timm backbone with one head, saved in timm's own layout so that timm loads it too.

Shapes: B batch, C classes, D backbone width (timm's ``head_hidden_size``), E teacher embedding width.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from linnet.banks import BANK, TextBank
from linnet.data.images import CropMode
from linnet.data.manifest import ClassInfo
from linnet.errors import UserError, did_you_mean, first_line
from linnet.files import write_atomically
from linnet.teachers.base import Normalize

Stem = Literal["auto", "lowres"]


@dataclass(frozen=True)
class StudentOutput:
    """What a student says about a batch: pooled features before the last layer, logits, and from an embedding head the
    embedding (of any length); where they were asked for, also the feature maps of its stages, (B, channels, height,
    width) each."""

    features_BD: torch.Tensor
    logits_BC: torch.Tensor
    embedding_BE: torch.Tensor | None = None
    maps: tuple[torch.Tensor, ...] = ()

    def float(self) -> "StudentOutput":
        embedding = None if self.embedding_BE is None else self.embedding_BE.float()
        maps = tuple(stage.float() for stage in self.maps)
        return StudentOutput(self.features_BD.float(), self.logits_BC.float(), embedding, maps)


def look(network: Any, images: torch.Tensor, with_maps: bool) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """What a timm network gives its head, and the feature maps of its stages, if asked for and if the network tells
    them (timm's ``forward_intermediates``; the CIFAR networks do not)."""
    if with_maps and hasattr(network, "forward_intermediates"):
        last, maps = network.forward_intermediates(images)
        return last, tuple(maps)
    return network.forward_features(images), ()


class Student(nn.Module):
    """A timm classifier that takes images in [0, 1] and normalises them itself.

    With a text ``bank`` its last layer gives an embedding in the teacher's space instead of logits; logits are the
    cosines with the rows of the bank, divided by ``temperature``. The bank can be swapped: see :meth:`set_bank`.

    Args:
        name: timm architecture. classes: the class table. image_size: side in pixels.
        pretrained: True for timm's weights, False for a random start, a path for a checkpoint file or a model folder.
        stem: ``lowres`` sets stride 1 in the first convolution and drops the max-pool.
        crop_mode: what whoever evaluates this student does to images that are not square.

    Raises:
        UserError: unknown architecture (with a suggestion), weights that cannot be had, a stem that cannot be changed.
    """

    bank_CE: torch.Tensor

    def __init__(
        self,
        name: str,
        classes: tuple[ClassInfo, ...],
        image_size: int,
        pretrained: bool | Path = False,
        stem: Stem = "auto",
        crop_mode: CropMode = "center",
        bank: TextBank | None = None,
        temperature: float = 0.07,
    ):
        super().__init__()
        from timm.data import resolve_data_config

        self.name, self.classes, self.image_size, self.stem = name, tuple(classes), image_size, stem
        self.crop_mode: CropMode = crop_mode
        self.bank, self.temperature = bank, temperature
        outputs = len(classes) if bank is None else bank.rows_CE.shape[1]
        self.backbone: Any = _create(name, outputs, image_size, pretrained)
        if bank is not None:
            self.set_bank(bank)
        if stem == "lowres":
            _make_lowres(self.backbone, name)
        settings = resolve_data_config(model=self.backbone)
        self.normalize = Normalize(settings["mean"], settings["std"])
        self.width: int = self.backbone.get_classifier().in_features
        self._try_size()

    def forward(self, images: torch.Tensor, with_maps: bool = False) -> StudentOutput:
        last, maps = look(self.backbone, self.normalize(images), with_maps)
        features_BD = self.backbone.forward_head(last, pre_logits=True)
        output = self.backbone.get_classifier()(features_BD)
        if self.bank is None:
            return StudentOutput(features_BD, output, maps=maps)
        with torch.autocast(output.device.type, enabled=False):
            logits_BC = F.linear(F.normalize(output.float(), dim=1) / self.temperature, self.bank_CE)
        return StudentOutput(features_BD, logits_BC, output, maps)

    def set_bank(self, bank: TextBank) -> None:
        """Name classes with this bank from now on, of the same teacher; the class table stays that of the training.

        Raises:
            UserError: the student has a classifier, or the bank is of another teacher.
        """
        if self.bank is None:
            raise UserError(
                f"this student ({self.name}) has a classifier for its {len(self.classes)} classes and takes no others: "
                "train one with --method openvocab"
            )
        bank.check_teacher(self.bank.teacher_hash, f"this student ({self.name})")
        device = next(self.backbone.parameters()).device
        self.bank = bank
        self.register_buffer("bank_CE", torch.from_numpy(bank.rows_CE).to(device), persistent=False)

    def map_shapes(self) -> tuple[tuple[int, ...], ...]:
        """(channels, height, width) of the feature map of each stage; empty if the network does not tell them."""
        side, device, training = self.image_size, next(self.backbone.parameters()).device, self.training
        with torch.no_grad():
            maps = self.eval()(torch.zeros(1, 3, side, side, device=device), with_maps=True).maps
        self.train(training)
        return tuple(tuple(stage.shape[1:]) for stage in maps)

    def _try_size(self) -> None:
        """Some networks shrink a small image to nothing; better to know now than after the teacher has run."""
        try:
            with torch.no_grad():
                self.eval()(torch.zeros(1, 3, self.image_size, self.image_size))
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"the student '{self.name}' cannot work at {self.image_size} pixels ({first_line(error)}): "
                "choose a larger --student.image-size or another student"
            ) from error
        self.train()

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors (timm's layout), classes.json, and the text bank if there is one."""
        from safetensors.torch import save
        from timm.models._hub import save_config_for_hf  # save_for_hf would write weights with torch.save by default

        folder.mkdir(parents=True, exist_ok=True)
        own = {"name": self.name, "stem": self.stem, "image_size": self.image_size, "crop_mode": self.crop_mode}
        outputs: dict[str, Any] = {"label_names": [info.name for info in self.classes]}
        if self.bank is not None:
            own, outputs = {**own, "temperature": self.temperature}, {}  # type: ignore[dict-item]
            self.bank.save(folder / BANK)
        save_config_for_hf(
            self.backbone,
            str(folder / "config.json"),
            model_config={**outputs, "linnet": own},
            data_config={
                "input_size": (3, self.image_size, self.image_size),
                "crop_pct": 1.0,
                "crop_mode": self.crop_mode,
                "interpolation": "bicubic",
            },
        )
        write_atomically(
            folder / "classes.json", json.dumps([info._asdict() for info in self.classes], indent=1, ensure_ascii=False)
        )
        state = {key: value.detach().cpu().contiguous() for key, value in self.backbone.state_dict().items()}
        write_atomically(folder / "model.safetensors", save(state))

    @classmethod
    def load(cls, folder: Path) -> "Student":
        """A saved student in evaluation mode.

        Raises:
            UserError: the folder holds no saved student.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            own = json.loads((folder / "config.json").read_text())["linnet"]
            rows = json.loads((folder / "classes.json").read_text())
            classes = tuple(ClassInfo(**{**row, "descriptions": tuple(row.get("descriptions", ()))}) for row in rows)
            # a student with an embedding head has a temperature, and a bank beside it
            bank = TextBank.load(folder / BANK) if "temperature" in own else None
            head = {"bank": bank, "temperature": own.get("temperature", 1.0)}
            state = load_file(folder / "model.safetensors")
            crop_mode = own.get("crop_mode", "center")  # older files have none
            student = cls(own["name"], classes, own["image_size"], stem=own["stem"], crop_mode=crop_mode, **head)
            student.backbone.load_state_dict(state)
        except FileNotFoundError as error:
            raise UserError(f"{folder} holds no saved student: is the run finished?") from error
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{folder} holds no student that linnet can read ({first_line(error)})") from error
        return student.eval()


def architectures(pattern: str = "") -> list[str]:
    """The names that timm knows, those of :mod:`linnet.cifar_nets` among them."""
    import timm

    import linnet.cifar_nets  # noqa: F401  (registers its networks)

    return timm.list_models(pattern)


def _create(name: str, outputs: int, image_size: int, pretrained: bool | Path) -> Any:
    import timm

    known = architectures()
    if name.split(".")[0] not in known:
        raise UserError(f"timm knows no student '{name}'.{did_you_mean(name.split('.')[0], known)}")
    model: Any = None
    for size in ({"img_size": image_size}, {}):  # transformers want img_size, most convolutional nets refuse it
        try:
            model = timm.create_model(name, num_classes=outputs, pretrained=pretrained is True, **size)  # type: ignore[arg-type]
            break
        except TypeError:
            continue
        except Exception as error:
            raise UserError(
                f"the weights of the student '{name}' could not be had ({first_line(error)}): "
                "check the network, or give --student.pretrained false (from scratch) or a path"
            ) from error
    if model is None:
        raise UserError(f"the student '{name}' could not be built with {outputs} outputs at {image_size} pixels")
    if not isinstance(model.get_classifier(), nn.Linear):
        raise UserError(f"the student '{name}' has no single linear classifier; choose another timm architecture")
    if isinstance(pretrained, Path):
        _load_weights(model, pretrained)
    return model


def _load_weights(model: Any, path: Path) -> None:
    """Load a timm checkpoint, or the model folder of a run, without its classifier if that is for other classes."""
    from timm.models import load_state_dict

    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"student.pretrained: no weights at {file}")
    try:
        state = load_state_dict(str(file), weights_only=True)
    except Exception as error:  # torch, pickle and safetensors each have their own
        raise UserError(f"student.pretrained: cannot read the weights at {file} ({first_line(error)})") from error
    own = model.state_dict()
    head = model.pretrained_cfg["classifier"] + "."
    fits = {key: key in state and state[key].shape == value.shape for key, value in own.items()}
    wrong = [key for key, fit in fits.items() if not fit and not key.startswith(head)]
    if wrong:
        raise UserError(
            f"the weights at {file} are of another architecture ('{wrong[0]}' is missing or has another shape)"
        )
    model.load_state_dict({key: state[key] for key, fit in fits.items() if fit}, strict=False)


def _make_lowres(model: Any, name: str) -> None:
    """Stride 1 in the first convolution, no max-pool."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.stride != (2, 2):
        raise UserError(f"student.stem lowres: '{name}' does not start with a convolution of stride 2")
    first.stride = (1, 1)
    if isinstance(getattr(model, "maxpool", None), nn.MaxPool2d | nn.Sequential):
        model.maxpool = nn.Identity()

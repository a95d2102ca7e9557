"""timm networks: made by name, with weights, changed for small images, looked through.

Shapes: B batch, D backbone width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from linnet.errors import UserError, did_you_mean
from linnet.hub import reach_hub, reason
from linnet.students.weights import check_downloaded, check_values, downloaded, load_weights


class Normalize(nn.Module):
    """(images - mean) / std per channel, as a module in front of a network: every network takes images in [0, 1]."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.mean) / self.std


def normalize_for(network: Any) -> Normalize:
    """With the mean and standard deviation that a timm network's weights expect."""
    from timm.data import resolve_data_config

    settings = resolve_data_config(model=network)
    return Normalize(settings["mean"], settings["std"])


def look(network: Any, images: torch.Tensor, with_maps: bool) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """What a timm network gives its head, and the feature maps of its stages, if asked for and if the network tells
    them (timm's ``forward_intermediates``; the CIFAR networks do not)."""
    if with_maps and hasattr(network, "forward_intermediates"):
        last, maps = network.forward_intermediates(images)
        return last, tuple(maps)
    return network.forward_features(images), ()


def last_weights(network: Any) -> torch.Tensor | None:
    """(C, D), the rows of a network's last linear layer; None if it ends otherwise."""
    layer = network.get_classifier()
    return layer.weight.detach().float().clone() if isinstance(layer, nn.Linear) else None


def architectures(pattern: str = "") -> list[str]:
    """The names that timm knows, those of :mod:`linnet.students.cifar_nets` among them."""
    import timm

    import linnet.students.cifar_nets  # noqa: F401  (registers its networks)

    return timm.list_models(pattern)


def check_name(name: str) -> None:
    """
    Raises:
        UserError: timm knows no such network (with a suggestion).
    """
    known = architectures()
    if name.split(".")[0] not in known:
        raise UserError(f"timm has no network '{name}'.{did_you_mean(name.split('.')[0], known)}")


def has_weights(name: str) -> bool:
    """Whether timm knows weights for a network, here or elsewhere."""
    import timm

    return bool(timm.is_model_pretrained(name.split(".")[0]))


def create_network(
    name: str, outputs: int, image_size: int, pretrained: bool | Path, classes: Sequence[str] = ()
) -> Any:
    """A timm network with ``outputs`` outputs, which stand for ``classes``, if those are told.

    Raises:
        UserError: an unknown name (with a suggestion), weights that cannot be loaded, no linear classifier.
    """
    import timm

    check_name(name)
    if pretrained is True:
        reach_hub(f"the weights of the student '{name}'")
    model: Any = None
    for size in ({"img_size": image_size}, {}):  # transformers want img_size, most convolutional nets refuse it
        try:
            model = timm.create_model(name, num_classes=outputs, pretrained=pretrained is True, **size)  # type: ignore[arg-type]
            break
        except TypeError:
            continue
        except Exception as error:
            if pretrained is True and (file := downloaded(name)):
                check_downloaded(file)
            raise UserError(
                f"the weights of the student '{name}' cannot be downloaded or loaded ({reason(error)}): "
                "check the network, or give --student.pretrained false (from scratch) or a path"
            ) from error
    if model is None:
        raise UserError(f"the student '{name}' could not be built with {outputs} outputs at {image_size} pixels")
    if not isinstance(model.get_classifier(), nn.Linear):
        raise UserError(f"the student '{name}' has no single linear classifier; choose another timm architecture")
    if isinstance(pretrained, Path):
        load_weights(model, pretrained, classes)
    elif pretrained:
        check_values(model, downloaded(name) or Path(name))
    return model


def make_lowres(model: Any, name: str) -> None:
    """Stride 1 in the first convolution, no max-pool."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.stride != (2, 2):
        raise UserError(f"student.stem lowres: '{name}' does not start with a convolution of stride 2")
    first.stride = (1, 1)
    if isinstance(getattr(model, "maxpool", None), nn.MaxPool2d | nn.Sequential):
        model.maxpool = nn.Identity()

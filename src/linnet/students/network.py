"""timm networks: made by name, with weights, changed for small images, looked through.

Shapes: B batch, C outputs, D width of the pooled features.
"""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from linnet.errors import UserError, did_you_mean, first_line
from linnet.hub import reach_hub, reason
from linnet.students.weights import (
    check_downloaded,
    check_values,
    classifiers,
    downloaded,
    find_weights,
    load_weights,
    made_with,
)

# What timm's factories set only where they load weights. A student has it from the start: timm sets it again where it
# loads a saved one.
WITH_WEIGHTS: dict[str, dict[str, Any]] = {"fbnetc_100": {"bn_eps": 1e-3}}


class Normalize(nn.Module):
    """(images - mean) / std per channel, as a module in front of a network: every network takes images in [0, 1]."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.mean).div_(self.std)


def normalize_for(network: Any) -> Normalize:
    """With the mean and standard deviation that a timm network's weights expect."""
    from timm.data import resolve_data_config

    settings = resolve_data_config(model=network)
    return Normalize(settings["mean"], settings["std"])


class NetworkOutput(NamedTuple):
    """What :func:`watch` saw: the pooled features, what the network gives, and the maps of its stages."""

    features_BD: torch.Tensor
    output_BC: torch.Tensor
    maps: tuple[torch.Tensor, ...]


def watch(
    network: Any, images: torch.Tensor, last_part: str, with_maps: bool = False, detached: bool = False
) -> NetworkOutput:
    """A timm network as timm computes it, and on the way what it gives its last layer.

    Args:
        last_part: see :func:`find_last_part`.
        with_maps: tell the feature maps of its stages, if the network does (timm's ``forward_intermediates``; the CIFAR
            networks do not).
        detached: the output's gradient ends at the features.
    """
    maps: Sequence[torch.Tensor] = ()
    if with_maps and hasattr(network, "forward_intermediates"):
        last, maps = network.forward_intermediates(images)
    else:
        last = network.forward_features(images)
    features_BD = network.forward_head(last, pre_logits=True).flatten(1)
    seen_BD, last = (features_BD.detach(), last.detach()) if detached else (features_BD, last)
    output_BC = network.get_submodule(last_part)(seen_BD) if last_part else network.forward_head(last)
    return NetworkOutput(features_BD, output_BC, tuple(maps))


def find_last_part(network: Any, images: torch.Tensor) -> str:
    """The name of the module that makes a network's output of its pooled features, such as ``head.fc``.

    Most heads have one. Where a norm stands between, it is the module around both (``head`` of efficientvit_m0). With
    it, :func:`watch` computes the head once: a second time would update its batch norms and draw its dropout twice.

    Returns:
        An empty string for other heads: two that see different features, or a convolution. They have nothing that could
        not be computed twice.
    """
    calls: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if len(inputs) == 1 and isinstance(inputs[0], torch.Tensor):
            calls.append((name, inputs[0], output))

    last = network.forward_features(images)
    features_BD = network.forward_head(last, pre_logits=True).flatten(1)
    hooks = [module.register_forward_hook(partial(note, name)) for name, module in network.named_modules() if name]
    try:
        result = network.forward_head(last)
    finally:
        for hook in hooks:
            hook.remove()
    # a module's call ends after those of the modules in it: the last is the outermost
    parts = [name for name, seen, output in calls if output is result and _same(seen, features_BD)]
    return parts[-1] if parts else ""


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """But for rounding, which depends on where in memory a tensor lies. A fresh batch norm changes more: 5 of 10^6."""
    return first.shape == second.shape and bool((first - second).abs().max() <= 2e-6 * second.abs().max())


def last_weights(network: Any) -> torch.Tensor | None:
    """(C, D), one row per class of a network's last layer, or of its last layers side by side; None if it has none."""
    classifier = network.get_classifier()
    parts = classifier if isinstance(classifier, tuple) else (classifier,)
    layers = [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    rows = [layer.weight.detach().float().flatten(1) for layer in layers]
    own = [row_CD for row_CD in rows if len(row_CD) == network.num_classes]
    return torch.cat(own, dim=1) if own else None


def architectures(pattern: str = "") -> list[str]:
    """The names that timm knows, those of :mod:`linnet.students.cifar_nets` among them."""
    import timm

    import linnet.students.cifar_nets  # noqa: F401  (registers its networks)

    return timm.list_models(pattern)


def check_name(name: str) -> None:
    """
    Raises:
        UserError: timm knows no such network, or no weights of this name for it (with a suggestion).
    """
    known = architectures()
    if name.split(".")[0] not in known:
        raise UserError(f"timm has no network '{name}'.{did_you_mean(name.split('.')[0], known)}")
    check_tag(name)


@cache
def has_batch_norm(name: str) -> bool:
    """Whether a network has BatchNorm layers, without building its weights.

    Raises:
        UserError: timm knows no such network.
    """
    import timm

    check_name(name)
    with torch.device("meta"):
        network = timm.create_model(name)
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def check_tag(name: str) -> None:
    """``TAG`` in ``NAME.TAG`` says which of a network's weights.

    Raises:
        UserError: timm knows no such weights (with those that it knows).
    """
    import timm

    plain, _, tag = name.partition(".")
    known = timm.list_models(f"{plain}.*", include_tags=True)
    if tag and name not in known:
        raise UserError(f"timm knows no weights '{tag}' of '{plain}': give {' or '.join([plain, *known])}")


def count_millions(name: str) -> float:
    """Parameters in millions of a network as timm makes it, usually with 1,000 classes; no memory is taken for them."""
    import timm

    with torch.device("meta"):
        network: Any = timm.create_model(name)
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


def has_weights(name: str) -> bool:
    """Whether timm knows weights for a network, here or elsewhere."""
    import timm

    return bool(timm.is_model_pretrained(name.split(".")[0]))


def options_for(name: str, weights: Path | None = None) -> dict[str, Any]:
    """What timm has to be told to build a network as for its own weights, or for those at a path."""
    own = WITH_WEIGHTS.get(name.split(".")[0], {})
    return {**own, **made_with(weights, name)} if weights else {**own}


def create_network(
    name: str,
    outputs: int,
    image_size: int,
    pretrained: bool | Path,
    classes: Sequence[str] = (),
    like: Path | None = None,
) -> Any:
    """A timm network with ``outputs`` outputs, which stand for ``classes``, if those are told.

    Args:
        like: weights that will be loaded into it; timm builds it as it built theirs. Those of ``pretrained``, if that
            is a path.

    Raises:
        UserError: an unknown name (with a suggestion), a network without a classifier, weights that cannot be loaded.
    """
    import timm

    check_name(name)
    if pretrained is True:
        reach_hub(f"the weights of the student '{name}'")
    model: Any = None
    wrong, place = "", pretrained if isinstance(pretrained, Path) else like
    options = options_for(name, place)
    said = f", or look at 'model_args' in {find_weights(place).parent / 'config.json'}" if place and options else ""
    options.pop("img_size", None)  # students have their own
    options |= {"num_classes": outputs, "pretrained": pretrained is True}
    for size in ({"img_size": image_size}, {}):  # transformers want img_size, most convolutional nets refuse it
        try:
            model = timm.create_model(name, **{**options, **size})
            break
        except TypeError as error:
            wrong = first_line(error)
        except Exception as error:
            if pretrained is not True:
                raise UserError(
                    f"the student '{name}' cannot be built at {image_size} pixels ({first_line(error)}): "
                    f"choose another --student.image-size or another student{said}"
                ) from error
            if file := downloaded(name):
                check_downloaded(file)
            raise UserError(
                f"the weights of the student '{name}' cannot be downloaded or loaded ({reason(error)}): "
                "check the network, or give --student.pretrained false (from scratch) or a path"
            ) from error
    if model is None:
        raise UserError(f"the student '{name}' cannot be built ({wrong}): choose another timm architecture{said}")
    if not classifiers(model):
        raise UserError(f"the student '{name}' has no classifier: choose another timm architecture")
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

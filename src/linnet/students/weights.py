"""Weights out of files: found, read, checked, and fitted into a timm network."""

import argparse
import inspect
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linnet.errors import UserError, did_you_mean, first_line
from linnet.files import given_path
from linnet.run import model_folder

log = logging.getLogger("linnet")

Tensors = dict[str, torch.Tensor]

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar")
USUAL = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")  # in a folder of several files
AVERAGED = ("state_dict_ema", "model_ema", "ema")  # better than the last weights beside them
# timm's networks whose tensors are torchvision's, in the same order, under other names (a test: the same logits).
# Others fit in order, too, and are not the same network: torchvision's efficientnet_v2_s normalises otherwise
IN_TORCHVISIONS_ORDER = (
    *("efficientnet_b0", "efficientnet_b1", "efficientnet_b2"),
    *("mnasnet_050", "mnasnet_100", "mobilenetv2_100"),
)
BESIDE_WEIGHTS: list[Any] = [  # what trainers put into their checkpoints: options, paths, numpy's numbers
    argparse.Namespace,
    type(Path()),
    np.dtype,
    np.float64(0).__reduce__()[0],
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")),
]
NO_WEIGHTS = {  # how files begin that are no weights, and what they are
    b"<": "it is a web page: the download failed",
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file itself: fetch it with 'git lfs pull'",
    b"\0\0\0\0\0\0\0\0": "it is damaged: it begins with zeros",
    b"\x89HDF": "it is in Keras' format, which timm does not read",
    b"\x1f\x8b": "it is compressed: unpack it first",
}


def find_weights(path: Path) -> Path:
    """The weights file that a path stands for: the file itself, or that of a run, of a folder in the layout of timm or
    of the Hugging Face hub (``local-dir:`` may stand in front).

    Raises:
        UserError: there is none.
    """
    path = given_path(str(path).removeprefix("local-dir:"), "the path of the weights")
    if not path.is_dir():
        if not path.exists():
            beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(f"there are no weights at {path}: no such file or folder.{did_you_mean(path.name, beside)}")
        return path
    folder = model_folder(path)
    files = sorted(file for file in folder.iterdir() if file.name.endswith(SUFFIXES))
    usual = [folder / name for name in USUAL if (folder / name) in files]
    if not usual and len(files) != 1:
        seen = f"several: {', '.join(file.name for file in files[:4])}" if files else "none"
        raise UserError(f"there are no weights at {path}: expected {USUAL[0]} or one other file of weights, not {seen}")
    return (usual or files)[0]


def read_weights(file: Path) -> dict[str, Any]:
    """What a file of weights holds, in safetensors' or torch's format, whatever its name. No code in it is run.

    Raises:
        UserError: the file is damaged or something else; it is named.
    """
    from safetensors.torch import load

    try:
        with file.open("rb") as opened:
            start = opened.read(64)
    except OSError as error:
        raise UserError(f"cannot read the weights at {file}: {error.strerror}") from error
    wrong = next((words for bad, words in NO_WEIGHTS.items() if start.startswith(bad)), "")
    if wrong or not start:
        raise UserError(f"cannot read the weights at {file}: {wrong or 'it is empty'}")
    try:
        if start[8:9] == b"{":
            return load(file.read_bytes())
        with (
            file.open("rb") as opened,
            torch.serialization.safe_globals(BESIDE_WEIGHTS),
            warnings.catch_warnings(action="ignore"),
        ):
            loaded = torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and safetensors each have their own
        words = str(error).lower()
        if "torchscript" in words or ("weights only load failed" in words and "global" in words):
            raise UserError(
                f"cannot read the weights at {file}: it holds code beside tensors, as of a whole pickled model; save "
                "its weights alone with torch.save(model.state_dict(), FILE)"
            ) from error
        archive = start[:2] == b"PK" or start[8:9] == b"{"
        wrong = "it is damaged, or another kind of archive" if archive else "it is no file of weights"
        why = "" if "weights_only" in words else f" ({first_line(error)})"  # torch says how to read it unsafely
        raise UserError(f"cannot read the weights at {file}: {wrong}{why}") from error
    if not isinstance(loaded, Mapping):
        raise UserError(f"cannot read the weights at {file}: it holds a {type(loaded).__name__}, not a state dict")
    return dict(loaded)


def downloaded(name: str) -> Path | None:
    """Where the weights that timm downloaded for a network lie; None if they were not."""
    from huggingface_hub import try_to_load_from_cache
    from timm.models import get_pretrained_cfg

    source, found = get_pretrained_cfg(name), []
    if source is not None and source.hf_hub_id:
        names = [source.hf_hub_filename] if source.hf_hub_filename else USUAL
        found = [try_to_load_from_cache(source.hf_hub_id, file) for file in names]
    if source is not None and isinstance(source.url, str):
        found.append(str(Path(torch.hub.get_dir(), "checkpoints", Path(source.url).name)))
    # the hub's cache holds links to the files
    return next((Path(file).resolve() for file in found if isinstance(file, str) and Path(file).is_file()), None)


def check_downloaded(file: Path) -> None:
    """
    Raises:
        UserError: the file cannot be read.
    """
    try:
        read_weights(file)
    except UserError as error:
        raise UserError(f"{error}; delete this file, and it is downloaded again") from error


def classifiers(network: Any) -> tuple[str, ...]:
    """The names of a network's last layer, or layers; none if it has no classifier."""
    names = network.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def state_for(network: Any, loaded: Mapping[str, Any]) -> Tensors:
    """The state dict in what a file holds that names most of the network's tensors, under the network's own names.

    Trainers wrap it (``{"state_dict": ...}``) and put words before its names (``module.``, ``model.``, ``backbone.``).
    """
    own = network.state_dict()
    states = [_without_prefix(state, own) for state in _state_dicts(loaded)]
    return max(states, key=lambda state: sum(key in own for key in state), default={})  # of equals the first


def _state_dicts(loaded: Mapping[str, Any]) -> Iterator[Tensors]:
    """Every mapping of tensors in a checkpoint, averaged weights first."""
    inner = {key: value for key, value in loaded.items() if isinstance(value, Mapping)}
    for key in sorted(inner, key=lambda key: key not in AVERAGED):
        yield from _state_dicts(inner[key])
    if tensors := {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}:
        yield tensors


def _without_prefix(state: Tensors, own: Mapping[str, Any]) -> Tensors:
    some = list(own)[:5]
    prefixes = ["", *(key.removesuffix(name) for key in state for name in some if key.endswith(f".{name}"))]
    best = max(dict.fromkeys(prefixes), key=lambda prefix: sum(f"{prefix}{key}" in state for key in own))
    return {key.removeprefix(best): value for key, value in state.items() if key.startswith(best)}


def load_weights(network: Any, path: Path, classes: Sequence[str] = (), whole: bool = False) -> None:
    """Fill a timm network with the weights at a path, without their classifier if that is for other classes.

    Counters and index tables (``num_batches_tracked``) may be missing. What does not fit as it is goes through timm's
    own translation first, which knows older names and resizes the position embeddings of transformers; torchvision's
    files of the networks in IN_TORCHVISIONS_ORDER are fitted in by the order of their tensors.

    Args:
        classes: what the network's outputs stand for; weights that say that theirs stand for others lose them.
        whole: the classifier has to fit, too.

    Raises:
        UserError: there are no weights, or they are damaged or of another network.
    """
    file = find_weights(path)
    own, state = network.state_dict(), state_for(network, read_weights(file))
    beside = settings_beside(file.parent)
    known = beside.get("label_names") or beside.get("linnet", {}).get("classes")  # of a dual student
    others = bool(classes and known) and list(classes) != known
    heads = () if whole else tuple(f"{name}." for name in classifiers(network))
    if _misfits(own, state, heads):
        translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        with suppress(Exception):  # it was made for certain files only
            translated = translate(dict(state), network) if translate else state
            state = translated if len(_misfits(own, translated, heads)) < len(_misfits(own, state, heads)) else state
    if _misfits(own, state, heads) and network.pretrained_cfg["architecture"] in IN_TORCHVISIONS_ORDER:
        state = _in_order(own, state)
    if misfits := _misfits(own, state, heads):
        words = [f"'{key}' {'has another shape' if key in state else 'is missing'}" for key in misfits[:3]]
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise UserError(
            f"the weights at {file} are of another architecture{_said_beside(file)} than this "
            f"'{network.pretrained_cfg['architecture']}': {', '.join(words)}{more}"
        )
    fitting = {key: state[key] for key, value in own.items() if key in state and state[key].shape == value.shape}
    if others:
        fitting = {key: value for key, value in fitting.items() if not key.startswith(heads)}
    if classes and any(key.startswith(heads) and key not in fitting for key in own):
        log.info("weights: %s has no classifier for these classes: it starts anew", file)
    try:
        network.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise UserError(f"the weights at {file} are sparse or quantised: save them as plain tensors") from error
    check_values(network, file)
    network.pretrained_cfg.update(normalisation(file.parent))


def _misfits(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], heads: tuple[str, ...]) -> list[str]:
    return [
        key
        for key, value in own.items()
        if value.is_floating_point()
        and not key.startswith(heads)
        and (key not in state or state[key].shape != value.shape)
    ]


def _in_order(own: Mapping[str, torch.Tensor], state: Tensors) -> Tensors:
    """The same tensors under the network's names, if each is what stands at its place: of the same kind (weight, bias,
    ...) and, but for the classes of the last layer, of the same shape. Counters are left out."""
    state = {name: value for name, value in state.items() if value.is_floating_point()}
    names = [name for name, value in own.items() if value.is_floating_point()]
    places = [(name.rpartition(".")[2], own[name].shape) for name in names]
    theirs = [(name.rpartition(".")[2], value.shape) for name, value in state.items()]
    same_kinds = [kind for kind, _ in places] == [kind for kind, _ in theirs]
    if not same_kinds or places[:-2] != theirs[:-2]:  # the last two are the classifier's weight and bias
        return state
    return dict(zip(names, state.values(), strict=True))


def check_values(network: Any, file: Path) -> None:
    """
    Raises:
        UserError: numbers that no training leaves, as in a file that lost its content.
    """
    own = dict(network.named_parameters())
    averages = {key: value for key, value in network.named_buffers() if key.endswith(("running_mean", "running_var"))}
    if bad := next((key for key, value in {**own, **averages}.items() if not value.isfinite().all()), None):
        raise UserError(f"the weights at {file} are damaged: '{bad}' holds numbers that are not finite")
    kernels = [value for value in own.values() if value.ndim > 1]
    if sum(not value.any() for value in kernels) > len(kernels) / 4:
        raise UserError(f"the weights at {file} are damaged: whole layers are zero")


def settings_beside(folder: Path) -> dict[str, Any]:
    """What config.json, in timm's layout, says about the weights beside it."""
    with suppress(OSError, ValueError):
        loaded = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if isinstance(loaded, dict):
            return loaded
    return {}


def made_with(path: Path, name: str) -> dict[str, Any]:
    """What timm was told when it built the network whose weights lie at a path, where config.json beside them says so:
    an epsilon, an activation, the pixels of its position embedding. How many classes and colours it has is for others
    to say, and so is where weights lie."""
    import timm

    told = _told_of(path, name, "model_args")
    others = {"num_classes", "in_chans", *inspect.signature(timm.create_model).parameters}
    return {key: value for key, value in told.items() if key not in others}


def shown_to(path: Path, name: str) -> dict[str, Any]:
    """How an image is made an input of the network whose weights lie at a path, where config.json beside them says so:
    its size, what is cut off."""
    told = _told_of(path, name, "pretrained_cfg")
    return {key: told[key] for key in ("input_size", "crop_pct", "crop_mode", "interpolation") if key in told}


def _told_of(path: Path, name: str, part: str) -> dict[str, Any]:
    settings = settings_beside(find_weights(path).parent)
    told = settings.get(part) if settings.get("architecture") == name.split(".")[0] else None
    return told if isinstance(told, dict) else {}


def _said_beside(file: Path) -> str:
    name = settings_beside(file.parent).get("architecture")
    return f" ('{name}')" if name else ""


def normalisation(folder: Path) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation of the pixels that the weights expect, where config.json says so."""
    settings = settings_beside(folder).get("pretrained_cfg", {})
    return {key: tuple(settings[key]) for key in ("mean", "std") if len(settings.get(key) or ()) == 3}

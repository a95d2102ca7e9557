"""``timm:NAME``: any timm classifier with weights, from the hub or from a file."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from linnet.errors import UserError, did_you_mean, first_line
from linnet.hub import reach_hub, reason
from linnet.step import TeacherOutput
from linnet.students.network import (
    architectures,
    check_tag,
    find_last_part,
    last_weights,
    normalize_for,
    options_for,
    watch,
)
from linnet.students.weights import (
    check_downloaded,
    check_values,
    classifiers,
    downloaded,
    find_weights,
    load_weights,
    read_weights,
    settings_beside,
    shown_to,
    state_for,
)
from linnet.teachers.base import ClassifierTeacher, Kind
from linnet.text.classes import class_table


class TimmTeacher(ClassifierTeacher):
    """A timm classifier: ``NAME[.TAG]`` with timm's weights, ``NAME:FILE`` with those of a file, ``local-dir:PATH`` or
    ``hf-hub:ORG/NAME``.

    Raises:
        UserError: unknown name (with a suggestion), or weights that cannot be loaded.
    """

    def __init__(self, id: str, name: str):
        from timm.data import create_transform, resolve_data_config

        network, architecture, weights = _network(id, name)
        settings = resolve_data_config(model=network)
        transform = create_transform(**{**settings, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}, is_training=False)
        super().__init__(id, network, transform, repr(sorted(settings.items())))
        self.network: Any
        self.normalize = normalize_for(network).eval()
        self.class_names, self.class_weights = _label_names(network), last_weights(network)
        self.start = (architecture, weights)
        self.last_part: str | None = None
        names = list(self.class_names or map(str, range(network.num_classes)))
        names = [name if names.count(name) == 1 else f"{name} {i}" for i, name in enumerate(names)]  # ImageNet's cranes
        self.classes = class_table(names)

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(self.normalize(images)).float()

    def watch(self, images: torch.Tensor, with_maps: bool = False) -> TeacherOutput:
        normal = self.normalize(images)
        if self.last_part is None:
            with torch.no_grad():
                self.last_part = find_last_part(self.network, normal[:1])
        seen = watch(self.network, normal, self.last_part, with_maps)
        return TeacherOutput(seen.output_BC, features_BD=seen.features_BD, maps=seen.maps)


def check_name(name: str) -> None:
    """What can be known of a teacher without its weights and without the network.

    Raises:
        UserError: there is no such architecture, folder or file.
    """
    source, _, place = name.partition(":")
    if source == "local-dir":
        if not Path(place, "config.json").is_file():
            run = f": it is a run, give run:{place}" if Path(place, "model").is_dir() else ""
            raise UserError(f"the teacher folder {place} has no config.json (timm's layout){run}")
        if not isinstance(settings_beside(Path(place)).get("architecture"), str):
            raise UserError(
                f"the config.json of the teacher folder {place} names no architecture: expected timm's layout, as in "
                "the model/ of a run"
            )
        find_weights(Path(place))
    elif source != "hf-hub":
        plain, known = source.split(".")[0], architectures()
        if plain not in known and Path(name).exists():
            raise UserError(f"timm has no model '{name}': for weights of your own give timm:ARCHITECTURE:{name}")
        if plain not in known:
            raise UserError(f"timm has no model '{source}'.{did_you_mean(plain, known)}")
        check_tag(source)
        if place:
            find_weights(Path(place))


def _network(id: str, name: str) -> tuple[Any, str, bool | Path]:
    """The classifier, its architecture, and where its weights lie: True if they are timm's own."""
    import timm

    check_name(name)
    network: Any
    source, _, place = name.partition(":")
    if source == "local-dir":
        network = _built(id, name, Path(place))
        load_weights(network, Path(place), whole=True)
        return network, network.pretrained_cfg["architecture"], Path(place)
    if source != "hf-hub" and place:
        return _from_file(id, source, Path(place)), source, Path(place)
    reach_hub(f"the teacher '{id}'")
    try:
        network = timm.create_model(name, pretrained=True)
    except Exception as error:
        if source != "hf-hub" and (file := downloaded(name)):
            check_downloaded(file)
        raise UserError(
            f"the teacher '{id}' could not be loaded ({reason(error)}): check the name and the network, or give "
            f"weights of your own, as timm:{'NAME' if source == 'hf-hub' else name}:FILE or timm:local-dir:PATH"
        ) from error
    if source == "hf-hub":
        check_values(network, Path(place))
        return network, network.pretrained_cfg["architecture"], _snapshot(place)
    check_values(network, downloaded(name) or Path(name))
    return network, name, True


def _built(id: str, name: str, path: Path, classes: int | None = None) -> Any:
    """A network without weights, made for those at a path."""
    import timm
    from timm.models._hub import load_model_config_from_path

    try:
        architecture = load_model_config_from_path(path)[1] if name.startswith("local-dir:") else name
        options = {**options_for(architecture, path), "num_classes": classes}
        return timm.create_model(name, pretrained_cfg_overlay=shown_to(path, architecture), **options)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the teacher '{id}' cannot be built ({first_line(error)})") from error


def _from_file(id: str, name: str, path: Path) -> Any:
    """A network with the weights of a file, which say how many classes it knows."""
    network = _built(id, name, path)
    file, last = find_weights(path), (classifiers(network) or ("classifier",))[0]
    rows = state_for(network, read_weights(file)).get(f"{last}.weight")
    if rows is None:
        load_weights(_built(id, name, path, 0), file)  # refuses those of another architecture
        raise UserError(
            f"the weights at {file} have no classifier ('{last}.weight'), so they cannot teach as they are: train one "
            f"on your data, as in 'linnet distill DATA --method ce --student {name} --student.pretrained {path} --out "
            "runs/teacher', and give --teacher run:runs/teacher"
        )
    if len(rows) != network.num_classes:
        network = _built(id, name, path, len(rows))
    load_weights(network, file, whole=True)
    return network


def _snapshot(repository: str) -> bool | Path:
    """Where the files of a model of the hub lie after it was downloaded."""
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = repository.partition("@")
    file = try_to_load_from_cache(name, "config.json", revision=revision or None)
    return Path(file).parent if isinstance(file, str) else True


def _label_names(network: nn.Module) -> tuple[str, ...] | None:
    settings = getattr(network, "pretrained_cfg", {})
    if names := settings.get("label_names"):
        return tuple(names)
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if subset := infer_imagenet_subset(network):
        info = ImageNetInfo(subset)
        return tuple(info.index_to_description(i) for i in range(info.num_classes()))
    return None


KIND = Kind(
    gives="classifier",
    load=TimmTeacher,
    check=lambda id, name, reads_texts: check_name(name),
    forms={
        "timm:NAME": "a timm classifier; fine-tuned first if it was trained on other classes",
        "timm:NAME:FILE": "the same with your own weights",
        "timm:local-dir:PATH": "the same from a folder in timm's layout (also timm:hf-hub:ORG/NAME)",
    },
    fine_tuned=True,
)

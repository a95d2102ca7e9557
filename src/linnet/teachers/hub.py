"""Models of the transformers library, from the Hugging Face hub or from a folder: what teachers and sentence encoders
load alike. Weights come from safetensors only, and code that lies beside a model is never run."""

import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from linnet.errors import UserError, require
from linnet.hub import reach_hub, reason
from linnet.teachers.base import fingerprint

DEFAULT_LENGTH = 512  # tokens, for a model that sets no limit


@dataclass(frozen=True)
class Checkpoint:
    """A model before its weights are loaded.

    Attributes:
        id: what the user typed. name: a folder, or ORG/NAME on the hub. subfolder: where in it the model lies.
        settings: the content of its config.json. config: the same as transformers reads it.
        model_class: the class of transformers that runs it.
    """

    id: str
    name: str
    subfolder: str
    settings: dict[str, Any]
    config: Any
    model_class: Any

    @property
    def is_dual_encoder(self) -> bool:
        return all(hasattr(self.model_class, f"get_{what}_features") for what in ("image", "text"))

    @property
    def reads_texts_only(self) -> bool:
        modalities = self.model_class.input_modalities
        return self.model_class.main_input_name == "input_ids" and modalities in ("text", ("text",))


@contextmanager
def loading(id: str) -> Iterator[None]:
    """Quiet, and any error of another library becomes one line."""
    logging = require("transformers", "hf").utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"'{id}' could not be loaded ({reason(error)}): check the name and the network, or give a folder with "
            "config.json, model.safetensors and the files of the tokenizer"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def hub_file(name: str, path: str) -> Path | None:
    """A file of a model, in its folder or on the hub; None if it has none of this name."""
    if Path(name).is_dir():
        return Path(name, path) if Path(name, path).is_file() else None
    from transformers.utils import cached_file

    found = cached_file(name, path, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def read_json(name: str, path: str) -> Any:
    """What stands in a JSON file of a model; None without the file."""
    file = hub_file(name, path)
    return None if file is None else json.loads(file.read_text(encoding="utf-8"))


def check_place(name: str, *expected: str) -> None:
    """
    Raises:
        UserError: a path without a folder, or a folder with none of the expected files.
    """
    folder = Path(name)
    if folder.is_dir():
        if not any((folder / file).is_file() for file in expected):
            raise UserError(
                f"the folder {folder} has no {' and no '.join(expected)}: expected a model in the layout of "
                "transformers, with config.json, model.safetensors and the files of its tokenizer"
            )
    elif folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"there is no folder {folder}: expected a folder, or ORG/NAME of the Hugging Face hub")


def find_checkpoint(id: str, name: str, subfolder: str = "") -> Checkpoint:
    """
    Raises:
        UserError: transformers is not installed, there is no such model, or it needs code of its own.
    """
    transformers = require("transformers", "hf")
    check_place(name, str(Path(subfolder, "config.json")))
    if not Path(name).is_dir():
        reach_hub(f"'{id}'")
    with loading(id):
        settings, _ = transformers.PreTrainedConfig.get_config_dict(name, subfolder=subfolder)
        kind = settings.get("model_type")
        if kind not in transformers.CONFIG_MAPPING:
            own = " and needs code of its own, which linnet never runs" if "auto_map" in settings else ""
            raise UserError(f"'{id}' cannot be used: a model of the type '{kind}' is unknown to transformers{own}")
        config = transformers.CONFIG_MAPPING[kind].from_dict(settings)
        texts = transformers.MODEL_FOR_TEXT_ENCODING_MAPPING  # of T5 and its kin the encoder alone
        found = (texts if type(config) in texts else transformers.MODEL_MAPPING)[type(config)]
    return Checkpoint(id, name, subfolder, settings, config, found[0] if isinstance(found, tuple) else found)


def load_network(checkpoint: Checkpoint, unused: str | None = None) -> Any:
    """The model in float32, in evaluation mode.

    Args:
        unused: a part that the weights may lack.

    Raises:
        UserError: there are no safetensors weights, or some are missing.
    """
    with loading(checkpoint.id):
        network, info = checkpoint.model_class.from_pretrained(
            checkpoint.name,
            subfolder=checkpoint.subfolder,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    missing = sorted(key for key in info["missing_keys"] if unused is None or unused not in key.split("."))
    if missing:
        raise UserError(
            f"the weights of '{checkpoint.id}' lack {len(missing)} tensors of a {checkpoint.model_class.__name__} "
            f"({missing[0]} ...): they belong to another model"
        )
    return network.eval()


def text_length(tower: nn.Module, config: Any, tokenizer: Any, limit: int | None = None) -> int:
    """How many tokens a text tower reads: the smallest of what its positions, its tokenizer and ``limit`` allow."""
    positions = getattr(config, "max_position_embeddings", None)
    for name, module in tower.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings") and module.padding_idx is not None:
            positions = module.num_embeddings - module.padding_idx - 1  # RoBERTa counts from behind the padding
    own = tokenizer.model_max_length if tokenizer.model_max_length < 1e9 else None
    return min((length for length in (positions, own, limit) if length), default=DEFAULT_LENGTH)


def accepted(tokens: dict[str, torch.Tensor], forward: Any) -> dict[str, torch.Tensor]:
    """Those of a tokenizer's outputs that a model takes."""
    return {name: tensor for name, tensor in tokens.items() if name in inspect.signature(forward).parameters}


def text_fingerprint(network: nn.Module, settings: dict[str, Any], tokenizer: Any, *rest: object) -> str:
    """Hash of weights, configuration, tokenizer and whatever else decides what a text becomes."""
    own = {key: value for key, value in settings.items() if key not in ("_name_or_path", "transformers_version")}
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        words = json.loads(backend.to_str())
        words = {key: value for key, value in words.items() if key not in ("truncation", "padding")}  # of the last call
    else:
        words = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    described = json.dumps([own, words, *rest], sort_keys=True, default=str)
    return hashlib.sha256(f"{fingerprint(network)}{described}".encode()).hexdigest()

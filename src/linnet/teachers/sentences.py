"""Sentence encoders: models of the transformers library that read texts only, in its own layout or in that of the
sentence-transformers library.

Shapes: n texts, L tokens, D width of the model, E width of the embedding.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from linnet.errors import UserError
from linnet.hub import reach_hub
from linnet.teachers.hub import (
    accepted,
    check_place,
    find_checkpoint,
    hub_file,
    load_network,
    loading,
    read_json,
    text_fingerprint,
    text_length,
)

BATCH = 64
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")


@dataclass(frozen=True)
class Recipe:
    """How a sentence becomes a vector, beside the network.

    Attributes:
        subfolder: where the network lies. length: tokens it reads at most, None for what network and tokenizer allow.
        lower: whether texts are put into lower case. prompt: stands before every text.
        pooling: names of POOLING, whose results stand side by side. pools_prompt: whether the prompt's tokens count.
        after: what follows the pooling: folders of Dense layers, and "Normalize".
    """

    subfolder: str = ""
    length: int | None = None
    lower: bool = False
    prompt: str = ""
    pooling: tuple[str, ...] = ("mean",)
    pools_prompt: bool = True
    after: tuple[str, ...] = ()


class SentenceEncoder(nn.Module):
    """Sentences to unit vectors: a frozen network, pooling over its tokens, and the layers behind it.

    A folder (or hub model) with modules.json is read as the sentence-transformers library does; without it, a sentence
    is the mean of its tokens' last hidden states. White space around a sentence does not count.

    Raises:
        UserError: no such model, a part that is not known, or weights that are not in safetensors.
    """

    def __init__(self, id: str, name: str):
        super().__init__()
        from transformers import AutoTokenizer

        self.id = id
        check_place(name, "config.json", "modules.json")
        if not Path(name).is_dir():
            reach_hub(f"'{id}'")
        with loading(id):
            modules = read_json(name, "modules.json")
            self.recipe = Recipe() if modules is None else read_recipe(id, name, modules)
        checkpoint = find_checkpoint(id, name, self.recipe.subfolder)
        if not checkpoint.reads_texts_only:
            raise UserError(f"'{id}' cannot be used: a {checkpoint.model_class.__name__} is no model of texts")
        with loading(id):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                name, subfolder=self.recipe.subfolder, trust_remote_code=False
            )
            layers = [_UnitLength() if part == "Normalize" else _dense(id, name, part) for part in self.recipe.after]
        self.network: Any = load_network(checkpoint, unused="pooler")
        self.after = nn.ModuleList(layers)
        self.tokenizer.padding_side = "right"  # where no token sees it
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.unk_token
        self.unknown_token: int | None = self.tokenizer.unk_token_id
        self._settings = checkpoint.settings
        self.length = text_length(self.network, checkpoint.config, self.tokenizer, self.recipe.length)
        super().train(False)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "SentenceEncoder":
        """It never leaves evaluation mode."""
        return self

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """n sentences -> (n, E), unit length, float32. A sentence that is too long loses its end."""
        parts = [self._embed(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
        return F.normalize(torch.cat(parts), dim=1)

    def tokens(self, texts: list[str]) -> list[tuple[int, ...]]:
        """What it reads of each text."""
        rows = self.tokenizer(self._prepared(texts), truncation=True, max_length=self.length).input_ids
        return list(map(tuple, rows))

    def fingerprint(self) -> str:
        """Hash of all that decides a vector: weights, pooling, tokenizer and their settings."""
        return text_fingerprint(self, self._settings, self.tokenizer, asdict(self.recipe), self.length)

    def _embed(self, texts: list[str]) -> torch.Tensor:
        recipe, device, texts = self.recipe, self.network.device, self._prepared(texts)
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        tokens = {name: tensor.to(device) for name, tensor in tokens.items()}
        hidden_NLD = self.network(**accepted(tokens, self.network.forward)).last_hidden_state.float()
        mask_NL = tokens["attention_mask"].bool()
        if recipe.prompt and not recipe.pools_prompt:
            mask_NL = mask_NL & (mask_NL.cumsum(dim=1) > self._prompt_length())
        row_NE = torch.cat([POOLING[name](hidden_NLD, mask_NL) for name in recipe.pooling], dim=1)
        for layer in self.after:
            row_NE = layer(row_NE)
        return row_NE

    def _prepared(self, texts: list[str]) -> list[str]:
        whole = [(self.recipe.prompt + text).strip() for text in texts]
        return [text.lower() for text in whole] if self.recipe.lower else whole

    def _prompt_length(self) -> int:
        """Tokens of the prompt, with the start token, without the end token."""
        tokens = self.tokenizer(self.recipe.prompt).input_ids
        return len(tokens) - (tokens[-1] in self.tokenizer.all_special_ids)


class _UnitLength(nn.Module):
    def forward(self, row_NE: torch.Tensor) -> torch.Tensor:
        return F.normalize(row_NE, dim=1)


def _first(hidden_NLD: torch.Tensor, mask_NL: torch.Tensor) -> torch.Tensor:
    return hidden_NLD[:, 0]


def _last(hidden_NLD: torch.Tensor, mask_NL: torch.Tensor) -> torch.Tensor:
    places_NL = torch.arange(mask_NL.shape[1], device=mask_NL.device) * mask_NL
    return hidden_NLD[torch.arange(len(hidden_NLD), device=mask_NL.device), places_NL.argmax(dim=1)]


def _largest(hidden_NLD: torch.Tensor, mask_NL: torch.Tensor) -> torch.Tensor:
    return hidden_NLD.masked_fill(~mask_NL[:, :, None], -torch.inf).amax(dim=1)


def _mean(hidden_NLD: torch.Tensor, weight_NL: torch.Tensor) -> torch.Tensor:
    weight_NL1 = weight_NL[:, :, None].to(hidden_NLD.dtype)
    return (hidden_NLD * weight_NL1).sum(dim=1) / weight_NL1.sum(dim=1).clamp(min=1e-9)


def _mean_by_place(hidden_NLD: torch.Tensor, mask_NL: torch.Tensor) -> torch.Tensor:
    return _mean(hidden_NLD, mask_NL.cumsum(dim=1) * mask_NL)


def _mean_by_root(hidden_NLD: torch.Tensor, mask_NL: torch.Tensor) -> torch.Tensor:
    return _mean(hidden_NLD, mask_NL) * mask_NL.sum(dim=1, keepdim=True).sqrt()


# in the order in which several stand side by side: (hidden states (n, L, D), mask (n, L)) -> (n, D)
POOLING: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _first,
    "max": _largest,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _mean_by_place,
    "lasttoken": _last,
}
OLD_NAMES = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean", "weightedmean_tokens": "weightedmean"}


def read_recipe(id: str, name: str, modules: list[dict[str, Any]]) -> Recipe:
    """What modules.json and the files it names say.

    Raises:
        UserError: a module or a pooling that is not known, by its name.
    """
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    paths = [str(module.get("path") or "") for module in modules]
    for place, (module, kind) in enumerate(zip(modules, kinds, strict=True)):
        known = (("Transformer",), ("Pooling",))[place] if place < 2 else ("Dense", "Normalize")
        if kind not in known:
            raise UserError(
                f"'{id}' cannot be used: expected {' or '.join(known)} in its modules.json, not '{module['type']}'"
            )
    if len(kinds) < 2:
        raise UserError(f"'{id}' cannot be used: its modules.json names no Pooling")
    own = read_json(name, _inside(paths[0], "sentence_bert_config.json")) or {}
    pooling = read_json(name, _inside(paths[1], "config.json")) or {}
    about = read_json(name, "config_sentence_transformers.json") or {}
    prompts, default = about.get("prompts") or {}, about.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise UserError(f"'{id}' cannot be used: its default prompt '{default}' is none of its prompts")
    return Recipe(
        subfolder=paths[0],
        length=own.get("max_seq_length"),
        lower=bool(own.get("do_lower_case", False)),
        prompt=prompts[default] if default is not None else "",
        pooling=_pooling(id, pooling),
        pools_prompt=bool(pooling.get("include_prompt", True)),
        after=tuple(
            "Normalize" if kind == "Normalize" else path for kind, path in zip(kinds[2:], paths[2:], strict=True)
        ),
    )


def _pooling(id: str, settings: dict[str, Any]) -> tuple[str, ...]:
    """Names of POOLING, as newer files (``pooling_mode``) or older ones (one switch for each) say it."""
    given = settings.get("pooling_mode")
    if given is None:
        prefix = "pooling_mode_"
        on = [key.removeprefix(prefix) for key, value in settings.items() if key.startswith(prefix) and value is True]
        names = {OLD_NAMES.get(key, key) for key in on}
    else:
        names = set([given] if isinstance(given, str) else given)
    if unknown := sorted(names - set(POOLING)):
        raise UserError(f"'{id}' cannot be used: its pooling '{unknown[0]}' is none of {', '.join(POOLING)}")
    return tuple(name for name in POOLING if name in names) or ("mean",)


def _dense(id: str, name: str, path: str) -> nn.Module:
    """A Dense module: a linear layer and an activation."""
    from safetensors.torch import load_file

    settings, weights = (
        read_json(name, _inside(path, "config.json")),
        hub_file(name, _inside(path, "model.safetensors")),
    )
    if settings is None or weights is None:
        raise UserError(f"'{id}' cannot be used: expected config.json and model.safetensors in its folder {path}")
    activation = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise UserError(f"'{id}' cannot be used: its activation '{activation}' is none of {', '.join(ACTIVATIONS)}")
    linear = nn.Linear(settings["in_features"], settings["out_features"], bias=settings.get("bias", True))
    linear.load_state_dict({key.removeprefix("linear."): value for key, value in load_file(weights).items()})
    return nn.Sequential(linear.float(), getattr(nn, activation)())


def _inside(folder: str, file: str) -> str:
    return str(PurePosixPath(folder, file))

"""``hf:ORG/NAME`` and ``hf:PATH``: dual encoders of the transformers library (CLIP, SigLIP, SigLIP 2, ALIGN and their
kin).

Shapes: n texts, L tokens, P context vectors, W token width, E embedding width.
"""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed

from linnet.errors import UserError, require
from linnet.students.network import Normalize
from linnet.teachers.base import Kind, TextEncoder, VisionLanguageTeacher
from linnet.teachers.hub import (
    Checkpoint,
    accepted,
    check_place,
    find_checkpoint,
    load_network,
    loading,
    text_fingerprint,
    text_length,
)
from linnet.teachers.sentences import SentenceEncoder

BATCH = 256


class HuggingFaceTeacher(VisionLanguageTeacher):
    """A model of transformers that embeds images and texts into one space.

    Raises:
        UserError: it is no such model, lacks a part, or its images are not of one size.
    """

    network: Any

    def __init__(self, checkpoint: Checkpoint):
        from transformers import AutoProcessor

        id = checkpoint.id
        with loading(id):
            processor = AutoProcessor.from_pretrained(checkpoint.name, trust_remote_code=False)
        missing = [part for part in ("image_processor", "tokenizer") if getattr(processor, part, None) is None]
        if missing:
            raise UserError(f"'{id}' has no {missing[0].replace('_', ' ')}: expected its files beside config.json")
        pixels = Preprocessing(id, processor.image_processor)
        network = load_network(checkpoint)
        super().__init__(id, network, pixels, pixels.words)
        self.normalize = Normalize(pixels.mean, pixels.std).eval()
        self.logit_scale = _logit_scale(id, network)
        tokenizer, limit = processor.tokenizer, (getattr(processor, "text_kwargs", None) or {}).get("max_length")
        if checkpoint.config.model_type == "siglip":
            _lower_case(tokenizer)
        length = text_length(self._text_tower, checkpoint.config.get_text_config(), tokenizer, limit)
        self.tokenize, self.unknown_token = Tokenize(tokenizer, length), tokenizer.unk_token_id
        self._settings = checkpoint.settings
        with loading(id):
            self._check()
            self.tokenize.pad_to_length = self._reads_padding()

    @torch.no_grad()
    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(vectors(self.network.get_image_features(pixel_values=self.normalize(images))), dim=1)

    def embed_texts(self, texts: list[str], context_PW: torch.Tensor | None = None) -> torch.Tensor:
        if context_PW is None:
            with torch.no_grad():
                parts = [self._encode(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
        else:
            encode = self._encode
            if len(texts) > BATCH:  # the activations of thousands of prompts would fill the memory
                encode = partial(recomputed, encode, use_reentrant=False)
            parts = [encode(texts[start : start + BATCH], context_PW) for start in range(0, len(texts), BATCH)]
        return F.normalize(torch.cat(parts), dim=1)

    def tokens(self, texts: list[str]) -> list[tuple[int, ...]]:
        return list(map(tuple, self.tokenize.rows(texts)))

    def room(self, texts: list[str]) -> int:
        return self.tokenize.context_length - max(map(len, self.tokenize.rows(texts)))

    @property
    def token_width(self) -> int:  # type: ignore[override]
        return self._token_embedding.embedding_dim

    def fingerprint(self) -> str:
        tokenize = self.tokenize
        return text_fingerprint(self.network, self._settings, tokenize.tokenizer, tokenize.context_length)

    @property
    def _text_tower(self) -> Any:
        return getattr(self.network, "text_model", self.network)

    @property
    def _token_embedding(self) -> nn.Embedding:
        """
        Raises:
            UserError: the text tower has no embedding of tokens in whose place context vectors could stand.
        """
        with suppress(NotImplementedError):
            own = self._text_tower.get_input_embeddings()
            if isinstance(own, nn.Embedding):
                return own
        raise UserError(
            f"the text tower of '{self.id}' takes no context vectors: use --teacher.head zero-shot or probe"
        )

    def _encode(self, texts: list[str], context_PW: torch.Tensor | None = None) -> torch.Tensor:
        device = self.normalize.mean.device
        tokens, places_NL = self.tokenize.inputs(texts, 0 if context_PW is None else len(context_PW))
        tokens = {name: tensor.to(device) for name, tensor in tokens.items()}
        if context_PW is None:
            return vectors(self.network.get_text_features(**accepted(tokens, self.network.get_text_features)))

        def place(module: nn.Module, inputs: Any, embedded_NLW: torch.Tensor) -> torch.Tensor:
            context = context_PW.to(embedded_NLW.dtype).expand(len(embedded_NLW), -1, embedded_NLW.shape[2])
            return embedded_NLW.masked_scatter(places_NL[:, :, None].to(device), context)

        handle = self._token_embedding.register_forward_hook(place)
        try:
            return vectors(self.network.get_text_features(**accepted(tokens, self.network.get_text_features)))
        finally:
            handle.remove()

    def _reads_padding(self) -> bool:
        """Whether padding changes a text's vector, as in SigLIP: then every text has the length of the training."""
        short = self.embed_texts(["a"])
        self.tokenize.pad_to_length = True
        return not torch.allclose(short, self.embed_texts(["a"]), atol=1e-5)

    def _check(self) -> None:
        image, text = self.embed_images(torch.zeros(1, 3, *self.image_shape)), self.embed_texts(["a"])
        if image.ndim != 2 or image.shape != text.shape:
            raise UserError(
                f"'{self.id}' cannot be used: expected one vector of the same width for an image and a text, not "
                f"{tuple(image.shape[1:])} and {tuple(text.shape[1:])}"
            )


class Tokenize:
    """Sentences to tokens, with room for context vectors.

    Attributes:
        tokenizer: the model's own, of transformers. context_length: how many tokens the text tower reads.
        pad_to_length: whether :meth:`inputs` fills every text up to this length, or up to the longest.
    """

    def __init__(self, tokenizer: Any, context_length: int):
        self.tokenizer, self.context_length, self.pad_to_length = tokenizer, context_length, False
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        first = tokenizer("a").input_ids[0]
        self.start = int(first in tokenizer.all_special_ids and first != tokenizer.unk_token_id)

    @property
    def gives_mask(self) -> bool:
        """Whether the model was trained to leave padding out."""
        return "attention_mask" in self.tokenizer.model_input_names

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """(n, L) tokens of full length."""
        return self.padded(self.rows(texts), True)["input_ids"]

    def rows(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text, without padding. A text that is too long loses its end, but not its end token."""
        return self.tokenizer(texts, truncation=True, max_length=self.context_length).input_ids

    def inputs(self, texts: list[str], vectors: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """What the text tower takes, and (n, L) where context vectors belong: behind the start token. Copies of the
        first token hold their places; they look neither like padding nor like an end.

        Raises:
            UserError: they do not fit.
        """
        start, rows = self.start, self.rows(texts)
        rows = [row[:start] + row[:1] * vectors + row[start:] for row in rows]
        if vectors and max(map(len, rows)) > self.context_length:
            raise UserError(
                f"{vectors} context vectors do not fit before the texts: the end of one would be cut; shorten it"
            )
        tokens = self.padded(rows, self.pad_to_length)
        places_NL = torch.zeros_like(tokens["input_ids"], dtype=torch.bool)
        for row, place_L in zip(rows, places_NL, strict=True):
            first = start + (len(place_L) - len(row) if self.tokenizer.padding_side == "left" else 0)
            place_L[first : first + vectors] = True
        return tokens, places_NL

    def padded(self, rows: list[list[int]], to_length: bool) -> dict[str, torch.Tensor]:
        self.tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True  # it is no mistake
        length = self.context_length if to_length else None
        padding = "max_length" if to_length else "longest"
        return dict(self.tokenizer.pad({"input_ids": rows}, padding=padding, max_length=length, return_tensors="pt"))


class Preprocessing:
    """A model's own image processor up to [0, 1]. Its normalisation is measured on plain images, and undone.

    Raises:
        UserError: it gives patches, sizes that depend on the image, or a normalisation of another kind.
    """

    def __init__(self, id: str, processor: Any):
        self._processor = processor
        self.words = processor.to_json_string()
        with loading(id):
            shapes = {tuple(self._normalised(Image.new("RGB", size)).shape) for size in ((64, 64), (96, 48), (48, 96))}
        shape = shapes.pop()
        if len(shape) != 3 or shape[0] != 3:
            raise UserError(
                f"'{id}' cannot be used: its image processor cuts an image into patches (NaFlex); choose a model of "
                "one fixed image size"
            )
        if shapes:
            raise UserError(f"'{id}' cannot be used: its image processor gives images of several sizes")
        black, grey, white = (self._middle(value) for value in (0, 51, 255))  # 51 is a fifth of 255
        std = 1 / (white - black)
        if not (torch.isfinite(std).all() and torch.allclose(grey, black + 0.2 / std, atol=1e-4)):
            raise UserError(f"'{id}' cannot be used: its image processor does more than a mean and a deviation")
        self.mean, self.std = tuple((-black * std).tolist()), tuple(std.tolist())
        self._mean, self._std = (-black * std)[:, None, None], std[:, None, None]

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return (self._normalised(image) * self._std + self._mean).clamp(0, 1)

    def _normalised(self, image: Image.Image) -> torch.Tensor:
        return self._processor(images=image, return_tensors="pt")["pixel_values"][0].float()

    def _middle(self, value: int) -> torch.Tensor:
        """The pixel in the middle of a plain image, which no padding reaches."""
        pixels = self._normalised(Image.new("RGB", (64, 64), (value, value, value)))
        return pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2]


def vectors(output: Any) -> torch.Tensor:
    """What ``get_image_features`` and ``get_text_features`` mean: a tensor, or the pooled part of an output object."""
    return (output if isinstance(output, torch.Tensor) else output.pooler_output).float()


def _logit_scale(id: str, network: Any) -> float:
    if hasattr(network, "logit_scale"):
        return float(network.logit_scale.exp())
    if hasattr(network, "temperature"):
        return 1 / float(network.temperature)
    raise UserError(f"'{id}' cannot be used: a {type(network).__name__} has no scale for its cosines")


def _lower_case(tokenizer: Any) -> None:
    """SigLIP 2 was trained on lower-case texts, but models of a fixed image size come with Gemma's tokenizer, which
    leaves them as they are."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and tokenizer("A").input_ids != tokenizer("a").input_ids:
        from tokenizers import normalizers

        own = [backend.normalizer] if backend.normalizer is not None else []
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])


def _load(id: str, name: str) -> TextEncoder:
    """A teacher, or what reads texts only.

    Raises:
        UserError: it is neither.
    """
    check_place(name, "config.json", "modules.json")
    if Path(name).is_dir() and not Path(name, "config.json").is_file():
        return SentenceEncoder(id, name)
    checkpoint = find_checkpoint(id, name)
    if checkpoint.is_dual_encoder:
        return HuggingFaceTeacher(checkpoint)
    if checkpoint.reads_texts_only:
        return SentenceEncoder(id, name)
    raise UserError(
        f"'{id}' cannot be used: a {checkpoint.model_class.__name__} is no model that embeds images and texts "
        "(CLIP, SigLIP, ALIGN ...), and none that reads texts only"
    )


def _load_teacher(id: str, name: str) -> HuggingFaceTeacher:
    loaded = _load(id, name)
    if not isinstance(loaded, HuggingFaceTeacher):
        raise UserError(f"'{id}' reads texts only and cannot be a teacher: give it as --text-encoder")
    return loaded


def _check(id: str, name: str, reads_texts: bool) -> None:
    require("transformers", "hf")
    check_place(name, "config.json", "modules.json")
    if Path(name, "config.json").is_file() and not reads_texts and not find_checkpoint(id, name).is_dual_encoder:
        raise UserError(f"'{id}' does not embed images and texts, and cannot be a teacher")


KIND = Kind(
    gives="vlm",
    load=_load_teacher,
    check=_check,
    forms={
        "hf:ORG/NAME": "a CLIP, SigLIP, ALIGN or their kin of transformers, on the Hugging Face hub",
        "hf:PATH": "the same in a folder with config.json, model.safetensors and its processor's files",
    },
    text_encoder=_load,
)

"""A teacher's text tower without torch: an ONNX file that carries its tokenizer, so that new names become a bank on the
machine that predicts."""

import html
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linnet.deploy.onnx_session import open_session, read_meta
from linnet.errors import UserError, require
from linnet.text.bank import TextBank
from linnet.text.classes import ClassInfo, class_sentences
from linnet.text.twins import check_read_apart

BATCH = 256
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # CLIP's words: letters, one digit, other marks
CHECKED = (
    "a photo of a cat.",
    "Two Dogs, 3 birds &amp; a Fox’s “den”…",
    "  a   naïve café-au-lait\tbird ",
    "word " * 200,
    "",
)


class OnnxTextTower:
    """Embeds texts with ``text_tower.onnx``, as 'linnet export --text-tower' writes it.

    Raises:
        UserError: an extra is not installed, or the file is something else.
    """

    def __init__(self, path: Path):
        self._session = open_session(path, str(path))
        meta = read_meta(self._session, path)
        if "tokenizer" not in meta:
            raise UserError(f"{path} holds no text tower: 'linnet export RUN --text-tower' writes one")
        self.teacher, self.teacher_hash = meta["teacher"], meta["teacher_hash"]
        self.templates = tuple(meta["templates"])
        self._tokenizer = Tokenizer(meta["tokenizer"])

    def bank(self, classes: Sequence[ClassInfo], templates: tuple[str, ...] | None = None) -> TextBank:
        """One unit vector per class, from its sentences (see :func:`linnet.text.classes.class_sentences`)."""
        templates = templates or self.templates
        sentences = [class_sentences(info, templates) for info in classes]
        check_read_apart(self.teacher, classes, sentences, self._tokenizer.rows, self._tokenizer.unknown_token)
        rows = self._embed([sentence for own in sentences for sentence in own])
        ends = np.cumsum([len(own) for own in sentences])
        means = np.stack([part.mean(axis=0) for part in np.split(rows, ends[:-1])])
        unit = means / np.linalg.norm(means, axis=1, keepdims=True)
        names = tuple(info.name for info in classes)
        return TextBank(names, unit, self.teacher, self.teacher_hash, templates)

    def _embed(self, texts: list[str]) -> np.ndarray:
        parts, inputs = [], [own.name for own in self._session.get_inputs()]
        for start in range(0, len(texts), BATCH):
            encoded = self._tokenizer.encode(texts[start : start + BATCH])
            parts.append(self._session.run(None, {name: encoded[name] for name in inputs})[0])
        return np.concatenate(parts)


class Tokenizer:
    """Texts to tokens (n, L), int64, as the teacher's own tokenizer does it, without torch.

    Args:
        description: what :func:`portable_tokenizer` wrote.
    """

    def __init__(self, description: Mapping[str, str]):
        self._clean = description["clean"]
        self._tokenizer = require("tokenizers", "onnx").Tokenizer.from_str(description["tokenizer"])

    def encode(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """``tokens``, and ``mask``, which is 0 on padding."""
        encoded = self._tokenizer.encode_batch([_cleaned(text, self._clean) for text in texts])
        rows = {"tokens": [one.ids for one in encoded], "mask": [one.attention_mask for one in encoded]}
        return {name: np.array(row, dtype=np.int64) for name, row in rows.items()}

    @property
    def unknown_token(self) -> int | None:
        """The token of whatever it does not know, if it has one."""
        token = getattr(self._tokenizer.model, "unk_token", None)
        return None if token is None else self._tokenizer.token_to_id(token)

    def rows(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        return [tuple(row) for row in self(texts).tolist()]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode(texts)["tokens"]


def portable_tokenizer(tokenize: Any, sentences: Sequence[str]) -> dict[str, str]:
    """A teacher's tokenizer for :class:`Tokenizer`, compared with it on sentences.

    Args:
        tokenize: open_clip's SimpleTokenizer or HFTokenizer, or an ``hf:`` teacher's, which cleans no text.

    Raises:
        UserError: it is of another kind, or the two do not agree.
    """
    tokenizers = require("tokenizers", "onnx")
    clean = getattr(tokenize, "clean_fn", None)
    kind = "none" if clean is None else getattr(clean, "__name__", "").removeprefix("_clean_")
    if kind not in ("lower", "whitespace", "canonicalize", "none") or getattr(tokenize, "reduction_fn", None):
        raise UserError(f"a tokenizer of the kind {type(tokenize).__name__} cannot be exported")
    own = _of_clip(tokenize, tokenizers) if hasattr(tokenize, "bpe_ranks") else _of_transformers(tokenize, tokenizers)
    description = {"tokenizer": own.to_str(), "clean": kind}
    texts = [*CHECKED, *sentences]
    for text, ours, theirs in zip(texts, Tokenizer(description)(texts), tokenize(texts).numpy(), strict=True):
        if not np.array_equal(ours, theirs):
            raise UserError(
                f"this teacher's tokenizer ({type(tokenize).__name__}) cannot be exported: it reads '{text[:40]}' "
                "differently; make banks with 'linnet embed' on a machine with torch"
            )
    return description


def _of_clip(tokenize: Any, tokenizers: Any) -> Any:
    """CLIP's byte-pair encoding."""
    merges = sorted(tokenize.bpe_ranks, key=tokenize.bpe_ranks.get)
    model = tokenizers.models.BPE(
        vocab=dict(tokenize.encoder), merges=merges, end_of_word_suffix="</w>", continuing_subword_prefix=""
    )
    own = tokenizers.Tokenizer(model)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), behavior="removed", invert=True)
    bytes_ = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    own.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, bytes_])
    start, end = "<start_of_text>", "<end_of_text>"
    special = [(token, tokenize.encoder[token]) for token in (start, end)]
    own.post_processor = tokenizers.processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=special)
    own.enable_truncation(tokenize.context_length)
    own.enable_padding(length=tokenize.context_length, pad_id=0, pad_token="!")
    return own


def _of_transformers(tokenize: Any, tokenizers: Any) -> Any:
    """A fast tokenizer of transformers inside open_clip's HFTokenizer or an ``hf:`` teacher's."""
    inner: Any = getattr(tokenize, "tokenizer", tokenize)
    if getattr(inner, "backend_tokenizer", None) is None:
        raise UserError(f"a tokenizer of the kind {type(inner).__name__} cannot be exported")
    own = tokenizers.Tokenizer.from_str(inner.backend_tokenizer.to_str())
    own.enable_truncation(tokenize.context_length)
    side, pad = getattr(inner, "padding_side", "right"), inner.pad_token
    own.enable_padding(direction=side, length=tokenize.context_length, pad_id=inner.pad_token_id, pad_token=pad)
    return own


def _cleaned(text: str, kind: str) -> str:
    """open_clip's cleaning of a text, by its name."""
    if kind == "none":
        return text
    ftfy = require("ftfy", "onnx")
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if kind == "canonicalize":
        text = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation))
    text = " ".join(text.split())
    return text if kind == "whitespace" else text.lower()

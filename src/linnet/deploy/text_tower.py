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
        rows = self._embed([sentence for own in sentences for sentence in own])
        ends = np.cumsum([len(own) for own in sentences])
        means = np.stack([part.mean(axis=0) for part in np.split(rows, ends[:-1])])
        unit = means / np.linalg.norm(means, axis=1, keepdims=True)
        names = tuple(info.name for info in classes)
        return TextBank(names, unit, self.teacher, self.teacher_hash, templates)

    def _embed(self, texts: list[str]) -> np.ndarray:
        parts = []
        for start in range(0, len(texts), BATCH):
            parts.append(self._session.run(None, {"tokens": self._tokenizer(texts[start : start + BATCH])})[0])
        return np.concatenate(parts)


class Tokenizer:
    """Texts to tokens (n, L), int64, as open_clip does it, without torch.

    Args:
        description: what :func:`portable_tokenizer` wrote.
    """

    def __init__(self, description: Mapping[str, str]):
        self._clean = description["clean"]
        self._tokenizer = require("tokenizers", "onnx").Tokenizer.from_str(description["tokenizer"])

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        encoded = self._tokenizer.encode_batch([_cleaned(text, self._clean) for text in texts])
        return np.array([one.ids for one in encoded], dtype=np.int64)


def portable_tokenizer(tokenize: Any, sentences: Sequence[str]) -> dict[str, str]:
    """An open_clip tokenizer for :class:`Tokenizer`, compared with it on sentences.

    Args:
        tokenize: open_clip's SimpleTokenizer or HFTokenizer.

    Raises:
        UserError: it is of another kind, or the two do not agree.
    """
    tokenizers = require("tokenizers", "onnx")
    kind = getattr(getattr(tokenize, "clean_fn", None), "__name__", "").removeprefix("_clean_")
    if kind not in ("lower", "whitespace", "canonicalize") or getattr(tokenize, "reduction_fn", None):
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
    """A fast tokenizer of transformers inside open_clip's HFTokenizer."""
    inner: Any = getattr(tokenize, "tokenizer", None)
    if getattr(inner, "backend_tokenizer", None) is None:
        raise UserError(f"a tokenizer of the kind {type(tokenize).__name__} cannot be exported")
    own = tokenizers.Tokenizer.from_str(inner.backend_tokenizer.to_str())
    own.enable_truncation(tokenize.context_length)
    pad = inner.pad_token
    own.enable_padding(length=tokenize.context_length, pad_id=inner.pad_token_id, pad_token=pad)
    return own


def _cleaned(text: str, kind: str) -> str:
    """open_clip's cleaning of a text, by its name."""
    ftfy = require("ftfy", "onnx")
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if kind == "canonicalize":
        text = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation))
    text = " ".join(text.split())
    return text if kind == "whitespace" else text.lower()

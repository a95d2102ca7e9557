"""A teacher's text tower without torch: an ONNX file that carries its tokenizer, so that new names become a bank on the
machine that predicts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linnet.banks import TextBank
from linnet.data.manifest import ClassInfo
from linnet.data.names import class_sentences
from linnet.errors import UserError, require
from linnet.runtime import open_session, read_meta

BATCH = 256
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # CLIP's words: letters, one digit, other marks
PUNCTUATION = r"[!-/:-@\[-`{-~]"
CHECKED = ("a photo of a cat.", "Two Dogs, 3 birds & a Fox's den", "  a   naïve café-au-lait\tbird ", "word " * 200)


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
        self._tokenizer = require("tokenizers", "onnx").Tokenizer.from_str(meta["tokenizer"])

    def bank(self, classes: Sequence[ClassInfo], templates: tuple[str, ...] | None = None) -> TextBank:
        """One unit vector per class, from its sentences (see :func:`linnet.data.names.class_sentences`)."""
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
            encoded = self._tokenizer.encode_batch(texts[start : start + BATCH])
            tokens = np.array([one.ids for one in encoded], dtype=np.int64)
            parts.append(self._session.run(None, {"tokens": tokens})[0])
        return np.concatenate(parts)


def portable_tokenizer(tokenize: Any, sentences: Sequence[str]) -> str:
    """An open_clip tokenizer as JSON of the ``tokenizers`` library, compared with it on sentences.

    Repairs of broken Unicode (ftfy) and of HTML entities are left out.

    Args:
        tokenize: open_clip's SimpleTokenizer or HFTokenizer.

    Raises:
        UserError: it is of another kind, or the two do not agree.
    """
    tokenizers = require("tokenizers", "onnx")
    own = _of_clip(tokenize, tokenizers) if hasattr(tokenize, "bpe_ranks") else _of_transformers(tokenize, tokenizers)
    for text in [*CHECKED, *sentences]:
        if own.encode(text).ids != tokenize([text])[0].tolist():
            raise UserError(
                f"this teacher's tokenizer ({type(tokenize).__name__}) cannot be exported: it reads '{text[:40]}' in "
                "another way; make banks with 'linnet embed' where torch is"
            )
    return own.to_str()


def _of_clip(tokenize: Any, tokenizers: Any) -> Any:
    """CLIP's byte-pair encoding."""
    merges = sorted(tokenize.bpe_ranks, key=tokenize.bpe_ranks.get)
    model = tokenizers.models.BPE(
        vocab=dict(tokenize.encoder), merges=merges, end_of_word_suffix="</w>", continuing_subword_prefix=""
    )
    own = tokenizers.Tokenizer(model)
    own.normalizer = _cleaning(tokenize, tokenizers)
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
    before = [_cleaning(tokenize, tokenizers), *([own.normalizer] if own.normalizer is not None else [])]
    own.normalizer = tokenizers.normalizers.Sequence(before)
    own.enable_truncation(tokenize.context_length)
    pad = inner.pad_token
    own.enable_padding(length=tokenize.context_length, pad_id=inner.pad_token_id, pad_token=pad)
    return own


def _cleaning(tokenize: Any, tokenizers: Any) -> Any:
    """open_clip's cleaning of a text, by its name."""
    parts, kind = tokenizers.normalizers, tokenize.clean_fn.__name__
    spaces = [parts.Replace(tokenizers.Regex(r"\s+"), " "), parts.Strip()]
    if kind == "_clean_whitespace":
        return parts.Sequence(spaces)
    if kind == "_clean_lower":
        return parts.Sequence([parts.NFC(), *spaces, parts.Lowercase()])
    if kind == "_clean_canonicalize":
        bare = [parts.Replace("_", " "), parts.Replace(tokenizers.Regex(PUNCTUATION), ""), parts.Lowercase()]
        return parts.Sequence([*bare, *spaces])
    raise UserError(f"a tokenizer that cleans texts by '{kind}' cannot be exported")

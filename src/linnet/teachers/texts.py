"""Texts to unit vectors: class names become the text bank of a vision-language teacher, texts about images are embedded
once and kept.

Shapes: B batch, C classes, E teacher embedding width, M texts of an image, N images, P context vectors, W token width.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from linnet.data.digests import DIGEST_BYTES
from linnet.progress import Bar
from linnet.teachers.base import TextEncoder, VisionLanguageTeacher
from linnet.teachers.cache import TeacherCache
from linnet.text.bank import TextBank
from linnet.text.classes import ClassInfo, class_sentences
from linnet.text.twins import check_read_apart


def text_vectors(
    teacher: VisionLanguageTeacher,
    classes: Sequence[ClassInfo],
    templates: Sequence[str],
    context_PW: torch.Tensor | None = None,
) -> torch.Tensor:
    """One vector per class: the mean of its sentences' unit embeddings, unit length again (CLIP, section 3.1.4).

    A sentence that is too long for the text tower loses its end.

    Args:
        context_PW: token vectors before a class's first sentence, which then stands alone and has to fit (see
            :meth:`VisionLanguageTeacher.embed_texts`).

    Returns:
        (C, E) float32, on the teacher's device, differentiable in ``context_PW``.

    Raises:
        UserError: no template, or one without ``{}``, or no room for the context.
    """
    sentences = [class_sentences(info, templates)[: None if context_PW is None else 1] for info in classes]
    embedded = teacher.embed_texts([sentence for own in sentences for sentence in own], context_PW)
    means = [part.mean(dim=0) for part in embedded.split([len(own) for own in sentences])]
    return F.normalize(torch.stack(means), dim=1)


def check_class_texts(teacher: VisionLanguageTeacher, classes: Sequence[ClassInfo], templates: Sequence[str]) -> None:
    """
    Raises:
        UserError: two classes of which the teacher reads the same, or templates that are none.
    """
    sentences = [class_sentences(info, templates) for info in classes]
    check_read_apart(teacher.id, classes, sentences, teacher.tokens, teacher.unknown_token)


def text_bank(
    teacher: VisionLanguageTeacher,
    classes: Sequence[ClassInfo],
    templates: Sequence[str],
    context_PW: torch.Tensor | None = None,
) -> TextBank:
    """The same vectors as a bank, as a student carries it and ``linnet embed`` writes it."""
    with torch.no_grad():
        rows_CE = text_vectors(teacher, classes, templates, context_PW).cpu().numpy()
    context = None if context_PW is None else context_PW.detach().cpu().numpy()
    names = tuple(info.name for info in classes)
    return TextBank(names, rows_CE, teacher.id, teacher.fingerprint(), tuple(templates), context)


def bank_like(teacher: VisionLanguageTeacher, bank: TextBank, classes: Sequence[ClassInfo]) -> TextBank:
    """A bank of other classes, made as ``bank`` was: with its templates and its learned context, if it has one.

    Raises:
        UserError: ``bank`` is of another teacher.
    """
    context = None
    if bank.context_PW is not None:
        context = torch.from_numpy(bank.context_PW).to(next(teacher.parameters()).device)
    made = text_bank(teacher, classes, bank.templates, context)
    bank.check_teacher(made.teacher_hash, f"'{teacher.id}'")
    return made


class ImageTexts:
    """Embeddings of the texts of N images (or classes), in half precision on the CPU, each text embedded once, ever.

    Args:
        encoder: reads them. texts: of each image, any number. folder: of the cache; by default linnet's.
    """

    def __init__(self, encoder: TextEncoder, texts: Sequence[tuple[str, ...]], folder: Path | None = None):
        distinct = list(dict.fromkeys(text for own in texts for text in own))
        row = {text: i for i, text in enumerate(distinct)}
        most = max(map(len, texts))
        self.index_NM = torch.tensor([[*(row[text] for text in own), *[-1] * (most - len(own))] for own in texts])
        self.rows_TE = embed_cached(encoder, distinct, folder)

    @property
    def width(self) -> int:
        return self.rows_TE.shape[1]

    def __call__(self, index_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of some images: embeddings (B, M, E), and which of them there are (B, M)."""
        index_BM = self.index_NM[index_B]
        return self.rows_TE[index_BM.clamp(min=0)], index_BM >= 0

    def means(self) -> torch.Tensor:
        """(N, E) float32: the mean of each image's (or class's) texts."""
        text_NME, has_NM = self(torch.arange(len(self.index_NM)))
        return (text_NME.float() * has_NM[:, :, None]).sum(dim=1) / has_NM.sum(dim=1, keepdim=True)

    def one(self, index_B: torch.Tensor, number: int) -> torch.Tensor:
        """(B, E): text ``number`` of each image, which all have at least one, counted round and round."""
        index_BM = self.index_NM[index_B]
        own_B = number % (index_BM >= 0).sum(dim=1)
        return self.rows_TE[index_BM.gather(1, own_B[:, None])[:, 0]]

    def first(self) -> torch.Tensor:
        """(N, E) float32: the first text of each image, NaN where there is none."""
        index_N = self.index_NM[:, 0]
        return self.rows_TE[index_N.clamp(min=0)].float().masked_fill((index_N < 0)[:, None], torch.nan)


def embed_cached(encoder: TextEncoder, texts: Sequence[str], folder: Path | None = None) -> torch.Tensor:
    """(n, E) float16 unit vectors of texts, from the cache where the same encoder read the same text before."""
    hashes = [hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest() for text in texts]
    digests = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, DIGEST_BYTES)
    cache = TeacherCache(encoder, "texts", folder)

    with Bar(f"texts of {encoder.id}", len(texts)) as bar:
        cache.compute(digests, lambda rows: encoder.embed_texts([texts[row] for row in rows]), progress=bar.update)
    return cache.rows(digests)


def told_classes(rows_NE: torch.Tensor, labels_N: np.ndarray, seed: int) -> tuple[float, float]:
    """How much texts give away: a linear probe (ridge regression) is fitted to 70 % of the labelled images, one text of
    each, and names the class of the others.

    Returns:
        Its accuracy, and that of the most frequent class. Images without a text (rows of NaN) do not count; with fewer
        than 10 left both are NaN.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import train_test_split

    known = np.flatnonzero((labels_N >= 0) & ~rows_NE[:, 0].isnan().numpy())
    if len(known) < 10:
        return float("nan"), float("nan")
    rows, labels = rows_NE[known].float().numpy(), labels_N[known]
    fitted, held, fitted_labels, held_labels = train_test_split(rows, labels, train_size=0.7, random_state=seed)
    probes = (RidgeClassifier(alpha=0.1), DummyClassifier(strategy="most_frequent"))
    told, chance = (probe.fit(fitted, fitted_labels).score(held, held_labels) for probe in probes)
    return float(told), float(chance)

"""Prompt calibration: context vectors learned on cached image embeddings, so that the class texts fit the data.

Shapes: N images, C classes, E teacher embedding width, P context vectors, W token width.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from safetensors.torch import load, save

from linnet.config import Config, PromptsConfig
from linnet.errors import UserError
from linnet.files import cache_folder, write_atomically
from linnet.teachers.base import VisionLanguageTeacher
from linnet.text.classes import ClassInfo, first_sentences

log = logging.getLogger("linnet")

VERSION = 1  # part of the key of every cached calibration: raise it when the result changes


@dataclass(frozen=True)
class Embedded:
    """Teacher embeddings of a split (N, E), unit length, with their class ids (N,), -1 where unlabelled."""

    rows_NE: torch.Tensor
    labels_N: torch.Tensor


def calibrated_bank(
    teacher: VisionLanguageTeacher,
    texts: list[str],
    train: Embedded,
    val: Embedded,
    config: PromptsConfig,
    seed: int,
    space: str,
    progress: Callable[[int, str], None] = lambda step, words: None,
) -> dict[str, torch.Tensor]:
    """:func:`calibrate`, or what it gave for the same teacher, embeddings, texts, settings and seed before.

    Args:
        space: names the teacher, its weights and its preprocessing.
    """
    key = hashlib.sha256(json.dumps([VERSION, space, texts, asdict(config), seed]).encode())
    for split in (train, val):
        for tensor in (split.rows_NE, split.labels_N):
            key.update(tensor.contiguous().numpy().tobytes())
    folder, name = cache_folder() / "prompts", key.hexdigest()[:32]
    for path in folder.glob(f"{name}-*.safetensors"):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == path.stem.partition("-")[2]:  # else it is damaged: computed again
            return load(content)
    prompts = calibrate(teacher, texts, train, val, config, seed, progress)
    content = save(prompts)
    write_atomically(folder / f"{name}-{hashlib.sha256(content).hexdigest()}.safetensors", content)
    return prompts


def calibrate(
    teacher: VisionLanguageTeacher,
    texts: list[str],
    train: Embedded,
    val: Embedded,
    config: PromptsConfig,
    seed: int,
    progress: Callable[[int, str], None] = lambda step, words: None,
) -> dict[str, torch.Tensor]:
    """Learn P context vectors before the class texts by cross-entropy on training embeddings; val chooses the epoch.

    Only the context is trained. Logits are the teacher's own scale times the cosines.

    Args:
        texts: one for each class.

    Returns:
        ``context_PW`` and ``bank_CE``, the unit text vectors that it gives, on the CPU.

    Raises:
        UserError: the longest text leaves no room in the text tower.

    Reference:
        PAND, arXiv 2602.07768, section 3.2, and its released code; Zhou et al.: Learning to Prompt for Vision-Language
        Models, IJCV 2022 (CoOp).

    Deviation:
        By default at most 400 steps at ten times the published learning rate; the epoch is chosen on val (theirs on
        test); fewer vectors where the tower has no room; of more than ``config.classes`` classes each step sees a part
        (:func:`drawn_classes`), val all.
    """
    device = next(teacher.parameters()).device
    labelled = train.labels_N >= 0
    rows, labels = train.rows_NE[labelled].to(device), train.labels_N[labelled].to(device)
    size, steps = min(config.batch_size, len(rows)), step_count(config, len(rows))
    generator = torch.Generator().manual_seed(seed)
    context = initial_context(teacher, texts, config.vectors, generator).to(device).requires_grad_()
    optimizer = torch.optim.SGD([context], lr=config.lr, momentum=0.9)
    best: tuple[tuple[float, float], dict[str, torch.Tensor]] | None = None
    step = epoch = best_epoch = 0
    while step < steps and epoch - best_epoch < config.patience:
        order = torch.randperm(len(rows), generator=generator).to(device)
        for index in order[: len(rows) // size * size].split(size)[: steps - step]:
            optimizer.param_groups[0]["lr"] = config.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            drawn = drawn_classes(labels[index].cpu(), len(texts), config.classes, generator)
            loss = _loss(teacher, texts, context, rows[index], labels[index], drawn)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([context], 1.0)
            optimizer.step()
            step += 1
        epoch += 1
        with torch.no_grad():
            bank_CE = teacher.embed_texts(texts, context).cpu()
        top1, entropy = score(bank_CE, teacher.logit_scale, val)
        progress(step, f"val top-1 {100 * top1:.1f} %")
        if best is None or (top1, -entropy) > best[0]:
            kept = {"context_PW": context.detach().cpu().clone(), "bank_CE": bank_CE}
            best, best_epoch = ((top1, -entropy), kept), epoch
    assert best is not None
    return best[1]


def _loss(
    teacher: VisionLanguageTeacher,
    texts: list[str],
    context_PW: torch.Tensor,
    rows_BE: torch.Tensor,
    labels_B: torch.Tensor,
    drawn: torch.Tensor,
) -> torch.Tensor:
    """Cross-entropy over the drawn classes, whose ids are in order."""
    bank_CE = teacher.embed_texts([texts[c] for c in drawn.tolist()], context_PW)
    targets_B = torch.searchsorted(drawn.to(labels_B.device), labels_B)
    return F.cross_entropy(teacher.logit_scale * rows_BE @ bank_CE.T, targets_B)


def drawn_classes(labels_B: torch.Tensor, classes: int, limit: int, generator: torch.Generator) -> torch.Tensor:
    """Ids, in order, of the classes that one step of a calibration tells apart: all, or those of its batch and as many
    random ones as make up ``limit``."""
    if classes <= limit:
        return torch.arange(classes)
    order = torch.randperm(classes, generator=generator)
    own = labels_B.unique()
    others = order[~torch.isin(order, own)][: max(0, limit - len(own))]
    return torch.cat([own, others]).sort().values


def initial_context(
    teacher: VisionLanguageTeacher, texts: list[str], vectors: int, generator: torch.Generator
) -> torch.Tensor:
    """(P, W) random vectors, as many as asked for or as fit before the longest text."""
    vectors = min(vectors, teacher.room(texts))
    if vectors < 1:
        raise UserError(
            "the class texts fill the teacher's text tower, so no context vector fits before them: "
            "shorten --teacher.templates, or use --teacher.head zero-shot or --prompts.text name"
        )
    return torch.empty(vectors, teacher.token_width).normal_(0, 0.02, generator=generator)


def prompt_templates(config: Config) -> tuple[str, ...]:
    """The template behind context vectors; "{}" is the bare name."""
    return ("{}",) if config.prompts.text == "name" else config.teacher.templates[:1]


def class_templates(config: Config) -> tuple[str, ...]:
    """The templates of whatever names the classes, context vectors or not."""
    return prompt_templates(config) if config.teacher.head == "prompt" else config.teacher.templates


def with_room(config: Config, teacher: VisionLanguageTeacher, classes: Sequence[ClassInfo]) -> Config:
    """No more context vectors than fit before the texts of these classes. Where none fits, learning them is refused
    when it is tried."""
    room = teacher.room(first_sentences(classes, prompt_templates(config)))
    return replace(config, prompts=replace(config.prompts, vectors=min(config.prompts.vectors, room)))


def step_count(config: PromptsConfig, images: int) -> int:
    """Steps of a calibration that is not stopped early."""
    steps = config.epochs * (images // min(config.batch_size, images))
    return min(steps, config.max_steps or steps)


def score(bank_CE: torch.Tensor, scale: float, split: Embedded) -> tuple[float, float]:
    """Top-1 and cross-entropy of a text bank on embeddings."""
    labelled = split.labels_N >= 0
    logits, labels = scale * split.rows_NE[labelled] @ bank_CE.T, split.labels_N[labelled]
    return float((logits.argmax(dim=1) == labels).float().mean()), float(F.cross_entropy(logits, labels))

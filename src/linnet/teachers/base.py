"""What a teacher is: a frozen network that turns images into embeddings (a VLM) or logits (a classifier).

Shapes: B batch, C classes, E teacher embedding width.
"""

import hashlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from PIL import Image
from torch import nn

from linnet.step import TeacherOutput, moved
from linnet.text.classes import ClassInfo

TeacherKind = Literal["vlm", "classifier"]
KIND_WORDS = {"vlm": "vision-language model", "classifier": "classifier"}


@dataclass(frozen=True)
class Kind:
    """A kind of teacher, as its id names it.

    Attributes:
        gives: what its teachers are. load: (whole id, the part behind the colon) -> the teacher.
        forms: how its ids are written -> what they are; the lines of ``linnet list teachers``.
        named: whether a colon and a name follow the kind. fine_tuned: whether a teacher that knows other classes is
        trained on the data first. known: its ids, for ``linnet list teachers PATTERN``.
        text_encoder: like ``load``, for an id that is given as a text encoder, if more than its teachers can be one.
        check: (whole id, the part behind the colon, whether it only has to read texts) -> an error, if it can be seen
        without the network that there is no such teacher.
    """

    gives: TeacherKind
    load: Callable[[str, str], "Teacher"]
    forms: Mapping[str, str]
    named: bool = True
    fine_tuned: bool = False
    known: Callable[[], Iterable[str]] = tuple
    text_encoder: "Callable[[str, str], TextEncoder] | None" = None
    check: Callable[[str, str, bool], None] = lambda id, name, reads_texts: None


class TextEncoder(Protocol):
    """Whatever turns sentences into vectors: a vision-language teacher, or a sentence encoder. A frozen module.

    Attributes:
        id: what the user typed. unknown_token: stands for whatever its tokenizer does not know, if it has such a token.
    """

    id: str
    unknown_token: int | None

    def tokens(self, texts: list[str]) -> list[tuple[int, ...]]:
        """What it reads of each text: texts with the same tokens have the same vector."""

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """n sentences -> (n, E), unit length, float32. A sentence that is too long loses its end."""

    def fingerprint(self) -> str:
        """Hash of architecture and weights: two encoders with one fingerprint give the same vectors."""

    def to(self, device: torch.device) -> "TextEncoder":
        """The same encoder on a device."""


class Teacher(nn.Module):
    """A frozen network in evaluation mode.

    Attributes:
        id: what the user typed. network: the wrapped model.
        eval_transform: its own evaluation preprocessing up to [0, 1]: a PIL image -> (3, height, width) float32.
        preprocessing: the same in words; part of the cache key.
        image_shape: height and width that the network was made for, in pixels.
        precision: "bf16" if it looks at images in bf16, where cached or live rows are computed.
    """

    kind: ClassVar[TeacherKind]
    precision: str = "fp32"

    def __init__(
        self, id: str, network: nn.Module, eval_transform: Callable[[Image.Image], torch.Tensor], preprocessing: str
    ):
        super().__init__()
        self.id = id
        self.network = network
        self.eval_transform = eval_transform
        self.preprocessing = preprocessing
        self.image_shape = tuple(eval_transform(Image.new("RGB", (64, 64))).shape[1:])
        super().train(False)
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions are faster so

    def train(self, mode: bool = True) -> "Teacher":
        """A teacher never leaves evaluation mode: stochastic depth stays off and batch statistics stay as they are."""
        return self

    def fingerprint(self) -> str:
        """Hash of architecture, weights and buffers: two teachers with one fingerprint give the same outputs."""
        return fingerprint(self.network)


class VisionLanguageTeacher(Teacher):
    """Embeds images and texts into one space.

    Attributes:
        logit_scale: factor on cosines that the model was trained with (CLIP: about 100).
        token_width: W, the width of its token vectors.
        unknown_token: stands for whatever its tokenizer does not know, if it has such a token.
    """

    kind = "vlm"
    logit_scale: float
    token_width: int
    unknown_token: int | None = None

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, height, width) in [0, 1] -> (B, E), unit length."""
        raise NotImplementedError

    def embed_texts(self, texts: list[str], context_PW: torch.Tensor | None = None) -> torch.Tensor:
        """n sentences -> (n, E), unit length.

        Args:
            context_PW: P token vectors that are placed between the start token and each text; the result is
                differentiable in them.

        Raises:
            UserError: with the context a text would lose its end (see :meth:`room`).
        """
        raise NotImplementedError

    def tokens(self, texts: list[str]) -> list[tuple[int, ...]]:
        """What it reads of each text: texts with the same tokens have the same vector."""
        raise NotImplementedError

    def room(self, texts: list[str]) -> int:
        """How many context vectors fit before the longest text, so that no end token is cut."""
        raise NotImplementedError


class ClassifierTeacher(Teacher):
    """Gives logits over classes of its own.

    Attributes:
        class_names: one name per logit, or None if the weights do not say.
        classes: the class table of a student that copies it; numbers where the weights have no names.
        class_weights: (own classes, D), the rows of its last linear layer; None if it ends otherwise.
        start: what a student starts from to become this teacher on other classes: its name, and whose weights (True:
        timm's own).
    """

    kind = "classifier"
    start: tuple[str, bool | Path]
    class_names: tuple[str, ...] | None
    classes: tuple[ClassInfo, ...]
    class_weights: torch.Tensor | None

    def knows(self, names: Sequence[str]) -> bool:
        """Whether its classes are these, in any order."""
        return self.class_names is not None and sorted(self.class_names) == sorted(names)

    def how_to_tune(self) -> str:
        """The command that trains it on other classes."""
        name, weights = self.start
        place = "true" if weights is True else shlex.quote(str(weights))
        return f"linnet distill DATA --method ce --student {name} --student.pretrained {place} --out runs/teacher"

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, height, width) in [0, 1] -> (B, own classes)."""
        raise NotImplementedError

    def watch(self, images: torch.Tensor, with_maps: bool = False) -> TeacherOutput:
        """Logits over its own classes, features and, on request, the maps of its stages, all differentiable in the
        images."""
        raise NotImplementedError


class ClassHead(NamedTuple):
    """From a teacher's cached rows to logits over the data's classes.

    A VLM's rows are embeddings: ``logits = scale * rows @ bank_CE.T``, or those of a linear ``probe`` (weights (C, E),
    biases (C,)). A classifier's rows are logits: ``order_C`` picks them; ``weights_CD`` are the weights behind them, if
    they come from one linear layer.
    """

    bank_CE: torch.Tensor | None = None
    scale: float = 1.0
    order_C: torch.Tensor | None = None
    probe: tuple[torch.Tensor, torch.Tensor] | None = None
    weights_CD: torch.Tensor | None = None

    @property
    def class_vectors(self) -> torch.Tensor | None:
        """One vector per class, near one another where the teacher finds classes alike: what its logits come from."""
        if self.probe is not None:
            return self.probe[0]
        return self.bank_CE if self.bank_CE is not None else self.weights_CD

    def to(self, device: torch.device) -> "ClassHead":
        """The same head with its tensors on a device; a row has to be on it, too."""
        probe = None if self.probe is None else (self.probe[0].to(device), self.probe[1].to(device))
        bank, order, weights = (moved(tensor, device) for tensor in (self.bank_CE, self.order_C, self.weights_CD))
        return self._replace(bank_CE=bank, order_C=order, probe=probe, weights_CD=weights)

    def __call__(self, rows: torch.Tensor) -> TeacherOutput:
        rows = rows.float()
        if self.bank_CE is not None:
            embedding = torch.nn.functional.normalize(rows, dim=1)
            if self.probe is not None:
                return TeacherOutput(embedding @ self.probe[0].T + self.probe[1], embedding)
            return TeacherOutput(self.scale * embedding @ self.bank_CE.T, embedding)
        return TeacherOutput(rows if self.order_C is None else rows[:, self.order_C])


def fingerprint(network: nn.Module) -> str:
    """Hash of the architecture (its printed form: two activations can share one set of weights) and of every tensor."""
    digest = hashlib.sha256(repr(network).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()

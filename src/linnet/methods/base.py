"""What a method is: a module that turns a batch and the student's output into weighted loss terms.

The training loop knows nothing else about methods. See docs/add-a-method.md.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import nn

from linnet.config import Config
from linnet.data.long_tail import class_counts
from linnet.data.manifest import Manifest
from linnet.losses import class_weights, cross_entropy, log_prior, mixed_cross_entropy
from linnet.step import Batch, Progress, StudentOutput, TeacherOutput
from linnet.students.student import Student
from linnet.teachers.base import ClassHead, Teacher, TeacherKind, TextEncoder
from linnet.text.classes import ClassInfo

TeacherNeed = Literal["none", "any"] | TeacherKind
StudentHead = Literal["classifier", "embedding", "dual"]


@dataclass(frozen=True)
class Needs:
    """What must be there for a method to work; checked before the teacher runs and before training.

    Attributes:
        teacher: the kind of teacher. texts: whether a text encoder is needed. head: what the student ends in. data:
        False for a method that makes its own images and stands alone, not in sums. maps: whether the student tells the
        feature maps of its stages. detached: whether the gradient of its logits ends at the features, so that its last
        layer is a probe of them. labels: whether it reads the labels of a batch beyond the cross-entropy, and so cannot
        cope with mixed images.
    """

    teacher: TeacherNeed = "any"
    texts: bool = False
    head: StudentHead = "classifier"
    data: bool = True
    maps: bool = False
    detached: bool = False
    labels: bool = False


class Batches(Protocol):
    """What the training loop reads: ``len`` is the number of steps in an epoch, :meth:`epoch` a function of its number,
    the state of the method at its start and the global random state, so that a resumed run is exact."""

    batch_size: int

    def __len__(self) -> int: ...

    def epoch(self, number: int) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class NoOptions:
    """For methods that have none."""


@dataclass(frozen=True)
class Context:
    """What a method may use to prepare itself, once, before training.

    Attributes:
        config: the run's resolved settings. classes: the class table.
        captions: of each training image, or None. labels_N: their class ids, -1 where unlabelled.
        text_encoder: for methods that need one.
        student_width: D, the width of the student's pooled features.
        teacher: the frozen teacher, or None. class_head: how its rows become logits (with the text bank of a VLM); None
            for a method without data, whose student has the teacher's classes.
        student_maps: (channels, height, width) of each stage of the student, for a method without data.
        answers: (rows, view) -> what the teacher says about training images; None without one.
    """

    config: Config
    classes: tuple[ClassInfo, ...]
    student_width: int
    teacher: Teacher | None
    class_head: ClassHead | None
    captions: tuple[tuple[str, ...], ...] | None = None
    labels_N: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    text_encoder: TextEncoder | None = None
    student_maps: tuple[tuple[int, ...], ...] = ()
    answers: Callable[[np.ndarray, int], TeacherOutput] | None = None

    @property
    def counts_C(self) -> np.ndarray:
        """Training images of each class."""
        return class_counts(self.labels_N, len(self.classes))


class Method(nn.Module):
    """Base of all methods.

    Class attributes:
        summary: one line for ``linnet list methods METHOD``. use: what it is for, in a few words, for the table of
        ``linnet list methods``. Options: a frozen dataclass of the method's settings.
        needs: what it needs. defaults: settings that travel with it, as ``{"train": {"lr": 1e-4}}``; files and
        arguments win.
    """

    summary: ClassVar[str] = ""
    use: ClassVar[str] = ""
    Options: ClassVar[type] = NoOptions
    needs: ClassVar[Needs] = Needs()
    defaults: ClassVar[Mapping[str, Any]] = {}

    prior_C: torch.Tensor | None
    weight_C: torch.Tensor | None

    def __init__(self, options: Any = None):
        super().__init__()
        self.options = options if options is not None else self.Options()
        self.label_smoothing = 0.0
        self.register_buffer("prior_C", None, persistent=False)
        self.register_buffer("weight_C", None, persistent=False)

    @classmethod
    def teacher_need(cls, options: Any) -> TeacherNeed:
        """The kind of teacher that these options ask for."""
        return cls.needs.teacher

    def check_settings(self, config: Config) -> None:
        """Called before anything is read.

        Raises:
            UserError: options that do not go together, or that have no effect.
        """

    def check_data(self, rows: Manifest) -> None:
        """Called with the training images before anything is loaded.

        Raises:
            UserError: they lack something that the method needs.
        """

    def prepare(self, context: Context) -> None:
        """Called once before training; modules made here are trained and checkpointed, and stay out of the student."""
        self.check_settings(context.config)
        train, counts_C = context.config.train, torch.from_numpy(context.counts_C)
        self.label_smoothing = train.label_smoothing
        if train.logit_adjustment:
            self.prior_C = log_prior(counts_C, train.logit_adjustment)
        if train.class_weights != "none":
            self.weight_C = class_weights(counts_C, 0.5 if train.class_weights == "square-root" else 1.0)

    def batches(self, loader: Batches | None, student: Student) -> Batches:
        """The batches of the training: those of the data, unless a method makes its own (``loader`` is None then)."""
        assert loader is not None
        return loader

    def hand_over(self, student: Student) -> None:
        """Called before training and at each epoch's end: what of the method's state the student carries."""

    def about(self) -> dict[str, Any]:
        """Called after training: what summary.json gets, under dotted keys."""
        return {}

    def numbers(self) -> dict[str, float]:
        """Called at each epoch's end: what metrics.jsonl gets beside the means of the terms."""
        return {}

    def pictures(self) -> torch.Tensor | None:
        """Called at each epoch's end: images (N, 3, S, S) in [0, 1] for the run's gallery, or None."""
        return None

    def cross_entropy(self, batch: Batch, student: StudentOutput) -> torch.Tensor:
        """The supervised term, with what ``train`` says about label smoothing and long tails."""
        return self.supervised(student.logits_BC, batch)

    def supervised(self, logits_BC: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The same of other logits than the student's own."""
        logits_BC = logits_BC if self.prior_C is None else logits_BC + self.prior_C
        own = (self.label_smoothing, self.weight_C)
        if batch.mixture is not None:
            return mixed_cross_entropy(logits_BC, batch.labels, batch.mixture.labels, batch.mixture.share, *own)
        return cross_entropy(logits_BC, batch.labels, *own)

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        """Weighted terms, scalars, in float32; their sum is minimised. The key "ce" is the supervised term's."""
        raise NotImplementedError

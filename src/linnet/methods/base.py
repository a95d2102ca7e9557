"""What a method is: a module that turns a batch and the student's output into weighted loss terms.

The training loop knows nothing else about methods. See docs/add-a-method.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import nn

from linnet.config import Config
from linnet.losses import cross_entropy
from linnet.step import Batch, Progress, StudentOutput
from linnet.students.student import Student
from linnet.teachers.base import ClassHead, Teacher, TeacherKind
from linnet.text.classes import ClassInfo

TeacherNeed = Literal["none", "any"] | TeacherKind
StudentHead = Literal["classifier", "embedding"]


@dataclass(frozen=True)
class Needs:
    """What must be there for a method to work; checked before the teacher runs and before training.

    Attributes:
        teacher: the kind of teacher. head: what the student ends in. data: False for a method that makes its own images
        and stands alone, not in sums. maps: whether the student tells the feature maps of its stages.
    """

    teacher: TeacherNeed = "any"
    head: StudentHead = "classifier"
    data: bool = True
    maps: bool = False


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
        captions: of each training image, or None.
        student_width: D, the width of the student's pooled features.
        teacher: the frozen teacher, or None. class_head: how its rows become logits (with the text bank of a VLM); None
            for a method without data, whose student has the teacher's classes.
        student_maps: (channels, height, width) of each stage of the student, for a method without data.
    """

    config: Config
    classes: tuple[ClassInfo, ...]
    student_width: int
    teacher: Teacher | None
    class_head: ClassHead | None
    captions: tuple[tuple[str, ...], ...] | None = None
    student_maps: tuple[tuple[int, ...], ...] = ()


class Method(nn.Module):
    """Base of all methods.

    Class attributes:
        summary: one line for ``linnet list``. Options: a frozen dataclass of the method's settings.
        needs: what it needs. defaults: settings that travel with it, as ``{"train": {"lr": 1e-4}}``; files and
        arguments win.
    """

    summary: ClassVar[str] = ""
    Options: ClassVar[type] = NoOptions
    needs: ClassVar[Needs] = Needs()
    defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, options: Any = None):
        super().__init__()
        self.options = options if options is not None else self.Options()
        self.label_smoothing = 0.0

    def prepare(self, context: Context) -> None:
        """Called once before training; modules made here are trained and checkpointed, and stay out of the student."""
        self.label_smoothing = context.config.train.label_smoothing

    def batches(self, loader: Batches | None, student: Student) -> Batches:
        """The batches of the training: those of the data, unless a method makes its own (``loader`` is None then)."""
        assert loader is not None
        return loader

    def hand_over(self, student: Student) -> None:
        """Called before training and at each epoch's end: what of the method's state the student carries."""

    def numbers(self) -> dict[str, float]:
        """Called at each epoch's end: what metrics.jsonl gets beside the means of the terms."""
        return {}

    def pictures(self) -> torch.Tensor | None:
        """Called at each epoch's end: images (N, 3, S, S) in [0, 1] for the run's gallery, or None."""
        return None

    def cross_entropy(self, batch: Batch, student: StudentOutput) -> torch.Tensor:
        return cross_entropy(student.logits_BC, batch.labels, self.label_smoothing)

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        """Weighted terms, scalars, in float32; their sum is minimised. The key "ce" is the supervised term's."""
        raise NotImplementedError

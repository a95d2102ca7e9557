"""What flows through a training step: a batch, what teacher and student say about it, and how far training has got.

Shapes: B batch, C classes, D width of the pooled features, E teacher embedding width, S student input side.
"""

from dataclasses import dataclass

import torch


def moved(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    """A tensor, if there is one, on a device."""
    return None if tensor is None else tensor.to(device)


@dataclass(frozen=True)
class TeacherOutput:
    """What the teacher says about a batch. ``logits_BC`` are over the data's classes, in the order of its class
    table. A classifier that is watched (see :meth:`linnet.teachers.base.ClassifierTeacher.watch`) also tells its
    features before the last layer and the maps of its stages."""

    logits_BC: torch.Tensor
    embedding_BE: torch.Tensor | None = None
    features_BD: torch.Tensor | None = None
    maps: tuple[torch.Tensor, ...] = ()

    def to(self, device: torch.device) -> "TeacherOutput":
        embedding, features = moved(self.embedding_BE, device), moved(self.features_BD, device)
        maps = tuple(stage.to(device) for stage in self.maps)
        return TeacherOutput(self.logits_BC.to(device), embedding, features, maps)


@dataclass(frozen=True)
class StudentOutput:
    """What a student says about a batch: pooled features before the last layer, logits, and from an embedding head the
    embedding (of any length); where they were asked for, also the feature maps of its stages, (B, channels, height,
    width) each."""

    features_BD: torch.Tensor
    logits_BC: torch.Tensor
    embedding_BE: torch.Tensor | None = None
    maps: tuple[torch.Tensor, ...] = ()

    def float(self) -> "StudentOutput":
        embedding = None if self.embedding_BE is None else self.embedding_BE.float()
        maps = tuple(stage.float() for stage in self.maps)
        return StudentOutput(self.features_BD.float(), self.logits_BC.float(), embedding, maps)


@dataclass(frozen=True)
class Mixture:
    """What each of B mixed images was mixed with: the labels of the others, -1 where unlabelled, and how much of it is
    its own, from 0 to 1."""

    labels: torch.Tensor
    share: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """One step's images.

    Attributes:
        index: (B,) rows of the training split. view: number of the view that was drawn of each.
        images: (B, 3, S, S) float32 in [0, 1]. labels: (B,) class ids, -1 where unlabelled.
        teacher: its outputs for these images, None for a method that needs no teacher.
        mixture: what they were mixed with, None for images as they are.
    """

    index: torch.Tensor
    view: int
    images: torch.Tensor
    labels: torch.Tensor
    teacher: TeacherOutput | None = None
    mixture: Mixture | None = None


@dataclass(frozen=True)
class Progress:
    """How far training has got: ``epoch`` of ``epochs``, counted from 0."""

    epoch: int
    epochs: int

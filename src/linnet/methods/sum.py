"""Sums of methods, such as ``pand+figkd:0.5``."""

from typing import Any

import torch
from torch import nn

from linnet.config import Config
from linnet.data.manifest import Manifest
from linnet.errors import UserError
from linnet.methods.base import Context, Method, Needs
from linnet.step import Batch, Progress, StudentOutput
from linnet.students.student import Student


class MethodSum(Method):
    """The first method's terms plus, for each other one, its weight times its terms other than "ce"."""

    def __init__(self, parts: list[tuple[Method, float]]):
        super().__init__()
        self.parts = nn.ModuleList([part for part, _ in parts])
        self.weights = [weight for _, weight in parts]
        self.needs = Needs(maps=any(part.needs.maps for part, _ in parts))  # type: ignore[misc]

    def prepare(self, context: Context) -> None:
        for part in self.parts:
            part.prepare(context)  # type: ignore[operator]

    def check_settings(self, config: Config) -> None:
        if any(part.needs.detached for part in self.parts):  # type: ignore[union-attr]
            raise UserError("specmatch.labels probe keeps all else from the features: it cannot be part of a sum")
        for part in self.parts:
            part.check_settings(config)  # type: ignore[operator]

    def check_data(self, rows: Manifest) -> None:
        for part in self.parts:
            part.check_data(rows)  # type: ignore[operator]

    def about(self) -> dict[str, Any]:
        return {name: value for part in self.parts for name, value in part.about().items()}  # type: ignore[operator]

    def hand_over(self, student: Student) -> None:
        for part in self.parts:
            part.hand_over(student)  # type: ignore[operator]

    def numbers(self) -> dict[str, float]:
        return {name: value for part in self.parts for name, value in part.numbers().items()}  # type: ignore[operator]

    def pictures(self) -> torch.Tensor | None:
        """Those of the first part that has some."""
        pictures = (part.pictures() for part in self.parts)  # type: ignore[operator]
        return next((images for images in pictures if images is not None), None)

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        terms = dict(self.parts[0](batch, student, progress))
        for part, weight in zip(self.parts[1:], self.weights[1:], strict=True):
            for name, term in part(batch, student, progress).items():
                if name != "ce":
                    terms[name] = terms.get(name, 0.0) + weight * term
        return terms

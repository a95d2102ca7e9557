"""``dfkd``: a small copy of a classifier without a single image (DFKD-FGVC, ICCV 2023).

Shapes: B batch, C classes, D student width, E projection width, S image side.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from linnet.config import Config
from linnet.errors import UserError, first_line
from linnet.fields import Bounds, Count, NonNegative
from linnet.losses import class_balance, divergence, embedding_error, feature_contrast
from linnet.methods.base import Batches, Context, Method, Needs
from linnet.methods.dfkd.attention import HighOrderAttention
from linnet.methods.dfkd.batch_norm import BatchNormStatistics
from linnet.methods.dfkd.generator import Adversary, Generator, Upsampling
from linnet.step import Batch, Progress, StudentOutput, TeacherOutput
from linnet.students.student import Student
from linnet.teachers.base import ClassifierTeacher

log = logging.getLogger("linnet")

STAGES = 4  # those of the paper's networks, from the end; timm counts a stem before them
PROJECTION = 128
PICTURES = 10
COLLAPSED = 0.01  # of the widest spread so far


@dataclass(frozen=True)
class DFKDOptions:
    bn_weight: NonNegative = 0.3
    """Weight of the distance to the statistics of the teacher's BatchNorm layers, in the generator's loss (alpha)."""
    attention_weight: NonNegative = 10.0
    """Weight of the attended feature maps in the student's loss (beta)."""
    contrast_weight: NonNegative = 8.0
    """Weight of the contrast between the networks' features in the student's loss (gamma)."""
    adversarial_weight: NonNegative = 1.0
    """Weight of the disagreement between teacher and student, which the generator seeks."""
    one_hot_weight: NonNegative = 0.0
    """Weight of the teacher's cross-entropy with its own prediction, in the generator's loss (DAFL)."""
    balance_weight: NonNegative = 0.0
    """Weight of the entropy of the mean prediction, which the generator seeks (DAFL)."""
    kl: Literal["teacher-student", "student-teacher"] = "teacher-student"
    """Direction of the divergence: the first one is the reference distribution."""
    order: Annotated[int, Bounds(1, 8)] = 3
    """Highest order of the attention over feature maps."""
    contrast_temperature: Annotated[float, Bounds(0.001, 100.0)] = 0.1
    """Temperature of the contrast between the networks' features."""
    generator_steps: Annotated[int, Bounds(0)] = 20
    """Steps of the generator in each alternation; 0 keeps the random generator as it is."""
    student_steps: Count = 15
    """Steps of the student in each alternation."""
    alternations: Count = 50
    """Alternations that make an epoch."""
    generator_lr: Annotated[float, Bounds(1e-8, 100.0)] = 1e-3
    """Learning rate of the generator's Adam."""
    generator_clip: Annotated[float, Bounds(1e-6)] = 5.0
    """Gradient norm above which the generator's gradient is scaled down: its loss has no lower bound."""
    noise: Count = 100
    """Length of the noise vectors."""
    width: Count | None = None
    """Channels of the generator's last blocks, an eighth of those of its first map; auto: half the image's side, at
    most 64."""
    upsampling: Upsampling = "transposed"
    """How the generator's blocks double the side: by a transposed convolution of stride 2, or by doubled pixels before
    a convolution."""
    spatial_attention: NonNegative = 0.05
    """Strength of the attention in the generator (lambda); 0: none, a DCGAN."""
    generator_batch_norm: bool = True
    """BatchNorm in the generator's blocks."""


class DataFree(Method):
    """KL + attention_weight * L_MHAD + contrast_weight * L_SFCL, on images of a generator that is trained against them.

    In turn, ``generator_steps`` steps of the generator, with new noise each, which minimise

        bn_weight * L_BN - adversarial_weight * KL
        + one_hot_weight * CE(teacher, its argmax) - balance_weight * entropy of the teacher's mean prediction,

    and ``student_steps`` steps of the student.

    * L_BN: distance of the batch's statistics to those in the teacher's BatchNorm layers.
    * L_MHAD: the student's map of each stage is lifted to the teacher's width (1x1 convolution), both go through one
      mixed high-order attention, and their unit vectors are compared: 2 - 2 cos, mean over the batch, sum over stages.
    * L_SFCL: the features before the last layer, through a small network each, pick one another among the batch's.

    Networks whose last four stages differ in height or width are compared by the features before the last layer alone.
    The generator's steps are computed in float32, whatever ``train.precision``.

    Reference:
        DFKD-FGVC, ICCV 2023, arXiv 2404.12037.

    Deviation:
        the attention of a stage is shared by both networks and trained through the student's side alone, and the maps
        are compared as unit vectors (free attention can make any two maps equal). The generator is narrower below 128
        pixels (``width``) and sees the student in evaluation mode. Both gradients are clipped. KL(teacher, student)
        where the paper prints KL(student, teacher). Stages match by the size of their maps, so those of MobileNets do.
        Projections of 128, temperature 0.1, 50 alternations an epoch, and no weight decay on norms and biases, where
        the paper is silent.

    Raises:
        UserError: a teacher without BatchNorm layers (unless ``bn_weight`` is 0) or that cannot look at such images, an
            image size that the generator cannot make, a generator with nothing to learn, or that diverges or collapses.
    """

    widest: torch.Tensor
    summary = "no data: a generator makes images of what the student does not know yet (DFKD-FGVC, ICCV 2023)"
    use = "copying a classifier whose data are gone"
    Options = DFKDOptions
    needs = Needs(teacher="classifier", data=False)
    defaults: ClassVar[dict[str, Any]] = {
        "student": {"pretrained": False},
        "train": {
            "epochs": 200,
            "optimizer": "sgd",
            "nesterov": False,
            "lr": 0.01,
            "weight_decay": 5e-4,
            "warmup": 0.0,
            "select": "last",
        },
    }

    def check_settings(self, config: Config) -> None:
        own = self.options
        weights = (own.bn_weight, own.adversarial_weight, own.one_hot_weight, own.balance_weight)
        if own.generator_steps and not any(weights):
            raise UserError(
                "all weights of the generator's loss are 0: raise one, or do not train it: --dfkd.generator-steps 0"
            )

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        own, size, teacher = self.options, context.config.student.image_size, context.teacher
        assert isinstance(teacher, ClassifierTeacher)
        self.watch = teacher.watch  # not the teacher itself, whose weights would become state of the method
        self.statistics = BatchNormStatistics(teacher)
        if own.bn_weight and not self.statistics.layers:
            raise UserError(
                f"the teacher '{teacher.id}' has no BatchNorm layers, whose statistics tell the generator what its "
                "training images were like: use another teacher, or leave this term out with --dfkd.bn-weight 0"
            )
        self.batch_size, self.totals = context.config.train.batch_size, defaultdict[str, float](float)
        generator = Generator(
            size,
            own.upsampling,
            own.noise,
            own.width or min(64, size // 2),
            own.spatial_attention,
            own.generator_batch_norm,
        )
        self.register_buffer("widest", torch.zeros(()))
        self.adversary = Adversary(generator, own.generator_lr, own.generator_clip)
        student_width, student_maps = context.student_width, context.student_maps[-STAGES:]
        teacher_width, teacher_maps = _shapes(teacher, size)
        self.by_stages = bool(student_maps) and [s[1:] for s in student_maps] == [t[1:] for t in teacher_maps]
        if own.attention_weight:
            widths = [(student_width, teacher_width)]
            if self.by_stages:
                widths = [(s[0], t[0]) for s, t in zip(student_maps, teacher_maps, strict=True)]
                self.needs = replace(self.needs, maps=True)  # type: ignore[misc]
            self.lifts = nn.ModuleList(nn.Conv2d(student, teacher, 1) for student, teacher in widths)
            self.attentions = nn.ModuleList(HighOrderAttention(teacher, own.order) for _, teacher in widths)
        if own.contrast_weight:
            self.project_student, self.project_teacher = projection(student_width), projection(teacher_width)

    def batches(self, loader: Batches | None, student: Student) -> Batches:
        if self.options.attention_weight and not self.by_stages:
            log.info("dfkd: the stages of student and teacher differ: only their last features are compared")
        return Alternations(self, student)

    def forward(self, batch: Batch, student: StudentOutput, progress: Progress) -> dict[str, torch.Tensor]:
        own, teacher = self.options, batch.teacher
        assert teacher is not None
        assert teacher.features_BD is not None
        terms = {"kl": self.disagreement(student.logits_BC, teacher.logits_BC)}
        if own.attention_weight:
            pairs = zip(self._compared(student), self._compared(teacher), self.lifts, self.attentions, strict=True)
            stages = [attended_distance(s, t, lift, attention) for s, t, lift, attention in pairs]
            terms["attention"] = own.attention_weight * torch.stack(stages).sum()
        if own.contrast_weight:
            projected = self.project_student(student.features_BD), self.project_teacher(teacher.features_BD)
            terms["contrast"] = own.contrast_weight * feature_contrast(*projected, own.contrast_temperature)
        return terms

    def disagreement(self, student_BC: torch.Tensor, teacher_BC: torch.Tensor) -> torch.Tensor:
        if self.options.kl == "teacher-student":
            return divergence(teacher_BC, student_BC)
        return divergence(student_BC, teacher_BC)

    def _compared(self, output: StudentOutput | TeacherOutput) -> tuple[torch.Tensor, ...]:
        assert output.features_BD is not None
        return output.maps[-STAGES:] if self.by_stages else (output.features_BD[:, :, None, None],)

    def generator_terms(self, images: torch.Tensor, student: Student) -> dict[str, torch.Tensor]:
        """The weighted terms that the generator minimises; gradients reach the images."""
        own, terms = self.options, {}
        with self.statistics if own.bn_weight else nullcontext():
            teacher_BC = self.watch(images).logits_BC.float()
        if own.adversarial_weight:
            terms["kl"] = -own.adversarial_weight * self.disagreement(student(images).logits_BC.float(), teacher_BC)
        if own.bn_weight:
            terms["bn"] = own.bn_weight * self.statistics.distance()
        if own.one_hot_weight:
            terms["one_hot"] = own.one_hot_weight * F.cross_entropy(teacher_BC, teacher_BC.argmax(dim=1))
        if own.balance_weight:
            terms["balance"] = own.balance_weight * class_balance(teacher_BC)
        return terms

    def numbers(self) -> dict[str, float]:
        """Means over the epoch: the generator's weighted terms, and the spread of the teacher's logits."""
        means = {f"generator.{name}": total / self.options.alternations for name, total in self.totals.items()}
        self.totals.clear()
        return means

    def pictures(self) -> torch.Tensor:
        return self.adversary.pictures(PICTURES)


class Alternations:
    """The batches of an epoch: before every ``student_steps`` of them the generator takes its steps.

    Raises:
        UserError: the generator's loss is not finite, or the teacher can no longer tell its images apart.
    """

    def __init__(self, method: DataFree, student: Student):
        self.method, self.student, self.batch_size = method, student, method.batch_size

    def __len__(self) -> int:
        return self.method.options.alternations * self.method.options.student_steps

    def epoch(self, number: int) -> Iterator[Batch]:
        steps, maps = self.method.options.student_steps, self.method.needs.maps
        if number == 0:  # what the untrained generator's images are to the teacher
            with torch.no_grad():
                self._spread(self.method.watch(self.method.adversary.images(self.batch_size)).logits_BC)
        for start in range(number * len(self), (number + 1) * len(self), steps):
            self._train_generator(start)
            for i in range(steps):
                images = self.method.adversary.images(self.batch_size)
                with torch.no_grad():
                    teacher = self.method.watch(images, with_maps=maps)
                if i == 0:
                    self._check_spread(teacher.logits_BC, start)
                unlabelled = torch.full((len(images),), -1, device=images.device)
                yield Batch(torch.arange(len(images)), number, images, unlabelled, teacher)

    def _train_generator(self, step: int) -> None:
        """The generator's steps before student step number ``step``."""
        own, sums = self.method.options, defaultdict[str, Any](float)
        self.student.eval()  # its batch statistics are no secret that the generator could use
        for _ in range(own.generator_steps):
            terms = self.method.adversary.step(
                self.batch_size, lambda images: self.method.generator_terms(images, self.student)
            )
            for name, value in terms.items():
                sums[name] += value
        self.student.train()
        for name, total in sums.items():
            self.method.totals[name] += total.item() / own.generator_steps
            if not math.isfinite(total):
                raise UserError(
                    f"the generator's loss is not finite before step {step} ({name}): lower --dfkd.generator-lr; "
                    "the last good checkpoint is kept"
                )

    def _spread(self, teacher_BC: torch.Tensor) -> float:
        """Of the teacher's logits over a batch; the widest so far is kept in the checkpoints."""
        spread = logit_spread(teacher_BC.float())
        self.method.widest.copy_(torch.maximum(self.method.widest, spread))
        return spread.item()

    def _check_spread(self, teacher_BC: torch.Tensor, step: int) -> None:
        spread, widest = self._spread(teacher_BC), self.method.widest.item()
        self.method.totals["spread"] += spread
        if not spread > COLLAPSED * widest:
            raise UserError(
                f"the generator collapsed before step {step}: the teacher sees no difference between its images "
                f"(spread of the logits {spread:.2g}, once {widest:.2g}); lower --dfkd.generator-lr or raise "
                "--dfkd.bn-weight; the last good checkpoint is kept"
            )


def _shapes(teacher: ClassifierTeacher, size: int) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """The teacher's width before its last layer, and (channels, height, width) of its last stages, at this side."""
    try:
        with torch.no_grad():
            seen = teacher.watch(torch.zeros(2, 3, size, size, device=next(teacher.parameters()).device), True)
        assert seen.features_BD is not None
        return seen.features_BD.shape[1], tuple(tuple(stage.shape[1:]) for stage in seen.maps[-STAGES:])
    except (RuntimeError, AssertionError, AttributeError, TypeError) as error:
        raise UserError(
            f"the teacher '{teacher.id}' cannot look at images of {size} x {size} pixels and return its features "
            f"({first_line(error)}): choose another --image-size or another teacher"
        ) from error


def attended_distance(
    student_BCHW: torch.Tensor, teacher_BCHW: torch.Tensor, lift: nn.Module, attention: nn.Module
) -> torch.Tensor:
    """2 - 2 cos of the two maps under one attention, mean over the batch; the teacher's side is constant."""
    with torch.no_grad():
        target_BM = F.normalize(attention(teacher_BCHW).flatten(1), dim=1)
    return embedding_error(attention(lift(student_BCHW)).flatten(1), target_BM)


def logit_spread(logits_BC: torch.Tensor) -> torch.Tensor:
    """Share of the logits' variance that lies between images: 0 where all images are alike, at most 1."""
    centred_BC = logits_BC - logits_BC.mean(dim=1, keepdim=True)
    smallest = torch.finfo(centred_BC.dtype).tiny  # constant logits have no spread, not NaN
    return centred_BC.var(dim=0, correction=0).mean() / centred_BC.square().mean().clamp(min=smallest)


def projection(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, PROJECTION))

"""Teachers, batches and student outputs made by hand, for tests of methods.

Two kinds: of a classifier teacher, logits alone (``logit_...``), and of a vision-language teacher (``text_...``).
"""

import torch
from torch.nn.functional import normalize

from linnet import methods
from linnet.config import Config
from linnet.methods.base import Context, Method
from linnet.step import Batch, Progress, StudentOutput, TeacherOutput
from linnet.teachers.base import ClassHead, Teacher
from linnet.text.classes import class_table

B, C, D, E = 6, 4, 5, 3  # images, classes, width of the student, width of the teacher's embeddings
SCALE = 9.0  # what the vision-language teacher learned; the methods use one of their own


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fake_teacher(kind: str) -> Teacher:
    teacher = Teacher("fake", torch.nn.Identity(), lambda image: torch.zeros(3, 8, 8), "")
    teacher.kind = kind  # type: ignore[misc, assignment]
    return teacher


# --- a classifier teacher ---


def logit_method(
    method: str,
    classes: int = 8,
    head: ClassHead | None = None,
    kind: str = "classifier",
    config: Config = Config(),
    **options: object,
) -> Method:
    made = methods.build(method, methods.check_options(method, {method: options} if options else {}))
    names, head = (
        class_table([f"c{c}" for c in range(classes)]),
        head or ClassHead(weights_CD=random(classes, D, seed=9)),
    )
    made.prepare(Context(config, names, D, fake_teacher(kind), head))
    return made


def logit_batch(classes: int = 8) -> Batch:
    teacher = TeacherOutput(4 * random(B, classes, seed=1))
    return Batch(torch.arange(B), 0, torch.zeros(B, 3, 8, 8), torch.arange(B) % classes, teacher)


def logit_student(classes: int = 8) -> StudentOutput:
    return StudentOutput(torch.zeros(B, D), random(B, classes, seed=2).requires_grad_())


def check_gradient_reaches_the_student_alone(method: str) -> None:
    data, out = logit_batch(), logit_student()
    data.teacher.logits_BC.requires_grad_()
    terms = logit_method(method)(data, out, Progress(3, 24))
    sum(term for name, term in terms.items() if name != "ce").backward()
    assert data.teacher.logits_BC.grad is None
    assert out.logits_BC.grad.abs().sum() > 0


# --- a vision-language teacher ---


def bank() -> torch.Tensor:
    return normalize(random(C, E, seed=5), dim=1)


def text_head() -> ClassHead:
    return ClassHead(bank_CE=bank(), scale=SCALE)


def text_method(method: str, options: dict | None = None, head: ClassHead | None = None, **config: object) -> Method:
    torch.manual_seed(3)
    made = methods.build(method, {method: options or {}})
    made.prepare(Context(Config(**config), class_table("abcd"), D, fake_teacher("vlm"), head or text_head()))
    return made.double()


def text_batch(head: ClassHead | None = None) -> Batch:
    head, embedding = head or text_head(), normalize(random(B, E, seed=1), dim=1)
    weights = head.bank_CE * head.scale if head.probe is None else head.probe[0]
    outputs = TeacherOutput(embedding @ weights.T, embedding)
    return Batch(torch.arange(B), 0, torch.zeros(B, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1]), outputs)


def text_student() -> StudentOutput:
    return StudentOutput(random(B, D, seed=2).requires_grad_(), random(B, C, seed=4).requires_grad_())

"""The method dfkd by itself: which gradients flow where, which networks are compared how, and what it detects."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from linnet.defaults import settings
from linnet.errors import UserError
from linnet.methods.base import Context
from linnet.methods.dfkd.attention import HighOrderAttention
from linnet.methods.dfkd.batch_norm import BatchNormStatistics
from linnet.methods.dfkd.dfkd import DataFree, DFKDOptions, attended_distance, logit_spread
from linnet.step import Progress, TeacherOutput
from linnet.students.student import Student
from linnet.teachers.base import ClassifierTeacher
from linnet.text.classes import ClassInfo
from linnet.training import Task

CLASSES = tuple(ClassInfo(name, name) for name in ("wren", "robin", "siskin"))


SIDE, BATCH = 32, 6


SMALL = {"alternations": 2, "generator_steps": 2, "student_steps": 3, "width": 4}


class StudentTeacher(ClassifierTeacher):
    """A teacher with random weights, as RunTeacher wraps a saved student."""

    def __init__(self, name: str = "test_resnet"):
        torch.manual_seed(1)
        network = Student(name, CLASSES, SIDE)
        for _ in range(3):  # running statistics other than 0 and 1
            network.train()(torch.rand(8, 3, SIDE, SIDE))
        super().__init__(f"run:{name}", network, lambda image: torch.zeros(3, SIDE, SIDE), "")
        self.classes = CLASSES

    def watch(self, images: torch.Tensor, with_maps: bool = False) -> TeacherOutput:
        seen = self.network(images, with_maps)
        return TeacherOutput(seen.logits_BC, features_BD=seen.features_BD, maps=seen.maps)


@pytest.fixture
def make() -> Callable[..., tuple[DataFree, Student, StudentTeacher]]:
    def make(student: str = "test_resnet", teacher: str = "test_resnet", **options) -> tuple:
        config, _ = settings(
            method="dfkd", teacher="run:none", student=student,
            options={"student.image_size": SIDE, "train.batch_size": BATCH},
        )  # fmt: skip
        taught, teaching = Student(student, CLASSES, SIDE), StudentTeacher(teacher)
        method = DataFree(DFKDOptions(**{**SMALL, **options}))
        method.prepare(
            Context(config, CLASSES, taught.width, teaching, None, student_maps=taught.map_shapes())
        )  # fmt: skip
        return method, taught, teaching

    return make


def test_a_generator_step_reaches_the_generator_through_a_frozen_teacher_and_nothing_else(make):
    method, student, teacher = make()
    student.train()(torch.rand(BATCH, 3, SIDE, SIDE)).logits_BC.sum().backward()
    grads = [parameter.grad.clone() for parameter in student.parameters() if parameter.grad is not None]
    before = {
        f"{i}.{key}": value.clone() for i, m in enumerate((student, teacher)) for key, value in m.state_dict().items()
    }
    generator = [parameter.clone() for parameter in method.adversary.generator.parameters()]
    method.batches(None, student)._train_generator(0)
    after = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(grads, after, strict=True))
    now = {f"{i}.{key}": value for i, m in enumerate((student, teacher)) for key, value in m.state_dict().items()}
    assert all(torch.equal(before[key], value) for key, value in now.items()), (
        "the student's or teacher's buffers moved"
    )
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student.training
    moved = zip(generator, method.adversary.generator.parameters(), strict=True)
    assert all(not torch.equal(a, b) for a, b in moved if a.ndim > 1)


@pytest.mark.parametrize("term", ["kl", "bn", "one_hot", "balance"])
def test_every_term_of_the_generator_reaches_its_images(make, term: str):
    method, student, _ = make(one_hot_weight=1.0, balance_weight=5.0)
    images = torch.rand(BATCH, 3, SIDE, SIDE, requires_grad=True)
    terms = method.generator_terms(images, student.eval())
    assert set(terms) == {"kl", "bn", "one_hot", "balance"}
    (gradient,) = torch.autograd.grad(terms[term], images)
    assert gradient.abs().sum() > 0


def test_the_terms_of_the_generator_are_weighted_and_the_game_is_adversarial(make):
    method, student, teacher = make(one_hot_weight=2.0, balance_weight=5.0, bn_weight=0.7, adversarial_weight=3.0)
    images = torch.rand(BATCH, 3, SIDE, SIDE)
    terms = method.generator_terms(images, student.eval())
    with BatchNormStatistics(teacher) as statistics:
        t = teacher.watch(images).logits_BC.log_softmax(1)
    s = student(images).logits_BC.log_softmax(1)
    assert terms["kl"].item() == pytest.approx(-3 * (t.exp() * (t - s)).sum(1).mean().item(), rel=1e-4)
    assert terms["bn"].item() == pytest.approx(0.7 * statistics.distance().item(), rel=1e-4)
    assert terms["one_hot"].item() == pytest.approx(-2 * t.max(1).values.mean().item(), rel=1e-4)
    mean = t.exp().mean(0)
    assert terms["balance"].item() == pytest.approx(5 * (mean * mean.log()).sum().item(), rel=1e-4)
    other, _, _ = make(kl="student-teacher")
    expected = (s.exp() * (s - t)).sum(1).mean().item()
    assert other.disagreement(s, t).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_the_training_loop(make, precision: str):
    """Under bf16 the student's maps and logits come in bf16; losses are computed in float32."""
    method, student, _ = make()
    task = Task(student, method, precision)
    batch = next(iter(method.batches(None, student).epoch(0)))
    terms = task(batch, Progress(0, 1))
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in method.lifts.parameters())


def step_terms(method: DataFree, student: Student) -> dict[str, torch.Tensor]:
    batch = next(iter(method.batches(None, student).epoch(0)))
    return method(batch, student(batch.images, True).float(), Progress(0, 1))


def test_the_student_and_what_belongs_to_the_method_get_gradients(make):
    method, student, teacher = make()
    terms = step_terms(method, student)
    assert set(terms) == {"kl", "attention", "contrast"}
    torch.stack(list(terms.values())).sum().backward()
    own = [*method.lifts.parameters(), *method.attentions.parameters()]
    own += [*method.project_student.parameters(), *method.project_teacher.parameters()]
    assert all(parameter.grad.abs().sum() > 0 for parameter in own)
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in [*teacher.parameters(), *method.adversary.parameters()])


def test_weights_of_zero_leave_no_module_behind(make):
    method, student, _ = make(attention_weight=0.0, contrast_weight=0.0)
    assert set(step_terms(method, student)) == {"kl"}
    assert {key.split(".")[0] for key in method.state_dict()} == {"adversary", "widest"}
    double, half = make(attention_weight=20.0), make(attention_weight=10.0)
    for which in (double, half):
        which[0].load_state_dict(half[0].state_dict())
        which[1].load_state_dict(half[1].state_dict())
    values = []
    for found, pupil, _ in (double, half):
        torch.manual_seed(4)
        values.append(step_terms(found, pupil)["attention"].item())
    assert values[0] == pytest.approx(2 * values[1], rel=1e-4)


def test_the_teacher_is_no_state_of_the_method(make):
    method, _, teacher = make()
    assert not any(module is teacher for module in method.modules())
    kinds = {key.split(".")[0] for key in method.state_dict()}
    assert kinds == {"adversary", "widest", "lifts", "attentions", "project_student", "project_teacher"}


@pytest.mark.parametrize(
    ("student", "stages"), [("test_resnet", 4), ("resnet10t", 4), ("mobilenetv3_small_100", 4), ("resnet8x4", 1), ("test_vit", 1)]
)  # fmt: skip
def test_stages_are_compared_where_they_match(make, student: str, stages: int):
    """The CIFAR networks tell no maps, a transformer's are of other sizes: the last features remain."""
    method, pupil, _ = make(student=student)
    assert len(method.lifts) == stages
    assert method.by_stages == (stages > 1)
    terms = step_terms(method, pupil)
    assert method.needs.maps == (stages > 1)
    assert terms["attention"].item() > 0


def test_the_batches_of_an_epoch(make):
    method, student, _ = make()
    batches = method.batches(None, student)
    assert len(batches) == 2 * 3
    seen = list(batches.epoch(4))
    assert len(seen) == 6
    assert all(batch.images.shape == (BATCH, 3, SIDE, SIDE) and not batch.images.requires_grad for batch in seen)
    assert all((batch.labels == -1).all() and batch.view == 4 for batch in seen)
    assert not torch.equal(seen[0].images, seen[1].images)
    numbers = method.numbers()
    assert set(numbers) == {"generator.kl", "generator.bn", "generator.spread"}
    assert numbers["generator.bn"] > 0 > numbers["generator.kl"]
    assert method.numbers() == {}


def test_a_generator_that_is_kept_as_it_is(make):
    method, student, _ = make(generator_steps=0)
    before = {key: value.clone() for key, value in method.adversary.generator.named_parameters()}
    assert len(list(method.batches(None, student).epoch(0))) == 6
    assert all(torch.equal(before[key], value) for key, value in method.adversary.generator.named_parameters())


def test_a_teacher_without_batch_norm_is_refused_unless_asked_for(make):
    with pytest.raises(UserError, match="'run:test_vit' has no BatchNorm layers.*--dfkd.bn-weight 0"):
        make(teacher="test_vit")
    method, student, _ = make(teacher="test_vit", bn_weight=0.0)
    assert set(step_terms(method, student)) == {"kl", "attention", "contrast"}


def test_a_generator_that_diverges_is_reported_with_its_step(make, monkeypatch: pytest.MonkeyPatch):
    method, student, _ = make()
    monkeypatch.setattr(method, "generator_terms", lambda images, student: {"kl": images.sum() * float("nan")})
    with pytest.raises(UserError, match="generator's loss is not finite before step 6 .*last good checkpoint is kept"):
        next(iter(method.batches(None, student).epoch(1)))


def test_a_generator_whose_images_are_all_alike_is_reported_with_its_step(make, monkeypatch: pytest.MonkeyPatch):
    method, student, _ = make()
    real = method.adversary.images
    epoch = method.batches(None, student).epoch(1)
    for _ in range(3):
        next(epoch)
    monkeypatch.setattr(method.adversary, "images", lambda count: real(count)[:1].expand(count, -1, -1, -1))
    with pytest.raises(UserError, match="generator collapsed before step 9: .*last good checkpoint is kept"):
        next(epoch)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_attended_distance_is_the_squared_distance_of_unit_vectors():
    torch.manual_seed(0)
    lift, attention = nn.Conv2d(8, 16, 1).double(), HighOrderAttention(16).double()
    student, teacher = random(3, 8, 2, 2, seed=1), random(3, 16, 2, 2, seed=2)
    expected = 0.0
    for i in range(3):
        s, t = (attention(x[i : i + 1]).flatten().tolist() for x in (lift(student), teacher))
        dot = sum(a * b for a, b in zip(s, t, strict=True))
        cosine = dot / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t))
        expected += (2 - 2 * cosine) / 3
    assert attended_distance(student, teacher, lift, attention).item() == pytest.approx(expected, rel=1e-10)
    assert attended_distance(student, 7 * lift(student).detach(), lift, nn.Identity()).item() == pytest.approx(
        0, abs=1e-12
    )


def test_attended_distance_trains_student_lift_and_attention_and_not_the_teacher():
    torch.manual_seed(0)
    lift, attention = nn.Conv2d(8, 16, 1).double(), HighOrderAttention(16).double()
    student, teacher = random(3, 8, 2, 2, seed=1).requires_grad_(), random(3, 16, 2, 2, seed=2).requires_grad_()
    attended_distance(student, teacher, lift, attention).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert all(p.grad.abs().sum() > 0 for module in (lift, attention) for p in module.parameters())


def test_attention_alone_cannot_make_a_student_that_does_not_look_agree():
    """The trivial solutions: attention that fades, or that picks one channel which is constant."""

    def plain(student: Tensor, teacher: Tensor, lift: nn.Module, attention: nn.Module) -> Tensor:
        return (attention(lift(student)) - attention(teacher)).square().mean()

    share = {}
    for distance in (attended_distance, plain):
        torch.manual_seed(0)
        teacher = torch.randn(64, 16, 4, 4).relu()  # differs from image to image
        student = torch.randn(1, 8, 4, 4).relu().expand(64, -1, -1, -1)  # does not
        lift, attention = nn.Conv2d(8, 16, 1), HighOrderAttention(16)
        optimizer = torch.optim.Adam([*lift.parameters(), *attention.parameters()], lr=1e-2)
        losses = []
        for _ in range(400):
            loss = distance(student, teacher, lift, attention)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        share[distance] = min(losses) / losses[0]
    assert share[plain] < 1e-2, "the plain form has lost its trivial solution: this test shows nothing"
    assert share[attended_distance] > 0.4  # what is left below 1 is the teacher's mean map


def test_logit_spread_is_the_share_between_images():
    same = random(1, 6).expand(5, -1)
    assert logit_spread(same).item() == pytest.approx(0, abs=1e-12)
    logits = random(5, 6)
    assert 0 < logit_spread(logits).item() <= 1
    assert logit_spread(torch.zeros(4, 3)).item() == 0  # 0 / 0 would hide a collapse
    shift = torch.arange(5.0, dtype=torch.float64)[:, None]
    assert logit_spread(logits + shift).item() == pytest.approx(logit_spread(logits).item())
    assert logit_spread(100 * logits).item() == pytest.approx(logit_spread(logits).item())

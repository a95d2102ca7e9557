import pytest
import torch

from linnet import methods
from linnet.config import Config, TrainConfig
from linnet.data.batches import Batch
from linnet.data.manifest import ClassInfo
from linnet.errors import UserError
from linnet.losses import cross_entropy, softened_kl, standardize
from linnet.methods.base import Context, Method, Progress
from linnet.students import StudentOutput
from linnet.teachers.base import Teacher, TeacherOutput

PROGRESS = Progress(epoch=0, epochs=1, step=0, steps=1)


def batch(teacher: bool = True) -> Batch:
    out = TeacherOutput(torch.randn(4, 3, generator=torch.Generator().manual_seed(1))) if teacher else None
    return Batch(torch.arange(4), 0, torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), out)


def student_output() -> StudentOutput:
    generator = torch.Generator().manual_seed(2)
    return StudentOutput(
        torch.rand(4, 5, generator=generator), torch.randn(4, 3, generator=generator, requires_grad=True)
    )


def prepared(method: Method, kind: str = "vlm", smoothing: float = 0.0) -> Method:
    teacher = Teacher("fake", torch.nn.Identity(), lambda image: torch.zeros(3, 8, 8), "")
    teacher.kind = kind  # type: ignore[misc, assignment]
    config = Config(train=TrainConfig(label_smoothing=smoothing))
    method.prepare(Context(config, tuple(ClassInfo(c, c) for c in "abc"), 5, teacher, None))
    return method


def test_ce_is_cross_entropy_with_the_smoothing_asked_for():
    out = student_output()
    terms = prepared(methods.build("ce", {}), smoothing=0.1)(batch(teacher=False), out, PROGRESS)
    assert list(terms) == ["ce"]
    assert torch.equal(terms["ce"], cross_entropy(out.logits_BC, batch().labels, 0.1))


@pytest.mark.parametrize(("kind", "temperature", "alpha"), [("vlm", 2.0, 0.5), ("classifier", 4.0, 0.9)])
def test_kd_weights_its_terms_by_the_kind_of_teacher(kind: str, temperature: float, alpha: float):
    out, data = student_output(), batch()
    terms = prepared(methods.build("kd", {}), kind)(data, out, PROGRESS)
    assert data.teacher is not None
    expected = alpha * softened_kl(out.logits_BC, data.teacher.logits_BC, temperature)
    assert torch.allclose(terms["kd"], expected)
    assert torch.allclose(terms["ce"], (1 - alpha) * cross_entropy(out.logits_BC, data.labels))


def test_kd_options_win_over_the_defaults():
    out, data = student_output(), batch()
    terms = prepared(methods.build("kd", {"kd": {"temperature": 1.0, "alpha": 1.0}}))(data, out, PROGRESS)
    assert data.teacher is not None
    assert terms["ce"].item() == 0
    assert torch.allclose(terms["kd"], softened_kl(out.logits_BC, data.teacher.logits_BC, 1.0))


def test_kd_standardizes_both_before_softening():
    out, data = student_output(), batch()
    terms = prepared(methods.build("kd", {"kd": {"standardize": True}}))(data, out, PROGRESS)
    assert data.teacher is not None
    expected = 0.5 * softened_kl(standardize(out.logits_BC), standardize(data.teacher.logits_BC), 2.0)
    assert torch.allclose(terms["kd"], expected)
    data.teacher.logits_BC.mul_(7).add_(3)  # blind to the teacher's scale: what the option is for
    again = prepared(methods.build("kd", {"kd": {"standardize": True}}))(data, out, PROGRESS)
    assert torch.allclose(again["kd"], terms["kd"], atol=1e-5)


def test_gradient_reaches_the_student_and_not_the_teacher():
    out, data = student_output(), batch()
    assert data.teacher is not None
    data.teacher.logits_BC.requires_grad_()
    sum(prepared(methods.build("kd", {}))(data, out, PROGRESS).values()).backward()  # type: ignore[union-attr]
    assert out.logits_BC.grad is not None
    assert out.logits_BC.grad.abs().sum() > 0
    assert data.teacher.logits_BC.grad is None


def test_a_sum_adds_the_weighted_terms_of_the_others_and_never_their_ce():
    out, data = student_output(), batch()
    alone = prepared(methods.build("kd", {}))(data, out, PROGRESS)
    both = prepared(methods.build("ce+kd:0.25", {}))(data, out, PROGRESS)
    assert torch.allclose(both["ce"], cross_entropy(out.logits_BC, data.labels))
    assert torch.allclose(both["kd"], 0.25 * alone["kd"])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("kdd", "unknown method 'kdd'.*Did you mean 'kd'"),
        ("ce+kd:much", "weight in 'kd:much' must be a number"),
        ("kd+kd", "names a method twice"),
        ("kd:0.5", "first method of 'kd:0.5' has weight 1"),
        ("ce+kd:nan", "weight in 'kd:nan' must be a number of at least 0"),
        ("ce+kd:-1", "weight in 'kd:-1' must be a number of at least 0"),
        ("kd:2+ce", "first method of .* has weight 1"),
    ],
)
def test_bad_methods(method: str, message: str):
    with pytest.raises(UserError, match=message):
        methods.parse(method)


def test_of_a_sum_every_part_gets_the_teacher_that_it_was_made_for():
    """pand means calibrated prompts, wherever it stands."""
    assert methods.defaults("kd+pand:0.5") == {"teacher": {"head": "prompt"}}
    assert methods.defaults("pand+kd") == {"teacher": {"head": "prompt"}}
    assert methods.defaults("kd") == {}


def test_needs_teacher():
    assert methods.needs_teacher("ce") == set()
    assert methods.needs_teacher("ce+kd") == {"any"}

"""vl2lite and pand on hand-made batches: values against naive loops, schedules, invariants, gradients."""

import logging
import math

import pytest
import torch
from torch.nn.functional import normalize

from linnet import methods
from linnet.config import Config, StudentConfig, TrainConfig
from linnet.data.batches import Batch
from linnet.data.manifest import ClassInfo
from linnet.errors import UserError
from linnet.losses import neighbour_structure
from linnet.methods.base import Context, Method, Progress
from linnet.students import Student, StudentOutput
from linnet.teachers.base import ClassHead, Teacher, TeacherOutput
from linnet.training import Task

B, C, D, E = 6, 4, 5, 3
SCALE = 9.0  # what the fake teacher learned; the methods use one of their own


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bank(seed: int = 5) -> torch.Tensor:
    return normalize(random(C, E, seed=seed), dim=1)


def prepared(method: str, options: dict | None = None, head: ClassHead | None = None, **config: object) -> Method:
    head = head or ClassHead(bank_CE=bank(), scale=SCALE)
    teacher = Teacher("fake", torch.nn.Identity(), lambda image: torch.zeros(3, 8, 8), "")
    teacher.kind = "vlm"  # type: ignore[misc]
    torch.manual_seed(3)
    made = methods.build(method, {method: options or {}})
    made.prepare(Context(Config(**config), tuple(ClassInfo(c, c) for c in "abcd"), D, teacher, head))  # type: ignore[arg-type]
    return made.double()


def batch(head: ClassHead | None = None) -> Batch:
    head = head or ClassHead(bank_CE=bank(), scale=SCALE)
    embedding = normalize(random(B, E, seed=1), dim=1)
    weights = head.bank_CE * head.scale if head.probe is None else head.probe[0]
    outputs = TeacherOutput(embedding @ weights.T, embedding)
    return Batch(torch.arange(B), 0, torch.zeros(B, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1]), outputs)


def student() -> StudentOutput:
    return StudentOutput(random(B, D, seed=2).requires_grad_(), random(B, C, seed=4).requires_grad_())


def epoch(number: int, epochs: int = 10) -> Progress:
    return Progress(number, epochs, number, epochs)


def naive_terms(
    method: Method, data: Batch, out: StudentOutput, temperature: float = 2.0
) -> tuple[float, float, float]:
    """CE, L_vis and T^2 KL by loops over samples and classes."""
    assert data.teacher is not None and data.teacher.embedding_BE is not None
    base = getattr(method, "base", method)
    images, texts = base.condense_image(data.teacher.embedding_BE), base.condense_text(bank())
    ce = vision = text = 0.0
    for i in range(B):
        h = [v / out.features_BD[i].norm().item() for v in out.features_BD[i].tolist()]
        a = [v / images[i].norm().item() for v in images[i].tolist()]
        vision += sum(abs(x - y) for x, y in zip(h, a, strict=True)) / (B * D)
        q_t, q_s = [], []
        for c in range(C):
            tau = [v / texts[c].norm().item() for v in texts[c].tolist()]
            u = (
                sum(x * y for x, y in zip(data.teacher.embedding_BE[i].tolist(), bank()[c].tolist(), strict=True))
                / 0.07
            )
            s = sum(x * y for x, y in zip(h, tau, strict=True)) / 0.07
            q_t.append(math.exp(u / temperature))
            q_s.append(math.exp(s / temperature))
        q_t, q_s = [v / sum(q_t) for v in q_t], [v / sum(q_s) for v in q_s]
        text += temperature**2 * sum(p * math.log(p / q) for p, q in zip(q_t, q_s, strict=True)) / B
        z = out.logits_BC[i].tolist()
        ce -= (z[data.labels[i]] - math.log(sum(math.exp(v) for v in z))) / B
    return ce, vision, text


@pytest.mark.parametrize(("method", "weight"), [("vl2lite", 0.5), ("pand", 1.0)])
@pytest.mark.parametrize(("number", "w_cls"), [(0, 0.0), (4, 4 / 80), (9, 9 / 80)])
def test_published_terms_are_the_naive_sums(method: str, weight: float, number: int, w_cls: float):
    made, data, out = prepared(method, {"schedule": "published"}), batch(), student()
    ce, vision, text = naive_terms(made, data, out)
    terms = made(data, out, epoch(number))
    assert terms["ce"].item() == pytest.approx(w_cls * ce, rel=1e-9)
    assert terms["vision"].item() == pytest.approx((1 - w_cls) * vision / 2, rel=1e-9)
    assert terms["text"].item() == pytest.approx((1 - w_cls) * weight * text / 2, rel=1e-6)
    assert w_cls < 1 / 8
    if method == "pand":  # lambda is not scheduled, and the teacher's logits have the method's scale, not its own
        teacher = data.teacher.embedding_BE @ bank().T / 0.07  # type: ignore[union-attr]
        assert terms["nsd"].item() == pytest.approx(neighbour_structure(out.logits_BC, teacher, 3).item(), rel=1e-9)


@pytest.mark.parametrize("method", ["vl2lite", "pand"])
def test_constant_weights_from_scratch_and_published_ones_for_a_pretrained_student(method: str):
    data, out = batch(), student()
    terms = prepared(method)(data, out, epoch(0))
    ce, vision, _ = naive_terms(prepared(method), data, out)
    assert terms["ce"].item() == pytest.approx(ce)
    assert terms["vision"].item() == pytest.approx(vision / 2)
    pretrained = prepared(method, student=StudentConfig(pretrained=True))(data, out, epoch(0))
    assert pretrained["ce"].item() == 0
    options = {"schedule": "constant", "ce_weight": 0.25}
    chosen = prepared(method, options, student=StudentConfig(pretrained=True))(data, out, epoch(9))
    assert chosen["ce"].item() == pytest.approx(ce / 4)
    assert chosen["vision"].item() == pytest.approx(vision / 2)


@pytest.mark.parametrize("method", ["vl2lite", "pand"])
def test_a_weight_that_the_schedule_would_ignore_is_refused(method: str):
    with pytest.raises(UserError, match="add schedule constant"):
        prepared(method, {"ce_weight": 0.25}, student=StudentConfig(pretrained=True))


def test_pand_without_neighbours_is_vl2lite_to_the_last_bit():
    data, out, schedule = batch(), student(), {"schedule": "published"}
    for number in range(10):
        pand = prepared("pand", {"nsd_weight": 0.0, **schedule})(data, out, epoch(number))
        vl2lite = prepared("vl2lite", {"text_weight": 1.0, **schedule})(data, out, epoch(number))
        assert pand.pop("nsd") == 0
        assert {name: term.item() for name, term in pand.items()} == {
            name: term.item() for name, term in vl2lite.items()
        }


def test_half_the_text_weight_is_vl2lites():
    data, out = batch(), student()
    full = prepared("vl2lite", {"text_weight": 1.0})(data, out, epoch(0))["text"]
    assert torch.equal(prepared("vl2lite")(data, out, epoch(0))["text"], full / 2)


@pytest.mark.parametrize("method", ["vl2lite", "pand"])
def test_gradient_reaches_student_and_condensation_and_never_the_teacher(method: str):
    made, data, out = prepared(method), batch(), student()
    assert data.teacher is not None and data.teacher.embedding_BE is not None
    data.teacher.embedding_BE.requires_grad_()
    data.teacher.logits_BC.requires_grad_()
    sum(made(data, out, epoch(5)).values()).backward()  # type: ignore[union-attr]
    for tensor in (out.features_BD, out.logits_BC, *made.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0
    assert data.teacher.logits_BC.grad is None
    assert data.teacher.embedding_BE.grad is None
    assert not made.state_dict().keys() & {"bank_CE", "base.bank_CE"}  # the text bank is the teacher's


def test_text_term_prevents_the_collapse_that_the_vision_term_alone_allows():
    """g_i is trained with L_vis, so a student that says the same of every image satisfies it."""
    data = batch()
    same = StudentOutput(torch.ones(B, D, dtype=torch.float64), torch.zeros(B, C, dtype=torch.float64))
    made = prepared("vl2lite")
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    for _ in range(1500):
        vision, _ = made.alignment(data, same)
        optimizer.zero_grad()
        vision.backward()
        optimizer.step()
    assert vision < 0.05
    fooled = prepared("vl2lite")
    optimizer = torch.optim.Adam(fooled.parameters(), 0.01)
    for _ in range(1500):
        vision, text = fooled.alignment(data, same)
        optimizer.zero_grad()
        (vision + text).backward()
        optimizer.step()
    relations = torch.softmax(data.teacher.logits_BC / SCALE / 0.07 / 2, dim=1)  # type: ignore[union-attr]
    constant = relations.mean(dim=0)  # the best that one answer for all images can do
    floor = 4 * (relations * (relations / constant).log()).sum(dim=1).mean()
    assert text > 0.99 * floor
    assert floor > 1.0


@pytest.mark.parametrize("method", ["vl2lite", "pand"])
def test_a_probe_takes_the_place_of_the_text_logits(method: str):
    probe = (random(C, E, seed=8), torch.zeros(C, dtype=torch.float64))
    head = ClassHead(bank_CE=bank(), scale=1.0, probe=probe)
    data, out = batch(head), student()
    made = prepared(method, head=head)
    assert torch.equal(getattr(made, "base", made).teacher_logits(data), data.teacher.logits_BC)  # type: ignore[union-attr]
    assert all(torch.isfinite(term) for term in made(data, out, epoch(0)).values())


def test_center_teacher_changes_the_search_only():
    data, out = batch(), student()
    assert data.teacher is not None
    data.teacher.logits_BC.add_(torch.arange(B, dtype=torch.float64)[:, None] * 30)
    plain = prepared("pand", {"neighbours": 1})(data, out, epoch(0))
    centred = prepared("pand", {"neighbours": 1, "center_teacher": True})(data, out, epoch(0))
    assert plain["nsd"] != centred["nsd"]
    assert torch.equal(plain["text"], centred["text"])


@pytest.mark.parametrize("method", ["vl2lite", "pand"])
def test_sgd_with_the_published_schedule_is_warned_of(method: str, caplog: pytest.LogCaptureFixture):
    """The classifier would train at an eighth of the learning rate, silently."""
    with caplog.at_level(logging.WARNING):
        prepared(method, {"schedule": "published"})
        prepared(method, {"schedule": "constant"}, train=TrainConfig(optimizer="sgd"))
    assert not caplog.text
    prepared(method, {"schedule": "published"}, train=TrainConfig(optimizer="sgd"))
    assert "use --train.optimizer adamw" in caplog.text


@pytest.mark.parametrize("method", ["kd", "vl2lite", "pand"])
def test_losses_are_float32_under_bf16(method: str):
    classes = tuple(ClassInfo(c, c) for c in "abcd")
    net = Student("test_resnet", classes, 32)
    head = ClassHead(bank_CE=bank().float(), scale=SCALE)
    teacher = Teacher("fake", torch.nn.Identity(), lambda image: torch.zeros(3, 8, 8), "")
    teacher.kind = "vlm"  # type: ignore[misc]
    made = methods.build(method, {})
    made.prepare(Context(Config(), classes, net.width, teacher, head))
    seen: list[torch.dtype] = []
    for module in made.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    data = batch()
    assert data.teacher is not None and data.teacher.embedding_BE is not None
    outputs = TeacherOutput(data.teacher.logits_BC.float(), data.teacher.embedding_BE.float())
    data = Batch(data.index, 0, torch.rand(B, 3, 32, 32), data.labels, outputs)
    terms = Task(net, made, "bf16")(data, epoch(1))
    assert {term.dtype for term in terms.values()} == {torch.float32}
    assert set(seen) <= {torch.float32}
    assert len(seen) == (0 if method == "kd" else 4)

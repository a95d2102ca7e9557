"""openvocab: what it makes of the losses that are tested in test_losses.py."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from linnet import methods
from linnet.config import Config, PromptsConfig, TeacherConfig
from linnet.data.manifest import Manifest
from linnet.errors import UserError
from linnet.losses import caption_contrast, cross_entropy, embedding_error, image_contrast, nearest_text_kl
from linnet.methods.base import Context, Method
from linnet.step import Batch, Progress, StudentOutput, TeacherOutput
from linnet.students.student import Student
from linnet.teachers import load_teacher
from linnet.teachers.base import ClassHead, VisionLanguageTeacher
from linnet.teachers.texts import text_bank
from linnet.text.bank import TextBank
from linnet.text.classes import ClassInfo
from linnet.training import Task

B, C, E, T = 6, 5, 4, 0.07
NOW = Progress(0, 1)
CLASSES = tuple(ClassInfo(f"c{i}", f"class {i}") for i in range(C))
CAPTIONS = tuple((f"caption {i}", f"other {i}") for i in range(B))


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


BANK = F.normalize(random(C, E, seed=1), dim=1)
IMAGES = F.normalize(random(B, E, seed=2), dim=1)
CAPTION_ROWS = F.normalize(random(2 * B, E, seed=3), dim=1)


class FakeTeacher(VisionLanguageTeacher):
    token_width, logit_scale = 3, 10.0

    def embed_texts(self, texts: list[str], context_PW: torch.Tensor | None = None) -> torch.Tensor:
        rows = CAPTION_ROWS if texts[0].startswith("caption") else BANK
        assert len(texts) == len(rows)
        return rows if context_PW is None else F.normalize(rows + context_PW.double().sum(), dim=1)

    def room(self, texts: list[str]) -> int:
        return 10


def prepared(
    captions: tuple[tuple[str, ...], ...] | None = CAPTIONS, head: str = "zero-shot", **options: object
) -> Method:
    teacher = FakeTeacher("fake", torch.nn.Identity(), lambda image: torch.zeros(3, 8, 8), "")
    made = methods.build("openvocab", {"openvocab": options})
    config = Config(teacher=TeacherConfig(head=head))  # type: ignore[arg-type]
    made.prepare(Context(config, CLASSES, 7, teacher, ClassHead(bank_CE=BANK, scale=10.0), captions))
    return made


def batch(view: int = 0) -> Batch:
    nearest = (IMAGES @ BANK.T).argmax(dim=1)
    labels = torch.where(torch.arange(B) < 3, nearest, (nearest + 1) % C)  # the teacher is right about three
    labels[-1] = -1
    teacher = TeacherOutput(10 * IMAGES @ BANK.T, IMAGES.clone())
    return Batch(torch.arange(B), view, torch.zeros(B, 3, 8, 8), labels, teacher)


def student() -> StudentOutput:
    embedding = (2 * random(B, E, seed=4)).requires_grad_()
    return StudentOutput(torch.zeros(B, 7), torch.zeros(B, C), embedding)


def test_terms_are_the_weighted_losses_at_the_methods_temperature():
    out, data = student(), batch()
    terms = prepared(texts=3, caption_weight=1.0)(data, out, NOW)
    s, labels = out.embedding_BE, data.labels
    assert s is not None
    student_BC, teacher_BC = F.normalize(s, dim=1) @ BANK.T / T, IMAGES @ BANK.T / T
    right = teacher_BC.argmax(dim=1) == labels
    assert 0 < right.sum() < B  # the filter has something to do
    expected = {
        "ce": cross_entropy(student_BC, labels),
        "mse": embedding_error(s, IMAGES),
        "contrast": image_contrast(s, IMAGES, T),
        "align": nearest_text_kl(student_BC, teacher_BC, 3, right),
        "caption": caption_contrast(s, CAPTION_ROWS[::2], labels),
    }
    for name, term in terms.items():  # captions are kept in half precision
        assert term.item() == pytest.approx(expected.pop(name).item(), rel=1e-3 if name == "caption" else 1e-9)
    assert not expected
    unfiltered = prepared(texts=3, filter=False)(data, out, NOW)
    assert unfiltered["align"].item() == pytest.approx(nearest_text_kl(student_BC, teacher_BC, 3).item())
    assert unfiltered["align"].item() != pytest.approx(terms["align"].item())


@pytest.mark.parametrize("name", ["cls", "mse", "contrast", "align", "caption"])
def test_each_term_has_a_weight_and_leaves_at_zero(name: str):
    key, out, data = {"cls": "ce"}.get(name, name), student(), batch()
    once = prepared(caption_weight=1.0)(data, out, NOW)
    thrice = prepared(**{"caption_weight": 1.0, f"{name}_weight": 3.0})(data, out, NOW)
    assert {k: v.item() for k, v in thrice.items()} == pytest.approx(
        {k: v.item() * (3 if k == key else 1) for k, v in once.items()}
    )
    assert set(prepared(**{"caption_weight": 1.0, f"{name}_weight": 0.0})(data, out, NOW)) == set(once) - {key}


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it():
    data = batch()
    terms = prepared(filter=False)(data, StudentOutput(torch.zeros(B, 7), torch.zeros(B, C), 5 * IMAGES), NOW)
    assert terms["mse"].item() == pytest.approx(0, abs=1e-12)
    assert terms["align"].item() == pytest.approx(0, abs=1e-12)


def test_a_batch_that_the_teacher_gets_all_wrong_has_no_align_term():
    data = batch()
    wrong = (IMAGES @ BANK.T).argmin(dim=1)
    terms = prepared()(replace(data, labels=wrong), student(), NOW)
    assert terms["align"].item() == 0


def test_views_take_an_images_captions_in_turn():
    out = student()
    made = prepared(caption_weight=1.0)
    first, second, third = (made(batch(view), out, NOW)["caption"].item() for view in (0, 1, 2))
    assert first == third != second
    expected = caption_contrast(out.embedding_BE, CAPTION_ROWS[1::2], batch().labels)  # type: ignore[arg-type]
    assert second == pytest.approx(expected.item(), rel=1e-3)  # captions are kept in half precision


def test_gradient_reaches_the_student_and_the_prompts_and_nothing_of_the_teacher():
    data, out = batch(), student()
    assert data.teacher is not None and data.teacher.embedding_BE is not None
    data.teacher.embedding_BE.requires_grad_()
    made = prepared(learn_prompts=True)
    assert [name for name, _ in made.named_parameters()] == ["context_PW"]
    assert list(made.state_dict()) == ["context_PW"]  # the text bank and the tower are the teacher's
    torch.stack(list(made(data, out, NOW).values())).sum().backward()
    assert made.context_PW.grad.abs().sum() > 0
    assert out.embedding_BE is not None and out.embedding_BE.grad is not None
    assert out.embedding_BE.grad.abs().sum() > 0
    assert data.teacher.embedding_BE.grad is None


@pytest.mark.parametrize("align_teacher", [None, "constant", "learned"])
def test_the_kl_moves_prompts_through_one_side_or_both(align_teacher: str | None):
    """learned: the plain formula of the released code, in which nothing is a constant but the images."""
    data, out = batch(), student()
    alone = {"cls_weight": 0.0, "mse_weight": 0.0, "contrast_weight": 0.0, "filter": False}
    made = prepared(learn_prompts=True, align_teacher=align_teacher, texts=3, **alone)
    term = made(data, out, NOW)["align"]
    (seen,) = torch.autograd.grad(term, made.context_PW)
    context = made.context_PW.detach().double().requires_grad_()
    bank = F.normalize(BANK + context.sum(), dim=1)
    assert out.embedding_BE is not None
    teacher, near = (IMAGES @ bank.T / T).topk(3)
    ours = (F.normalize(out.embedding_BE.detach(), dim=1) @ bank.T / T).gather(1, near)
    teacher = teacher if align_teacher == "learned" else teacher.detach()
    divergence = (teacher.softmax(1) * (teacher.log_softmax(1) - ours.log_softmax(1))).sum(1).mean()
    assert term.item() == pytest.approx(divergence.item(), rel=1e-4)
    (expected,) = torch.autograd.grad(divergence, context)
    assert torch.allclose(seen.double(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align_teacher": "learned"}, "align_teacher learned has no effect without learn_prompts"),
        (
            {"align_teacher": "learned", "learn_prompts": True, "align_weight": 0.0},
            "without learn_prompts and an align_w",
        ),
        ({f"{name}_weight": 0.0 for name in ("cls", "mse", "contrast", "align")}, "nothing to learn"),
        ({"caption_temperature": 0.1}, "no effect without a caption_weight"),
        ({"learn_prompts": True, "cls_weight": 0.0, "align_weight": 0.0}, "nothing to learn from"),
        ({"learn_prompts": True, "head": "prompt"}, "use openvocab.learn_prompts or --teacher.head prompt, not both"),
    ],
)
def test_what_cannot_work_is_refused(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        prepared(**options)


@pytest.mark.parametrize("texts", [None, (("a",), ())])
def test_captions_that_are_not_there_are_missed_before_anything_is_loaded(texts: tuple | None):
    rows = Manifest(
        (Path("a"), Path("b")), np.arange(2), np.array(["train"] * 2), np.zeros((2, 16), np.uint8), CLASSES, texts
    )
    with pytest.raises(UserError, match="needs a caption for every training image: give them with --data.texts FILE"):
        methods.build("openvocab", {"openvocab": {"caption_weight": 1.0}}).check_data(rows)
    methods.build("openvocab", {}).check_data(rows)


def test_an_embedding_head_does_not_add_to_a_classifier():
    with pytest.raises(UserError, match="mixes methods with different student heads"):
        methods.parse("openvocab+kd")


def test_the_student_carries_temperature_and_learned_prompts():
    teacher = load_teacher("mini-clip")
    assert isinstance(teacher, VisionLanguageTeacher)
    classes = tuple(ClassInfo(name, f"bird with {name} wings") for name in ("red", "blue", "white"))
    templates = ("a photo of a {}.", "a small {}.")
    bank = text_bank(teacher, classes, templates)
    net = Student("test_resnet", classes, 32, bank=bank)
    made = methods.build("openvocab", {"openvocab": {"learn_prompts": True, "temperature": 0.5}})
    config = Config(teacher=TeacherConfig(templates=templates), prompts=PromptsConfig(vectors=2))
    head = ClassHead(bank_CE=torch.from_numpy(bank.rows_CE), scale=14.0)
    made.prepare(Context(config, classes, net.width, teacher, head, None))
    made.hand_over(net)
    assert net.temperature == 0.5
    assert net.bank is not None
    assert net.bank.templates == templates[:1]
    expected = teacher.embed_texts([f"a photo of a {info.prompt_name}." for info in classes], made.context_PW)
    assert np.allclose(net.bank.rows_CE, expected.detach().numpy(), atol=1e-6)
    assert net.bank.context_PW is not None
    assert np.array_equal(net.bank.context_PW, made.context_PW.detach().numpy())
    images = torch.rand(2, 3, 32, 32)
    out = net.eval()(images)
    assert torch.allclose(out.logits_BC, F.normalize(out.embedding_BE, dim=1) @ net.bank_CE.T / 0.5)


def test_losses_are_float32_under_bf16():
    bank = TextBank(tuple("abcde"), BANK.float().numpy(), "fake", "hash", ("{}",))
    made = methods.build("openvocab", {})
    teacher = FakeTeacher("fake", torch.nn.Identity(), lambda image: torch.zeros(3, 8, 8), "")
    made.prepare(Context(Config(), CLASSES, 7, teacher, ClassHead(bank_CE=BANK.float(), scale=10.0)))
    data = batch()
    outputs = TeacherOutput(data.teacher.logits_BC.float(), data.teacher.embedding_BE.float())  # type: ignore[union-attr]
    data = Batch(data.index, 0, torch.rand(B, 3, 32, 32), data.labels, outputs)
    terms = Task(Student("test_resnet", CLASSES, 32, bank=bank), made, "bf16")(data, NOW)
    assert {term.dtype for term in terms.values()} == {torch.float32}

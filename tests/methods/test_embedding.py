"""embedding and specmatch on hand-made batches: values against naive loops, invariants, gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hand_made import B, C, D, E, fake_teacher, random, text_batch, text_head, text_student

from linnet import methods
from linnet.config import Config
from linnet.methods.base import Context, Method
from linnet.methods.specmatch import principal_directions, spectral_error
from linnet.step import Progress, StudentOutput, TeacherOutput
from linnet.students.student import Student
from linnet.text.classes import class_table
from linnet.training import Task

N = 40  # training images


def train_embeddings() -> torch.Tensor:
    """On the unit sphere, of different variance along each axis, around another point than 0."""
    return torch.nn.functional.normalize(random(N, E, seed=7) * torch.tensor([1.0, 0.5, 0.1]) + 1, dim=1)


def answers(index: np.ndarray, view: int) -> TeacherOutput:
    return TeacherOutput(torch.zeros(len(index), C), train_embeddings()[index])


def made(method: str, width: int = D, **options: object) -> Method:
    torch.manual_seed(3)
    built = methods.build(method, {method: options})
    labels = np.arange(N) % C
    built.prepare(
        Context(
            Config(), class_table("abcd"), width, fake_teacher("vlm"), text_head(), labels_N=labels, answers=answers
        )
    )
    return built.double()


def test_embedding_is_the_naive_sum():
    method, data, out = made("embedding", weight=3.0), text_batch(), text_student()
    total = 0.0
    for h, v in zip(out.features_BD, data.teacher.embedding_BE, strict=True):
        row = [(w * h).sum() + b for w, b in zip(method.project.weight, method.project.bias, strict=True)]
        norm = sum(x**2 for x in row) ** 0.5
        total += sum((x / norm - y) ** 2 for x, y in zip(row, v, strict=True)).item() / B
    terms = method(data, out, Progress(0, 10))
    assert terms["embedding"].item() == pytest.approx(3 * total, rel=1e-9)
    assert terms["ce"].item() == pytest.approx(torch.nn.functional.cross_entropy(out.logits_BC, data.labels).item())


def test_principal_directions_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA

    rows, pca = train_embeddings(), PCA().fit(train_embeddings().numpy())
    mean_E, directions_EK = principal_directions(answers, N)
    assert np.allclose(mean_E, pca.mean_, atol=1e-6)
    ours, theirs = (rows.float() - mean_E) @ directions_EK, pca.transform(rows.numpy())
    assert np.allclose(ours.abs(), np.abs(theirs), atol=1e-5)  # signs are a convention
    assert (directions_EK.gather(0, directions_EK.abs().argmax(dim=0, keepdim=True)) > 0).all()


def test_directions_of_hardly_any_variance_are_left_out():
    flat = torch.cat([train_embeddings()[:, :2], torch.full((N, 1), 0.5)], dim=1)
    _, directions_EK = principal_directions(lambda index, _: TeacherOutput(flat, flat[index]), N)
    assert directions_EK.shape == (E, 2)


def test_specmatch_is_the_naive_sum():
    method, data, out = made("specmatch", weight=2.0, epsilon=1e-3), text_batch(), text_student()
    mean_E, directions_EK = principal_directions(answers, N)
    total = 0.0
    for k in range(directions_EK.shape[1]):
        errors = []
        for h, v in zip(out.features_BD, data.teacher.embedding_BE, strict=True):
            told = (method.project.weight[k] * h).sum() + method.project.bias[k]
            errors.append((told - ((v - mean_E) * directions_EK[:, k]).sum()).item() ** 2)
        total += (sum(errors) / B + 1e-3) ** (1 / 3)
    terms = method(data, out, Progress(0, 10))
    assert terms["spectrum"].item() == pytest.approx(2 * total, rel=1e-5)


def test_a_small_direction_counts_nearly_as_much_as_a_large_one():
    """A thousand times the variance, not predicted at all: ten times the error, not a thousand times."""
    large, small = random(B, 1, seed=1), random(B, 1, seed=1) / 1000**0.5
    both = [spectral_error(torch.zeros(B, 1), rows, 0.0).item() for rows in (large, small)]
    assert both[0] / both[1] == pytest.approx(10, rel=1e-6)
    assert spectral_error(large, large, 1e-9).item() == pytest.approx(1e-3, rel=1e-6)  # nothing but eps is left


@pytest.mark.parametrize("name", ["embedding", "specmatch"])
def test_the_order_of_the_images_does_not_matter(name: str):
    method, data, out = made(name), text_batch(), text_student()
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    assert data.teacher is not None
    teacher = TeacherOutput(data.teacher.logits_BC[order], data.teacher.embedding_BE[order])
    turned = replace(data, labels=data.labels[order], teacher=teacher)
    other = StudentOutput(out.features_BD[order], out.logits_BC[order])
    expected = method(data, out, Progress(0, 10))
    for term, value in method(turned, other, Progress(0, 10)).items():
        assert value.item() == pytest.approx(expected[term].item(), rel=1e-9)


def test_embedding_looks_at_directions_alone():
    """Twice the projection says the same, another direction does not."""
    method, data, out = made("embedding"), text_batch(), text_student()
    before = method(data, out, Progress(0, 10))["embedding"].item()
    with torch.no_grad():
        for parameter in method.project.parameters():
            parameter *= 2
    assert method(data, out, Progress(0, 10))["embedding"].item() == pytest.approx(before, rel=1e-9)
    with torch.no_grad():
        method.project.weight.neg_()
    assert method(data, out, Progress(0, 10))["embedding"].item() != pytest.approx(before, rel=1e-3)


def test_a_shift_of_all_embeddings_changes_nothing_for_specmatch():
    def shifted(index: np.ndarray, view: int) -> TeacherOutput:
        return TeacherOutput(torch.zeros(len(index), C), train_embeddings()[index] + 5)

    (mean_E, directions_EK), (shifted_E, same_EK) = principal_directions(answers, N), principal_directions(shifted, N)
    assert torch.allclose(shifted_E, mean_E + 5, atol=1e-5)
    assert torch.allclose(same_EK, directions_EK, atol=1e-4)


@pytest.mark.parametrize("name", ["embedding", "specmatch"])
def test_gradient_reaches_the_student_and_the_projection_and_never_the_teacher(name: str):
    method, data, out = made(name), text_batch(), text_student()
    data.teacher.embedding_BE.requires_grad_()
    terms = method(data, out, Progress(0, 10))
    sum(term for key, term in terms.items() if key != "ce").backward()
    assert data.teacher.embedding_BE.grad is None
    assert out.features_BD.grad.abs().sum() > 0
    assert method.project.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050", "test_vit"])
def test_a_probe_leaves_the_features_to_the_teacher(name: str):
    """The labels' gradient ends at the last layer; what the student says is the same."""
    assert not made("specmatch").needs.detached
    assert made("specmatch", labels="probe").needs.detached
    torch.manual_seed(0)
    student = Student(name, class_table("abcd"), 64).train()
    last = {id(p) for p in student.last_parameters()}
    images = torch.rand(4, 3, 64, 64)
    for detached in (False, True):
        student.zero_grad()
        torch.manual_seed(1)
        out = student(images, detached=detached)
        torch.nn.functional.cross_entropy(out.logits_BC, torch.arange(4)).backward()
        reached = {id(p) for p in student.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert last & reached
        assert bool(reached - last) != detached
        assert out.features_BD.requires_grad


def test_in_a_step_of_training_the_labels_of_a_probe_train_the_last_layer_alone():
    torch.manual_seed(0)
    student, data = Student("test_resnet", class_table("abcd"), 32), text_batch()
    data = replace(
        data,
        images=torch.rand(B, 3, 32, 32),
        teacher=TeacherOutput(*(part.float() for part in (data.teacher.logits_BC, data.teacher.embedding_BE))),
    )
    last = {id(p) for p in student.last_parameters()}
    for labels in ("joint", "probe"):
        task = Task(student, made("specmatch", student.width, labels=labels).float())
        student.zero_grad()
        task(data, Progress(0, 10))["ce"].backward()
        reached = {id(p) for p in student.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert last & reached
        assert bool(reached - last) == (labels == "joint")

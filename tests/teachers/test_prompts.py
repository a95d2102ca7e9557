"""Calibration on synthetic embeddings: images lie near good texts, the class texts are poor ones."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from linnet.config import PromptsConfig
from linnet.errors import UserError
from linnet.teachers import load_teacher
from linnet.teachers import prompts as module
from linnet.teachers.base import VisionLanguageTeacher
from linnet.teachers.prompts import Embedded, calibrate, calibrated_bank, drawn_classes, score, step_count

COLOURS = ("red", "blue", "green", "yellow", "black", "white")
POOR = [f"bird number {word}" for word in ("one", "two", "three", "four", "five", "six")]
CONFIG = PromptsConfig(vectors=4, batch_size=24, lr=0.02, max_steps=30)


@pytest.fixture(scope="module")
def teacher() -> VisionLanguageTeacher:
    teacher = load_teacher("mini-clip")
    assert isinstance(teacher, VisionLanguageTeacher)
    return teacher


def draw(teacher: VisionLanguageTeacher, images: int, seed: int) -> Embedded:
    good_CE = teacher.embed_texts([f"a bird with {colour} crown" for colour in COLOURS])
    labels = torch.arange(images) % len(COLOURS)
    noise = torch.randn(images, good_CE.shape[1], generator=torch.Generator().manual_seed(seed))
    return Embedded(F.normalize(good_CE[labels] + noise / good_CE.shape[1] ** 0.5, dim=1), labels)


@pytest.fixture(scope="module")
def train(teacher: VisionLanguageTeacher) -> Embedded:
    return draw(teacher, 48, seed=0)


@pytest.fixture(scope="module")
def val(teacher: VisionLanguageTeacher) -> Embedded:
    return draw(teacher, 60, seed=1)


def shuffled(split: Embedded) -> Embedded:
    order = torch.randperm(len(split.labels_N), generator=torch.Generator().manual_seed(0))
    return Embedded(split.rows_NE, split.labels_N[order])


def test_calibration_makes_poor_texts_better_and_trains_nothing_but_the_context(
    teacher: VisionLanguageTeacher, train: Embedded, val: Embedded
):
    before, fingerprint = teacher.embed_texts(POOR), teacher.fingerprint()
    prompts = calibrate(teacher, POOR, train, val, CONFIG, seed=0)
    for split in (train, val):
        top1, entropy = score(before, teacher.logit_scale, split)
        better, lower = score(prompts["bank_CE"], teacher.logit_scale, split)
        assert better > top1 + 0.2
        assert lower < entropy - 0.3
    assert prompts["context_PW"].shape == (4, teacher.token_width)
    assert prompts["bank_CE"].shape == (6, 192)
    assert torch.allclose(prompts["bank_CE"].norm(dim=1), torch.ones(6), atol=1e-5)
    assert torch.allclose(teacher.embed_texts(POOR, prompts["context_PW"]), prompts["bank_CE"], atol=1e-5)
    assert not any(tensor.requires_grad for tensor in prompts.values())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert teacher.fingerprint() == fingerprint
    assert torch.equal(teacher.embed_texts(POOR), before)


def test_calibration_is_a_function_of_its_arguments_and_the_seed(
    teacher: VisionLanguageTeacher, train: Embedded, val: Embedded
):
    short = replace(CONFIG, max_steps=4)
    torch.manual_seed(1)
    first = calibrate(teacher, POOR, train, val, short, seed=0)
    torch.manual_seed(2)
    again = calibrate(teacher, POOR, train, val, short, seed=0)
    assert all(torch.equal(first[name], again[name]) for name in ("context_PW", "bank_CE"))
    other = calibrate(teacher, POOR, train, val, short, seed=1)
    assert not torch.allclose(first["context_PW"], other["context_PW"], atol=1e-2)


def test_a_step_sees_the_classes_of_its_batch_and_others_drawn_anew():
    """Without a class of the batch its images would be pulled to a wrong text; with the same others every time some
    classes would never be told apart."""
    labels, generator = torch.tensor([7, 3, 7, 90]), torch.Generator().manual_seed(0)
    first, second = (drawn_classes(labels, 100, 10, generator).tolist() for _ in range(2))
    for drawn in (first, second):
        assert {3, 7, 90} <= set(drawn)
        assert len(drawn) == len(set(drawn)) == 10
        assert drawn == sorted(drawn)
    assert first != second
    often = [c for _ in range(300) for c in drawn_classes(labels, 100, 10, generator).tolist()]
    assert set(often) == set(range(100))
    assert drawn_classes(labels, 100, 2, generator).tolist() == [3, 7, 90]


def test_with_no_more_classes_than_asked_for_all_are_seen_and_nothing_is_drawn():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert drawn_classes(torch.tensor([1]), 6, 6, generator).tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(generator.get_state(), before)


def test_calibration_on_parts_of_the_classes_learns_the_context_and_is_judged_by_all(
    teacher: VisionLanguageTeacher, train: Embedded, val: Embedded, monkeypatch: pytest.MonkeyPatch
):
    top1, entropy = score(teacher.embed_texts(POOR), teacher.logit_scale, val)
    steps, epochs = watched(teacher, monkeypatch)
    few = replace(CONFIG, batch_size=4, classes=4, max_steps=96)
    prompts = calibrate(teacher, POOR, train, val, few, seed=0)
    assert {len(bank_CE) for bank_CE in steps} == {4}
    assert {len(bank_CE) for bank_CE in epochs} == {6}
    better, lower = score(prompts["bank_CE"], teacher.logit_scale, val)
    assert better > top1 + 0.2
    assert lower < entropy - 0.3


def test_each_image_is_drawn_to_the_text_of_its_own_class(
    teacher: VisionLanguageTeacher, train: Embedded, val: Embedded, monkeypatch: pytest.MonkeyPatch
):
    """The number of a class among those drawn is not its number."""
    asked, losses, real = [], [], F.cross_entropy
    embed = teacher.embed_texts
    monkeypatch.setattr(teacher, "embed_texts", lambda texts, context: asked.append(texts) or embed(texts, context))

    def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if logits.requires_grad:
            losses.append([asked[-1][label] for label in labels.tolist()])
        return real(logits, labels)

    monkeypatch.setattr(module.F, "cross_entropy", cross_entropy)
    one = Embedded(train.rows_NE[4:5], train.labels_N[4:5])
    calibrate(teacher, POOR, one, val, replace(CONFIG, classes=2, max_steps=5), seed=0)
    assert losses == [[POOR[4]]] * 5
    assert len({tuple(texts) for texts in asked if len(texts) == 2}) > 1


def watched(
    teacher: VisionLanguageTeacher, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The text banks of all training steps and of the ends of all epochs, as a calibration computes them."""
    steps, epochs, real = [], [], teacher.embed_texts

    def embed_texts(texts: list[str], context_PW: torch.Tensor) -> torch.Tensor:
        bank_CE = real(texts, context_PW)
        (steps if bank_CE.requires_grad else epochs).append(bank_CE.detach())
        return bank_CE

    monkeypatch.setattr(teacher, "embed_texts", embed_texts)
    return steps, epochs


def contradicting(split: Embedded) -> Embedded:
    """Each class under the name of the next one: whatever is learnt elsewhere is wrong here."""
    return Embedded(split.rows_NE, (split.labels_N + 1) % len(COLOURS))


def test_val_chooses_the_epoch(
    teacher: VisionLanguageTeacher, train: Embedded, val: Embedded, monkeypatch: pytest.MonkeyPatch
):
    """Kept by training loss, or always the last, a calibration that overfits would be handed on."""
    judge, told = contradicting(val), []
    _, epochs = watched(teacher, monkeypatch)
    prompts = calibrate(
        teacher, POOR, train, judge, replace(CONFIG, lr=0.1), 0, lambda step, words: told.append((step, words))
    )
    scores = [score(bank_CE, teacher.logit_scale, judge) for bank_CE in epochs]
    best = max(range(len(scores)), key=lambda epoch: (scores[epoch][0], -scores[epoch][1]))
    assert best < len(scores) - 1  # or the last one would pass, too
    assert torch.equal(prompts["bank_CE"], epochs[best])
    assert told == [(2 * (n + 1), f"val top-1 {100 * top1:.1f} %") for n, (top1, _) in enumerate(scores)]


def test_of_epochs_with_the_same_accuracy_the_one_with_the_lower_cross_entropy_is_kept(
    teacher: VisionLanguageTeacher, train: Embedded, val: Embedded, monkeypatch: pytest.MonkeyPatch
):
    _, epochs = watched(teacher, monkeypatch)
    scores = iter([(0.5, 0.1), (0.7, 1.0), (0.7, 0.9), (0.7, 0.9), (0.6, 0.0)])
    monkeypatch.setattr(module, "score", lambda *_: next(scores))
    prompts = calibrate(teacher, POOR, train, val, replace(CONFIG, max_steps=10), seed=0)
    assert torch.equal(prompts["bank_CE"], epochs[2])
    assert not torch.equal(prompts["bank_CE"], epochs[3])


def test_it_ends_when_val_has_not_improved_for_as_many_epochs_as_patience_says(
    teacher: VisionLanguageTeacher, train: Embedded, val: Embedded, monkeypatch: pytest.MonkeyPatch
):
    _, epochs = watched(teacher, monkeypatch)
    scores = iter([(0.5, 1.0), (0.4, 1.0), (0.4, 1.0), (0.6, 1.0), *[(0.6, 1.0)] * 3])
    monkeypatch.setattr(module, "score", lambda *_: next(scores))
    prompts = calibrate(teacher, POOR, train, val, replace(CONFIG, patience=3), seed=0)
    assert len(epochs) == 7 < CONFIG.max_steps // 2
    assert torch.equal(prompts["bank_CE"], epochs[3])


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        (PromptsConfig(epochs=3, batch_size=24), 6),
        (PromptsConfig(epochs=3, batch_size=20), 6),  # the last partial batch is dropped
        (PromptsConfig(epochs=3, batch_size=24, max_steps=5), 5),
        (PromptsConfig(epochs=3, batch_size=24, max_steps=None), 6),
        (PromptsConfig(epochs=3, batch_size=128), 3),
    ],
)
def test_as_many_steps_as_announced(
    teacher: VisionLanguageTeacher,
    train: Embedded,
    val: Embedded,
    config: PromptsConfig,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
):
    taken, epochs = watched(teacher, monkeypatch)
    calibrate(teacher, POOR, train, val, replace(config, vectors=1), seed=0)
    assert len(taken) == step_count(config, 48) == steps
    assert len(epochs) == 3


def test_optimiser_is_that_of_the_paper(
    teacher: VisionLanguageTeacher, train: Embedded, val: Embedded, monkeypatch: pytest.MonkeyPatch
):
    """SGD with momentum 0.9 and no weight decay, a cosine to 0, gradients of norm 1 at most."""
    monkeypatch.setattr(teacher, "logit_scale", 100.0)  # that of CLIP; gradients are larger than 1
    rates, norms = [], []

    class Watched(torch.optim.SGD):
        def step(self) -> None:  # type: ignore[override]
            (group,) = self.param_groups
            assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 0, False)
            rates.append(group["lr"])
            norms.append(float(group["params"][0].grad.norm()))
            super().step()

    monkeypatch.setattr(torch.optim, "SGD", Watched)
    loud = partial(calibrate, teacher, POOR, seed=0)
    loud(train=shuffled(train), val=val, config=replace(CONFIG, max_steps=8))
    assert rates == pytest.approx([0.02 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)])
    assert max(norms) <= 1 + 1e-4
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: None)
    loud(train=shuffled(train), val=val, config=replace(CONFIG, max_steps=8))
    assert max(norms) > 1.1


def test_unlabelled_images_teach_and_judge_nothing(teacher: VisionLanguageTeacher, train: Embedded, val: Embedded):
    """-1 as an index would be the last class."""
    short = replace(CONFIG, max_steps=4)

    def with_unlabelled(split: Embedded) -> Embedded:
        strange = F.normalize(torch.randn(9, 192, generator=torch.Generator().manual_seed(0)), dim=1)
        rows, labels = torch.cat([strange, split.rows_NE]), torch.cat([torch.full((9,), -1), split.labels_N])
        return Embedded(rows, labels)

    clean = calibrate(teacher, POOR, train, val, short, seed=0)
    mixed = calibrate(teacher, POOR, with_unlabelled(train), with_unlabelled(val), short, seed=0)
    assert torch.equal(clean["bank_CE"], mixed["bank_CE"])
    assert score(clean["bank_CE"], 20.0, val) == score(clean["bank_CE"], 20.0, with_unlabelled(val))


def test_texts_that_leave_little_room_get_fewer_vectors(teacher: VisionLanguageTeacher, train: Embedded, val: Embedded):
    texts = [f"{'bird ' * 42}{word}" for word in COLOURS]
    room = teacher.room(texts)
    assert 0 < room < 4
    prompts = calibrate(teacher, texts, train, val, replace(CONFIG, max_steps=1), seed=0)
    assert len(prompts["context_PW"]) == room


def test_texts_that_leave_no_room_are_refused(teacher: VisionLanguageTeacher, train: Embedded, val: Embedded):
    with pytest.raises(UserError, match=r"no context vector fits.*shorten --teacher.templates.*--prompts.text name"):
        calibrate(teacher, [f"{'bird ' * 60}{word}" for word in COLOURS], train, val, CONFIG, seed=0)


# --- the cache ---


@pytest.fixture
def kept(
    teacher: VisionLanguageTeacher, train: Embedded, val: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> partial:
    """calibrated_bank in an empty cache; what it is called with replaces these arguments."""
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path))
    config = replace(CONFIG, max_steps=2)
    return partial(calibrated_bank, teacher, texts=POOR, train=train, val=val, config=config, seed=0, space="the space")


def test_a_calibration_is_done_once(kept: partial, monkeypatch: pytest.MonkeyPatch):
    first = kept()
    monkeypatch.setattr(module, "calibrate", lambda *_: pytest.fail("is computed again"))
    again = kept(progress=lambda step, words: pytest.fail("is computed again"))
    assert set(first) == set(again) == {"context_PW", "bank_CE"}
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("changed", ["texts", "order", "labels", "val labels", "rows", "config", "seed", "space"])
def test_whatever_decides_a_calibration_is_in_its_key(kept: partial, train: Embedded, val: Embedded, changed: str):
    """One thing left out, and the prompts of other data would be used, silently."""
    arguments = {
        "texts": {"texts": [f"the {text}" for text in POOR]},
        "order": {"texts": POOR[::-1]},
        "labels": {"train": shuffled(train)},
        "val labels": {"val": shuffled(val)},
        "rows": {"train": Embedded(train.rows_NE.roll(1, 0), train.labels_N)},
        "config": {"config": replace(CONFIG, max_steps=2, lr=0.01)},
        "seed": {"seed": 1},
        "space": {"space": "another teacher"},
    }[changed]
    told = []
    kept(progress=lambda step, words: told.append(step))
    kept(progress=lambda step, words: told.append(step))
    assert told == [2]
    kept(**arguments, progress=lambda step, words: told.append(step))
    assert told == [2, 2]


@pytest.mark.parametrize("content", [b"", b"nothing", None, "flipped"])
def test_a_damaged_file_is_computed_again(kept: partial, tmp_path: Path, content: bytes | str | None):
    first, told = kept(), []
    (file,) = (tmp_path / "prompts").iterdir()
    before = file.read_bytes()
    damaged = {None: before[:-100], "flipped": before[:-1] + bytes([before[-1] ^ 1])}
    file.write_bytes(damaged.get(content, content))  # type: ignore[arg-type]
    again = kept(progress=lambda step, words: told.append(step))
    assert told == [2]
    assert torch.equal(first["bank_CE"], again["bank_CE"])
    assert torch.equal(kept(progress=lambda step, words: pytest.fail("is not kept"))["bank_CE"], first["bank_CE"])

"""vlm-kd: what it makes of the losses that are tested in test_losses.py, and of the texts."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hand_made import random

from linnet import methods
from linnet.config import Config
from linnet.data.manifest import Manifest
from linnet.errors import UserError
from linnet.losses import cross_entropy, softened_kl, text_contrast
from linnet.methods.base import Context, Method
from linnet.step import Batch, Progress, StudentOutput, TeacherOutput
from linnet.text.classes import ClassInfo

B, C, D, E = 6, 3, 5, 4
NOW = Progress(0, 1)
CLASSES = tuple(ClassInfo(f"class_{i}", f"class {i}") for i in range(C))
LABELS = np.array([0, 1, 2, 0, 1, 2])
CAPTIONS = tuple((f"text {i}", f"class {label} again {i}") for i, label in enumerate(LABELS))


class WordEncoder(torch.nn.Module):
    """Every text has a direction of its own."""

    id = "words"
    unknown_token = None

    def tokens(self, texts: list[str]) -> list[tuple[int, ...]]:
        return [tuple(text.encode()) for text in texts]

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        rows = [np.random.default_rng(list(text.encode())).normal(size=E) for text in texts]
        return F.normalize(torch.tensor(np.array(rows), dtype=torch.float32), dim=1)

    def fingerprint(self) -> str:
        return "words"


def prepared(
    captions: tuple[tuple[str, ...], ...] | None = CAPTIONS, classes: tuple = CLASSES, **options: object
) -> Method:
    torch.manual_seed(0)
    made = methods.build("vlm-kd", {"vlm-kd": options})
    made.prepare(Context(Config(), classes, D, None, None, captions, LABELS, WordEncoder()))
    return made.double()


def batch() -> Batch:
    return Batch(
        torch.arange(B), 0, torch.zeros(B, 3, 8, 8), torch.from_numpy(LABELS), TeacherOutput(random(B, C, seed=3))
    )


def student() -> StudentOutput:
    return StudentOutput(random(B, D, seed=1).requires_grad_(), random(B, C, seed=2).requires_grad_())


def contrast_with(
    method: Method, texts: list[str], out: StudentOutput, rows: tuple[int, ...] = tuple(range(B))
) -> torch.Tensor:
    embedded = WordEncoder().embed_texts(texts).half().double()  # texts are kept in half precision
    return text_contrast(
        method.projection(out.features_BD[list(rows)]), embedded, torch.from_numpy(LABELS[list(rows)]), 0.07
    )


def test_terms_are_the_mean_contrast_over_an_images_texts_beside_the_cross_entropy():
    method, out = prepared(), student()
    terms = method(batch(), out, NOW)
    both = [contrast_with(method, [own[m] for own in CAPTIONS], out) for m in range(2)]
    assert set(terms) == {"ce", "text"}
    assert torch.allclose(terms["text"], 0.5 * (both[0] + both[1]) / 2)
    assert torch.allclose(terms["ce"], cross_entropy(out.logits_BC, batch().labels))


def test_only_the_first_texts_are_used_if_so_asked():
    method, out = prepared(texts=1, text_weight=1.0), student()
    assert torch.allclose(method(batch(), out, NOW)["text"], contrast_with(method, [own[0] for own in CAPTIONS], out))
    assert method.about()["texts.count"] == B


def test_images_without_a_text_are_neither_pulled_nor_pushed():
    some = (*CAPTIONS[:2], (), ("alone",), *CAPTIONS[4:])
    method, out = prepared(captions=some, text_weight=1.0), student()
    first = contrast_with(method, [own[0] for own in some if own], out, (0, 1, 3, 4, 5))
    second = contrast_with(method, [own[1] for own in some if len(own) > 1], out, (0, 1, 4, 5))
    term = method(batch(), out, NOW)["text"]
    assert torch.allclose(term, (first + second) / 2)
    term.backward()
    assert out.features_BD.grad[2].abs().sum() == 0


def test_a_batch_without_any_text_adds_nothing():
    method = prepared(captions=((), (), ("one",), (), (), ()))
    few = Batch(torch.tensor([0, 1]), 0, torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))
    terms = method(few, StudentOutput(random(2, D, seed=1), random(2, C, seed=2)), NOW)
    assert terms["text"].item() == 0


def test_without_texts_of_images_the_descriptions_of_the_classes_are_read():
    described = tuple(info._replace(descriptions=(f"sentence {i}", f"more {i}")) for i, info in enumerate(CLASSES))
    method, out = prepared(captions=None, classes=described, text_weight=1.0), student()
    both = [contrast_with(method, [described[label].descriptions[m] for label in LABELS], out) for m in range(2)]
    assert torch.allclose(method(batch(), out, NOW)["text"], (both[0] + both[1]) / 2)
    assert method.about()["texts.source"] == "class"


def test_class_names_stand_in_the_first_template_where_nothing_else_is_known():
    method, out = prepared(source="class", text_weight=1.0), student()
    expected = contrast_with(method, [f"a photo of a class {label}." for label in LABELS], out)
    assert torch.allclose(method(batch(), out, NOW)["text"], expected)


def test_a_vision_teacher_adds_the_softened_kl_of_its_logits():
    method, out, data = prepared(vision_weight=3.0, vision_temperature=2.0), student(), batch()
    expected = 3 * softened_kl(out.logits_BC, data.teacher.logits_BC, 2.0)
    assert torch.allclose(method(data, out, NOW)["vision"], expected)
    assert methods.needs_teacher("vlm-kd", {"vlm-kd": {"vision_weight": 3.0}}) == {"any"}
    assert methods.needs_teacher("vlm-kd") == set()


def test_hidden_names_are_not_read():
    method, out = prepared(hide="names", text_weight=1.0, source="image"), student()
    both = [
        contrast_with(method, texts, out)
        for texts in ([f"text {i}" for i in range(B)], [f"again {i}" for i in range(B)])
    ]
    assert torch.allclose(method(batch(), out, NOW)["text"], (both[0] + both[1]) / 2)
    assert method.about()["texts.naming"] == 0
    assert prepared().about()["texts.naming"] == 0.5


def test_the_projection_is_trained_and_nothing_else_is_in_the_methods_state():
    method, out = prepared(), student()
    sum(method(batch(), out, NOW).values()).backward()
    assert {name.split(".")[0] for name in method.state_dict()} == {"projection"}
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.parameters())
    assert out.features_BD.grad.abs().sum() > 0


ROWS = {
    "paths": (Path("a"), Path("b")),
    "labels": np.arange(2),
    "splits": np.array(["train"] * 2),
    "digests": np.zeros((2, 16), np.uint8),
}


@pytest.mark.parametrize(
    ("options", "texts", "message"),
    [
        ({}, None, "vlm-kd needs texts: 'linnet describe DATA --vlm ID --out texts.parquet' writes them"),
        ({}, ((), ()), "vlm-kd needs texts"),
        ({"source": "image"}, None, "needs texts of the images: give them with --data.texts FILE"),
    ],
)
def test_missing_texts_are_missed_before_anything_is_loaded(options: dict, texts: tuple | None, message: str):
    with pytest.raises(UserError, match=message):
        methods.build("vlm-kd", {"vlm-kd": options}).check_data(Manifest(**ROWS, classes=CLASSES, texts=texts))


def test_texts_or_descriptions_of_some_are_enough_to_start():
    described = (CLASSES[0]._replace(descriptions=("a",)), *CLASSES[1:])
    methods.build("vlm-kd", {}).check_data(Manifest(**ROWS, classes=described))
    methods.build("vlm-kd", {}).check_data(Manifest(**ROWS, classes=CLASSES, texts=(("a",), ())))
    methods.build("vlm-kd", {"vlm-kd": {"source": "class"}}).check_data(Manifest(**ROWS, classes=CLASSES))


def test_texts_that_are_nothing_but_names_cannot_be_hidden():
    with pytest.raises(UserError, match="vlm-kd.hide names leaves nothing of the texts"):
        prepared(captions=tuple((f"class {label}",) for label in LABELS), hide="names")


def test_classes_that_read_the_same_are_refused():
    """Once the names are hidden, nothing may be left that tells the classes apart."""
    with pytest.raises(UserError, match="'class_0' and 'class_1' .*their text is the same.*use --vlm-kd.hide none"):
        prepared(captions=None, source="class", hide="names")
    described = tuple(info._replace(descriptions=(f"it is {info.name[-1]} cm long",)) for info in CLASSES)
    assert prepared(captions=None, classes=described, source="class", hide="names").about()["texts.count"] == C

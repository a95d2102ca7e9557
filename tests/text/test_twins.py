"""Classes that a text encoder cannot tell apart: real tokenizers, and an encoder made by hand."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hub_models import save_align, save_bert, save_clip, save_siglip

import linnet
from linnet.errors import UserError
from linnet.teachers import load_text_encoder
from linnet.teachers.base import TextEncoder
from linnet.teachers.texts import check_class_texts
from linnet.text.classes import class_sentences, class_table
from linnet.text.twins import check_read_apart, warn_of_twins

LONG = "a bird with a long tail and a red crest and a grey crown " * 12
TEMPLATES = ("a photo of a {}.",)
CUT, CASE, UNKNOWN = (
    "reads only the beginning",
    "only in capital letters, accents or marks",
    "does not know their letters",
)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TextEncoder]:
    root, loaded = tmp_path_factory.mktemp("models"), {}
    savers = {"clip": save_clip, "siglip": save_siglip, "align": save_align, "bert": save_bert}

    def load(kind: str) -> TextEncoder:
        if kind not in loaded:
            id = "mini-clip" if kind == "mini-clip" else f"hf:{savers[kind](root / kind)}"
            loaded[kind] = load_text_encoder(id)
        return loaded[kind]

    return load


KINDS = ("mini-clip", "clip", "siglip", "align", "bert")


def check(encoder: TextEncoder, *names: str) -> None:
    check_class_texts(encoder, class_table(names), TEMPLATES)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_read_the_same_are_refused(kind: str, encoders: Callable[[str], TextEncoder]):
    """Every cosine would be 1: the teacher would name one of the two classes by chance, and nobody would know why."""
    encoder = encoders(kind)
    check(encoder, "red owl", "grey wren", "blue heron")
    with pytest.raises(UserError, match=f"{CUT}.*--data.descriptions"):
        check(encoder, "red owl", LONG + "one", LONG + "two")
    with pytest.raises(UserError, match=f"'Owl' and 'owl' .*{CASE}"):
        check(encoder, "wren", "Owl", "owl")
    with pytest.raises(UserError, match="their text is the same .'a photo of a red owl.'"):
        check(encoder, "red_owl", "red owl")


def test_a_tokenizer_without_its_files_is_told(caplog: pytest.LogCaptureFixture):
    classes = class_table(["owl", "wren"])

    def tokens(texts: list[str]) -> list[tuple[int, ...]]:
        return [(2, *(1 for _ in text.split()), 3) for text in texts]

    with pytest.raises(UserError, match="'owl' and 'wren' read the same, as do all words: are files of its tokenizer"):
        check_read_apart("e", classes, [["owl"], ["wren"]], tokens, unknown=1)
    check_read_apart("e", classes, [["owl"], ["grey wren"]], tokens, unknown=1)
    assert "knows nothing that tells 'owl' and 'wren' apart" in caplog.text


def test_names_that_differ_in_accents_only(encoders: Callable[[str], TextEncoder]):
    """BERT's tokenizer drops accents, and no name is cut off."""
    with pytest.raises(UserError, match=f"'cafe' and 'café' .*{CASE}"):
        check(encoders("bert"), "cafe", "café", "owl")


@pytest.mark.parametrize("kind", ["siglip", "align", "bert"])
def test_names_in_an_unknown_script_are_refused(kind: str, encoders: Callable[[str], TextEncoder]):
    with pytest.raises(UserError, match=f"'玫瑰' and '菊花' .*{UNKNOWN}"):
        check(encoders(kind), "玫瑰", "owl", "菊花")


@pytest.mark.parametrize("kind", ["mini-clip", "clip"])
def test_where_every_script_is_known_such_names_are_taken(
    kind: str, encoders: Callable[[str], TextEncoder], caplog: pytest.LogCaptureFixture
):
    check(encoders(kind), "玫瑰", "owl", "菊花")
    assert not caplog.records


def test_names_of_which_only_the_number_of_unknown_letters_differs(
    encoders: Callable[[str], TextEncoder], caplog: pytest.LogCaptureFixture
):
    check(encoders("bert"), "玫瑰", "郁金香", "owl")
    assert "nothing that tells '玫瑰' and '郁金香' apart" in caplog.text


def test_sentences_count_together():
    """One template may be too long for the names, as long as another is not."""

    def first_four(texts: list[str]) -> list[tuple[int, ...]]:
        return [tuple(text.encode()[:4]) for text in texts]

    classes = class_table(["owl", "wren"])
    for templates, apart in ((("the {}",), False), (("{}", "the {}"), True)):
        texts = [class_sentences(info, templates) for info in classes]
        if apart:
            check_read_apart("x", classes, texts, first_four)
        else:
            with pytest.raises(UserError, match=CUT):
                check_read_apart("x", classes, texts, first_four)


def test_the_order_of_descriptions_tells_nothing_apart(encoders: Callable[[str], TextEncoder]):
    big, small = class_table(["Owl", "owl"])
    classes = [big._replace(descriptions=("red", "grey")), small._replace(descriptions=("grey", "red"))]
    with pytest.raises(UserError, match=CASE):
        check_class_texts(encoders("clip"), classes, TEMPLATES)  # type: ignore[arg-type]


def test_names_that_only_count_are_warned_of(encoders: Callable[[str], TextEncoder], caplog: pytest.LogCaptureFixture):
    check(encoders("clip"), "class1", "class2", "class3")
    assert "the class names ('class1' and 'class2' and 'class3') do not say what the classes look like" in caplog.text


def test_vectors_that_are_as_good_as_one_are_named(caplog: pytest.LogCaptureFixture):
    bank = np.array([[1.0, 0, 0], [0, 2, 0], [3, 0.1, 0], [0.6, 0.8, 0]])
    warn_of_twins("clip", ["a", "b", "c", "d"], bank)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "'clip' hardly tells some classes apart" in caplog.text
    assert "('a' and 'c')" in caplog.text
    caplog.clear()
    warn_of_twins("clip", ["a", "b"], bank[:2])
    assert not caplog.records


@pytest.fixture
def twins(make_folder: Callable[..., Path]) -> Path:
    folder = make_folder(images=6)
    (folder / "green_bird").rename(folder / "Red_Bird")
    if len(list(folder.iterdir())) < 3:
        pytest.skip("this file system does not tell capital letters from small ones")
    return folder


@pytest.mark.parametrize("options", [{}, {"teacher.head": "prompt", "prompts.text": "name"}], ids=["kd", "prompts"])
def test_a_run_is_refused_before_the_teacher_looks(
    options: dict[str, str], twins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("linnet.commands.distill.decode", lambda *_: pytest.fail("decodes first"))
    with pytest.raises(UserError, match=f"to 'mini-clip' the classes 'Red_Bird' and 'red_bird' read the same.*{CASE}"):
        linnet.distill(twins, teacher="mini-clip", student="test_resnet", out=tmp_path / "run",
                       options={"student.pretrained": False, "student.image_size": 32, **options})  # fmt: skip


def test_a_probe_does_not_read_names(twins: Path, tmp_path: Path):
    options = {"student.pretrained": False, "student.image_size": 32, "train.epochs": 1, "train.batch_size": 4}
    options |= {"export": False, "teacher.head": "probe"}
    run = linnet.distill(twins, teacher="mini-clip", student="test_resnet", out=tmp_path / "run", options=options)
    assert run.summary()["teacher.head"] == "probe"


def test_new_classes_that_read_the_same_are_refused():
    with pytest.raises(UserError, match=CASE):
        linnet.embed(["Owl", "owl"], teacher="mini-clip")

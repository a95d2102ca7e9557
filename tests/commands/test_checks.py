"""What can be known without data and network is said before either is touched."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub_models import save_bert

import linnet
from linnet.errors import UserError
from linnet.students.student import Student
from linnet.text.classes import class_table


@pytest.fixture
def photos(make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that must not be read, and a hub that must not be asked."""
    for place in ("students.network", "teachers.timm", "teachers.open_clip", "teachers.hub", "teachers.writer"):
        monkeypatch.setattr(f"linnet.{place}.reach_hub", lambda what: pytest.fail(f"asks the hub for {what}"))
    for command in ("distill", "describe"):
        monkeypatch.setattr(f"linnet.commands.{command}.load_manifest", lambda *_: pytest.fail("reads the data"))
    return make_folder(images=3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"student": "mobilnetv3_small_100"}, "timm has no network 'mobilnetv3_small_100'. Did you mean"),
        ({"student": "resnet8x4"}, "timm has no weights for the student 'resnet8x4'"),
        ({"student": "inception_v3"}, "cannot work at 32 pixels"),
        ({"student.pretrained": Path("nowhere.pth")}, "there are no weights at nowhere.pth: no such file or folder"),
        ({"student.stem": "lowres", "student": "test_vit"}, "does not start with a convolution of stride 2"),
        ({"teacher": "run:nope"}, "'run:nope' is no finished run"),
        ({"teacher": "timm:local-dir:nope"}, "the teacher folder nope has no config.json"),
        ({"teacher": "timm:resnet43"}, "timm has no model 'resnet43'"),
        ({"teacher": "hf:/no/such"}, "there is no folder /no/such"),
        ({"teacher": "open_clip:ViT-B-61/webli"}, "open_clip has no architecture 'ViT-B-61'"),
        ({"teacher": "open_clip:ViT-B-32/nope"}, "needs a tag"),
        ({"teacher": "open_clip:local-dir:nope"}, "has no open_clip_config.json"),
        ({"teacher": "timm:resnet18", "method": "pand"}, "needs a vision-language model as teacher"),
        ({"teacher": None, "method": "vlm-kd", "teacher.text_encoder": "hf:/no/such"}, "there is no folder /no/such"),
        ({"data.texts": Path("texts.parquet")}, "there is no file texts.parquet"),
        ({"data.descriptions": Path("words.yaml")}, "cannot read words.yaml"),
        ({"teacher.templates": ("a photo",)}, "templates must be sentences with one {}"),
        ({"method": "vl2lite", "vl2lite.ce_weight": 2.0}, "ce_weight has no effect"),
        ({"method": "kd+pand:0.5", "pand.ce_weight": 2.0}, "ce_weight has no effect"),
        ({"method": "figkd", "figkd.metric": "mse", "figkd.temperature": 2.0}, "has no effect on the metric mse"),
        ({"method": "openvocab", "openvocab.caption_temperature": 0.1}, "without a caption_weight"),
        ({"method": "openvocab", "openvocab.learn_prompts": True, "teacher.head": "prompt"}, "not both"),
    ],
    ids=str,
)
def test_a_run_is_refused_before_anything_is_read_or_fetched(
    photos: Path, tmp_path: Path, given: dict, words: str, monkeypatch: pytest.MonkeyPatch
):
    """The weights of student and teacher would be fetched: what is wrong has to come first."""
    monkeypatch.chdir(tmp_path)
    arguments = {"teacher": "mini-clip", "student": "mobilenetv3_small_100", "student.image_size": 32, **given}
    named = {name: arguments.pop(name) for name in ("teacher", "student", "method") if name in arguments}
    with pytest.raises(UserError) as caught:
        linnet.distill(photos, **named, out=tmp_path / "run", options=arguments)
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_student_that_is_no_classifier_comes_before_data_and_weights(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As the encoders of language models, which timm knows by name."""
    monkeypatch.setattr("linnet.students.network.classifiers", lambda network: ())
    with pytest.raises(UserError, match="the student 'mobilenetv3_small_100' has no classifier"):
        linnet.distill(photos, teacher="timm:resnet18", student="mobilenetv3_small_100",
                       options={"student.image_size": 32}, out=tmp_path / "run")  # fmt: skip


def test_data_that_are_not_there_come_before_the_hub(photos: Path, tmp_path: Path):
    with pytest.raises(UserError, match="gone: no such folder"):
        linnet.distill(tmp_path / "gone", teacher="hf:some/model", student="resnet18", out=tmp_path / "run")


@pytest.mark.usefixtures("without_transformers")
@pytest.mark.parametrize("teacher", ["hf:some/model", "open_clip:ViT-B-16-SigLIP2/webli"])
def test_a_missing_extra_comes_before_data_and_hub(photos: Path, tmp_path: Path, teacher: str):
    with pytest.raises(UserError, match=r"'transformers' is needed .* pip install 'linnet\[hf\]'"):
        linnet.distill(photos, teacher=teacher, student="resnet18", out=tmp_path / "run")


def test_a_folder_that_only_reads_texts_is_no_teacher(photos: Path, tmp_path: Path):
    with pytest.raises(UserError, match="does not embed images and texts, and cannot be a teacher"):
        linnet.distill(photos, teacher=f"hf:{save_bert(tmp_path / 'bert')}", student="resnet18", out=tmp_path / "run")


def test_a_copy_without_data_is_checked_before_its_teacher_is_fetched(photos: Path, tmp_path: Path):
    given = {"teacher": "timm:resnet18", "student": "nonet", "method": "dfkd", "out": tmp_path / "run"}
    with pytest.raises(UserError, match="timm has no network 'nonet'"):
        linnet.distill(**given)
    with pytest.raises(UserError, match="'run:nope' is no finished run"):
        linnet.distill(**given | {"teacher": "run:nope", "student": "resnet18"})


def test_a_teacher_of_other_classes_comes_before_images_and_weights(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(0)
    Student("test_resnet", class_table(["owl", "wren"]), image_size=32).eval().save(tmp_path / "teacher" / "model")
    monkeypatch.setattr("linnet.commands.distill.decode", lambda *_: pytest.fail("decodes images"))
    monkeypatch.setattr("linnet.students.network.reach_hub", lambda what: pytest.fail("fetches weights"))
    with pytest.raises(UserError, match="knows 2 classes"):
        linnet.distill(make_folder(images=4), teacher=f"run:{tmp_path / 'teacher'}", student="mobilenetv3_small_050",
                       options={"student.image_size": 32}, out=tmp_path / "run")  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"vlm": "./nope", "out": "t.parquet"}, "there is no folder nope"),
        ({"vlm": "FOLDER", "out": "t.parquet"}, "is not a model of transformers"),
        ({"vlm": "some/model", "out": "there.yaml", "per": "class"}, "there.yaml exists"),
    ],
    ids=["no folder", "no model", "there already"],
)
def test_texts_are_not_begun_that_cannot_be_written(
    photos: Path, tmp_path: Path, given: dict, words: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("there.yaml").write_text("a: b")
    with pytest.raises(UserError, match=words):
        linnet.describe(
            photos, **{name: str(tmp_path) if value == "FOLDER" else value for name, value in given.items()}
        )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"teacher": "open_clip:ViT-B-16-SigLIP2/webli", "templates": ("photo",)}, "templates must be sentences"),
        ({"teacher": "timm:resnet18"}, "is a classifier: it cannot embed class names"),
        ({"teacher": "hf:/no/such"}, "there is no folder /no/such"),
        ({"teacher": "hf:some/model", "descriptions": Path("gone.yaml")}, "cannot read gone.yaml"),
        ({}, "give --teacher or --run"),
    ],
    ids=str,
)
def test_names_are_checked_before_what_reads_them_is_fetched(photos: Path, given: dict, words: str):
    with pytest.raises(UserError, match=words):
        linnet.embed("owl,wren", **given)

"""A teacher of transformers from end to end, as one of open_clip: distillation, learned prompts, names as text."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_models import save_bert, save_clip

import linnet
from linnet.__main__ import main
from linnet.commands.embed import embed
from linnet.config import DataConfig
from linnet.data.load import load_manifest
from linnet.deploy.predictor import load
from linnet.run import Run
from linnet.students.student import Student
from linnet.text.bank import TextBank

SOURCE = "aviary:species=4,images=8,genus=1"
OPTIONS = {"student.name": "test_resnet", "student.image_size": 32, "train.epochs": 1, "train.batch_size": 12, "export": False}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"hf:{save_clip(tmp_path_factory.mktemp('hub') / 'clip', length=256)}"


def distill(teacher: str, method: str, out: Path, **options: object) -> Run:
    return linnet.distill(SOURCE, teacher=teacher, method=method, out=out, options={**OPTIONS, **options})


@pytest.mark.parametrize("views", ["center", "replay:1", "online"])
def test_kd_with_every_kind_of_view(teacher: str, views: str, tmp_path: Path):
    more = {"teacher.head": "probe"} if views == "center" else {}
    summary = distill(teacher, "kd", tmp_path / "run", **{"teacher.views": views, **more}).summary()
    assert (summary["teacher.id"], summary["teacher.views"]) == (teacher, views)
    assert 0 <= summary["teacher.val.top1"] <= 1
    assert "teacher.zero-shot.val.top1" in summary


def test_pand_calibrates_prompts(teacher: str, tmp_path: Path):
    options = {"teacher.head": "prompt", "prompts.vectors": 2, "prompts.epochs": 2}
    summary = distill(teacher, "pand", tmp_path / "run", **options).summary()
    assert {"teacher.prompt.val.top1", "teacher.zero-shot.val.top1"} <= set(summary)


def test_openvocab_learns_prompts(teacher: str, tmp_path: Path):
    options = {"openvocab.learn_prompts": True, "prompts.vectors": 2}
    run = distill(teacher, "openvocab", tmp_path / "run", **options)
    bank = Student.load(run.model).bank
    assert bank is not None and bank.context_PW is not None
    assert bank.context_PW.shape == (2, 16)
    learned = embed("owl,wren", run=run.folder).rows_CE
    assert abs(learned - embed("owl,wren", teacher=teacher, templates=bank.templates).rows_CE).max() > 1e-3


def test_names_that_the_student_never_saw_without_torch(
    teacher: str, tmp_path: Path, run_without_torch: Callable[[str], str]
):
    """From the run with torch, and from two ONNX files where neither torch nor transformers are."""
    run = distill(teacher, "openvocab", tmp_path / "run", export=True)
    names = "red bird with long crest,Green_Heron,owl"
    images = list(load_manifest(DataConfig(source=SOURCE)).paths[:4])
    expected = list(load(run.folder, embed(names, run=run.folder)).predict(images, top=3))
    main(["export", str(run.folder), "--text-tower"])
    code = f"""
from linnet.__main__ import main
main(["predict", {str(run.onnx)!r}, *{list(map(str, images))!r}, "--classes", {names!r}, "--json", "--top", "3"])
"""
    lines = [json.loads(line) for line in run_without_torch(code).splitlines()]
    for line, prediction in zip(lines, expected, strict=True):
        by_name = {row["class"]: row["probability"] for row in line["top"]}
        assert by_name == pytest.approx(dict(zip(prediction.classes, prediction.probabilities, strict=True)), abs=1e-3)
    main(["embed", "--run", str(run.folder), "--classes", names, "--out", str(tmp_path / "names.safetensors")])
    assert TextBank.load(tmp_path / "names.safetensors").names == ("red bird with long crest", "Green_Heron", "owl")


def test_a_sentence_encoder_reads_the_texts_of_vlm_kd(tmp_path: Path):
    encoder = f"hf:{save_bert(tmp_path / 'bert')}"
    run = distill(
        "mini-clip", "vlm-kd", tmp_path / "run", **{"teacher.text_encoder": encoder, "vlm-kd.vision_weight": 1.0}
    )
    summary = run.summary()
    assert (summary["text_encoder.id"], summary["teacher.id"]) == (encoder, "mini-clip")
    assert run.metrics()[0]["text"] > 0

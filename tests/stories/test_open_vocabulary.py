"""openvocab from end to end: novel classes, few-shot, and class names as text on the machine that predicts."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet
import pytest
import torch

import linnet
from linnet.__main__ import main
from linnet.commands.embed import bank_for
from linnet.config import DataConfig
from linnet.data.batches import eval_batches
from linnet.data.load import load_manifest
from linnet.data.novel import base_part, novel_part
from linnet.data.store import Images
from linnet.deploy.export import export_onnx
from linnet.deploy.predictor import load
from linnet.deploy.text_tower import OnnxTextTower
from linnet.errors import UserError
from linnet.run import Run
from linnet.students.student import Student
from linnet.teachers import load_teacher
from linnet.teachers.base import VisionLanguageTeacher
from linnet.teachers.texts import bank_like, text_bank
from linnet.text.bank import TextBank
from linnet.text.classes import ClassInfo

SOURCE = "aviary:species=8,images=12,genus=1"


OPTIONS = {
    "student.name": "test_resnet", "student.image_size": 32, "train.epochs": 6, "train.batch_size": 12,
    "data.novel": 0.5, "data.novel_images": "test", "student.crop_pct": 0.8,
}  # fmt: skip


NAMES = ["bird with red crown, plain blue breast and white wings", "bird with black crest", "green bird"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = {**OPTIONS, "shots.count": 2, "shots.views": 2}
    return linnet.distill(SOURCE, method="openvocab", out=tmp_path_factory.mktemp("open") / "run", options=options)


@pytest.fixture(scope="module")
def images() -> list[Path]:
    novel = novel_part(load_manifest(DataConfig(source=SOURCE, novel=0.5)), DataConfig(novel_images="test"))
    return list(novel.paths[::17])


def test_the_summary_tells_of_base_and_novel_classes(run: Run):
    summary = run.summary()
    assert (summary["classes"], summary["classes.novel"]) == (4, 4)
    assert (summary["images.train"], summary["images.test"], summary["images.ood"]) == (48, 200, 200)
    keys = ["id.mean_per_class", "ood.mean_per_class", "harmonic", "generalised.id", "generalised.ood"]
    for prefix in ("", "teacher.", "last5."):
        assert all(0 <= summary[prefix + key] <= 1 for key in [*keys, "generalised.harmonic"])
        assert summary[prefix + "generalised.id"] <= summary[prefix + "id.mean_per_class"]
        assert summary[prefix + "generalised.ood"] <= summary[prefix + "ood.mean_per_class"]
    assert summary["id.mean_per_class"] == pytest.approx(summary["test.mean_per_class"])
    a, b = summary["id.mean_per_class"], summary["ood.mean_per_class"]
    assert summary["harmonic"] == pytest.approx(2 * a * b / (a + b) if a + b else 0.0)
    assert summary["ood.share_of_teacher"] == pytest.approx(b / summary["teacher.ood.mean_per_class"])
    assert summary["teacher.ood.mean_per_class"] > 0.8  # unrelated birds: the mini-CLIP knows their parts
    assert 0 <= summary["few_shot.retrieval.mean_per_class"] <= 1
    assert 0 <= summary["ood.consistency.triplets"] <= 1


def test_accuracy_on_novel_classes_is_that_of_the_saved_student(run: Run):
    """The summary again, by hand: names of novel classes, their test images, the mean over classes."""
    manifest = load_manifest(DataConfig(source=SOURCE, novel=0.5))
    novel = novel_part(manifest, DataConfig(novel_images="test"))
    bank = linnet.embed([info.prompt_name for info in novel.classes], run=run.folder)
    named = list(load(run.folder, bank).predict(list(novel.paths), top=1))
    right = np.array([bank.names.index(p.classes[0]) for p in named]) == novel.labels
    expected = np.mean([right[novel.labels == c].mean() for c in range(4)])
    assert run.summary()["ood.mean_per_class"] == pytest.approx(expected)
    table = pyarrow.parquet.read_table(run.predictions / "ood.parquet").to_pydict()
    assert table["path"] == [str(path) for path in novel.paths]
    assert np.array_equal(np.array(table["label"]) == np.array(table["prediction"]), right)


def test_the_last_epochs_are_kept_and_their_mean_is_reported(run: Run):
    kept = sorted(path.name for path in run.checkpoints.glob("epoch-*"))
    assert kept == ["epoch-2", "epoch-3", "epoch-4", "epoch-5", "epoch-6"]
    manifest = load_manifest(DataConfig(source=SOURCE, novel=0.5))
    known = base_part(manifest)
    test = known.take(known.rows("test"))
    scores = []
    for name in kept:
        named = load(run.checkpoints / name).predict(list(test.paths), top=1)
        right = np.array([test.class_names.index(p.classes[0]) for p in named]) == test.labels
        scores.append(np.mean([right[test.labels == c].mean() for c in range(4)]))
    assert run.summary()["last5.id.mean_per_class"] == pytest.approx(np.mean(scores))


@pytest.mark.parametrize("epochs", [1, 6])
def test_each_test_image_passes_once_through_each_student(epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Through the student that is kept, and for the mean of the last five epochs through the others of them."""
    passed: Counter[bytes] = Counter()
    real = Student.forward

    def forward(student: Student, images: torch.Tensor, *more: bool):
        if not student.training:
            passed.update(image.numpy().tobytes() for image in images)
        return real(student, images, *more)

    monkeypatch.setattr(Student, "forward", forward)
    options = {**OPTIONS, "train.epochs": epochs, "shots.count": 2, "shots.views": 1, "export": False}
    run = linnet.distill(SOURCE, method="openvocab", out=tmp_path / "run", options=options)
    students = {run.summary()["train.best_epoch"], *range(max(1, epochs - 4), epochs + 1)}
    manifest = load_manifest(DataConfig(source=SOURCE, novel=0.5))
    base = base_part(manifest)
    for rows in (base.take(base.rows("test")), novel_part(manifest, DataConfig(novel_images="test"))):
        images = torch.cat(list(eval_batches(Images(rows.paths, rows.digests, 32, "eval", crop_pct=0.8))))
        assert {passed[image.numpy().tobytes()] for image in images} == {len(students)}


def test_a_teacher_that_squashes_sees_every_image_so(tmp_path: Path):
    """Those of novel classes and few-shot keys, too: two ways to look would be two teachers."""
    options = {**OPTIONS, "train.epochs": 1, "teacher.views": "squash", "teacher.cache": tmp_path / "cache"}
    options |= {"shots.count": 1, "shots.views": 1}
    run = linnet.distill(SOURCE, method="openvocab", out=tmp_path / "run", options={**options, "export": False})
    spaces = [json.loads(path.read_text())["policy"] for path in (tmp_path / "cache").glob("*/space.json")]
    assert len(spaces) == 2 and all(words.endswith("squash") for words in spaces)
    assert run.summary()["teacher.ood.mean_per_class"] > 0.8


def test_two_images_of_novel_classes_are_scored(tmp_path: Path, make_folder: Callable[..., Path]):
    """One of each; they have no neighbourhoods."""
    root = make_folder(images=8)
    for old, new in (("red_bird", "pink_bird"), ("blue_bird", "grey_bird")):
        (root / new).mkdir()
        first = min((root / old).iterdir())
        (root / new / first.name).write_bytes(first.read_bytes() + b"another")
    options = {**OPTIONS, "data.novel": None, "data.novel_classes": ("pink_bird", "grey_bird"), "train.epochs": 1}
    options |= {"data.novel_images": "all", "export": False, "student.pretrained": False}
    run = linnet.distill(root, teacher="mini-clip", method="openvocab", out=tmp_path / "run", options=options)
    summary = run.summary()
    assert summary["images.ood"] == 2
    kept = {key for key in summary if key.startswith("ood.consistency")}
    assert kept == {"ood.consistency.retrieval"}
    assert "ood.language.separation" in summary
    assert "2 images of novel classes have no neighbourhoods" in run.log.read_text()


def test_novel_images_reach_neither_training_nor_selection(tmp_path: Path, make_folder: Callable[..., Path]):
    """With other images of novel classes the weights are the same to the last bit, and so is every epoch's val score."""
    root = tmp_path / "birds"
    for name in ("a", "b", "c", "d"):
        folder = make_folder(images=6, root=tmp_path / name)
        for old in sorted(folder.iterdir()):
            (root / f"{name}_{old.name}").parent.mkdir(exist_ok=True)
            old.rename(root / f"{name}_{old.name}")
    options = {**OPTIONS, "data.novel": None, "data.novel_classes": ("a_red_bird", "b_red_bird"), "train.epochs": 1}
    options |= {"data.novel_images": "all", "export": False}
    weights, metrics = [], []
    for attempt in range(2):
        out = linnet.distill(root, teacher="mini-clip", method="openvocab", out=tmp_path / f"run{attempt}",
                             options={**options, "student.pretrained": False})  # fmt: skip
        weights.append((out.model / "model.safetensors").read_bytes())
        metrics.append([{k: v for k, v in row.items() if k != "seconds"} for row in out.metrics()])
        assert out.summary()["images.ood"] == 12 - 6 * attempt
        for path in sorted((root / "a_red_bird").iterdir())[attempt * 3 :: 2]:  # fewer novel images the second time
            path.unlink()
        for path in sorted((root / "b_red_bird").iterdir())[::2]:
            path.unlink()
    assert weights[0] == weights[1]
    assert metrics[0] == metrics[1]


def test_a_finished_run_is_asked_for_more_shots_without_training(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    options = {**OPTIONS, "shots.count": 3, "shots.views": 2}
    monkeypatch.setattr("linnet.training.train_epoch", lambda *_: pytest.fail("it trains"))
    asked: list[int] = []
    real = linnet.evaluation.base_novel.support_keys  # type: ignore[attr-defined]
    monkeypatch.setattr("linnet.evaluation.base_novel.support_keys", lambda *a: asked.append(len(a[1])) or real(*a))
    again = linnet.distill(SOURCE, method="openvocab", out=copy, options=options, resume=True).summary()
    assert again["ood.mean_per_class"] == run.summary()["ood.mean_per_class"]  # support is of train, the score of test
    assert again["val.top1"] == run.summary()["val.top1"]
    assert asked == [12, 12]  # 3 shots of 4 base classes, to choose alpha, and of 4 novel ones
    options |= {"shots.use": "finetune", "student.pretrained": str(run.folder)}
    with pytest.raises(UserError, match=r"shots.use: retrieval -> finetune"):
        linnet.distill(SOURCE, method="openvocab", out=copy, resume=True, options=options)


def test_finetuning_sees_every_name_and_starts_from_the_earlier_student(run: Run, tmp_path: Path):
    options = {**OPTIONS, "shots.count": 2, "shots.use": "finetune", "train.epochs": 1, "train.lr": 1e-8,
               "student.pretrained": str(run.model), "data.novel_images": "all"}  # fmt: skip
    tuned = linnet.distill(SOURCE, method="openvocab", out=tmp_path / "tuned", options=options)
    summary = tuned.summary()
    assert (summary["classes"], summary["images.train"]) == (8, 48 + 8)
    manifest = load_manifest(DataConfig(source=SOURCE, novel=0.5))
    assert summary["images.ood"] == len(novel_part(manifest, DataConfig())) - 8
    before, after = (Student.load(folder.model).backbone.state_dict() for folder in (run, tuned))
    for name, tensor in before.items():
        if "running" not in name and "tracked" not in name:
            assert torch.allclose(tensor, after[name], atol=1e-5), name
    assert summary["train.best_epoch"] == 1
    assert "few_shot.retrieval.mean_per_class" not in summary


def test_finetuning_from_a_student_that_knows_the_novel_classes_is_refused(run: Run, tmp_path: Path):
    """Its score on them would be inflated, silently."""
    options = {**OPTIONS, "shots.count": 2, "shots.use": "finetune", "student.pretrained": str(run.model)}
    with pytest.raises(UserError, match=r"was trained on \d of the classes that are novel here"):
        linnet.distill(SOURCE, method="openvocab", out=tmp_path / "r", options={**options, "data.seed": 1})
    copy = shutil.copytree(run.model, tmp_path / "model")
    bank = TextBank.load(copy / "bank.safetensors")
    replace(bank, teacher_hash="another").save(copy / "bank.safetensors")
    with pytest.raises(UserError, match="learned from another one"):
        linnet.distill(
            SOURCE, method="openvocab", out=tmp_path / "r", options={**options, "student.pretrained": str(copy)}
        )


def test_a_broken_novel_image_is_reported_before_training(tmp_path: Path, make_folder: Callable[..., Path]):
    root = make_folder(images=4)
    shutil.copytree(root / "red_bird", root / "pink_bird")
    for path in sorted((root / "pink_bird").iterdir()):
        path.write_bytes(path.read_bytes() + path.name.encode())  # other bytes, or they were copies
    (root / "pink_bird" / "003.jpg").write_bytes(b"no image")
    options = {
        **OPTIONS,
        "data.novel": None,
        "data.novel_classes": ("pink_bird", "red_bird"),
        "student.pretrained": False,
    }
    with pytest.raises(UserError, match=r"cannot read the image .*pink_bird.003.jpg"):
        linnet.distill(root, teacher="mini-clip", method="openvocab", out=tmp_path / "r",
                       options={**options, "data.novel_images": "all"})  # fmt: skip
    assert not (tmp_path / "r" / "metrics.jsonl").exists()


def test_a_text_that_leaves_no_room_for_prompts_is_reported_before_training(tmp_path: Path):
    names = load_manifest(DataConfig(source=SOURCE)).classes
    file = tmp_path / "d.json"
    novel = load_manifest(DataConfig(source=SOURCE, novel=0.5)).novel
    file.write_text(json.dumps({info.name: "bird " * (60 if i in novel else 1) for i, info in enumerate(names)}))
    options = {**OPTIONS, "openvocab.learn_prompts": True, "data.descriptions": str(file)}
    with pytest.raises(UserError, match="no context vector fits before them"):
        linnet.distill(SOURCE, method="openvocab", out=tmp_path / "r", options=options)


def test_a_classifier_knows_base_classes_alone(tmp_path: Path):
    run = linnet.distill(SOURCE, method="ce", out=tmp_path / "ce", options={**OPTIONS, "train.epochs": 1})
    summary = run.summary()
    assert (summary["classes"], summary["images.train"], summary["images.test"]) == (4, 48, 200)
    assert "ood.mean_per_class" not in summary
    with pytest.raises(UserError, match="--shots needs a student that takes class names as text"):
        linnet.distill(SOURCE, method="ce", out=tmp_path / "r", options={**OPTIONS, "shots.count": 2})
    with pytest.raises(UserError, match="cannot name others"):
        load(run.folder, linnet.embed(NAMES, teacher="mini-clip"))
    with pytest.raises(UserError, match="cannot name others"):
        load(run.onnx, linnet.embed(NAMES, teacher="mini-clip"))
    with pytest.raises(UserError, match="holds no student that takes class names"):
        linnet.embed(NAMES, run=run.folder)
    with pytest.raises(UserError, match="needs no text tower"):
        linnet.export(run.folder, text_tower=True)
    with pytest.raises(UserError, match="has a classifier for its 4 classes"):
        bank_for(run.onnx, "a,b")
    options = {**OPTIONS, "shots.count": 2, "shots.use": "finetune", "student.pretrained": str(run.model)}
    with pytest.raises(UserError, match="has a classifier: finetune one that was trained with --method openvocab"):
        linnet.distill(SOURCE, method="openvocab", out=tmp_path / "r", options=options)


@pytest.mark.parametrize("learned", ["teacher.head", "openvocab.learn_prompts"])
def test_learned_prompts_stay_with_the_student(learned: str, tmp_path: Path):
    """Calibrated before the training or learned with it: new names get the same context vectors."""
    prompts = {"teacher.head": "prompt", "prompts.max_steps": 20} if learned == "teacher.head" else {learned: True}
    options = {**OPTIONS, **prompts, "train.epochs": 2, "data.novel_images": "test"}
    run = linnet.distill(SOURCE, method="openvocab", out=tmp_path / "run", options=options)
    own = TextBank.load(run.model / "bank.safetensors")
    assert own.context_PW is not None
    teacher = load_teacher("mini-clip")
    assert isinstance(teacher, VisionLanguageTeacher)
    made = linnet.embed(NAMES, run=run.folder)
    sentences = [f"a photo of a {name}." for name in NAMES]
    expected = teacher.embed_texts(sentences, torch.from_numpy(own.context_PW)).numpy()
    assert np.allclose(made.rows_CE, expected, atol=1e-6)
    plain = text_bank(teacher, [ClassInfo(name, name) for name in NAMES], own.templates)
    assert not np.allclose(made.rows_CE, plain.rows_CE, atol=1e-3)
    assert np.allclose(plain.rows_CE, linnet.embed(NAMES, teacher="mini-clip", templates=own.templates).rows_CE)
    with pytest.raises(UserError, match="a text tower cannot apply them"):
        linnet.export(run.folder, text_tower=True)
    with pytest.raises(UserError, match="leave --templates out"):
        linnet.embed(NAMES, run=run.folder, templates=("a {}.",))


def test_a_probe_has_no_class_texts(tmp_path: Path):
    with pytest.raises(UserError, match="needs class texts, which --teacher.head probe does not use"):
        linnet.distill(SOURCE, method="openvocab", out=tmp_path / "r", options={**OPTIONS, "teacher.head": "probe"})


def test_a_killed_run_ends_with_the_same_weights_and_prompts(tmp_path: Path, killed_after: Callable):
    options = {**OPTIONS, "openvocab.learn_prompts": True, "prompts.vectors": 2, "train.epochs": 3, "export": False}
    whole = linnet.distill(SOURCE, method="openvocab", out=tmp_path / "whole", options=options)
    with killed_after(2):
        linnet.distill(SOURCE, method="openvocab", out=tmp_path / "killed", options=options)
    resumed = linnet.distill(SOURCE, method="openvocab", out=tmp_path / "killed", options=options, resume=True)
    for name in ("model.safetensors", "bank.safetensors"):
        assert (whole.model / name).read_bytes() == (resumed.model / name).read_bytes()
    apart = ("train.", "latency.", "linnet.version")
    same = {k: v for k, v in whole.summary().items() if not k.startswith(apart)}
    assert {k: resumed.summary()[k] for k in same} == same


def test_it_learns_to_name_what_it_never_saw(tmp_path: Path):
    """Eight unrelated birds of sixteen: a network of 120,000 weights names the other eight well above chance (12.5 %)."""
    options = {**OPTIONS, "train.epochs": 12, "train.batch_size": 32, "export": False, "student.crop_pct": 1.0}
    run = linnet.distill(
        "aviary:species=16,images=40,genus=1", method="openvocab", out=tmp_path / "run", options=options
    )
    summary = run.summary()
    assert summary["id.mean_per_class"] > 0.8
    assert summary["ood.mean_per_class"] > 0.22
    assert summary["ood.consistency.triplets"] > 0.6


@pytest.mark.slow
def test_all_terms_carry_further_than_the_cross_entropy_alone(tmp_path: Path):
    """The gain on novel classes that the README claims, on another seed and at a smaller budget."""
    options = {
        "data.novel": 0.5,
        "data.novel_images": "test",
        "train.epochs": 8,
        "train.batch_size": 32,
        "export": False,
    }
    alone = {f"openvocab.{name}_weight": 0.0 for name in ("mse", "contrast", "align")}
    scores = [
        linnet.distill("aviary:species=40,images=60", method="openvocab", out=tmp_path / str(len(own)), seed=11,
                       options={**options, **own}).summary()["ood.mean_per_class"]
        for own in ({}, alone)
    ]  # fmt: skip
    assert scores[0] - scores[1] > 0.03


@pytest.fixture(scope="module")
def deployed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What goes to a machine without torch: model.onnx, text_tower.onnx, bank.safetensors."""
    folder = tmp_path_factory.mktemp("deployed")
    (folder / "model.onnx").write_bytes(run.onnx.read_bytes())
    linnet.export(run.folder, text_tower=True, out=folder / "text_tower.onnx")
    linnet.embed(NAMES, teacher="mini-clip").save(folder / "bank.safetensors")
    (folder / "names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    return folder


def test_unseen_names_from_run_bank_and_text_tower_say_the_same(
    run: Run, deployed: Path, images: list[Path], run_without_torch
):
    """From the run with torch; from the ONNX file with a bank, and with the text tower, where nothing of torch is."""
    expected = list(load(run.folder, linnet.embed(NAMES, run=run.folder)).predict(images, top=3))
    assert {name for p in expected for name in p.classes} == set(NAMES)
    for words in (["--bank", "bank.safetensors"], ["--classes", "names.txt"]):
        words = [words[0], str(deployed / words[1])]
        code = f"""
from linnet.__main__ import main
main(["predict", {str(deployed / "model.onnx")!r}, *{list(map(str, images))!r}, *{words!r}, "--json", "--top", "3"])
"""
        lines = [json.loads(line) for line in run_without_torch(code).splitlines()]
        assert len(lines) == len(expected)
        for line, prediction in zip(lines, expected, strict=True):
            assert tuple(row["class"] for row in line["top"]) == prediction.classes
            assert [row["probability"] for row in line["top"]] == pytest.approx(prediction.probabilities, abs=1e-4)


def test_without_other_names_the_onnx_file_knows_those_of_the_training(run: Run, deployed: Path, images: list[Path]):
    from_run, from_onnx = (list(load(path).predict(images)) for path in (run.folder, deployed / "model.onnx"))
    for a, b in zip(from_run, from_onnx, strict=True):
        assert a.classes == b.classes
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4)
    assert set(from_run[0].classes) == {info.name for info in Student.load(run.model).classes}


def test_a_bank_of_another_teacher_is_refused(
    run: Run, deployed: Path, open_clip_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    teacher = f"open_clip:local-dir:{open_clip_folder()}"
    main(["embed", "--teacher", teacher, "--classes", "owl,wren", "--out", str(tmp_path / "other.safetensors")])
    for model in (run.folder, deployed / "model.onnx"):
        with pytest.raises(SystemExit) as stop:
            main(["predict", str(model), str(deployed), "--bank", str(tmp_path / "other.safetensors")])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert "the text bank was made with the teacher 'open_clip:local-dir" in error
        assert "make the bank again with the student's own teacher" in error
    tower = Student.load(run.model).bank
    assert tower is not None
    with pytest.raises(UserError, match="learned from another one"):
        bank_like(load_teacher(teacher), tower, [ClassInfo("owl", "owl")])  # type: ignore[arg-type]


def test_embed_and_export_from_the_command_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], images: list[Path]
):
    (tmp_path / "d.yaml").write_text(json.dumps({name: f"it is a {name}" for name in NAMES}))
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    words = [
        "--classes",
        str(tmp_path / "names.txt"),
        "--templates",
        "one {}",
        "--descriptions",
        str(tmp_path / "d.yaml"),
    ]
    main(["embed", "--run", str(run.folder), *words, "--out", str(tmp_path / "bank.safetensors")])
    bank = TextBank.load(tmp_path / "bank.safetensors")
    assert bank.names == tuple(NAMES)
    assert bank.templates == ("one {}",)
    teacher = load_teacher("mini-clip")
    assert bank.teacher_hash == teacher.fingerprint()
    sentences = [f"one {name}. it is a {name}" for name in NAMES]
    assert np.allclose(bank.rows_CE, teacher.embed_texts(sentences).numpy(), atol=1e-6)  # type: ignore[operator]
    main(["export", str(run.folder), "--out", str(tmp_path / "m.onnx")])
    main(["predict", str(tmp_path / "m.onnx"), str(images[0]), "--bank", str(tmp_path / "bank.safetensors"), "--csv"])
    shown = capsys.readouterr().out
    assert any(name in shown for name in NAMES)
    for bad, message in (
        (
            ["predict", str(tmp_path / "m.onnx"), str(images[0]), "--classes", "a,b"],
            "class names need the teacher's text tower",
        ),
        (
            ["predict", str(run.folder), str(images[0]), "--classes", "a,b", "--bank", "x"],
            "use --classes or --bank, not both",
        ),
        (["predict", str(run.folder), str(images[0]), "--bank", "gone"], "no such text bank"),
        (["embed", "--classes", "a,b", "--out", "x"], "give --teacher or --run, one of the two"),
        (["embed", "--classes", "a,a", "--teacher", "mini-clip", "--out", "x"], "'a' is named twice"),
        (["embed", "--classes", "a,b", "--teacher", "mini-clip", "--templates", "no", "--out", "x"], "one {} for the"),
        (["embed", "--classes", "a,b", "--teacher", str(tmp_path / "m.onnx"), "--out", "x"], "holds no text tower"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(bad)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_the_text_tower_agrees_with_the_teacher(deployed: Path):
    teacher = load_teacher("mini-clip")
    assert isinstance(teacher, VisionLanguageTeacher)
    texts = ["A photo of  a RED bird, it's 2nd!", "Brandt’s café — “bird” &amp; ﬁnch…", "long " * 100, "", "blue bird"]
    infos = [ClassInfo(text, text, (f"text of {text}", "another")) for text in texts]
    seen = OnnxTextTower(deployed / "text_tower.onnx").bank(infos, ("{}", "a {}"))
    expected = text_bank(teacher, infos, ("{}", "a {}"))
    assert np.abs(seen.rows_CE - expected.rows_CE).max() < 1e-5
    assert (seen.teacher, seen.teacher_hash) == (expected.teacher, expected.teacher_hash)


def test_a_bank_of_ten_thousand_names(run: Run, tmp_path: Path):
    """The number of classes is free; what it costs is measured by bench/names.py."""
    student = Student.load(run.model)
    assert student.bank is not None
    rows = np.random.default_rng(0).normal(size=(10_000, student.bank.rows_CE.shape[1])).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    many = TextBank(
        tuple(map(str, range(10_000))), rows, student.bank.teacher, student.bank.teacher_hash, student.bank.templates
    )
    export_onnx(student, tmp_path / "m.onnx")
    network = load(tmp_path / "m.onnx", many).network
    pixels = np.random.default_rng(1).random((3, 3, 32, 32), dtype=np.float32)
    student.set_bank(many)
    expected = student(torch.from_numpy(pixels)).logits_BC.detach().numpy()
    assert np.abs(network.logits(pixels) - expected).max() < 1e-3
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [i.name for i in graph.input] == ["images", "bank"]
    assert graph.input[1].type.tensor_type.shape.dim[0].dim_param

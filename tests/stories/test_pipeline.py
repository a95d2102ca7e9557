import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

import linnet
from linnet.commands import distill as pipeline
from linnet.config import DataConfig
from linnet.data.load import load_manifest
from linnet.run import Run
from linnet.students.student import Student
from linnet.teachers import heads, load_teacher
from linnet.teachers.base import Teacher

OPTIONS = {"student.image_size": 32, "train.batch_size": 16, "train.epochs": 4}


DATA = "aviary:species=4,images=16"


@pytest.fixture(scope="module")
def seen_teachers() -> list[Teacher]:
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, seen_teachers: list[Teacher]) -> Run:
    """One whole kd run on the aviary, ONNX included; the teacher it used is kept for a look."""
    patch = pytest.MonkeyPatch()

    def remember(id: str) -> Teacher:
        seen_teachers.append(load_teacher(id))
        return seen_teachers[-1]

    patch.setattr(pipeline, "load_teacher", remember)
    made = linnet.distill(
        DATA, student="test_resnet", method="kd", out=tmp_path_factory.mktemp("r") / "run", options=OPTIONS
    )
    patch.undo()
    return made


def test_the_run_folder_holds_what_the_design_promises(run: Run):
    for name in ("config.yaml", "summary.json", "env.json", "metrics.jsonl", "train.log", "model.onnx"):
        assert (run.folder / name).stat().st_size > 0, name
    for name in ("model.safetensors", "config.json", "classes.json"):
        assert (run.model / name).exists(), name
    expected = [
        "val.top1",
        "val.top5",
        "val.mean_per_class",
        "val.ece",
        "test.top1",
        "test.top5",
        "test.mean_per_class",
        "test.ece",
        "test.teacher_agreement",
        "teacher.val.top1",
        "teacher.test.top1",
        "student.params",
        "student.macs",
        "train.seconds",
        "train.images_per_second",
        "onnx.max_difference",
    ]
    summary = run.summary()
    assert not [key for key in expected if key not in summary]
    assert all(
        0 <= summary[key] <= 1 for key in expected if key.endswith(("top1", "top5", "ece", "per_class", "agreement"))
    )


def test_the_teacher_is_untouched_and_in_no_file_of_the_run(run: Run, seen_teachers: list[Teacher]):
    (teacher,) = seen_teachers
    assert teacher.fingerprint() == load_teacher("mini-clip").fingerprint()
    assert not any(module.training for module in teacher.modules())
    theirs = {digest(tensor) for tensor in teacher.state_dict().values() if tensor.numel() > 8}
    saved = torch.load(run.checkpoints / "last.pt", weights_only=True)
    moments = [value for state in saved["optimizer"]["state"].values() for value in state.values()]
    ours = [load_file(run.model / "model.safetensors"), load_file(run.checkpoints / "best" / "model.safetensors")]
    tensors = [*saved["task"].values(), *moments, *ours[0].values(), *ours[1].values()]
    assert not theirs & {digest(tensor) for tensor in tensors}
    assert set(saved["task"]) == {f"student.backbone.{key}" for key in ours[0]}
    onnx_bytes = run.onnx.read_bytes()
    assert not any(t.numpy().tobytes() in onnx_bytes for t in teacher.state_dict().values() if t.numel() > 1000)


def digest(tensor: torch.Tensor) -> bytes:
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).digest()


def test_test_is_scored_on_every_image_exactly_once(run: Run):
    manifest = load_manifest(DataConfig(source=DATA))
    for split in ("val", "test"):
        table = pyarrow.parquet.read_table(run.predictions / f"{split}.parquet").to_pydict()
        assert sorted(table["path"]) == sorted(str(manifest.paths[i]) for i in manifest.rows(split))
        right = np.mean([a == b for a, b in zip(table["label"], table["prediction"], strict=True)])
        assert right == pytest.approx(run.summary()[f"{split}.top1"])
        agree = np.mean([a == b for a, b in zip(table["teacher_prediction"], table["prediction"], strict=True)])
        assert agree == pytest.approx(run.summary()[f"{split}.teacher_agreement"])


def test_the_test_split_is_not_read_before_training_has_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Selection on val only: with the test images' labels shuffled, everything but the test scores is the same."""
    first = linnet.distill(
        DATA, student="test_resnet", method="ce", out=tmp_path / "a", options={**OPTIONS, "export": False}
    )
    real = pipeline.load_manifest

    def shuffled(config: DataConfig):
        manifest = real(config)
        rows = manifest.rows("test")
        manifest.labels[rows] = np.roll(manifest.labels[rows], len(rows) // 2)
        return manifest

    monkeypatch.setattr(pipeline, "load_manifest", shuffled)
    second = linnet.distill(
        DATA, student="test_resnet", method="ce", out=tmp_path / "b", options={**OPTIONS, "export": False}
    )
    assert (first.model / "model.safetensors").read_bytes() == (second.model / "model.safetensors").read_bytes()
    assert first.summary()["test.top1"] != second.summary()["test.top1"]


def test_the_saved_config_starts_the_same_run(run: Run, tmp_path: Path):
    again = linnet.distill(config=run.folder / "config.yaml", out=tmp_path / "again", options={"export": False})
    assert (again.model / "model.safetensors").read_bytes() == (run.model / "model.safetensors").read_bytes()


def test_a_folder_of_photos_and_a_teacher_from_a_folder(
    make_folder: Callable[..., Path], open_clip_folder: Callable[..., Path], tmp_path: Path
):
    run = linnet.distill(
        make_folder(images=20), teacher=f"open_clip:local-dir:{open_clip_folder()}", student="test_resnet", method="kd",
        out=tmp_path / "run", options={**OPTIONS, "student.pretrained": False, "train.epochs": 12, "export": False},
    )  # fmt: skip
    summary = run.summary()
    assert summary["images.test"] == 12
    assert summary["val.top1"] > 0.8  # three colours: a student that learns anything knows them
    assert summary["teacher.val.top1"] < 0.9  # random weights


@pytest.mark.parametrize(("method", "own"), [
    ("pand", "method.base.condense_image"), ("specmatch", "method.project"), ("dual", "student.backbone"),
])  # fmt: skip
def test_a_killed_run_ends_with_the_same_weights(
    method: str,
    own: str,
    make_folder: Callable[..., Path],
    tmp_path: Path,
    killed_after: Callable,
    monkeypatch: pytest.MonkeyPatch,
):
    """Method state (its layers), calibrated prompts and replayed views are all resumed exactly."""
    same = {"data": make_folder(), "teacher": "mini-clip", "student": "test_resnet", "method": method}
    options = {**OPTIONS, "student.pretrained": False, "teacher.views": "replay:2", "export": False}
    options |= {"prompts.max_steps": 20} if method == "pand" else {}
    # a cache of its own: rows that other tests had the teacher look at, in other batches, can differ in the last bit
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path / "first-cache"))
    whole = linnet.distill(**same, out=tmp_path / "whole", options=options)
    assert ("prompts.safetensors" in {path.name for path in whole.folder.iterdir()}) == (method == "pand")
    with killed_after(2):
        linnet.distill(**same, out=tmp_path / "killed", options=options)
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path / "cache"))  # even with the cache gone
    resumed = linnet.distill(**same, out=tmp_path / "killed", options=options, resume=True)
    assert (resumed.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()
    assert resumed.summary().get("student.mix") == whole.summary().get("student.mix")
    saved = [torch.load(run.checkpoints / "last.pt", weights_only=True)["task"] for run in (whole, resumed)]
    assert all(torch.equal(saved[0][key], saved[1][key]) for key in saved[0])
    assert any(key.startswith(own) for key in saved[0])
    assert not any("condense" in key or "project" in key for key in load_file(whole.model / "model.safetensors"))
    names = [
        json.dumps([{k: v for k, v in row.items() if k != "seconds"} for row in r.metrics()]) for r in (whole, resumed)
    ]
    assert names[0] == names[1]


def test_pand_without_prompts_and_neighbours_is_vl2lite_at_its_weights(tmp_path: Path):
    """To the last bit, from the first step to the saved student."""
    settings = {**OPTIONS, "train.epochs": 2, "export": False}
    own = {
        "vl2lite": {"vl2lite.text_weight": 1.0, "vl2lite.schedule": "published"},
        "pand": {"teacher.head": "zero-shot", "pand.nsd_weight": 0.0, "pand.schedule": "published"},
    }
    weights = []
    for method, options in own.items():
        run = linnet.distill(
            DATA, student="test_resnet", method=method, out=tmp_path / method, options={**settings, **options}
        )
        weights.append((run.model / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_prompts_that_lose_on_val_are_not_used_and_the_summary_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bad = {"bank_CE": torch.ones(4, 192) / 192**0.5, "context_PW": torch.zeros(1, 128)}
    monkeypatch.setattr(heads, "calibrated_bank", lambda *arguments: bad)
    run = linnet.distill(
        DATA, student="test_resnet", method="pand", out=tmp_path / "r",
        options={**OPTIONS, "train.epochs": 1, "export": False},
    )  # fmt: skip
    assert run.summary()["teacher.head"] == "zero-shot"
    assert not (run.folder / "prompts.safetensors").exists()


@pytest.mark.parametrize("method", ["vl2lite", "pand"])
def test_vl2lite_and_pand_learn_and_export(method: str, tmp_path: Path):
    run = linnet.distill(
        "aviary:species=3,genus=1,images=32", student="test_resnet", method=method, out=tmp_path / "run",
        options={**OPTIONS, "train.epochs": 12, "prompts.max_steps": 2},
    )  # fmt: skip
    first, last = run.metrics()[0], run.metrics()[-1]
    assert last["text"] < 0.5 * first["text"]
    assert last["vision"] < first["vision"]
    assert run.summary()["test.top1"] > 0.6  # chance is a third
    assert run.summary()["onnx.max_difference"] < 1e-3
    image = load_manifest(DataConfig(source="aviary:species=3,genus=1,images=32")).paths[0]
    (torch_says,), (onnx_says,) = (list(linnet.load(model).predict([image])) for model in (run.folder, run.onnx))
    assert torch_says.classes == onnx_says.classes
    assert torch_says.probabilities == pytest.approx(onnx_says.probabilities, abs=1e-4)


@pytest.mark.parametrize(("method", "term"), [("embedding", "embedding"), ("specmatch", "spectrum")])
def test_methods_without_texts_learn_and_export(method: str, term: str, tmp_path: Path):
    run = linnet.distill(
        "aviary:species=3,genus=1,images=32", student="test_resnet", method=method, out=tmp_path / "run",
        options={**OPTIONS, "train.epochs": 12},
    )  # fmt: skip
    first, last = run.metrics()[0], run.metrics()[-1]
    assert last[term] < 0.9 * first[term]
    assert run.summary()["test.top1"] > 0.6  # chance is a third
    assert run.summary()["onnx.max_difference"] < 1e-3
    names = {name for name, _ in Student.load(run.model).named_parameters()}
    assert not any("project" in name for name in names)


def test_ce_on_replayed_views_needs_no_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The fair rows: ce is trained on replayed and on fresh views, and counts with the better one."""
    monkeypatch.setattr(pipeline, "load_teacher", lambda id: pytest.fail("no teacher was needed"))
    weights = {}
    for views in ("center", "online", "replay:1"):
        run = linnet.distill(
            DATA, student="test_resnet", method="ce", out=tmp_path / views.replace(":", ""),
            options={**OPTIONS, "train.epochs": 2, "teacher.views": views, "export": False},
        )  # fmt: skip
        weights[views] = (run.model / "model.safetensors").read_bytes()
    assert weights["center"] == weights["online"]  # fresh views, both
    assert weights["center"] != weights["replay:1"]


def test_each_heads_val_accuracy_is_kept(tmp_path: Path):
    run = linnet.distill(
        DATA, student="test_resnet", method="kd", out=tmp_path / "r",
        options={**OPTIONS, "train.epochs": 1, "teacher.head": "probe", "export": False},
    )  # fmt: skip
    summary = run.summary()
    assert summary["teacher.probe.val.top1"] == summary["teacher.val.top1"]
    assert summary["teacher.zero-shot.val.top1"] > 0.25
    assert "val top-1 zero-shot" in (run.folder / "train.log").read_text()


def test_a_trained_student_teaches_another(run: Run, tmp_path: Path):
    second = linnet.distill(
        DATA, teacher=f"run:{run.folder}", student="test_efficientnet", method="kd", out=tmp_path / "r",
        options={**OPTIONS, "train.epochs": 1, "export": False},
    )  # fmt: skip
    assert second.summary()["teacher.test.top1"] == pytest.approx(run.summary()["test.top1"])


def test_run_folders_are_not_overwritten_by_accident(run: Run, tmp_path: Path):
    same = {"student": "test_resnet", "method": "kd", "out": run.folder}
    with pytest.raises(linnet.UserError, match="is not empty: go on with --resume, start again with --overwrite"):
        linnet.distill(DATA, **same, options=OPTIONS)
    with pytest.raises(linnet.UserError, match=r"other settings \(train.epochs: 4 -> 5\)"):
        linnet.distill(DATA, **same, options={**OPTIONS, "train.epochs": 5}, resume=True)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(linnet.UserError, match="holds files that linnet did not write"):
        linnet.distill(DATA, method="ce", student="test_resnet", out=tmp_path, options=OPTIONS, overwrite=True)
    assert (tmp_path / "mine.txt").exists()


def test_resume_refuses_other_data_and_another_teacher(make_folder: Callable[..., Path], tmp_path: Path):
    root = make_folder(images=10)
    same = {"method": "kd", "student": "test_resnet", "out": tmp_path / "run"}
    options = {**OPTIONS, "student.pretrained": False, "train.epochs": 1, "export": False}
    teacher = linnet.distill(root, method="ce", student="test_resnet", out=tmp_path / "teacher", options=options)
    linnet.distill(root, teacher=f"run:{teacher.folder}", **same, options=options)
    linnet.distill(
        root, method="ce", student="test_resnet", seed=1, out=teacher.folder, options=options, overwrite=True
    )
    with pytest.raises(linnet.UserError, match="the teacher changed since"):
        linnet.distill(root, teacher=f"run:{teacher.folder}", **same, options=options, resume=True)
    (root / "red_bird" / "000.jpg").unlink()
    with pytest.raises(linnet.UserError, match="the data changed since"):
        linnet.distill(root, teacher=f"run:{teacher.folder}", **same, options=options, resume=True)


def test_resume_refuses_other_texts(make_folder: Callable[..., Path], tmp_path: Path):
    texts = tmp_path / "texts.csv"
    texts.write_text("class,text\nred_bird,a bird with red wings\n")
    options = {**OPTIONS, "student.pretrained": False, "train.epochs": 1, "export": False, "data.texts": texts}
    same = {"method": "ce", "student": "test_resnet", "out": tmp_path / "run", "options": options}
    linnet.distill(make_folder(images=5), **same)
    linnet.distill(tmp_path / "photos", **same, resume=True)
    texts.write_text("class,text\nred_bird,a bird with blue wings\n")
    with pytest.raises(linnet.UserError, match="the texts changed since"):
        linnet.distill(tmp_path / "photos", **same, resume=True)


def test_limit_per_class_on_a_folder(make_folder: Callable[..., Path], tmp_path: Path):
    run = linnet.distill(
        make_folder(images=12, splits=("train", "val", "test")), method="ce", student="test_resnet", out=tmp_path / "r",
        options={**OPTIONS, "student.pretrained": False, "train.epochs": 1, "export": False, "data.limit_per_class": 5},
    )  # fmt: skip
    summary = run.summary()
    assert [summary[f"images.{split}"] for split in ("train", "val", "test")] == [15, 36, 36]


def test_a_run_that_was_refused_at_its_start_does_not_block_the_next(tmp_path: Path):
    same = {"method": "ce", "out": tmp_path / "r"}
    with pytest.raises(linnet.UserError, match="resnet18"):
        linnet.distill(DATA, student="resnet188", **same, options=OPTIONS)
    options = {**OPTIONS, "train.epochs": 1, "export": False}
    run = linnet.distill(DATA, student="test_resnet", **same, options=options)
    assert run.summary()["student.name"] == "test_resnet"
    resumed = linnet.distill(out=run.folder, resume=True)  # its own settings are enough
    assert resumed.summary()["test.top1"] == run.summary()["test.top1"]


def test_a_finished_run_is_resumed_without_training(run: Run):
    before = json.dumps(run.metrics())
    again = linnet.distill(DATA, student="test_resnet", method="kd", out=run.folder, options=OPTIONS, resume=True)
    assert json.dumps(again.metrics()) == before


@pytest.mark.parametrize("crop_pct", [1.0, 0.8])
def test_a_run_is_scored_and_used_with_its_crop_mode(tmp_path: Path, crop_pct: float):
    """Val scores of training and the saved student's own predictions are of the same pixels: the whole image."""
    from pictures import write_image

    for name, colour in (("ant", (200, 40, 40)), ("bee", (40, 60, 200))):
        for i in range(12):
            write_image(tmp_path / "photos" / name / f"{i}.png", colour, seed=i, size=(90, 40))
    options = {
        **OPTIONS, "student.crop_mode": "squash", "student.crop_pct": crop_pct, "student.pretrained": False, "data.views": "paper:vl2lite",
        "train.epochs": 1,
    }  # fmt: skip
    run = linnet.distill(tmp_path / "photos", student="test_resnet", method="ce", out=tmp_path / "run", options=options)
    table = pyarrow.parquet.read_table(run.predictions / "val.parquet").to_pydict()
    for saved in (run.folder, run.onnx):
        predictions = linnet.load(saved).predict([Path(path) for path in table["path"]])
        assert [p.probabilities[0] for p in predictions] == pytest.approx(table["confidence"], abs=1e-4)

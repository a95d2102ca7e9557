"""dfkd through the command line and the pipeline: no data in, a student out."""

import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import linnet
from linnet.__main__ import main
from linnet.commands.distill import default_folder
from linnet.config import Config, DataConfig
from linnet.config_files import read_yaml
from linnet.data.load import load_manifest, scored_part
from linnet.defaults import settings
from linnet.errors import UserError
from linnet.methods.dfkd.dfkd import DataFree
from linnet.run import Run
from linnet.students.student import Student
from linnet.text.classes import ClassInfo

DATA = "aviary:species=4,genus=1,images=48"


SMALL = {
    "train.epochs": 3, "train.batch_size": 8, "train.lr": 0.01, "export": False,
    "dfkd.alternations": 2, "dfkd.generator_steps": 2, "dfkd.student_steps": 3, "dfkd.width": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = {"student.image_size": 32, "train.batch_size": 16, "train.epochs": 12, "export": False}
    out = tmp_path_factory.mktemp("runs") / "teacher"
    return linnet.distill(DATA, method="ce", student="test_resnet", out=out, options=options)


def free(teacher: Run, out: Path, resume: bool = False, seed: int = 0, **options) -> Run:
    return linnet.distill(
        teacher=f"run:{teacher.folder}", student="test_resnet", method="dfkd", out=out, resume=resume, seed=seed,
        options={**SMALL, **options},
    )  # fmt: skip


def test_no_data_in_a_student_with_a_gallery_out(teacher: Run, tmp_path: Path):
    run = free(teacher, tmp_path / "run", export=True)
    summary, rows = run.summary(), run.metrics()
    assert not any(key.startswith(("val.", "test.", "images.")) for key in summary)
    assert summary["data.source"] is None
    assert "data.eval" not in summary
    assert summary["classes"] == 4
    assert summary["onnx.max_difference"] < 1e-3
    assert summary["train.best_epoch"] == 3
    assert {"loss", "kl", "attention", "contrast", "generator.kl", "generator.bn", "generator.spread"} <= set(rows[0])
    assert not any("val.top1" in row for row in rows)
    student, original = Student.load(run.model), Student.load(teacher.model)
    assert student.classes == original.classes
    assert student.image_size == original.image_size
    kept = torch.load(run.checkpoints / "last.pt", weights_only=True)["task"]
    assert all(
        torch.equal(value, kept[f"student.backbone.{key}"]) for key, value in student.backbone.state_dict().items()
    )
    strip = np.asarray(Image.open(run.gallery / "epoch-00002.png"))
    assert strip.shape == (64, 640, 3)
    assert sorted(path.name for path in run.gallery.iterdir()) == [f"epoch-0000{i}.png" for i in (1, 2, 3)]
    wall = np.asarray(Image.open(run.folder / "gallery.png"))
    assert wall.shape[0] == 3 * 64
    assert np.array_equal(wall[64:128, -640:], strip)
    image = load_manifest(DataConfig(source=DATA)).paths[0]
    (torch_says,), (onnx_says,) = (list(linnet.load(model).predict([image])) for model in (run.folder, run.onnx))
    assert torch_says.classes == onnx_says.classes
    assert torch_says.probabilities == pytest.approx(onnx_says.probabilities, abs=1e-4)
    assert "not scored" in (run.folder / "train.log").read_text()


KL_OF_NOISE = {"dfkd.generator_steps": 0, "dfkd.attention_weight": 0.0, "dfkd.contrast_weight": 0.0}


# enough steps to learn from pictures that nobody drew
LEARNS = {
    "data.eval": DATA, "train.batch_size": 32, "train.lr": 0.05, "dfkd.width": 8,
    "train.epochs": 1, "dfkd.alternations": 24, "dfkd.generator_steps": 3, "dfkd.student_steps": 4, "dfkd.upsampling": "nearest",
}  # fmt: skip


def test_the_student_learns_what_real_birds_are_without_having_seen_one(teacher: Run, tmp_path: Path):
    """Eight seeds on each of two kinds of CPU gave 0.59 to 0.79; chance is a quarter."""
    assert teacher.summary()["test.top1"] > 0.8
    assert free(teacher, tmp_path / "run", seed=1, **LEARNS).summary()["test.top1"] > 0.45


@pytest.mark.slow
def test_the_noise_of_an_untrained_generator_teaches_less(teacher: Run, tmp_path: Path):
    """Five seeds on two kinds of CPU gave 0.27 to 0.47 with it; of the same seed always 0.14 to 0.39 less."""

    def accuracy(name: str, **own) -> float:
        scores = [free(teacher, tmp_path / f"{name}{seed}", seed=seed, **LEARNS | own).summary() for seed in (1, 2)]
        return statistics.mean(summary["test.top1"] for summary in scores)

    assert accuracy("full") > accuracy("control", **KL_OF_NOISE) + 0.1


def test_eval_scores_and_changes_nothing(teacher: Run, tmp_path: Path):
    blind = free(teacher, tmp_path / "blind")
    seen = free(teacher, tmp_path / "seen", **{"data.eval": DATA})
    assert (blind.model / "model.safetensors").read_bytes() == (seen.model / "model.safetensors").read_bytes()
    summary = seen.summary()
    assert (summary["images.val"], summary["images.test"]) == (40, 200)
    assert "images.train" not in summary
    assert summary["data.eval"] == DATA
    assert summary["teacher.classifier.val.top1"] == summary["teacher.val.top1"]
    assert f"scored on: 200 test images of {DATA}" in (seen.folder / "train.log").read_text()
    assert summary["teacher.test.top1"] == pytest.approx(teacher.summary()["test.top1"])
    assert summary["val.top1"] == seen.metrics()[-1]["val.top1"]
    assert summary["train.best_epoch"] == 3  # the last one, whatever val says
    assert len(list(seen.predictions.iterdir())) == 2
    later = linnet.distill(out=tmp_path / "blind", resume=True, options={"data.eval": DATA})  # a finished run
    assert later.summary()["test.top1"] == summary["test.top1"]


def test_killed_and_resumed_bit_for_bit(teacher: Run, tmp_path: Path, killed_after: Callable):
    """Student, generator, its optimiser's moments, metrics and gallery."""
    whole = free(teacher, tmp_path / "whole")
    with killed_after(2):
        free(teacher, tmp_path / "killed")
    killed = linnet.distill(out=tmp_path / "killed", resume=True)
    assert (killed.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()
    states = [torch.load(run.checkpoints / "last.pt", weights_only=True)["task"] for run in (whole, killed)]
    tensors = [key for key, value in states[0].items() if torch.is_tensor(value)]
    assert any("adversary.generator" in key for key in tensors)
    assert all(torch.equal(states[0][key], states[1][key]) for key in tensors)
    moments = [state["method.adversary._extra_state"]["state"] for state in states]
    assert moments[0].keys() == moments[1].keys() != set()
    assert all(torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0])
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.metrics()] for run in (whole, killed)]
    assert rows[0] == rows[1]
    assert (whole.folder / "gallery.png").read_bytes() == (killed.folder / "gallery.png").read_bytes()
    assert not any("adversary" in key or "lift" in key for key in load_file(whole.model / "model.safetensors"))


def test_a_divergence_leaves_the_last_good_checkpoint(teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, calls = DataFree.generator_terms, []

    def breaks(self, images, student):
        calls.append(1)
        return {"kl": images.sum() * float("nan")} if len(calls) > 10 else real(self, images, student)

    monkeypatch.setattr(DataFree, "generator_terms", breaks)
    with pytest.raises(UserError, match="not finite before step 15 "):
        free(teacher, tmp_path / "run")
    run = Run(tmp_path / "run")
    assert [row["epoch"] for row in run.metrics()] == [1, 2]
    state = torch.load(run.checkpoints / "last.pt", weights_only=True)
    assert state["state"]["epoch"] == 2
    assert all(value.isfinite().all() for value in state["task"].values() if torch.is_tensor(value))
    assert Student.load(run.checkpoints / "best").classes


def test_a_learning_rate_that_is_much_too_high_is_noticed(teacher: Run, tmp_path: Path):
    """Not by a test's own hand: the images of such a generator are all alike, or no numbers at all."""
    options = {"dfkd.generator_lr": 100.0, "dfkd.generator_steps": 10, "dfkd.generator_batch_norm": False}
    with pytest.raises(UserError, match=r"generator('s loss is not finite| collapsed) before step \d+"):
        free(teacher, tmp_path / "run", **options, **{"dfkd.spatial_attention": 0.0})


def test_the_size_may_differ_from_the_teachers_and_the_classes_may_lie_in_another_order(teacher: Run, tmp_path: Path):
    resolved, reasons = settings(method="dfkd", teacher=f"run:{teacher.folder}")
    assert resolved.student.image_size == 32
    assert "student.image_size = 32: the teacher's" in reasons
    assert default_folder(resolved) == Path("runs/teacher-dfkd-s0")
    assert (resolved.student.pretrained, resolved.train.select, resolved.train.optimizer) == (False, "last", "sgd")
    run = free(teacher, tmp_path / "run", **{"student.image_size": 48})
    assert Student.load(run.model).image_size == 48
    classes = Student.load(teacher.model).classes
    config = Config(data=DataConfig(eval=DATA))
    straight, turned = scored_part(config, classes), scored_part(config, classes[::-1])
    assert turned["test"].classes == classes[::-1]
    assert (turned["test"].labels == 3 - straight["test"].labels).all()


def test_a_folder_with_nothing_but_test_images_can_score(teacher: Run, tmp_path: Path):
    manifest = load_manifest(DataConfig(source=DATA))
    for row in manifest.rows("test")[::10]:
        name = manifest.class_names[manifest.labels[row]]
        folder = tmp_path / "photos" / "test" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row}.png").write_bytes(manifest.paths[row].read_bytes())
    with pytest.raises(UserError, match="no train/ folder"):
        load_manifest(DataConfig(source=str(tmp_path / "photos")))
    run = free(teacher, tmp_path / "run", **{"data.eval": str(tmp_path / "photos")})
    assert run.summary()["images.test"] == 20
    assert "val.top1" not in run.summary()
    with pytest.raises(
        UserError, match=r"has 4 classes, the teacher 2, and the names must be the same .*only the teacher's: a, b"
    ):
        scored_part(Config(data=DataConfig(eval=DATA)), (ClassInfo("a", "a"), ClassInfo("b", "b")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([DATA], f"'dfkd' takes no data: leave '{DATA}' out, or give it as --eval {DATA}"),
        (["--method", "dfkd+kd"], "'dfkd' makes its own images: it cannot be part of 'dfkd+kd'"),
        (["--method", "kd", DATA, "--eval", DATA], "leave out --eval"),
        (["--data.limit-per-class", "3"], "data.limit_per_class has no effect"),
        (["--teacher.views", "online"], "teacher.views has no effect"),
        (["--shots", "3"], "shots.count has no effect"),
        (["--data.seed", "3"], "data.seed has no effect"),
        (["--train.label-smoothing", "0.1"], "train.label_smoothing has no effect"),
        (["--train.select", "val"], "keeps its last epoch, because --eval only scores"),
        (["--train.lr-min", "0.5"], "train.lr_min (0.5) is above train.lr (0.01)"),
        (["--image-size", "32", "--student.image-size", "64"], "--student.image-size specified multiple times"),
        (["--eval", DATA, "--data.eval", DATA], "--data.eval specified multiple times"),
        (["--dfkd.bn-weight", "0", "--dfkd.adversarial-weight", "0"], "all weights of the generator's loss are 0"),
        (["--image-size", "40"], "multiple of 16, not 40: choose 32 or 48"),
        (["--teacher", "mini-clip"], "needs a classifier to copy: add --teacher run:PATH or timm:NAME; 'mini-clip' is not one"),
        (["--teacher", "run:/nowhere"], "/nowhere"),
        (["--eval", "aviary:species=3,images=3"], "has 3 classes, the teacher 4, and the names must be the same (only in"),
        (["--dfkd.order", "0"], "dfkd.order must be at least 1"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(
    teacher: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    start = ["distill", "--out", str(tmp_path / "run"), "--student", "test_resnet"]
    start += [] if "--method" in words else ["--method", "dfkd"]
    start += [] if "--teacher" in words else ["--teacher", f"run:{teacher.folder}"]
    with pytest.raises(SystemExit) as exit:
        main([*start, *words])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("linnet: ")]
    assert exit.value.code == 2
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "run").exists(), "a run that is there would be deleted by --overwrite before the refusal"


def test_a_teacher_must_be_named():
    with pytest.raises(UserError, match="needs a classifier to copy"):
        settings(method="dfkd")


def test_auto_means_the_defaults_of_the_method(teacher: Run):
    automatic = {f"train.{name}": None for name in ("epochs", "lr", "weight_decay", "select")}
    resolved, _ = settings(
        method="dfkd", teacher=f"run:{teacher.folder}", options={**automatic, "student.pretrained": None}
    )
    train = resolved.train
    assert (train.epochs, train.lr, train.weight_decay, train.select) == (200, 0.01, 5e-4, "last")
    assert resolved.student.pretrained is False


def test_the_command_line_has_short_words_for_it(teacher: Run, capsys: pytest.CaptureFixture[str]):
    main(["distill", "--method", "dfkd", "--teacher", f"run:{teacher.folder}", "--eval", DATA, "--image-size", "64", "--dry-run"])  # fmt: skip
    shown = capsys.readouterr().out
    assert f"eval: {DATA}" in shown
    assert "image_size: 64" in shown


def test_the_resolved_settings_start_the_same_run(teacher: Run, tmp_path: Path):
    run = free(teacher, tmp_path / "run", **{"data.eval": DATA, "train.epochs": 1})
    again, _ = settings(config=run.folder / "config.yaml")
    assert again.data.eval == DATA
    assert read_yaml(run.folder / "config.yaml")["options"]["dfkd"]["alternations"] == 2


SHORT = {
    "train.lr": 0.05, "train.epochs": 10, "export": False,
    "dfkd.generator_steps": 10, "dfkd.student_steps": 10,
}  # fmt: skip


def copies(tmp_path: Path, data: str, image_size: int, epochs: int, **rows: dict) -> tuple[float, dict[str, float]]:
    """Test accuracy of a ResNet-18 and of its copies, one for each row of options."""
    options = {"train.epochs": epochs, "train.lr": 3e-3, "student.image_size": image_size, "export": False}
    teacher = linnet.distill(data, method="ce", student="resnet18", out=tmp_path / "teacher", options=options)
    scores = {}
    for name, own in rows.items():
        options = {"data.eval": data, **SHORT, **own}
        same = {"teacher": f"run:{teacher.folder}", "student": "resnet10t", "method": "dfkd"}
        scores[name] = linnet.distill(**same, out=tmp_path / name, options=options).summary()["test.top1"]
    return teacher.summary()["test.top1"], scores


@pytest.mark.slow
def test_eight_species_are_copied_and_noise_does_not_do(tmp_path: Path):
    """The easy set of bench/data_free.yaml with the published generator: about ten minutes on two cores."""
    few = {"dfkd.alternations": 5}
    data = "aviary:species=8,genus=1,images=200"
    teacher, scores = copies(tmp_path, data, 32, 12, full=few, control={**few, **KL_OF_NOISE})
    assert teacher >= 0.95
    assert scores["full"] >= 0.75
    assert scores["control"] < 0.30


@pytest.mark.slow
def test_more_classes_and_larger_images_go_the_same_way(tmp_path: Path):
    """20 species at 64 pixels, as far as a quarter of an hour on two cores goes; bench/data_free.yaml goes on."""
    few = {"dfkd.alternations": 2}
    data = "aviary:species=20,genus=1,images=100"
    full = {**few, "dfkd.upsampling": "nearest"}
    teacher, scores = copies(tmp_path, data, 64, 10, full=full, control={**few, **KL_OF_NOISE})
    assert teacher > 0.9
    assert scores["full"] > 0.2 > 0.12 > scores["control"]  # chance is 0.05

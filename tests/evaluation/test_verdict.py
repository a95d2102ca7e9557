"""Verdicts about teachers and students: answers made by hand, runs whose files are made by hand, one real run."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from finished_runs import CONFIG, logits_with, made_run, rows

import linnet
from linnet.config import DataConfig, TeacherConfig
from linnet.data.load import load_manifest
from linnet.data.manifest import Manifest
from linnet.evaluation.predictions import write_predictions
from linnet.evaluation.verdict import (
    find_baseline,
    find_labels_only,
    in_words,
    is_loss,
    judge_accuracy,
    judge_teacher,
    read_named,
    verdict,
)
from linnet.metrics.intervals import Difference
from linnet.run import Run
from linnet.step import TeacherOutput
from linnet.teachers.answers import Answers
from linnet.teachers.base import ClassHead
from linnet.teachers.heads import Settled


def answers(right: int, val: Manifest, probed: int | None = None) -> Answers:
    """Of a teacher that names the first ``right`` val images right, and whose quick probe names the first ``probed``."""

    def look(index: np.ndarray, view: int) -> TeacherOutput:
        raise AssertionError("nothing is asked again")

    told = None if probed is None else np.arange(len(val)) < probed
    logits = {"val": logits_with(right, val)}
    settled = Settled(ClassHead(), "zero-shot", {"zero-shot": right / len(val)}, {}, told)
    return Answers(settled, logits, look)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path / "runs" / "kd")
    made.folder.mkdir(parents=True)
    made.pin(data="this data")
    return made


# --- near chance ---


@pytest.mark.parametrize(
    ("right", "images", "classes", "warned"),
    [
        (24, 272, 17, True),  # 8.8 %, chance 5.9
        (68, 272, 17, False),
        (70, 280, 4, True),
        (110, 200, 2, True),
        (150, 200, 2, False),
        (100, 2000, 1000, False),  # 5 %, fifty times chance
        (3, 8, 4, True),  # of so few images nothing can be told
        (0, 40, 4, True),
    ],
)
def test_a_teacher_near_chance_is_warned_of(right: int, images: int, classes: int, warned: bool):
    val = rows(images, classes)
    facts, warnings = judge_accuracy("fake", logits_with(right, val), val.labels)
    low, high = facts["teacher.val.top1_interval"]
    assert low <= right / images <= high
    assert facts["teacher.val.guessing"] == pytest.approx(1 / classes, rel=0.1)
    assert bool(warnings) == warned
    told = "is near chance" if images >= 100 else "cannot be told from chance"
    assert all(told in warning and f"of {images} images" in warning for warning in warnings)


def test_naming_the_most_frequent_class_is_guessing_too():
    labels = np.array([0] * 160 + [1] * 40)
    facts, warnings = judge_accuracy("fake", np.tile([1.0, 0.0], (200, 1)), labels)
    assert facts["teacher.val.guessing"] == 0.8
    assert "80.0 %" in warnings[0]


# --- the probe ---


def test_class_texts_that_lose_to_a_probe_are_warned_of(run: Run, caplog: pytest.LogCaptureFixture):
    val = rows(200)
    with caplog.at_level(logging.INFO):
        facts = judge_teacher(CONFIG, run, answers(140, val, 200), val)
    assert facts["teacher.quick_probe.val.top1"] == 1.0
    (warning,) = facts["teacher.warnings"]
    assert "30.0 points better on val: use --teacher.head probe" in warning
    assert "teacher fake: val top-1 zero-shot 70.0 % (95 % interval 63.3 to 75.9, 200 images)" in caplog.text
    openvocab = judge_teacher(replace(CONFIG, method="openvocab"), run, answers(140, val, 200), val)
    assert "--teacher.head" not in openvocab["teacher.warnings"][0]  # its student needs texts
    assert "--data.descriptions" in openvocab["teacher.warnings"][0]


@pytest.mark.parametrize("probed", [None, 141, 120])
def test_class_texts_that_no_probe_beats_are_not_warned_of(run: Run, probed: int | None):
    val = rows(200)
    facts = judge_teacher(CONFIG, run, answers(140, val, probed), val)
    told = {} if probed is None else {"teacher.quick_probe.val.top1": probed / 200}
    assert {name: value for name, value in facts.items() if name.startswith("teacher.quick")} == told
    assert set(facts) == {"teacher.val.top1_interval", "teacher.val.guessing", *told}


# --- beside a run on the labels alone ---


@pytest.mark.parametrize(
    ("teacher", "student", "words", "level"),
    [
        (150, 180, "15.0 points (95 % interval", logging.WARNING),
        (150, 150, "as good (95 % interval", logging.WARNING),
        (190, 150, "20.0 points (95 % interval", logging.INFO),
    ],
)
def test_a_teacher_is_compared_with_the_labels_alone(
    teacher: int, student: int, words: str, level: int, run: Run, caplog: pytest.LogCaptureFixture
):
    val = rows(200)
    made_run(run.folder.parent / "ce", val, student)
    with caplog.at_level(logging.INFO):
        facts = judge_teacher(CONFIG, run, answers(teacher, val), val)
    (record,) = [record for record in caplog.records if "labels alone" in record.message]
    side = "as" if teacher == student else "above" if teacher > student else "below"
    assert f"on val the teacher fake is {words}" in record.message
    assert f" {side} net on the labels alone ({run.folder.parent / 'ce'}" in record.message
    assert record.levelno == level
    assert ("clearly better than the student alone" in str(facts)) == (level == logging.WARNING)


def test_which_run_is_compared_with(run: Run):
    """Of the same data, with the same student before others, the best on val; never the teacher itself."""
    val, beside = rows(40), run.folder.parent
    made_run(beside / "other-data", val, 40, data="other data")
    made_run(beside / "kd2", val, 40, method="kd")
    (beside / "notes").mkdir()
    (beside / "broken").mkdir()
    (beside / "broken" / "summary.json").write_text("{")
    for name, file, text in (("a", "summary.json", '{"method": "ce", "val.top1": null}'), ("b", "inputs.json", "[]")):
        made_run(beside / name, val, 40)
        (beside / name / file).write_text(text)
    assert find_labels_only(run, CONFIG) is None
    made_run(beside / "large", val, 39, student="large net")
    large = find_labels_only(run, CONFIG)
    assert large is not None
    assert large.folder == beside / "large"
    nearest = find_baseline(run, replace(CONFIG, method="kd"), "val")
    assert nearest is not None
    assert nearest[1:] == (["student.name large net (here net)"], None)
    taught = replace(CONFIG, teacher=TeacherConfig(id=f"run:{beside / 'large'}"))
    assert find_labels_only(run, taught) is None
    for name, right in (("ce-s0", 20), ("ce-s1", 22), ("ce-s2", 21)):
        made_run(beside / name, val, right)
    best = find_labels_only(run, CONFIG)
    assert best is not None
    assert best.folder == beside / "ce-s1"


def test_settings_are_read_of_those_that_can_be_compared_with_and_once(run: Run, monkeypatch: pytest.MonkeyPatch):
    """A folder may hold a thousand runs."""
    for i in range(4):
        made_run(run.folder.parent / f"kd{i}", rows(40), 20, method="kd")
        made_run(run.folder.parent / f"other{i}", rows(40), 20, data="other data")
    made_run(run.folder.parent / "ce", rows(40), 20)
    read, settings = [], Run.settings
    monkeypatch.setattr(Run, "settings", lambda run: read.append(run.folder.name) or settings(run))
    assert find_baseline(run, replace(CONFIG, method="kd"), "val") is not None
    assert read == ["ce"]


def test_other_images_are_not_compared(run: Run, caplog: pytest.LogCaptureFixture):
    val = rows(200)
    made_run(run.folder.parent / "ce", rows(100), 90)
    with caplog.at_level(logging.INFO):
        judge_teacher(CONFIG, run, answers(150, val), val)
    assert "labels alone" not in caplog.text


def test_damaged_predictions_are_not_compared(run: Run):
    val, ce = rows(40), Run(run.folder.parent / "ce")
    made_run(ce.folder, val, 30)
    file = ce.predictions_of("val")
    assert read_named(file) is not None
    file.write_bytes(file.read_bytes()[:100])
    assert read_named(file) is None
    assert "labels alone" not in str(judge_teacher(CONFIG, run, answers(20, val), val))


# --- after training ---


def test_the_verdict_compares_the_student_with_teacher_and_labels(run: Run):
    val = rows(200)
    made_run(run.folder.parent / "ce", val, 150)
    write_predictions(run.predictions_of("val"), val, logits_with(170, val), logits_with(190, val))
    said = verdict(run, replace(CONFIG, method="kd"), {"val.top1": 0.85})
    assert said["verdict"].startswith("on 200 val images the student is 10.0 points (95 % interval ")
    assert " below its teacher and 10.0 points (95 % interval " in said["verdict"]
    assert said["verdict"].endswith(f" above net on the labels alone ({run.folder.parent / 'ce'})")
    assert said["verdict.minus_teacher"][0] == pytest.approx(-0.1)
    value, low, high = said["verdict.minus_labels_only"]
    assert value == pytest.approx(0.1)
    assert 0 < low < value < high
    assert verdict(run, replace(CONFIG, method="ce"), {"val.top1": 0.85}) == {}
    longer = replace(CONFIG, method="kd", train=replace(CONFIG.train, epochs=99))
    assert "labels alone" not in verdict(run, longer, {"val.top1": 0.85})["verdict"]  # of another budget
    other = replace(CONFIG, method="kd", train=replace(CONFIG.train, lr=0.5))
    assert "other settings: train.lr" in verdict(run, other, {"val.top1": 0.85})["verdict"]


def test_a_student_above_its_teacher_is_no_success_of_the_teacher(run: Run):
    val = rows(200)
    write_predictions(run.predictions_of("val"), val, logits_with(170, val), logits_with(150, val))
    said = verdict(run, replace(CONFIG, method="kd"), {"val.top1": 0.85})
    assert said["verdict"].endswith("above its teacher; a teacher should be clearly better than the student alone")
    assert is_loss(said)


def test_a_student_who_gained_by_its_teacher_may_be_above_it(run: Run):
    val = rows(200)
    made_run(run.folder.parent / "ce", val, 140)
    write_predictions(run.predictions_of("val"), val, logits_with(170, val), logits_with(160, val))
    said = verdict(run, replace(CONFIG, method="kd"), {"val.top1": 0.85})
    assert "above its teacher and 15.0 points" in said["verdict"]
    assert "a teacher should be" not in said["verdict"]
    assert not is_loss(said)


def test_differences_in_words():
    assert in_words(Difference(0.023, 0.004, 0.042, 0.5)) == "2.3 points (95 % interval 0.4 to 4.2) above"
    assert in_words(Difference(0.0, -0.03, 0.03, 0.5)) == "as good (95 % interval -3.0 to 3.0 points) as"
    assert in_words(Difference(-0.023, -0.042, -0.004, 0.5)) == "2.3 points (95 % interval 0.4 to 4.2) below"
    assert (
        in_words(Difference(-0.01, -0.03, 0.01, 0.5))
        == "1.0 points (95 % interval -1.0 to 3.0, which may be chance) below"
    )


# --- a run ---


@pytest.fixture(scope="module")
def swapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn birds in folders that bear the names of other birds: the mini-CLIP sees them well and names them wrong."""
    birds, root = load_manifest(DataConfig(source="aviary:species=4,images=14,genus=1")), tmp_path_factory.mktemp("d")
    names = [info.prompt_name for info in birds.classes]
    for row in birds.rows("train"):
        folder = root / "birds" / names[(birds.labels[row] + 1) % 4]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(birds.paths[row], folder / f"{row}.png")
    return root / "birds"


def test_a_useless_teacher_is_told_before_training_and_in_the_summary(swapped: Path, tmp_path: Path):
    options = {"student.pretrained": False, "student.image_size": 32, "train.epochs": 1, "train.batch_size": 8}
    options |= {"export": False, "data.val_fraction": 0.3, "teacher.head": "zero-shot"}
    teacher, made = {"teacher": "mini-clip", "student": "test_resnet", "options": options}, {}
    for method in ("ce", "kd"):
        made[method] = linnet.distill(swapped, **teacher, method=method, out=tmp_path / method)
    story = made["kd"].log.read_text(encoding="utf-8")
    told = [story.index(words) for words in ("cannot be told from chance", "use --teacher.head probe", "to teacher")]
    assert told == sorted(told)
    summary = made["kd"].summary()
    assert len([text for text in summary["teacher.warnings"] if "labels alone" not in text]) == 2
    assert summary["teacher.quick_probe.val.top1"] > summary["teacher.val.top1"]
    assert "on the labels alone" in summary["verdict"]
    assert json.loads(json.dumps(summary)) == summary
    assert "the teacher mini-clip is not used: 'ce' learns without one" in made["ce"].log.read_text(encoding="utf-8")
    assert "verdict" not in made["ce"].summary()


def test_a_run_without_a_baseline_beside_it_has_a_verdict_about_its_teacher(
    make_folder: Callable[..., Path], tmp_path: Path
):
    options = {"student.pretrained": False, "student.image_size": 32, "train.epochs": 1, "train.batch_size": 8}
    run = linnet.distill(make_folder(), teacher="mini-clip", student="test_resnet", method="kd",
                         options={**options, "export": False, "data.test": "none"}, out=tmp_path / "runs" / "kd")  # fmt: skip
    assert "val images the student is" in run.summary()["verdict"]
    assert "labels alone" not in run.summary()["verdict"]

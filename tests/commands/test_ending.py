"""The block at the end of a run, from runs made by hand."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from finished_runs import CONFIG, logits_with, made_run, rows

from linnet.commands.ending import LABEL, WIDTH, confused_on_val, ending, measured
from linnet.config import Config
from linnet.evaluation.score import Seen, write_predictions
from linnet.evaluation.verdict import find_baseline, is_loss, verdict
from linnet.run import Run

KD = replace(
    CONFIG,
    method="kd",
    data=replace(CONFIG.data, source="photos of mine"),
    train=replace(CONFIG.train, epochs=9, lr=0.1),
)
VAL = rows(200)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Of 200 val images the student names 170 right, its teacher 190."""
    monkeypatch.chdir(tmp_path)
    made = Run(Path("runs/kd"))
    made.folder.mkdir(parents=True)
    made.pin(data="this data")
    write_predictions(made.predictions_of("val"), VAL, logits_with(170, VAL), logits_with(190, VAL))
    return made


def summary(run: Run, config: Config = KD, **more: object) -> dict:
    known = {"student.name": "net", "student.params": 1_500_000, "train.best_epoch": 7, "train.epochs": 9}
    known |= {"train.seconds": 321.0, "teacher.id": "fake", "teacher.val.top1": 0.95, "val.top1": 0.85}
    known |= {"val.mean_per_class": 0.85, "images.val": 200, **more}
    return {**known, **verdict(run, config, known), **measured(run, known)}


def block(run: Run, config: Config = KD, **more: object) -> str:
    return ending(run, config, summary(run, config, **more), ["a taken for b: 3 of 9"])


def test_what_every_block_says(run: Run):
    shown = block(run)
    assert shown.startswith("result of runs/kd: kd, seed 0\n")
    for words in ("net, 1.50 M parameters", "9 epochs in 5 min, epoch 7 is kept", "fake: val 95.0 %",
                  "85.0 % of 200 images (95 % interval 79.4 to 89.3)", "there is no test split",
                  "on val 10.0 points (95 % interval ", "on val a taken for b: 3 of 9"):  # fmt: skip
        assert words in shown
    lines = shown.splitlines()
    assert len(lines) <= 22
    assert all(len(line) <= WIDTH for line in lines)


def test_without_a_ce_run_nothing_is_said_to_have_helped(run: Run):
    shown = block(run)
    assert "whether distillation helped is not known" in shown
    assert "linnet compare 'photos of mine' --config runs/kd/config.yaml" in shown
    assert "--methods ce,kd --seeds 0,1,2" in shown
    assert "resolved" not in shown


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (110, "resolved for this seed; one seed says nothing about other seeds"),
        (168, "not resolved: at least "),
        (170, "not resolved: too small a difference for seeds to show"),
    ],
)
def test_against_a_ce_run_of_the_same_budget_and_seed(run: Run, right: int, words: str):
    made_run(run.folder.parent / "ce", VAL, right, config=KD)
    shown = block(run)
    assert len(shown.splitlines()) <= 22
    assert f"on val {(170 - right) / 2:+.1f} points (95 % interval " in shown
    assert "against runs/ce" in shown
    assert words in shown
    assert ("not resolved" in shown) == words.startswith("not")
    next_one = "linnet compare" if "not resolved" in shown else "linnet evaluate runs/kd"
    assert next_one in shown
    assert ("linnet compare" in shown) == ("not resolved" in shown)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(KD, seed=3), "seed 3 (here 0)"),
        (replace(KD, train=replace(KD.train, epochs=99)), "train.epochs 99 (here 9)"),
        (replace(KD, train=replace(KD.train, batch_size=32)), "train.batch_size 32 (here 64)"),
    ],
)
def test_no_difference_is_shown_to_a_ce_run_of_another_budget(run: Run, other: Config, words: str):
    made_run(run.folder.parent / "ce", VAL, 110, config=other)
    shown = block(run)
    assert "not known whether distillation helped: runs/ce differs in" in shown
    assert words in shown
    assert "+30.0" not in shown
    assert "linnet compare" in shown
    said = summary(run)
    assert "verdict.minus_labels_only" not in said
    assert "labels alone" not in said["verdict"]


@pytest.mark.parametrize(("right", "is_told_loudly"), [(110, False), (168, False), (180, True)])
def test_summary_and_block_say_the_same_of_a_ce_run(run: Run, right: int, is_told_loudly: bool):
    made_run(run.folder.parent / "ce", VAL, right, config=KD)
    said = summary(run)
    value, low, high = (100 * number for number in said["verdict.minus_labels_only"])
    assert f"on val {value:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}) against runs/ce" in block(run)
    assert said["verdict.labels_only"] == "runs/ce"
    assert is_loss(said) == is_told_loudly


def test_long_commands_are_broken_for_a_shell(run: Run):
    source = "photos of mine/" + "x" * 70
    lines = block(run, replace(KD, data=replace(KD.data, source=source))).splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("  next ")]
    command = "\n".join(line[LABEL:] for line in lines[at:]).replace("\\\n", "").splitlines()[0]
    assert lines[at].endswith("\\")
    assert shlex.split(command) == ["linnet", "compare", source, "--config", "runs/kd/config.yaml", "--methods", "ce,kd", "--seeds", "0,1,2"]  # fmt: skip


def test_a_ce_run_of_equal_budget_goes_before_a_better_one(run: Run):
    made_run(run.folder.parent / "longer", VAL, 199, config=replace(KD, train=replace(KD.train, epochs=99)))
    made_run(run.folder.parent / "equal", VAL, 150, config=KD)
    found = find_baseline(run, KD, "val")
    assert found is not None
    assert (found.run.folder.name, found.differing) == ("equal", [])


def test_other_settings_of_the_ce_run_are_told(run: Run):
    made_run(run.folder.parent / "ce", VAL, 110, config=replace(KD, train=replace(KD.train, lr=0.5)))
    assert "other settings than there: train.lr" in block(run)


def test_test_comes_with_its_interval_and_counts_for_the_differences(run: Run):
    write_predictions(run.predictions_of("test"), VAL, logits_with(100, VAL), logits_with(100, VAL))
    shown = block(run, **{"test.top1": 0.5, "test.mean_per_class": 0.4, "images.test": 200, "test.few": 0.1})
    assert "50.0 % of 200 images (95 % interval 43.1 to 56.9)" in shown
    assert "mean of the classes 40.0 %, few 10.0 %" in shown
    assert "on test as good" in shown


def test_a_method_without_data_is_not_compared_with_ce(run: Run):
    scored, free = summary(run), replace(KD, method="dfkd")
    unscored = {name: value for name, value in scored.items() if not name.startswith("val.")}
    for known, words in ((scored, "linnet evaluate runs/kd\n"), (unscored, "linnet evaluate runs/kd DATA\n")):
        shown = ending(run, free, known, [])
        assert words in shown
        assert "ce run" not in shown
        assert "linnet compare" not in shown


def test_ce_itself_is_told_how_to_go_on(run: Run):
    shown = block(run, replace(KD, method="ce"))
    assert "to ce" not in shown
    assert "--methods ce,kd" in shown


def test_intervals_are_numbers_of_the_summary(run: Run):
    low, high = summary(run)["val.top1_interval"]
    assert low < 0.85 < high


def test_confused_pairs_are_named():
    val = rows(40)
    logits = logits_with(40, val)
    logits[[0, 4, 8]] = np.eye(4)[2]
    assert confused_on_val(val, Seen(logits, logits[:, :0])) == ["bird 0x taken for bird 2x: 3 of 10"]

"""Where a step's time goes: that the parts are all of it, and what is advised. Times themselves are no test."""

from dataclasses import replace
from pathlib import Path

import pytest
from finished_runs import CONFIG

from linnet import training
from linnet.commands import profile as profiling
from linnet.commands.profile import BATCH, Times, advices, page, profile
from linnet.students.student import Student

PARTS = [BATCH, "student, forward", "loss of the method", "backward", "update of the weights", "the rest"]
FAST = {BATCH: 5.0, "student, forward": 40.0, "loss of the method": 1.0, "backward": 50.0}
FAST |= {"update of the weights": 3.0, "the rest": 1.0}
SMALL = {
    "student.name": "lcnet_035",
    "student.pretrained": False,
    "student.image_size": 32,
    "train.batch_size": 8,
    "train.precision": "fp32",
}


@pytest.fixture(autouse=True)
def two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "WARM_UP", 1)
    monkeypatch.setattr(profiling, "STEPS", 2)


@pytest.mark.parametrize("method", ["ce", "kd"])
def test_a_run_is_prepared_timed_and_leaves_nothing(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_folder
):
    monkeypatch.chdir(tmp_path)
    teacher = {"teacher.id": "mini-clip"} if method == "kd" else {}
    said = profile(make_folder(), options={"method": method, **SMALL, **teacher})
    for words in (*PARTS, f"{method} -> lcnet_035 at 32 pixels, 8 images, fp32", "share of the bound: ", "training: "):
        assert words in said
    assert not (tmp_path / "runs").exists()


def test_each_part_of_a_step_is_told_the_time_that_was_spent_in_it(monkeypatch: pytest.MonkeyPatch):
    """By a clock that only goes on where a part is made slow."""
    now, measured, really = [0.0], list[tuple](), Student.forward

    def forward(self: Student, *inputs):
        now[0] += 0.1
        return really(self, *inputs)

    def learning_rate(*inputs, really=training.learning_rate):
        now[0] += 0.05  # asked for before each step, once for either group of weights
        return really(*inputs)

    monkeypatch.setattr(profiling, "_now", lambda device: now[0])
    monkeypatch.setattr(profiling, "page", lambda *found: measured.append(found) or "")
    monkeypatch.setattr(Student, "forward", forward)
    monkeypatch.setattr(training, "learning_rate", learning_rate)
    profile("aviary:species=3,images=4", options={"method": "ce", **SMALL})
    _, steps, times, is_stored = measured[0]
    assert {len(values) for values in times.parts.values()} == {2} and times.alone == pytest.approx([100, 100])
    assert list(times.parts) == PARTS and is_stored and steps == 1
    spent = dict.fromkeys(PARTS, 0.0) | {BATCH: 100.0, "student, forward": 100.0}
    assert times.medians() == pytest.approx(spent, abs=1e-6)


@pytest.mark.parametrize(
    ("config", "parts", "stored", "words"),
    [
        ({}, {}, True, ["nothing around the student"]),
        (
            {},
            {BATCH: 60.0},
            False,
            ["images are decoded at every step: raise --data.store-limit-gb or --data.workers (60 ms)"],
        ),
        ({"views": "standard"}, {BATCH: 60.0}, True, ["views 'standard'"]),
        ({"views": "light"}, {BATCH: 60.0}, True, []),
        ({"teacher": "online"}, {BATCH: 90.0}, True, ["the teacher is asked at every step"]),
        (
            {},
            {"loss of the method": 30.0, "update of the weights": 50.0},
            True,
            ["larger --train.batch-size", "the loss of 'kd'"],
        ),
    ],
)
def test_what_is_advised_is_what_takes_the_time(config: dict, parts: dict, stored: bool, words: list[str]):
    own = CONFIG
    own = replace(own, data=replace(own.data, views=config.get("views", "light")))
    own = replace(own, teacher=replace(own.teacher, views=config.get("teacher", "center")))
    found = advices(own, {**FAST, **parts}, 92.0, stored)
    assert len(found) == len(words)
    for advice, word in zip(found, words, strict=False):
        assert word in advice


def test_the_page_adds_up():
    own = replace(CONFIG, train=replace(CONFIG.train, epochs=30, batch_size=64))
    said = page(own, 10, Times({part: [ms] for part, ms in FAST.items()}, [92.0]), True)
    assert "100.0 ms" in said and "share of the bound: 0.92" in said and "student, forward" in said
    assert "40.0 ms  40.0 %" in said and "30 epochs of 10 steps, about 30 s" in said

from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from linnet.report.evaluation import show

ODD = ["L" * 80, "日本語の鳥の名前はとても長い" * 3, "new\nline", "[bold]x", "a"]


def numbers(**more: Any) -> dict[str, Any]:
    path, other = (f"photos/{name}/{'deep/' * 30}last.jpg" for name in "ab")
    pairs = [
        {"label": a, "prediction": b, "images": 3, "of": 5, "paths": [path, other]} for a in ODD[:3] for b in ODD[:3]
    ]
    worst = [{"label": name, "prediction": ODD[0], "confidence": 0.987, "path": path} for name in ODD]
    shares = {"top1": 0.5, "top5": 0.75, "mean_per_class": 0.5, "ece": 0.1}
    shares |= {f"{key}_interval": [0.25, 0.8125] for key in ("top1", "top5", "mean_per_class")}
    asked = {"model": "runs/a", "data.source": "photos", "split": "test", "images": 1234, "classes": 250}
    return {**asked, **shares, "images.left_out": {}, "images.trained_on": 0, "notes": [], "confused": pairs, "worst": worst, **more}  # fmt: skip


def row(name: str, right: int) -> dict[str, Any]:
    return {"class": name, "images": 123, "right": right, "accuracy": right / 123, "low": 0.125, "high": 0.999, "mistaken_for": ODD[1], "mistaken": 45}  # fmt: skip


def page(capsys: pytest.CaptureFixture[str], given: dict[str, Any], classes: list[dict[str, Any]]) -> list[str]:
    show(given, classes, Path("out"))
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_long_and_wide_names_leave_room_for_the_numbers(capsys: pytest.CaptureFixture[str]):
    lines = page(capsys, numbers(), [row(name, 100) for name in ODD])
    assert max(map(cell_len, lines)) <= 100
    assert sum("100 of 123  81.3 %  12.5 to 99.9" in line and line.endswith(" 45") for line in lines) == len(ODD)
    assert sum(" 3 of 5 " in line for line in lines) == 5  # pairs
    assert sum(" 98.7 % " in line and line.endswith("last.jpg") for line in lines) == 5
    assert any(line.startswith("new\\nline ") for line in lines) and any(line.startswith("[bold]x ") for line in lines)


def test_ten_classes_at_most_the_worst_first(capsys: pytest.CaptureFixture[str]):
    lines = page(capsys, numbers(), [row(f"class-{i}", 122 - i) for i in range(12)] + [row("perfect", 123)])
    shown = [line.split()[0] for line in lines if line.startswith(("class-", "perfect"))]
    assert shown == [f"class-{i}" for i in range(11, 1, -1)]


def test_two_models(capsys: pytest.CaptureFixture[str]):
    counts = {"both_right": 12345, "only_first_right": 1234, "only_second_right": 1234, "neither_right": 1234}
    against = numbers() | {"difference": -0.125, "difference_interval": [-0.25, 0.0625], "mcnemar_p": 2e-15, **counts}
    given = numbers(against="runs/b", **{f"against.{key}": value for key, value in against.items()})
    lines = page(capsys, given, [])
    assert max(map(cell_len, lines)) <= 100
    assert "-12.5 points (95 % interval -25.0 to +6.2; McNemar p = 2e-15): not resolved by these images" in lines
    given |= {"against.difference_interval": [-0.25, -0.0625]}
    assert "-12.5 points (95 % interval -25.0 to -6.2; McNemar p = 2e-15)" in page(capsys, given, [])


def test_a_model_that_is_always_right(capsys: pytest.CaptureFixture[str]):
    given = numbers(confused=[], worst=[], images=1, notes=["first note", "second note"])
    lines = page(capsys, given | {"images.left_out": {"x": 3}, "images.trained_on": 1}, [row("a", 123)])
    assert lines[0] == "runs/a on photos, test: 1 image of 1 of 250 classes"
    assert lines[1].startswith("left out: 3 image(s) of 1 class(es)")
    assert lines[2].startswith("TRAINED ON 1")
    assert lines[3:5] == ["first note", "second note"]
    assert not any(word in line for line in lines for word in ("worst classes", "most confused", "images lie in"))

"""Every grid in bench/ says what can be trained; nothing is trained here."""

import importlib
import json
import re
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from linnet.commands.comparison.grid import Compared, Request, build, check_fair

GRIDS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "bench").glob("*.yaml"))}
WITH_DATA = {name for name in GRIDS if name.startswith("grocery") or "animals" in name}
WITH_CLASSIFIER = {"animals_classifier", "lookalikes", "lookalikes_figkd", "data_free"} | {
    name for name in GRIDS if name.startswith("grocery_") and not {"vlm", "novel"} & set(name.split("_"))
}


@pytest.fixture
def resolve(make_folder: Callable[..., Path]) -> Callable[[str], Compared]:
    def resolve(name: str) -> Compared:
        data = str(make_folder(images=3)) if name in WITH_DATA else None
        teacher = {"teacher.id": "timm:resnet18"} if name in WITH_CLASSIFIER else {}
        return build(Request(data, GRIDS[name], options={"train.precision": "fp32", **teacher}))

    return resolve


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_resolves_and_begins_with_the_command_that_trains_it(name: str, resolve: Callable[[str], Compared]):
    compared = resolve(name)
    text = GRIDS[name].read_text()
    assert f"bench/{name}.yaml" in text.partition("shared:")[0]
    assert next(row.name for row in compared.rows if row.is_baseline).startswith("ce")
    assert set(yaml.safe_load(text)["rows"]) <= {row.name for row in compared.rows}
    check_fair(compared.rows, allow_mismatch="--allow-mismatch" in text.partition("shared:")[0])
    assert {str(row.config.train.precision) for row in compared.rows} == {"fp32"}


def test_what_the_grids_say_is_what_was_measured(resolve: Callable[[str], Compared]):
    by_name = {row.name: row.config for row in resolve("long_tail_texts").rows}
    assert by_name["weight 0.1"].options["vlm-kd"]["text_weight"] == 0.1
    assert by_name["captions shuffled"].data.texts == Path("runs/bench/texts-shuffled.parquet")
    vocabulary = resolve("open_vocabulary").rows
    assert str(vocabulary[-1].config.student.pretrained).endswith("compare-open_vocabulary/full-s0")
    free = {row.name: row.config for row in resolve("data_free").rows}
    assert (free["full"].data.source, free["full"].data.eval) == (None, "aviary:species=8,genus=1,images=200")
    assert (free["ce"].train.epochs, free["full"].train.epochs, free["full"].train.lr) == (20, 10, 0.05)
    assert len(resolve("aviary_views").rows) == 11  # with ce on the replayed views


# ---------------------------------------------------------------------------------------------------------- bench/speed


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench" / "speed")
    return importlib.import_module("measuring")


def test_a_ratio_is_a_median_beside_what_is_asked_of_it(measuring):
    good = measuring.row("a", "net, 64 px, ce, light", [0.9, 0.99, 0.95], at_least=0.92)
    short = measuring.row("a", "net, 64 px, kd, light", [0.5], at_least=0.92)
    bad = measuring.row("e", "other", [1.5, 1.2], at_most=1.3, note="words")
    assert (good.ratio, good.low, good.high, good.verdict) == (0.95, 0.9, 0.99, "≥ 0.92: yes")
    assert bad.verdict == "≤ 1.3: no" and measuring.row("b", "free", [2.0]).verdict == ""
    table = measuring.table([good, short, bad])
    assert "| net, 64 px | 0.95 (0.9 to 0.99) | **0.5** |" in table  # once: no range
    assert "| other (words) | **1.35** (1.2 to 1.5) | ≤ 1.3: no |" in table


def test_the_guide_shows_what_was_measured(measuring):
    """The table is that of one of the kept results, so that nothing in it was typed."""
    root = Path(__file__).parents[1]
    guide = root / "docs" / "guides" / "speed.md"
    assert guide.read_text() in [
        measuring.page(guide, file) for file in (root / "bench" / "results").glob("speed-*.json")
    ]


def test_rows_of_parts_that_were_not_measured_again_are_kept(measuring, tmp_path: Path):
    file = tmp_path / "results" / "speed.json"
    measuring.write(file, "a machine", [measuring.row("a", "one", [0.5]), measuring.row("b", "two", [0.6])])
    measuring.write(file, "a machine", [measuring.row("a", "new", [0.7])])
    assert [(own["part"], own["what"]) for own in json.loads(file.read_text())["rows"]] == [("a", "new"), ("b", "two")]


def test_calls_are_timed_in_turn(measuring):
    called: list[str] = []
    times = measuring.in_turn({name: partial(called.append, name) for name in "xy"}, rounds=2)
    assert called == ["x", "y"] * 3  # the first round does not count
    assert {name: len(own) for name, own in times.items()} == {"x": 2, "y": 2}


@pytest.mark.slow
def test_every_part_measures_something_on_small_data(measuring):
    """In a process of its own, as ``make bench`` runs them."""
    code = """
import json, scale, serving, steps, teachers
parts = [steps.steps(("lcnet_035",), (32,), 2), steps.classes("lcnet_035", 32, 2), teachers.cache(32, 1),
         teachers.whole(160, 1), scale.scale((200, 400, 800)), serving.serving(32, 1), serving.fixed_costs((64,))]
print(json.dumps([[own.part, own.ratio] for part in parts for own in part]))
"""
    rows = measuring.in_a_process(code, PYTHONPATH=str(Path(measuring.__file__).parent))
    assert {part for part, _ in rows} == set("abcdefg") and all(ratio > 0 for _, ratio in rows)


# -------------------------------------------------------------------------------------------------------- bench/results


@pytest.fixture
def keep(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    return importlib.import_module("keep")


def test_the_tables_are_those_that_were_kept(keep: ModuleType):
    """Nothing in them was typed."""
    root = Path(__file__).parents[1]
    files = [file for file in (root / "bench" / "results").glob("*.json") if not file.name.startswith("speed-")]
    kept = [json.loads(file.read_text()) for file in files]
    page = (root / "docs" / "results.md").read_text()
    assert kept and all(keep.table(results) in page for results in kept)
    assert all(keep.by_name(results) in page for results in kept) and any(map(keep.by_name, kept))
    lines = [line for line in (root / "README.md").read_text().splitlines() if line.startswith("|")]
    heads = [i for i, line in enumerate(lines) if line.startswith("| **")]
    for start, end in zip(heads, [*heads[1:], len(lines)], strict=True):
        own = set(lines[start + 1 : end])
        assert any(own <= set(keep.brief(results).splitlines()) for results in kept)  # all from one table
        assert any(line.startswith("| `ce` |") for line in lines[start + 1 : end])
    assert heads


def test_what_the_readme_says_first_was_measured(keep: ModuleType):
    root, expected = Path(__file__).parents[1], []
    for name in ("grocery_vlm_five_seeds", "grocery_classifier_five_seeds"):
        rows = {
            row["row"]: row for row in json.loads((root / "bench" / "results" / f"{name}.json").read_text())["rows"]
        }
        expected += [f"{100 * statistics.fmean(rows[row]['test']):.1f}" for row in ("ce", "kd")]
        expected += re.findall(r"[+-]\d+\.\d", " ".join(keep.gained(rows["kd"])))
    assert expected.pop(7) == expected[0]  # ce, which is the same in both
    said = (root / "README.md").read_text().partition("## Results")[2].partition("\n| ")[0].partition("* **")[2]
    assert re.findall(r"[+-]?\d+\.\d", said) == expected


def test_what_the_readme_says_of_new_names_was_measured(keep: ModuleType):
    root = Path(__file__).parents[1]
    results = json.loads((root / "bench" / "results" / "grocery_novel.json").read_text())
    rows = {row["row"]: row["novel"] for row in results["rows"] if "novel" in row}
    (of_teacher,) = (teacher["by_name"] for teacher in results["teachers"] if teacher["by_name"])
    expected = [
        f"{100 * value:.1f}"
        for key in ("ood.mean_per_class", "generalised.ood")
        for value in (*(statistics.fmean(rows[name][key]) for name in ("openvocab", "dual")), of_teacher[key])
    ]
    said = (root / "README.md").read_text().partition("* New names:")[2].partition("\n* ")[0]
    assert re.findall(r"\d+\.\d", said) == expected


def test_a_kept_row_says_each_seed_and_both_intervals(keep: ModuleType):
    def over(low: float, high: float) -> dict[str, float]:
        return {"value": 0.05, "low": low, "high": high, "p": 0.01}

    row = {"row": "kd", "method": "kd", "seeds": [0, 1], "better": "yes", "retention": 1.02}
    row |= {"over_images": over(0.04, 0.061), "over_seeds": over(-0.001, 0.1), "values": {}}
    row["cost"] = {"parameters": 4_060_000, "megabytes": 16.24, "milliseconds": 5.04, "runtime": "ONNX Runtime"}
    cells = [{"row": "kd", "run": "/home/me/runs/kd", "val.top1": 0.7, "test.top1": 0.6 + seed / 10} for seed in (0, 1)]
    teacher = {"name": "open_clip:local-dir:/home/me/clip, probe", "val": 0.7, "top1": 0.66, "low": 0.6, "high": 0.7}
    teacher["by_name"] = dict.fromkeys(keep.KEYS, 0.9)
    kept = keep.kept(
        {"images": 9, "against": None, "rows": [row], "cells": cells, "teachers": [{**teacher, "parameters": 1}]}
    )
    assert "home" not in json.dumps(kept)
    _, _, line, of_teacher = keep.table(kept).splitlines()
    assert line == "| `kd` | 70.0 ± 0.0 | 65.0 ± 7.1 | 60.0 70.0 | +5.0 | +4.0 to +6.1 | -0.1 to +10.0 | yes | 1.02 |"
    assert of_teacher.startswith("| *teacher: clip, probe* | 70.0 | 66.0 (60.0 to 70.0) |")
    of_teacher, line = keep.brief(kept).splitlines()
    assert of_teacher.startswith("| *teacher: clip, probe* |  | 66.0 (60.0 to 70.0) |")
    cost = "4.1 M, 16.2 MB, 5.0 ms"
    assert line == f"| `kd` | 2 | 65.0 ± 7.1 | +5.0 | +4.0 to +6.1 | -0.1 to +10.0 | yes | 1.02 | {cost} |"
    row["values"] = {key: [0.3, 0.4] for key in keep.KEYS}
    row |= {"novel_over_images": over(-0.061, -0.04), "novel_over_seeds": over(-0.1, 0.001)}
    kept = keep.kept({"images": 9, "against": None, "rows": [row], "cells": cells, "teachers": [teacher]})
    _, _, line, of_teacher = keep.by_name(kept).splitlines()
    both = "35.0 ± 7.1"
    assert line == f"| `kd` | {both} | {both} | 30.0 40.0 | {both} | {both} | +5.0 | -6.1 to -4.0 | -10.0 to +0.1 |"
    assert of_teacher == "| *teacher: clip, probe* | 90.0 | 90.0 |  | 90.0 | 90.0 |  |  |  |"


def test_the_picture_shows_every_row_of_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    picture = importlib.import_module("picture")
    over = {"value": 0.043, "low": 0.021, "high": 0.065}
    rows = [{"row": "ce", "values": {"test.top1": [0.7, 0.76]}}]
    rows += [
        {"row": name, "over_images": over, "over_seeds": over, "better": words}
        for name, words in {"kd": "not resolved (+9 seeds)", "pand": "yes"}.items()
    ]
    _, axes = picture.plt.subplots()
    picture.draw_gains(axes, {"rows": rows, "seeds": [0, 1]})
    assert [text.get_text() for text in axes.texts] == ["+4.3: better", "+4.3: not resolved"]  # from below
    assert [label.get_text() for label in axes.get_yticklabels()] == ["pand", "kd"] and "73.0 %" in axes.get_title()
    (tmp_path / "compare.json").write_text(json.dumps({"rows": rows, "seeds": [0, 1]}))
    picture.main(tmp_path / "compare.json", tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    picture.plt.close("all")

"""Numbers of hand-made runs, by plain arithmetic."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hand_made_runs import DATA, write_run
from rich.console import Console
from scipy import stats

from linnet.commands.comparison.finished import read_runs
from linnet.commands.comparison.grid import check_fair
from linnet.commands.comparison.results import BY_NAME, Report, report
from linnet.commands.comparison.table import as_markdown, print_table, remarks, write_files
from linnet.errors import UserError
from linnet.metrics.intervals import holm, over_images, over_seeds

N = 200


def right(count: int, start: int = 0) -> list[bool]:
    return [start <= i < start + count for i in range(N)]


def made(folder: Path, **rows: list[dict]) -> Report:
    """A report of hand-made runs: row name -> one dict of ``write_run``'s words for each seed."""
    folders = []
    for name, cells in rows.items():
        for seed, words in enumerate(cells):
            method = words.pop("method", name.partition("_")[0])
            folders.append(write_run(folder / f"{name}-s{seed}", method, seed, **words).folder)
    found, done, _ = read_runs(folders)
    return report(found, done, sorted({cell.seed for cell in done}))


def three(first: int, second: int, third: int) -> list[dict]:
    return [{"right": right(count)} for count in (first, second, third)]


def test_means_differences_and_both_intervals(tmp_path: Path):
    told = made(tmp_path, ce=three(100, 104, 96), kd=three(140, 138, 142))
    ce, kd = told.result("ce"), told.result("kd")
    assert kd.values["test.top1"] == [0.7, 0.69, 0.71] and ce.values["test.top1"] == [0.5, 0.52, 0.48]
    assert (kd.reference, ce.reference) == ("ce", None)
    first, second = (np.array([right(count) for count in counts]) for counts in ((140, 138, 142), (100, 104, 96)))
    assert kd.images == over_images(first, second)
    assert kd.over_seeds == over_seeds([0.7 - 0.5, 0.69 - 0.52, 0.71 - 0.48], N)
    assert kd.images.value == pytest.approx(0.2) and kd.over_seeds.value == pytest.approx(0.2)
    assert kd.p == max(kd.images.p, kd.over_seeds.p) and kd.words == "yes"
    assert kd.retention == pytest.approx(0.7 / 0.8)
    (teacher,) = told.teachers
    assert (teacher.name, teacher.top1, teacher.val) == ("mini-clip", pytest.approx(0.8), pytest.approx(0.7))
    assert teacher.low < 0.8 < teacher.high


def test_holm_over_the_rows(tmp_path: Path):
    told = made(
        tmp_path, ce=three(100, 104, 96), kd=three(140, 138, 142), dist=three(70, 72, 71), dkd=three(104, 100, 99)
    )
    results = [told.result(name) for name in ("kd", "dist", "dkd")]
    assert [own.p_holm for own in results] == holm([own.p for own in results])
    assert [own.words for own in results[:2]] == ["yes", "no, worse"]
    assert results[2].words.startswith("not resolved")


def test_what_would_resolve_a_difference(tmp_path: Path):
    """Seeds that disagree need more seeds; seeds that agree on too few images need more images."""
    others = [{"right": right(count, start=10)} for count in (106, 106, 107)]
    told = made(tmp_path, ce=three(100, 100, 100), kd=three(100, 130, 145), dist=others)
    mean, deviation = 0.125, np.std([0.0, 0.15, 0.225], ddof=1)
    p_values = {n: 2 * stats.t.sf(mean * n**0.5 / deviation, n - 1) for n in range(4, 51)}
    needed = min(n for n, p in p_values.items() if 2 * p < 0.05)  # corrected for two rows
    assert told.result("kd").words == f"not resolved (+{needed - 3} seeds)"
    assert told.result("dist").words == "not resolved (+images)"
    both = made(tmp_path / "both", ce=three(100, 100, 100), kd=three(100, 104, 106), dist=three(99, 100, 101))
    assert re.fullmatch(r"not resolved \(\+\d+ seeds?, \+images\)", both.result("kd").words)
    assert both.result("dist").words == "not resolved (too small for seeds, +images)"


def test_a_ce_row_without_all_seeds_is_not_what_others_are_measured_against(tmp_path: Path):
    """A cell that failed must not take the verdict from all rows: the other one on the same student has every seed."""
    ce = [{"right": right(100), "val": val} for val in (0.6, 0.5, 0.4)]
    replayed = [{"right": right(100), "val": 0.59, "options": {"teacher.views": "replay:2"}}]
    told = made(tmp_path, ce=ce, ce_replayed=replayed, kd=three(150, 148, 149))
    assert told.counted["kd"] == "ce teacher.views=center"
    assert told.result("kd").words == "yes"
    assert told.result("ce teacher.views=replay:2").words == "incomplete: 1 of 3 seeds"


def test_ce_with_a_remedy_is_a_row_like_others(tmp_path: Path):
    """As in the grid that it may come from."""
    remedy = [{**own, "val": 0.9, "options": {"train.logit_adjustment": 1.0}} for own in three(170, 172, 174)]
    told = made(tmp_path, ce=three(100, 104, 96), ce_balanced=remedy, kd=three(140, 138, 142))
    plain, balanced = "ce train.logit_adjustment=0.0", "ce train.logit_adjustment=1.0"
    assert told.counted == dict.fromkeys((plain, balanced, "kd"), plain)
    assert (told.result(plain).baseline, told.result(balanced).baseline) == (True, False)
    assert [told.result(name).words for name in (balanced, "kd")] == ["yes", "yes"]


def test_any_row_can_be_what_others_are_compared_with(tmp_path: Path):
    """``ce`` is a row like others then."""
    told = made(tmp_path, ce=three(100, 104, 96), kd=three(140, 138, 142), dist=three(141, 138, 142))
    again = report(told.rows, told.done, told.seeds, against="kd")
    ce, kd, dist = (again.result(name) for name in ("ce", "kd", "dist"))
    assert (ce.reference, kd.reference, dist.reference) == ("kd", None, "kd")
    first, second = (np.array([right(count) for count in counts]) for counts in ((100, 104, 96), (140, 138, 142)))
    assert ce.images == over_images(first, second) and ce.words == "no, worse"
    assert dist.words.startswith("not resolved")
    assert [ce.p_holm, dist.p_holm] == holm([ce.p, dist.p])
    header, _, *rows = [[cell.strip() for cell in line.split("|")] for line in as_markdown(again).splitlines()]
    shown = [dict(zip(header, row, strict=True)) for row in rows[:3]]
    assert [row["- kd"] for row in shown] == ["-20.00", "0", "+0.17"]
    assert [row["better than kd?"] for row in shown[:2]] == ["no, worse", "(kd)"]
    assert any(line.startswith("better than kd?: by both") for line in remarks(again))
    assert not any("ce:" in line for line in remarks(again))
    failed = report(told.rows, [cell for cell in told.done if cell.row != "kd"], told.seeds, against="kd")
    assert {result.reference for result in failed.results} == {None}  # the table is there, without differences
    assert "nothing is compared: no cell of kd is finished" in remarks(failed)


def test_fair_is_what_is_trained_as_the_row_that_others_are_compared_with(tmp_path: Path):
    longer = [{**own, "options": {"train.epochs": 60}} for own in three(140, 138, 142)]
    told = made(tmp_path, ce=three(100, 104, 96), kd=longer, dist=[dict(own) for own in longer])
    again = report(told.rows, told.done, told.seeds, against="kd")
    assert again.result("ce").words == "no, worse, unequal" and "unequal" not in again.result("dist").words
    (said, *_) = check_fair(told.rows, allow_mismatch=True, against="kd")
    assert said == "unequal to kd: ce: train.epochs: 60 -> 30"


def test_a_narrow_terminal_shows_whole_intervals_and_any_name(tmp_path: Path):
    told = made(tmp_path, ce=three(100, 104, 96), kd=three(140, 138, 142))
    named = "kd [/x] with a rather long name"
    rows = [replace(row, name=named) if row.name == "kd" else row for row in told.rows]
    done = [cell._replace(row=named) if cell.row == "kd" else cell for cell in told.done]
    for against in (None, named):
        console = Console(width=80, record=True)
        print_table(report(rows, done, told.seeds, against=against), console)
        shown = console.export_text()
        assert len(re.findall(r"[+-]\d+\.\d to [+-]\d+\.\d", shown)) == 2 and "[/x]" in shown


def test_one_seed_says_nothing_about_others(tmp_path: Path):
    told = made(tmp_path, ce=[{"right": right(100)}], kd=[{"right": right(150)}], dist=[{"right": right(102)}])
    assert told.result("kd").over_seeds is None and told.result("kd").words == "yes"
    assert told.result("dist").words == "not resolved (one seed)"
    assert any("one seed says nothing about other seeds" in line for line in remarks(told))


def test_a_row_without_all_seeds_has_no_claim(tmp_path: Path):
    told = made(tmp_path, ce=three(100, 100, 100), kd=three(150, 150, 150)[:2])
    assert told.result("kd").words == "incomplete: 2 of 3 seeds" and told.result("kd").p is None
    assert told.result("kd").images is not None


def test_rows_without_a_common_seed_have_no_difference(tmp_path: Path):
    runs = [write_run(tmp_path / name, name, seed, right(100)).folder for name, seed in (("ce", 0), ("kd", 1))]
    rows, done, _ = read_runs(runs)
    told = report(rows, done, [0, 1])
    assert told.result("kd").words == "not comparable: no seed in common" and told.result("kd").images is None


def test_other_images_are_not_compared(tmp_path: Path):
    told = made(tmp_path, ce=[{"right": right(100)}], kd=[{"right": right(100)[:150]}])
    assert told.result("kd").words == "not comparable: other images" and told.result("kd").images is None


def test_the_better_ce_by_val_counts(tmp_path: Path):
    """By val, where the other one is better on test."""
    fresh = [{"right": right(120), "val": 0.5}] * 1
    replayed = [{"right": right(100), "val": 0.6, "options": {"teacher.views": "replay:2"}}]
    told = made(tmp_path, ce=fresh, ce_replayed=replayed, kd=[{"right": right(150)}])
    counted = "ce teacher.views=replay:2"
    assert told.counted["kd"] == counted and told.result("kd").images.value == pytest.approx(0.25)
    assert told.result("ce teacher.views=center").reference == counted
    assert any(
        line.startswith(f"ce: {counted} counts, the best on val (60.00; ce teacher.views=center 50.00)")
        for line in remarks(told)
    )

    replayed = told.result("ce teacher.views=center")
    assert replayed.p is None and told.result("kd").p_holm == told.result("kd").p  # a ce row is no candidate


def test_an_unequal_row_is_called_so(tmp_path: Path):
    told = made(
        tmp_path, ce=three(100, 104, 96), kd=[{**own, "options": {"train.epochs": 60}} for own in three(140, 138, 142)]
    )
    assert told.result("kd").words == "yes, unequal"


def test_each_student_has_its_own_ce(tmp_path: Path):
    other = {"student.name": "resnet18"}
    told = made(
        tmp_path,
        ce=[{"right": right(100)}],
        ce_b=[{"right": right(140), "options": other}],
        kd=[{"right": right(150)}],
        kd_b=[{"right": right(150), "options": other}],
    )
    assert told.result("kd test_resnet").images.value == pytest.approx(0.25)
    assert told.result("kd resnet18").images.value == pytest.approx(0.05)


def test_val_takes_the_place_of_a_missing_test(tmp_path: Path):
    told = made(tmp_path, ce=[{"val": 0.5}], kd=[{"val": 0.6}])
    assert told.part == "val" and told.result("kd").images is None
    console = Console(width=100, record=True)
    print_table(told, console)
    shown = console.export_text()
    assert "there is no test split" in shown
    assert "better than ce?" not in shown  # without an interval there is no result


def test_what_stands_in_the_table_and_the_files(tmp_path: Path):
    groups = {"test.few": 0.25}
    cells = [
        {"right": right(count), "summary": {**groups, "teacher.val.top1_interval": [0, 1]}} for count in (140, 142)
    ]
    told = made(tmp_path / "runs", ce=three(100, 104, 96)[:2], kd=cells)
    console = Console(width=100, record=True)
    print_table(told, console)
    printed = console.export_text()
    for shown in (
        "70.5 ± 0.7",
        "+19.5",
        "better than ce?",
        "yes",
        "(ce)",
        "88.1 %",
        "A: 95 % interval",
        "B: 95 % interval",
    ):
        assert shown in printed
    assert max(map(len, printed.splitlines())) <= 100
    write_files(told, tmp_path)
    page = (tmp_path / "compare.md").read_text()
    assert page == as_markdown(told)
    header, _, ce, kd, *_ = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    assert dict(zip(header, kd, strict=True))["test.few"] == "25.00 ± 0.00"
    assert (
        dict(zip(header, ce, strict=True))["test"] == "51.00 ± 1.41"
        and dict(zip(header, ce, strict=True))["test.few"] == ""
    )
    said = json.loads((tmp_path / "compare.json").read_text())
    assert (
        said["rows"][1]["values"]["test.top1"] == [0.7, 0.71] and said["rows"][1]["better"] == told.result("kd").words
    )
    assert said["rows"][1]["over_images"]["value"] == pytest.approx(0.195)
    assert said["rows"][1]["settings"]["train"]["epochs"] == 30
    assert said["environment"]
    table = pyarrow.parquet.read_table(tmp_path / "compare.parquet").to_pylist()
    assert [(row["row"], row["seed"], row["test.top1"]) for row in table] == [
        ("ce", 0, 0.5),
        ("ce", 1, 0.52),
        ("kd", 0, 0.7),
        ("kd", 1, 0.71),
    ]
    assert table[0]["test.few"] is None and "teacher.val.top1_interval" not in table[0]


def test_novel_classes_are_compared_with_the_teacher(tmp_path: Path):
    """``ce`` cannot name them, a kd row does not ask the same teacher about them. Each class counts the same."""
    named = dict.fromkeys(BY_NAME, 0.4) | {"generalised.ood": 0.1}
    scores = named | {f"teacher.{key}": 0.9 for key in BY_NAME}
    labels = ["a"] * 150 + ["b"] * 50
    by_teacher = right(175)
    cells = [
        {"right": right(150), "summary": scores, "novel": (right(count), by_teacher, labels)} for count in (80, 84, 82)
    ]
    told = made(tmp_path, ce=three(100, 104, 96), kd=three(140, 141, 142), openvocab=cells)
    images, by_seed = told.result("openvocab").novel
    per_class = [(count / 150 + 0) / 2 - (1 + 25 / 50) / 2 for count in (80, 84, 82)]
    assert images.value == pytest.approx(np.mean(per_class)) and images.low < images.value < images.high < -0.3
    assert by_seed.value == pytest.approx(np.mean(per_class))
    assert by_seed.high - by_seed.value == pytest.approx(stats.t.ppf(0.975, 2) * np.std(per_class, ddof=1) / 3**0.5)
    assert told.result("ce").novel is None and told.teachers[0].by_name["ood.mean_per_class"] == pytest.approx(0.9)
    console = Console(width=100, record=True)
    print_table(told, console)
    printed = console.export_text()
    row = next(line for line in printed.splitlines() if line.startswith("openvocab") and "40.0 ± 0.0" in line)
    assert f"40.0 ± 0.0  40.0 ± 0.0   10.0 ± 0.0      {100 * images.value:+.1f}" in row
    assert row.endswith(f"{100 * by_seed.low:+.1f} to {100 * by_seed.high:+.1f}")
    assert "in one list: images of novel classes among all names" in printed
    assert max(map(len, printed.splitlines())) <= 100
    _, names, _ = as_markdown(told).split("\n\n")
    header, _, *rows = [[cell.strip() for cell in line.split("|")] for line in names.splitlines()]
    assert [own[1] for own in rows] == ["openvocab", "teacher mini-clip"]
    assert dict(zip(header, rows[0], strict=True))["harmonic"] == "40.00 ± 0.00"
    assert rows[1][header.index("novel")] == "90.00"


def test_novel_classes_without_predictions_have_no_interval(tmp_path: Path):
    told = made(
        tmp_path, ce=[{"right": right(100)}], openvocab=[{"right": right(120), "summary": dict.fromkeys(BY_NAME, 0.4)}]
    )
    assert told.result("openvocab").novel is None
    console = Console(width=100, record=True)
    print_table(told, console)
    assert ["openvocab", "40.0", "40.0", "40.0"] in [line.split() for line in console.export_text().splitlines()]


# --- rows of finished runs ---


def test_runs_of_other_settings_are_other_rows(tmp_path: Path):
    told = made(
        tmp_path,
        kd=[{"right": right(100)}, {"right": right(100)}],
        kd_hot=[{"right": right(100), "options": {"kd.temperature": 9}}],
        ce=[{"right": right(100)}],
    )
    assert [own.name for own in told.results] == ["ce", "kd kd.temperature=4.0", "kd kd.temperature=9.0"]
    assert sorted(len(own.seeds) for own in told.results) == [1, 1, 2]


def test_what_finished_runs_need(tmp_path: Path):
    kd = write_run(tmp_path / "kd", "kd", right=right(100)).folder
    with pytest.raises(
        UserError, match=r"none of these runs is ce.*linnet distill --config .*kd/config.yaml --method ce --out"
    ):
        read_runs([kd])
    twin = write_run(tmp_path / "twin", "kd", right=right(100)).folder
    ce = write_run(tmp_path / "ce", right=right(100)).folder
    with pytest.raises(UserError, match="twin and .*kd are one cell"):
        read_runs([kd, ce, twin])
    (ce / "summary.json").unlink()
    with pytest.raises(UserError, match="not finished: .*ce;"):
        read_runs([kd, ce])


def test_the_same_images_may_lie_elsewhere(tmp_path: Path):
    folders = [write_run(tmp_path / name, name, right=right(100)).folder for name in ("ce", "kd")]
    file = folders[1] / "config.yaml"
    file.write_text(file.read_text().replace(DATA, "elsewhere"))
    rows, _, notes = read_runs(folders)
    assert not notes and not check_fair(rows, allow_mismatch=False)


def test_runs_of_other_data_are_named(tmp_path: Path):
    folders = [write_run(tmp_path / name, name, right=right(100), data=name).folder for name in ("ce", "kd")]
    assert read_runs(folders)[2] == ["unequal: the runs are of 2 different data sets"]

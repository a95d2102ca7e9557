"""Keep what a comparison measured, without the folders of the machine that measured it:

    linnet compare grocery-fresh bench/grocery_vlm.yaml ... --out runs/grocery-vlm
    python bench/keep.py runs/grocery-vlm grocery_vlm

writes bench/results/grocery_vlm.json and prints the table for docs/results.md and the rows for the README; a test
compares both with it.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
HEAD_BY_NAME = (
    ("row", "trained", "novel", "novel, each seed", "harmonic", "novel, in one list", "minus teacher", "A", "B"),
    ("---",) * 9,
)
KEYS = ("id.mean_per_class", "ood.mean_per_class", "harmonic", "generalised.ood")
OF_TEACHERS = ("val", "top1", "low", "high", "by_name")


def kept(compared: dict[str, Any]) -> dict[str, Any]:
    """The rows of a compare.json with the numbers of every seed, and the teachers."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for cell in compared["cells"]:
        cells.setdefault(cell["row"], []).append(cell)
    names = ("row", "method", "seeds", "over_images", "over_seeds", "better", "retention", "cost")
    rows = [
        {name: row[name] for name in names}
        | {part: [cell[f"{part}.top1"] for cell in cells[row["row"]]] for part in ("val", "test")}
        | ({"novel": named_by(row)} if KEYS[1] in row["values"] else {})
        for row in compared["rows"]
    ]
    teachers = [
        {"name": teacher["name"].split("/")[-1]} | {name: teacher[name] for name in OF_TEACHERS}
        for teacher in compared["teachers"]
    ]
    return {"images": compared["images"], "against": compared["against"], "rows": rows, "teachers": teachers}


def named_by(row: dict[str, Any]) -> dict[str, Any]:
    """The scores of every seed with class texts, and the difference to the teacher on novel classes."""
    scores = {key: row["values"][key] for key in KEYS}
    return scores | {name: row[f"novel_{name}"] for name in ("over_images", "over_seeds")}


def table(results: dict[str, Any]) -> str:
    """In Markdown, in per cent: mean and deviation over the seeds, intervals as `linnet compare` makes them."""
    against = results["against"] or "ce"
    intervals = ("A: images", "B: seeds", f"better than {against}?")
    head = ("row", "val", "test", "test of each seed", f"above {against}", *intervals, "retention")
    lines = [head, ("---",) * len(head)]
    for row in results["rows"]:
        each = " ".join(f"{100 * value:.1f}" for value in row["test"])
        lines.append((f"`{row['row']}`", spread(row["val"]), spread(row["test"]), each, *gained(row), retained(row)))
    for teacher in results["teachers"]:
        lines.append((f"*teacher: {teacher['name']}*", f"{100 * teacher['val']:.1f}", of_teacher(teacher), *[""] * 6))
    return as_markdown(lines)


def by_name(results: dict[str, Any]) -> str:
    """Students with a text bank: trained and novel classes, and how far they are above the teacher on the latter."""
    lines = [*HEAD_BY_NAME]
    for row in (own for own in results["rows"] if "novel" in own):
        novel = row["novel"]
        trained, of_novel, *more = (spread(novel[key]) for key in KEYS)
        each = " ".join(f"{100 * value:.1f}" for value in novel[KEYS[1]])
        lines.append(
            (f"`{row['row']}`", trained, of_novel, each, *more, *over(novel["over_images"], novel["over_seeds"]))
        )
    for teacher in (own for own in results["teachers"] if own["by_name"]):
        trained, novel, *harmonic = (f"{100 * teacher['by_name'][key]:.1f}" for key in KEYS)
        lines.append((f"*teacher: {teacher['name']}*", trained, novel, "", *harmonic, "", "", ""))
    return as_markdown(lines) if len(lines) > len(HEAD_BY_NAME) else ""


def brief(results: dict[str, Any]) -> str:
    """The rows of the README's table: no val, no single seeds; number of seeds and cost of the student instead."""
    lines = [(f"*teacher: {own['name']}*", "", of_teacher(own), *[""] * 6) for own in results["teachers"]]
    for row in results["rows"]:
        own = row["cost"]
        cost = f"{own['parameters'] / 1e6:.1f} M, {own['megabytes']:.1f} MB, {own['milliseconds']:.1f} ms"
        seeds = str(len(row["test"]))
        lines.append((f"`{row['row']}`", seeds, spread(row["test"]), *gained(row), retained(row), cost))
    return as_markdown(lines)


def gained(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """Difference to the row that others are compared with, both intervals, and whether it is real."""
    return *over(row["over_images"], row["over_seeds"]), row["better"] or ""


def over(*both: dict[str, float] | None) -> tuple[str, str, str]:
    """A difference, with its interval over images and over seeds."""
    images, seeds = (f"{100 * own['low']:+.1f} to {100 * own['high']:+.1f}" if own else "" for own in both)
    return f"{100 * both[0]['value']:+.1f}" if both[0] else "", images, seeds


def retained(row: dict[str, Any]) -> str:
    return f"{row['retention']:.2f}" if row["retention"] else ""


def of_teacher(teacher: dict[str, Any]) -> str:
    return f"{100 * teacher['top1']:.1f} ({100 * teacher['low']:.1f} to {100 * teacher['high']:.1f})"


def as_markdown(lines: list[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: list[float]) -> str:
    mean = statistics.fmean(values)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * mean:.1f} ± {100 * deviation:.1f}"


if __name__ == "__main__":
    folder, name = Path(sys.argv[1]), sys.argv[2]
    results = kept(json.loads((folder / "compare.json").read_text()))
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    print(*filter(None, (table(results), by_name(results), brief(results))), sep="\n\n")

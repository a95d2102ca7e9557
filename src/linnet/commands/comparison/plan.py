"""What the first command on a folder decides for all that follow: threads and precision of every cell, and what fits
into a given time."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from linnet.commands.comparison.forecast import fit, measure, seconds_of
from linnet.commands.comparison.grid import Compared, Row, check_row, resolved
from linnet.defaults import with_precision
from linnet.environment import available_cpus
from linnet.errors import UserError
from linnet.fields import to_dict
from linnet.files import damaged, in_turn, read_json, write_atomically

Plan = Mapping[str, Any]


def read_plan(out: Path) -> dict[str, Any]:
    file = out / "plan.json"
    advice = "delete it, and it is decided anew"
    plan: dict[str, Any] = read_json(file, dict, advice) if file.exists() else {}
    if not isinstance(plan.get("threads", 1), int) or plan.get("precision", "fp32") not in ("fp32", "bf16"):
        raise damaged(file, "it holds something else", advice)
    return plan


def decide(compared: Compared, jobs: int, threads: int | None, on_cluster: bool = False) -> dict[str, Any]:
    """Threads and precision, as they were decided before in this folder, or now. Nothing is written.

    Raises:
        UserError: other threads than those of the cells that are there.
    """
    earlier = read_plan(compared.grid.out)
    kept = earlier.get("threads")
    if threads is not None and kept is not None and threads != kept:
        raise UserError(
            f"the cells in {compared.grid.out} are trained with {kept} thread{'s' if kept > 1 else ''} each, on which "
            "their last digits depend: leave --threads out, or choose another --out"
        )
    precision = earlier.get("precision") or _precision(compared.rows)
    return {**earlier, "threads": threads or kept or default_threads(jobs, on_cluster), "precision": precision}


def default_threads(jobs: int, on_cluster: bool = False) -> int:
    """OMP_NUM_THREADS, or a job's share of the processors; on a cluster one, which wastes nothing."""
    if (given := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(given):
        return int(given)
    return 1 if on_cluster else max(1, available_cpus() // jobs)


def _precision(rows: Sequence[Row]) -> str:
    """One for all cells: bf16 only where every student gains by it."""
    students = {row.config.student: row.config for row in rows}
    chosen = {str(with_precision(config)[0].train.precision) for config in students.values()}
    return "bf16" if chosen == {"bf16"} else "fp32"


def keep(out: Path, plan: Plan) -> dict[str, Any]:
    """Write the plan, unless another process was first: then its plan holds."""
    with in_turn(out / ".claims" / "plan.lock"):
        earlier = read_plan(out)
        merged = {**plan, **earlier}
        if "asked" in plan and plan["asked"] != earlier.get("asked"):  # another budget, or for something else
            merged |= {"asked": plan["asked"], "choice": plan["choice"]}
        if merged != earlier:
            write_atomically(out / "plan.json", json.dumps(merged, indent=1) + "\n")
    return merged


def with_time(compared: Compared, plan: Plan, words: str, jobs: int) -> dict[str, Any]:
    """The plan with what fits into a time: as it was decided before in this folder for the same question, or now."""
    grid = compared.grid
    anywhere = [replace(row.config, data=replace(row.config.data, source=None)) for row in compared.rows]
    settings = json.dumps([to_dict(config) for config in anywhere], default=str)
    asked = [words, list(grid.seeds), list(grid.rows), hashlib.sha256(settings.encode()).hexdigest(), jobs]
    if plan.get("asked") == asked:
        return dict(plan)
    budget, forecast = seconds_of(words), measure(follow(compared, {**plan, "choice": None}), plan["threads"])
    return {**plan, "asked": asked, "choice": asdict(fit(budget, words, forecast, grid.seeds, jobs))}


def follow(compared: Compared, plan: Plan) -> Compared:
    """The comparison as planned: with its precision, and with the epochs, seeds and rows that fit into its time.

    Raises:
        UserError: the row that others are to be compared with was given up before.
    """
    grid, choice = compared.grid, plan.get("choice") or {}
    shared = {"train.precision": plan["precision"], **grid.shared}
    rows = grid.rows
    if choice:
        shared |= {"train.epochs": choice["epochs"]}
        rows = {name: own for name, own in rows.items() if name in choice["rows"]}
    check_row(compared.against, list(rows))
    seeds = tuple(choice.get("seeds", grid.seeds))
    grid = replace(grid, shared=shared, rows=rows, seeds=seeds)
    notes = (*compared.notes, *choice.get("gave_up", ()))
    return replace(compared, grid=grid, rows=tuple(resolved(grid)), notes=notes)

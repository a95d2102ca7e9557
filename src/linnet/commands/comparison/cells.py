"""Rows and seeds of a comparison, its cells and their folders, and what a cell's folder holds."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from linnet import methods
from linnet.commands.distill import distill
from linnet.config import Config
from linnet.config_files import difference, nest
from linnet.defaults import has_choice_of_heads, settings
from linnet.errors import UserError
from linnet.files import read_json
from linnet.run import Run

Settings = Mapping[str, Any]  # by dotted name, as on the command line
Summary = dict[str, Any]  # of a finished run
State = Literal["new", "stopped", "rescore", "finished", "other"]

UNIMPORTANT = ("export:", "opset:", "train.checkpoint:", "logger")  # settings that no number depends on


@dataclass(frozen=True)
class Cell:
    """One run of a comparison. ``options`` are all of its settings, its seed among them."""

    row: str
    seed: int
    folder: Path
    options: Settings

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def run(self) -> Run:
        return Run(self.folder)

    def config(self) -> Config:
        """Its settings, resolved; all but the precision, where that is left open."""
        return settings(options=self.options, timed=False)[0]


@dataclass(frozen=True)
class Grid:
    """Rows that share data, student and budget; seeds differ only in initialisation and order.

    Attributes:
        out: the folder of the cells' runs. shared: settings of all rows; options of a method are those of the rows that
            have this method.
        rows: name -> what sets it apart; in a text ``{seed}`` stands for the cell's seed and ``{out}`` for
        ``out``, so that a cell can go on from another one's student.
    """

    out: Path
    shared: Settings
    rows: Mapping[str, Settings]
    seeds: tuple[int, ...]

    def cells(self) -> list[Cell]:
        """Seed by seed, so that what is there when somebody stops is a whole table of fewer seeds."""
        return [self.cell(row, seed) for seed in self.seeds for row in self.rows]

    def cell(self, row: str, seed: int) -> Cell:
        own = dict(self.rows[row])
        options = {**fitting(self.shared, own), **own, "seed": seed}
        filled = {key: self._filled(value, seed) for key, value in options.items()}
        return Cell(row, seed, self.out / f"{folder_name(row)}-s{seed}", filled)

    def _filled(self, value: Any, seed: int) -> Any:
        return value.replace("{seed}", str(seed)).replace("{out}", str(self.out)) if isinstance(value, str) else value


def folder_name(row: str) -> str:
    return re.sub(r"[^\w=.+]+", "-", row).strip("-")


def fitting(shared: Settings, own: Settings) -> dict[str, Any]:
    """Those of the shared settings that a row has a use for: ``ce`` has no teacher and none of kd's options."""
    both = {**shared, **own}
    method, teacher = str(both.get("method", Config.method)), both.get("teacher.id")
    ids = [id for id, _ in methods.parse(method)]
    options = nest(both).get("options", {})
    try:
        options = methods.check_options(method, {id: options[id] for id in ids if id in options})
        has_teacher = bool(methods.needs_teacher(method, options) or methods.needs_texts(method))
        has_choice = has_choice_of_heads(method, teacher, options)
    except UserError:  # bad options: resolving them says so
        has_teacher = has_choice = True

    def is_used(key: str) -> bool:
        group = key.partition(".")[0]
        if group in methods.METHODS:
            return group in ids
        if key == "teacher.text_encoder":
            return methods.needs_texts(method)
        if key == "teacher.head" and shared[key] == "val":
            return has_choice
        if group in ("teacher", "prompts"):
            return has_teacher
        return group != "shots" or methods.takes_names(method)

    used = {key: value for key, value in shared.items() if is_used(key)}
    return used if methods.needs_data(method) else _without_data(used)


def _without_data(shared: Settings) -> dict[str, Any]:
    """The same for a method that makes its own images: the data score its student."""
    scoring = ("data.test", "data.test_fraction", "data.val_fraction", "data.seed", "data.store_limit_gb")
    kept = {key: value for key, value in shared.items() if not key.startswith("data.") or key in scoring}
    return kept | ({"data.eval": shared["data.source"]} if "data.source" in shared else {})


def state(cell: Cell) -> State:
    """What the folder of a cell holds: nothing, a training that goes on, one that only has to be scored again, what is
    wanted, or a training with other settings."""
    config, run = cell.config(), cell.run
    if not run.has_results:
        return "new"
    try:
        changes = _that_matter(run.changes(config), run, config)
        scored = _that_matter(difference(run.settings(), config), run, config)
    except UserError:  # a run that this version cannot read
        return "other"
    if changes:
        return "other"
    if not run.is_finished:
        return "stopped"
    return "rescore" if scored else "finished"


def differing(cell: Cell) -> str:
    """In what the training in a cell's folder differs from what is wanted, in words."""
    try:
        config = cell.config()
        return "; ".join(_that_matter(cell.run.changes(config), cell.run, config))
    except UserError as error:
        return str(error)


def _that_matter(changes: Sequence[str], run: Run, config: Config) -> list[str]:
    """Without the settings that no number depends on, and another way to the same images."""
    there = [source for source in (run.settings().data.source, config.data.source) if source and os.path.exists(source)]
    same = ("data.source:",) if len(there) == 2 and os.path.samefile(*there) else ()
    return [line for line in changes if not line.startswith((*UNIMPORTANT, *same))]


def data_hash(run: Run) -> str | None:
    """Of the images that a run was trained on, if it noted that."""
    pins = read_json(run.inputs, dict, "train the run again") if run.inputs.exists() else {}
    return pins.get("data")


def check_folders(cells: Sequence[Cell], overwrite: bool = False, data: Mapping[str, str] = {}) -> None:
    """
    Args:
        data: the hash of what each row is trained on.

    Raises:
        UserError: a cell's folder holds a training with other settings, and ``overwrite`` is not set; or with other
            images; or what linnet did not write; or it cannot be written.
    """
    found = {cell.name: state(cell) for cell in cells}
    for cell in cells:
        if os.path.lexists(cell.folder) and not cell.folder.is_dir():
            raise UserError(f"{cell.folder} is not a folder: choose another --out")
        if found[cell.name] == "new" or (found[cell.name] == "other" and overwrite):
            cell.run.check_free(overwrite)
        elif found[cell.name] != "other" and data_hash(cell.run) not in (None, data.get(cell.row, data_hash(cell.run))):
            raise UserError(
                f"the images have changed since {cell.folder} was trained: choose another --out, so that all cells "
                "learn from the same, or delete this folder"
            )
    others = [cell for cell in cells if found[cell.name] == "other"]
    if others and not overwrite:
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        raise UserError(
            f"{others[0].folder}{more} was trained with other settings ({differing(others[0])}): choose another --out, "
            "or give --overwrite to train it again"
        )


def train_cell(cell: Cell, overwrite: bool = False) -> None:
    """Train a cell, or go on with it, or leave it as it is if it is finished.

    Raises:
        UserError: it holds a training with other settings, and ``overwrite`` is not set; or the run fails.
    """
    found = state(cell)
    if found == "finished":
        return
    if found == "other":
        check_folders([cell], overwrite)
    resume = found in ("stopped", "rescore")
    distill(out=cell.folder, options=cell.options, resume=resume, overwrite=found == "other")

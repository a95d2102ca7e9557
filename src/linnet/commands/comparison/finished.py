"""The same table from runs that are there already: which of them are rows, and which are seeds of one row."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from linnet.commands.comparison.cells import UNIMPORTANT, data_hash
from linnet.commands.comparison.grid import APART, Row
from linnet.commands.comparison.results import Done
from linnet.config import Config
from linnet.config_files import difference
from linnet.errors import UserError
from linnet.run import Run


def read_runs(folders: Sequence[Path]) -> tuple[list[Row], list[Done], list[str]]:
    """Rows (runs that differ in their seed alone) and cells of some finished runs, and in what their data differ.

    Raises:
        UserError: a folder that is no finished run, two runs of one row and seed, or no ``ce`` run among them.
    """
    runs = [Run(folder) for folder in folders]
    if unfinished := [str(run.folder) for run in runs if not run.is_finished]:
        raise UserError(
            f"not finished: {', '.join(unfinished)}; finish them with linnet distill --resume, or leave them out"
        )
    data = {data_hash(run) for run in runs}
    configs = [run.settings() for run in runs]
    if len(data) == 1:  # the same images, wherever they lie
        first = configs[0].data
        configs = [replace(own, data=replace(own.data, source=first.source)) for own in configs]
    groups: list[tuple[Config, list[Run]]] = []
    for run, config in zip(runs, configs, strict=True):
        for start, own in groups:
            if not _apart(start, config):
                own.append(run)
                break
        else:
            groups.append((config, [run]))
    if not any(config.method == "ce" for config, _ in groups):
        raise UserError(f"none of these runs is ce, which every table needs: {_how_to_train_ce(runs[0], configs[0])}")
    groups.sort(key=lambda group: group[0].method != "ce")
    baselines = _baselines([config for config, _ in groups])
    rows, done = [], list[Done]()
    for config, own in groups:
        name = _name(config, [other for other, _ in groups if other.method == config.method])
        rows.append(Row(name, config, config in baselines))
        for run in own:
            seed = run.settings().seed
            if twice := [cell for cell in done if cell.row == name and cell.seed == seed]:
                raise UserError(
                    f"{run.folder} and {twice[0].run.folder} are one cell, of the same settings and seed: leave one out"
                )
            done.append(Done(name, seed, run, run.summary()))
    notes = [f"unequal: the runs are of {len(data)} different data sets"] if len(data) > 1 else []
    return rows, done, notes


def _baselines(configs: Sequence[Config]) -> list[Config]:
    """The ``ce`` rows that others are measured against, as in a grid, where ``ce`` with a setting of its own, such as a
    remedy for a long tail, is a row like others: of each student those trained as other methods are, or all, and of
    these those with the fewest settings of their own."""
    others, found = [config for config in configs if config.method != "ce"], list[Config]()
    for student in {config.student.name for config in configs}:
        ce = [config for config in configs if config.method == "ce" and config.student.name == student]
        alike = [config for config in ce if any(not _own(config, other) for other in others)] or ce
        own = [len(_own(Config(), config)) for config in alike]
        found += [config for config, count in zip(alike, own, strict=True) if count == min(own)]
    return found


def _own(first: Config, second: Config) -> list[str]:
    """In what the second differs that methods do not differ in."""
    return [line for line in difference(first, second) if not line.startswith(APART)]


def _apart(first: Config, second: Config) -> list[str]:
    lines = difference(replace(first, seed=second.seed), second)
    return [line for line in lines if not line.startswith(UNIMPORTANT)]


def _name(config: Config, alike: Sequence[Config]) -> str:
    """The method, and what sets the row apart from others of this method."""
    keys = {line.partition(":")[0] for other in alike for line in _apart(other, config)}
    return " ".join([config.method, *(_shown(key, _at(config, key)) for key in sorted(keys))])


def _shown(key: str, value: object) -> str:
    """A student and a teacher by name, another setting as ``kd.temperature=9``."""
    plain = "auto" if value is None else str(value)
    return plain if key in ("student.name", "teacher.id") else f"{key.removeprefix('options.')}={plain}"


def _at(config: Config, key: str) -> object:
    value: object = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part)
    return value


def _how_to_train_ce(run: Run, config: Config) -> str:
    """The command for the same budget."""
    out = run.folder.with_name(f"ce-s{config.seed}")
    words = ["linnet", "distill", "--config", str(run.config), "--method", "ce", "--out", str(out)]
    return f"train it with {shlex.join(words)}"

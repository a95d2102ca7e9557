"""What is compared: from words, a YAML grid and settings to rows that are trained alike, with their ``ce`` rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from linnet import methods
from linnet.commands.checks import check_run
from linnet.commands.comparison.cells import UNIMPORTANT, Grid, Settings, fitting, folder_name
from linnet.config import GROUPS, Config, DataConfig
from linnet.config_files import difference, read_yaml
from linnet.data.load import load_manifest
from linnet.data.sources import find_source
from linnet.errors import UserError, did_you_mean
from linnet.methods import needs_teacher, parse

SEEDS = (0, 1, 2)
METHODS = ("ce", "kd")
KEYS = ("shared", "rows", "seeds", "methods", "students", "teachers")  # of a grid
EQUAL = ("data.", "student.", "train.epochs:", "train.batch_size:", "train.select:")  # or rows are not compared
APART = ("method:", "options", "teacher.", "prompts.", "shots.", "seed:", *UNIMPORTANT)  # what rows may differ in


@dataclass(frozen=True)
class Row:
    """A row, its settings resolved for the first seed; ``is_baseline``: whether it is the student on the labels alone,
    trained as the others are."""

    name: str
    config: Config
    is_baseline: bool


@dataclass(frozen=True)
class Request:
    """What somebody asks for; what is empty, a grid or the defaults say. ``base``: the settings of a run, of which
    each row takes what it has a use for. ``only``: these rows of the grid. ``against``: the row that others
    are compared with."""

    data: str | None = None
    file: Path | None = None
    methods: tuple[str, ...] = ()
    students: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    out: Path | None = None
    options: Settings = field(default_factory=dict)
    base: Settings = field(default_factory=dict)
    rows: Mapping[str, Settings] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    against: str | None = None


@dataclass(frozen=True)
class Compared:
    """A grid with its rows in order, what has to be said about them, and the row that others are compared with if that
    is not ``ce``."""

    grid: Grid
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    against: str | None = None


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, nested or dotted, by dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        group, dot, name = str(key).partition(".")
        if key == "options" and isinstance(value, Mapping):
            found |= flat(value)
        elif isinstance(value, Mapping):
            found |= {
                f"{key}.{inner}".replace("-", "_") if key in GROUPS else f"{key}.{inner}": own
                for inner, own in value.items()
            }
        else:
            found[f"{group}.{name.replace('-', '_')}" if dot else str(key)] = value
    return found


def build(request: Request) -> Compared:
    """The rows of a comparison, each with a ``ce`` row of its student.

    Raises:
        UserError: settings that are not understood or contradict one another, rows that would share a folder.
    """
    request = _with_file(request)
    rows = request.rows or rows_of(request.methods or METHODS, request.students, request.teachers)
    base = {key: value for key, value in flat(request.base).items() if key not in ("method", "seed")}
    shared = {**base, **flat(request.options)}
    shared |= {"data.source": request.data} if request.data is not None else {}
    if any("seed" in own for own in (shared, *rows.values())):
        raise UserError("the seeds of a comparison are given as --seeds 0,1,2")
    if odd := [name for name in rows if not folder_name(name) or not name.isprintable()]:
        raise UserError(f"{odd[0]!r} cannot be the name of a row: it needs letters or digits, on one line")
    seeds = request.seeds or SEEDS
    if len(set(seeds)) < len(seeds):
        raise UserError(f"a seed is named twice: {', '.join(map(str, seeds))}")
    grid = Grid(request.out or default_out(shared.get("data.source"), request.file), shared, rows, seeds)
    grid, notes = _with_baselines(grid)
    _refuse_unused(grid, flat(request.options))
    if len({folder_name(row) for row in grid.rows}) < len(grid.rows):
        raise UserError(f"two of the rows {', '.join(grid.rows)} would share a folder: rename one")
    check_row(request.against, list(grid.rows))
    return Compared(grid, tuple(resolved(grid)), tuple(notes), request.against)


def check_row(against: str | None, names: Sequence[str]) -> None:
    """
    Raises:
        UserError: there is no such row that others could be compared with.
    """
    if against is not None and against not in names:
        raise UserError(f"--against {against}: there are the rows {', '.join(names)}.{did_you_mean(against, names)}")


def _refuse_unused(grid: Grid, said: Settings) -> None:
    """
    Raises:
        UserError: somebody said options of a method that no row has.
    """
    used = {key for own in grid.rows.values() for key in fitting(grid.shared, own)}
    for key in said:
        if key.partition(".")[0] in methods.METHODS and key not in used:
            raise UserError(f"'{key}' has no effect: no row's method is {key.partition('.')[0]}")


def _with_file(request: Request) -> Request:
    """The request with what its grid says; settings that were typed override the grid's."""
    if request.file is None:
        if request.only:
            raise UserError("--rows names rows of a grid: give a grid.yaml, or --methods")
        return request
    said = read_yaml(request.file)
    for key in said:
        if key not in KEYS:
            raise UserError(
                f"{request.file}: unknown key '{key}'.{did_you_mean(key, KEYS)} A grid has {', '.join(KEYS)}"
            )
    shared, rows = said.get("shared") or {}, said.get("rows") or {}
    if not isinstance(shared, Mapping):
        raise UserError(f"{request.file}: 'shared' must be a mapping of settings, not {shared}")
    if not isinstance(rows, Mapping) or not all(isinstance(own or {}, Mapping) for own in rows.values()):
        raise UserError(f"{request.file}: 'rows' must map each row's name to its settings")
    own = {str(name): flat(settings or {}) for name, settings in rows.items()}
    if unknown := [name for name in request.only if name not in own]:
        raise UserError(f"{request.file} has no row '{unknown[0]}'.{did_you_mean(unknown[0], own)}")
    for key, given in (("methods", request.methods), ("students", request.students), ("teachers", request.teachers)):
        if given and rows:
            raise UserError(f"{request.file} names its rows: leave --{key} out, or the rows")
    named = {key: tuple(map(str, _listed(said.get(key)))) for key in ("methods", "students", "teachers")}
    if rows and any(named.values()):
        raise UserError(f"{request.file} has rows: leave {', '.join(key for key in named if named[key])} out")
    written = [str(seed).strip() for seed in _listed(said.get("seeds"))]
    if not all(seed.isdecimal() for seed in written):
        raise UserError(f"{request.file}: seeds must be whole numbers, as in [0, 1, 2], not {', '.join(written)}")
    seeds = tuple(map(int, written))
    options = {**flat(shared), **flat(request.options)}
    own = {name: own[name] for name in request.only} or own
    words: dict[str, Any] = {key: getattr(request, key) or value for key, value in named.items()}
    return replace(request, rows=own, seeds=request.seeds or seeds, options=options, **words)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value.split(",") if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else [value]


def rows_of(names: Sequence[str], students: Sequence[str], teachers: Sequence[str]) -> dict[str, Settings]:
    """Methods x students x teachers; what needs no teacher is there once."""
    rows: dict[str, Settings] = {}
    for student in students or (None,):
        for number, teacher in enumerate(teachers or (None,)):
            for method in names:
                taught = bool({id for id, _ in parse(method)} - {"ce"}) and bool(needs_teacher(method))
                if number and not taught:
                    continue
                own: dict[str, Any] = {"method": method}
                own |= {} if student is None else {"student.name": student}
                own |= {} if teacher is None or not taught else {"teacher.id": teacher}
                several = [student if len(students) > 1 else None, teacher if len(teachers) > 1 and taught else None]
                rows[" ".join([method, *filter(None, several)])] = own
    return rows


def default_out(source: Any, file: Path | None = None) -> Path:
    """``runs/compare-photos``; a grid has a folder by its own name."""
    name = file.stem if file is not None else find_source(source).run_name(str(source))
    return Path("runs") / f"compare-{folder_name(name)}"


def resolved(grid: Grid) -> list[Row]:
    """Each row with its settings.

    Raises:
        UserError: they are not understood, or something that they need is not there; the row is named.
    """
    rows = []
    for name in grid.rows:
        try:
            config = grid.cell(name, grid.seeds[0]).config()
        except UserError as error:
            raise UserError(f"row '{name}': {error}") from error
        rows.append(Row(name, config, _is_baseline(grid, name, config)))
    return rows


def _is_baseline(grid: Grid, name: str, config: Config) -> bool:
    """``ce`` with the shared settings, but for its student and the views that it sees."""
    own = [key for key in grid.rows[name] if key not in ("method", "teacher.views") and not key.startswith("student.")]
    return config.method == "ce" and not own


def _with_baselines(grid: Grid) -> tuple[Grid, list[str]]:
    """The grid with a ``ce`` row for each student, and with one on the same replayed views where rows have these."""
    rows, added = resolved(grid), dict[str, Settings]()
    students = list(dict.fromkeys(row.config.student.name for row in rows))
    for student in students:
        own = [row for row in rows if row.config.student.name == student]
        named = student if len(students) > 1 else ""
        apart = {"student.name": student} if any("student.name" in grid.rows[row.name] for row in own) else {}
        views = {row.config.teacher.views for row in own if row.config.teacher.replay}
        there = {row.config.teacher.views for row in own if row.is_baseline}
        if not there - views:
            added[" ".join(filter(None, ["ce", named]))] = {"method": "ce", **apart}
        for replay in sorted(views - there):
            added[" ".join(filter(None, ["ce", named, replay]))] = {"method": "ce", **apart, "teacher.views": replay}
    if taken := [name for name in added if name in grid.rows]:
        raise UserError(f"the row '{taken[0]}' is not ce with the shared settings, which every table needs: rename it")
    why = "because gains are measured against the same student on the labels alone"
    return replace(grid, rows={**added, **grid.rows}), [f"added: {', '.join(added)}, {why}"] if added else []


def check_all(compared: Compared) -> None:
    """Everything that can be checked before a cell begins.

    Raises:
        UserError: what a row needs is not there, or its settings do not go together.
    """
    for row in compared.rows:
        own = compared.grid.rows[row.name]
        if any("{seed}" in str(value) for value in own.values()):  # made by another row
            methods.build(row.config.method, row.config.options).check_settings(row.config)
            continue
        try:
            check_run(row.config)
        except UserError as error:
            raise UserError(f"row '{row.name}': {error}") from error


def check_data(rows: Sequence[Row]) -> dict[str, str]:
    """The hash of the images of each row that learns from images.

    Raises:
        UserError: they are not there or cannot be read.
    """
    seen, hashes = list[tuple[DataConfig, str]](), dict[str, str]()
    for row in rows:
        if methods.needs_data(row.config.method):
            known = next((hash for data, hash in seen if data == row.config.data), None)
            hashes[row.name] = known or load_manifest(row.config.data).content_hash
            seen.append((row.config.data, hashes[row.name]))
    return hashes


def baselines_of(row: Row, rows: Sequence[Row]) -> list[Row]:
    """The ``ce`` rows that a row is compared with: those of its student, if there are any at its size, or else, where
    there is none, of another one."""
    own, there = row.config.student, [other for other in rows if other.is_baseline]
    same = [other for other in there if other.config.student == own]
    return same or [other for other in there if other.config.student.name == own.name] or there


def unequal(rows: Sequence[Row], against: str | None = None) -> tuple[dict[str, str], dict[str, str]]:
    """Settings in which rows differ from their ``ce`` row, or from the one that they are compared with instead.

    Returns:
        Those that make a comparison unfair, by row; and others that come with a method or a row.
    """
    unfair, others = dict[str, str](), dict[str, str]()
    named = next((row for row in rows if row.name == against), None)
    first = named or next((row for row in rows if row.is_baseline), None)
    for row in rows:
        if first is None or row is first:
            continue
        base = named or baselines_of(row, rows)[0]
        own = row is base  # the ce row of another student
        lines = difference((first if own else base).config, row.config)
        lines = [line for line in lines if not line.startswith((*APART, "student.") if own else APART)]
        bad = [line for line in lines if line.startswith(EQUAL)]
        rest = [line for line in lines if not line.startswith(EQUAL)]
        unfair |= {row.name: ", ".join(bad)} if bad else {}
        others |= {row.name: ", ".join(rest)} if rest else {}
    return unfair, others


def check_fair(rows: Sequence[Row], allow_mismatch: bool, against: str | None = None) -> list[str]:
    """What the table has to say about unequal rows.

    Raises:
        UserError: rows differ in what makes a comparison fair, and ``allow_mismatch`` is not set.
    """
    unfair, others = unequal(rows, against)
    if unfair and not allow_mismatch:
        raise UserError(
            f"the rows are not trained alike ({_lines(unfair)}): make these settings equal, or give "
            "--allow-mismatch, and the table says so"
        )
    said = [f"unequal to {against or 'ce'}: {name}: {words}" for name, words in unfair.items()]
    return said + [f"also differs from {against or 'ce'}: {name}: {words}" for name, words in others.items()]


def _lines(apart: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {words}" for name, words in apart.items())

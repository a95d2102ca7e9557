"""compare(): methods side by side, at equal budget, with intervals; and whether what they gain is real.

rows x seeds -> cells (runs) -> means and intervals -> a table
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from linnet.commands.comparison import forecast
from linnet.commands.comparison import plan as plans
from linnet.commands.comparison.cells import Cell, check_folders, data_hash, folder_name, state
from linnet.commands.comparison.costs import measure
from linnet.commands.comparison.finished import read_runs
from linnet.commands.comparison.grid import (
    Compared,
    Request,
    build,
    check_all,
    check_data,
    check_fair,
    check_row,
    default_out,
    flat,
)
from linnet.commands.comparison.live import Watch
from linnet.commands.comparison.results import Done, Report, in_groups, report
from linnet.commands.comparison.table import print_report, write_files
from linnet.commands.comparison.workers import (
    failure_of,
    forget_failures,
    refuse_circles,
    train_here,
    train_on_cluster,
    train_side_by_side,
)
from linnet.config import Config
from linnet.config_files import read_yaml
from linnet.data.sources import as_written
from linnet.errors import UserError
from linnet.files import check_out, given_path, readable
from linnet.run import is_run


@dataclass(frozen=True)
class Question:
    """What is to be compared, in the words of :func:`compare`."""

    sources: Sequence[str | Path]
    methods: Sequence[str] = ()
    seeds: Sequence[int] = ()
    students: Sequence[str] = ()
    teachers: Sequence[str] = ()
    rows: Sequence[str] = ()
    out: str | Path | None = None
    config: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    time: str | None = None
    against: str | None = None


@dataclass(frozen=True)
class Work:
    """How cells are trained. ``threads``: of each cell; ``cluster``: the address of a Ray cluster."""

    jobs: int = 1
    threads: int | None = None
    cluster: str | None = None
    overwrite: bool = False
    allow_mismatch: bool = False


def compare(
    *sources: str | Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    students: Sequence[str] = (),
    teachers: Sequence[str] = (),
    rows: Sequence[str] = (),
    out: str | Path | None = None,
    config: Path | None = None,
    options: Mapping[str, Any] | None = None,
    time: str | None = None,
    against: str | None = None,
    jobs: int = 1,
    threads: int | None = None,
    cluster: str | None = None,
    allow_mismatch: bool = False,
    overwrite: bool = False,
) -> Report:
    """Train every method with every seed at equal budget, and say which are better than the labels alone. The same
    words as ``linnet compare``.

    Example:
        >>> report = linnet.compare("photos/", methods=["ce", "kd"], seeds=[0, 1, 2])
        >>> report.result("kd").words

    Args:
        sources: data, a YAML grid, or both; or finished runs, of which nothing is trained.
        methods, seeds, students, teachers: what is compared; ``ce`` is always there. rows: of a grid, these alone.
        out: the folder of the cells and of compare.md, compare.json and compare.parquet.
        config: a YAML file of settings for all rows. options: further ones by dotted name.
        time: a budget such as ``30m``, into which epochs and cells are fitted.
        against: the row that all others are compared with, instead of ``ce``.
        jobs: cells trained side by side. threads: of each cell. cluster: the address of a Ray cluster, or ``local``.
        allow_mismatch: compare what was not trained alike; the table says so.
        overwrite: train cells again whose settings have changed.

    Returns:
        What the table says. Cells that failed are in ``failures``.

    Raises:
        UserError: anything the user can mend, in one sentence; before any cell begins, where it can be known.
    """
    words = (methods, seeds, students, teachers, rows, out, config, options or {}, time, against)
    return carry_out(Question(sources, *words), Work(jobs, threads, cluster, overwrite, allow_mismatch))


def several_seeds(
    data: str | Path | None,
    seeds: Sequence[int],
    out: str | Path | None,
    config: Path | None,
    options: Mapping[str, Any],
) -> Question:
    """``linnet distill --seeds``: one method beside ``ce``, with what else is typed there.

    Raises:
        UserError: --seed, too, or no data.
    """
    if "seed" in options:
        raise UserError("--seeds and --seed are given: leave one of them out")
    file = {} if config is None else read_yaml(given_path(config, "config"))
    data = data or flat(file).get("data.source")
    if data is None:
        raise UserError("--seeds needs DATA, whose images ce is trained on")
    method = str(options.get("method", file.get("method", Config.method)))
    shared = {"export": True, **{key: value for key, value in options.items() if key != "method"}}
    out = out or f"{default_out(data)}-{folder_name(method)}"
    return Question((data,), [method], seeds, out=out, config=config, options=shared)


def carry_out(question: Question, work: Work) -> Report:
    """Train what is not trained yet, and say what it shows. See :func:`compare`."""
    sources = question.sources
    runs = [Path(source) for source in sources if is_run(Path(source))]
    if runs:
        if len(runs) < len(sources):
            other = next(source for source in sources if Path(source) not in runs)
            raise UserError(f"{other} is no run: give runs alone, or data and a grid")
        words = replace(question, sources=(), out=None, against=None)
        if any(getattr(words, spec.name) for spec in fields(words)):
            raise UserError("finished runs are compared as they are: leave settings, methods and seeds out")
        return _of_runs(runs, question, work)
    compared, threads = planned(asked(question), work, question.time)
    return _train_all(compared, work, threads)


def predict(question: Question, work: Work) -> list[str]:
    """What :func:`carry_out` would do, how long it would take and what it would leave on the disk, in lines; nothing is
    written into its folder."""
    compared, threads = planned(asked(question), work, question.time, write=False)
    return forecast.lines(compared, forecast.measure(compared, threads), threads, work.jobs)


def tell(question: Question, work: Work, dry_run: bool) -> None:
    """Print the table that :func:`carry_out` comes to, or what it would do."""
    if dry_run:
        print(readable("\n".join(predict(question, work))))
    else:
        print_report(carry_out(question, work))


def asked(question: Question) -> Compared:
    """What is to be compared, checked as far as that goes without data.

    Raises:
        UserError: words or settings that are not understood.
    """
    files = [Path(source) for source in question.sources if str(source).endswith((".yaml", ".yml"))]
    data = [source for source in question.sources if Path(source) not in files]
    if len(files) > 1 or len(data) > 1:
        shown = ", ".join(map(str, files if len(files) > 1 else data))
        raise UserError(f"one DATA and one grid at most are compared, not {shown} (finished runs hold an env.json)")
    if not files and not data:
        raise UserError("nothing to compare: give DATA, a YAML grid, or finished runs")
    if data and (inside := sorted(own for own in Path(data[0]).glob("*") if is_run(own))):
        raise UserError(f"{data[0]} holds runs, such as {inside[0]}: name the runs, as in {Path(data[0]) / '*'}/")
    request = Request(
        as_written(data[0]) if data else None,
        files[0] if files else None,
        tuple(question.methods),
        tuple(question.students),
        tuple(question.teachers),
        tuple(question.seeds),
        None if question.out is None else given_path(question.out, "out"),
        dict(question.options),
        base={"export": False, **({} if question.config is None else read_yaml(given_path(question.config, "config")))},
        only=tuple(question.rows),
        against=question.against,
    )
    return build(request)


def planned(compared: Compared, work: Work, time: str | None, write: bool = True) -> tuple[Compared, int]:
    """The comparison as it will be trained, checked, and the threads of each cell.

    Raises:
        UserError: anything that can be known before a cell begins.
    """
    if work.jobs < 1 or (work.threads is not None and work.threads < 1):
        raise UserError("--jobs and --threads must be at least 1")
    check_out(compared.grid.out / "compare.md")
    if is_run(compared.grid.out):
        raise UserError(f"{compared.grid.out} is a run, and a comparison is a folder of runs: choose another --out")
    refuse_circles(compared.grid.cells())
    check_fair(compared.rows, work.allow_mismatch, compared.against)
    check_all(compared)
    data = check_data(compared.rows)
    plan = plans.decide(compared, work.jobs, work.threads, work.cluster is not None)
    plan = plans.with_time(compared, plan, time, work.jobs) if time else {**plan, "choice": None}
    check_folders(plans.follow(compared, plan).grid.cells(), work.overwrite, data)
    if write:
        kept = plans.keep(compared.grid.out, plan)
        plan = kept if time else {**kept, "choice": None}
    return plans.follow(compared, plan), plan["threads"]


def _train_all(compared: Compared, work: Work, threads: int) -> Report:
    cells = compared.grid.cells()
    forget_failures(cells)
    epochs = {row.name: row.config.train.epochs for row in compared.rows}
    try:
        with Watch(cells, epochs, compared.grid.out) as watch:
            if work.cluster is not None:
                train_on_cluster(cells, work.cluster, threads, work.overwrite, watch.refresh)
            elif work.jobs > 1:
                train_side_by_side(cells, work.jobs, threads, work.overwrite, watch.refresh)
            else:
                train_here(cells, threads, work.overwrite, watch.refresh)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on: finished cells are kept, a stopped one is resumed") from None
    return table_of(compared, work.allow_mismatch)


def table_of(compared: Compared, allow_mismatch: bool) -> Report:
    """The table of the cells that are finished, written into their folder.

    Raises:
        UserError: none is.
    """
    grid = compared.grid
    cells = grid.cells()
    failures = {cell.name: failure for cell in cells if (failure := failure_of(cell)) is not None}
    done = [Done(cell.row, cell.seed, cell.run, cell.run.summary()) for cell in cells if _is_done(cell)]
    if not done:
        raise UserError(f"no cell is finished: {next(iter(failures.values()), 'nothing was trained')}")
    notes = [*check_fair(compared.rows, allow_mismatch, compared.against), *compared.notes]
    notes += [f"missing: {told}" for told in in_groups(failures)]
    learned = {own for cell in done if (own := data_hash(cell.run)) is not None}
    notes += ["unequal: the images changed while the cells were trained"] if len(learned) > 1 else []
    costs = measure(grid.out, [(cell.run, cell.summary) for cell in done], _teachers(done))
    found = report(compared.rows, done, grid.seeds, costs, notes, compared.against)
    found = replace(found, failures=failures, out=grid.out)
    write_files(found, grid.out)
    return found


def _is_done(cell: Cell) -> bool:
    return cell.run.is_finished and state(cell) == "finished"


def _teachers(done: Sequence[Done]) -> list[str]:
    return sorted({str(cell.summary["teacher.id"]) for cell in done if cell.summary.get("teacher.id")})


def _of_runs(folders: Sequence[Path], question: Question, work: Work) -> Report:
    rows, done, notes = read_runs(folders)
    check_row(question.against, [row.name for row in rows])
    if notes and not work.allow_mismatch:
        raise UserError(f"{notes[0]}: compare runs of the same data, or give --allow-mismatch, and the table says so")
    notes += check_fair(rows, work.allow_mismatch, question.against)
    folder = Path("runs/compare") if question.out is None else given_path(question.out, "out")
    check_out(folder / "compare.md")
    costs = measure(folder, [(cell.run, cell.summary) for cell in done], _teachers(done))
    seeds = sorted({cell.seed for cell in done})
    found = replace(report(rows, done, seeds, costs, notes, question.against), out=folder)
    write_files(found, folder)
    return found

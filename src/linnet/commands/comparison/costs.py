"""What students and teachers cost: parameters, size on disk, milliseconds of an image. Measured once for a folder."""

import json
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from linnet.errors import UserError
from linnet.files import in_turn, read_json, write_atomically
from linnet.run import Run

ROUNDS = 3  # of several students, so that a busy moment does not hit one alone


class Cost(NamedTuple):
    """``megabytes`` and ``milliseconds`` (one image, one thread) are of an ONNX file, or, where none can be written, of
    the saved student in torch: ``runtime`` says which. A teacher has parameters alone."""

    parameters: int
    megabytes: float | None = None
    milliseconds: float | None = None
    runtime: str | None = None


def cost_key(run: Run, summary: dict) -> str:
    """Students of one architecture cost the same, whatever they learned."""
    with suppress(UserError):
        size = run.settings().student.image_size
        return f"{summary.get('student.name')}, {size} px, {summary.get('student.params')} parameters"
    return str(summary.get("student.name"))


def measure(folder: Path, runs: Sequence[tuple[Run, dict]], teachers: Sequence[str]) -> dict[str, Cost]:
    """The cost of each architecture among some runs and of each teacher, by name; what the folder knows is not measured
    again, so every table of it shows the same.

    Args:
        folder: keeps costs.json. runs: with their summaries.
    """
    file = folder / "costs.json"
    with in_turn(folder / ".claims" / "costs.lock"):
        known: dict[str, Cost] = {}
        if file.exists():
            with suppress(UserError, TypeError):
                known = {name: Cost(*own) for name, own in read_json(file, dict, "").items()}
        students = {cost_key(run, summary): (run, summary) for run, summary in reversed(list(runs))}
        new = {name: own for name, own in students.items() if name not in known}
        found = {**known, **_students(new), **{id: own for id in teachers if id not in known and (own := _teacher(id))}}
        if found != known:
            write_atomically(file, json.dumps(found, indent=1))
    return found


def _students(students: dict[str, tuple[Run, dict]]) -> dict[str, Cost]:
    from linnet.deploy.export import export_onnx
    from linnet.deploy.latency import image_ms
    from linnet.students.student import Student

    with tempfile.TemporaryDirectory() as place:
        models, runtime = {}, "ONNX Runtime"
        try:
            for number, (name, (run, _)) in enumerate(students.items()):
                models[name] = run.onnx
                if not run.onnx.exists():
                    models[name] = Path(place) / f"{number}.onnx"
                    export_onnx(Student.load(run.model), models[name])
            times = {name: [image_ms(model, threads=1)] for name, model in models.items()}
        except UserError:  # the extra is not installed, or a student that has no ONNX: all of them in torch
            models, runtime = {name: run.model for name, (run, _) in students.items() if run.model.is_dir()}, "torch"
            times = {name: [image_ms(model, threads=1)] for name, model in models.items()}
        for _ in range(ROUNDS - 1 if len(models) > 1 else 0):
            for name, model in models.items():
                times[name].append(image_ms(model, threads=1))
        return {
            name: Cost(
                students[name][1].get("student.params", 0),
                round(_bytes(model) / 1e6, 2),
                round(statistics.median(times[name]), 2),
                runtime,
            )
            for name, model in models.items()
        }


def _bytes(model: Path) -> int:
    files = [path for path in model.rglob("*") if path.is_file()] if model.is_dir() else [model]
    return sum(path.stat().st_size for path in files)


def _teacher(id: str) -> Cost | None:
    from linnet.teachers import load_teacher

    try:
        teacher = load_teacher(id)
    except UserError:  # it is not there any more
        return None
    return Cost(sum(parameter.numel() for parameter in teacher.parameters()))

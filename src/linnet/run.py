"""The run folder: everything about one training, locked while it runs, resumable after a kill."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from linnet.config import EARLIER, Config
from linnet.config_files import difference, merge, moved_from, read_yaml, write_yaml
from linnet.environment import environment
from linnet.errors import UserError
from linnet.fields import from_dict
from linnet.files import cannot_write, clear_leftovers, damaged, lock, read_json, write_atomically

log = logging.getLogger("linnet")


class Run:
    """A run folder. :meth:`open` locks it and :meth:`begin` starts in it; of several processes only the first one does.

    Its attributes are the only names that linnet writes into it, beside hidden files; whatever else lies there is
    somebody's, and is never deleted.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._names: set[str] = set()
        self.config = self._own("config.yaml")
        self.inputs = self._own("inputs.json")
        self.environment = self._own("env.json")
        self.prompts = self._own("prompts.safetensors")
        self.problems = self._own("data_problems.csv")
        self.log = self._own("train.log")
        self.metrics_file = self._own("metrics.jsonl")
        self.checkpoints = self._own("checkpoints")
        self.logs = self._own("logs")
        self.gallery = self._own("gallery")
        self.gallery_picture = self._own("gallery.png")
        self.model = self._own("model")
        self.onnx = self._own("model.onnx")
        self.text_tower = self._own("text_tower.onnx")
        self.predictions = self._own("predictions")
        self.evaluation = self._own("evaluation")
        self.evaluations = self._own("evaluations.jsonl")
        self.summary_file = self._own("summary.json")
        self.last_checkpoint = self.checkpoints / "last.pt"
        self.best_student = self.checkpoints / "best"
        self._lock_file: IO[str] | None = None
        self._waiting: Config | None = None  # what is to be begun
        self._resumes = False
        self._pins: dict[str, str] | None = None
        self._held: dict[Path, str | bytes | None] = {}  # to be written, or removed, when it begins

    @property
    def lock_file(self) -> Path:
        """What the process that works on the run holds."""
        return self.folder / ".lock"

    @property
    def _early_log(self) -> Path:
        """The log of what happens before the run begins."""
        return self.folder / ".train.log"

    def _own(self, name: str) -> Path:
        self._names.add(name)
        return self.folder / name

    def epoch_student(self, epoch: int) -> Path:
        """Where the student of an epoch that is to be kept lies; counted from 1."""
        return self.checkpoints / f"epoch-{epoch}"

    def epoch_students(self) -> list[Path]:
        return sorted(self.checkpoints.glob("epoch-*"))

    def predictions_of(self, part: str) -> Path:
        """The predictions on val, test, or novel classes ("ood")."""
        return self.predictions / f"{part}.parquet"

    @classmethod
    def create(cls, folder: Path, config: Config, resume: bool = False, overwrite: bool = False) -> "Run":
        """:meth:`open` and, at once, :meth:`begin`."""
        run = cls.open(folder, config, resume, overwrite)
        try:
            run.begin()
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, folder: Path, config: Config, resume: bool = False, overwrite: bool = False) -> "Run":
        """Lock a run folder, new or old. What is in it stays as it is until :meth:`begin`.

        Raises:
            UserError: it is in use; it holds a training and neither ``resume`` nor ``overwrite`` is set; it holds
                anything that linnet did not write; it was started with other settings than those to be resumed (the
                difference is shown), or is damaged.
        """
        run = cls(folder)
        run._lock()
        try:
            for part in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
                clear_leftovers(part)
            run._resumes = resume and bool(run._contents())
            if run._resumes:
                run._check_same(config)
            else:
                run.check_free(overwrite)
                run._pins = {}
        except BaseException:
            run.close()
            raise
        run._waiting = config
        return run

    def begin(self) -> None:
        """Delete what ``overwrite`` replaces, and write what was noted since :meth:`open`; later calls do nothing.

        Raises:
            UserError: something cannot be deleted or written.
        """
        if self._waiting is None:
            return
        config, self._waiting = self._waiting, None
        if not self._resumes:
            self._clear()
        self._add_environment()
        write_yaml(config, self.config)
        for path, content in self._held.items():
            self._write(path, content)
        self._held.clear()
        if self._early_log.exists():
            os.replace(self._early_log, self.log)

    def _write(self, path: Path, content: str | bytes | None) -> None:
        """Write a file, or remove it, at once or when the run begins."""
        if self._waiting is not None:
            self._held[path] = content
        elif content is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, content)

    def _contents(self) -> list[Path]:
        return [path for path in self.folder.glob("*") if not path.name.startswith(".")]

    @property
    def is_new(self) -> bool:
        """Whether nothing is here that is gone on with or replaced."""
        return not self._resumes and not self.has_results

    @property
    def has_results(self) -> bool:
        """Whether anything is here that took a training to make."""
        before = {self.config, self.inputs, self.environment, self.prompts, self.problems, self.log, self.logs}
        if not self.metrics():
            before.add(self.metrics_file)
        if self.checkpoints.is_dir() and not any(self.checkpoints.iterdir()):
            before.add(self.checkpoints)
        return any(path.name in self._names and path not in before for path in self._contents())

    def check_free(self, overwrite: bool) -> None:
        """
        Raises:
            UserError: what lies in the folder must not be deleted, or cannot be.
        """
        contents = self._contents()
        own = self.environment.exists() and {path.name for path in contents} <= self._names
        if contents and not own:  # somebody's config.yaml does not make his folder ours
            raise UserError(f"{self.folder} holds files that linnet did not write: choose another --out")
        if self.has_results and not overwrite:  # a run that was refused at its start is no loss
            raise UserError(
                f"{self.folder} is not empty: go on with --resume, start again with --overwrite, "
                "or choose another --out"
            )
        below = [Path(root) for path in contents if not path.is_symlink() for root, _, _ in os.walk(path)]
        if locked := [path for path in (self.folder, *below) if path.is_dir() and not os.access(path, os.W_OK)]:
            raise UserError(f"{locked[0]} cannot be written: change its permissions, or choose another --out")

    def _clear(self) -> None:
        """Delete what linnet wrote; env.json goes last, so that a kill leaves the folder recognisable."""
        for path in sorted(self._contents(), key=lambda path: path == self.environment):
            try:
                if path.is_symlink():
                    log.warning("%s is a link: what it points to, %s, was left as it is", path, path.resolve())
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            except OSError as error:
                raise UserError(
                    f"cannot delete {error.filename or path}: {error.strerror}; delete {self.folder} by hand"
                ) from error

    def _lock(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = lock(self.lock_file)
        except BlockingIOError as error:
            raise UserError(f"{self.folder} is in use by another linnet process") from error
        except OSError as error:
            raise cannot_write(self.folder, error, "the run folder ") from error

    def _add_environment(self) -> None:
        """env.json has one entry for each time that the run was started or resumed."""
        try:
            earlier = self._environments()
        except UserError as error:  # nothing depends on it
            log.warning("%s", error)
            earlier = []
        write_atomically(self.environment, json.dumps([*earlier, environment()], indent=1))

    def _environments(self) -> list[dict[str, Any]]:
        return read_json(self.environment, list, "it is begun again") if self.environment.exists() else []

    def pin(self, **inputs: str) -> None:
        """Note the hashes of what a run is made from; refuse to resume it on something else.

        Raises:
            UserError: the data or the teacher is not what the run was started with, or what was noted is damaged.
        """
        pins = self._read_pins()
        for name, value in inputs.items():
            if pins.get(name, value) != value:
                raise UserError(f"the {name} changed since {self.folder} was started: start again with --overwrite")
        pins |= inputs
        self._write(self.inputs, json.dumps(pins, indent=1))

    def pin_version(self, name: str, version: int) -> None:
        """The same for what a newer linnet draws otherwise than an older one: a training does not go on with other
        draws than it began with. One that began before versions were noted has the first.

        Raises:
            UserError: it began with another version.
        """
        earlier = self._read_pins().get(name, "1" if self.last_checkpoint.exists() else str(version))
        if self.is_finished:  # nothing is drawn any more
            return
        if earlier != str(version):
            raise UserError(
                f"{self.folder} was begun with version {earlier} of {name}, this linnet has {version}: go on with the "
                "linnet of env.json, or start again with --overwrite"
            )
        self.pin(**{name: str(version)})

    def _read_pins(self) -> dict[str, str]:
        if self._pins is None:
            advice = "start again with --overwrite; or delete it, to go on without knowing that nothing has changed"
            self._pins = read_json(self.inputs, dict, advice) if self.inputs.exists() else {}
        return self._pins

    def write_prompts(self, prompts: Mapping[str, Any]) -> None:
        """Keep the calibrated context vectors and the text bank that they give; refuse to resume with others."""
        from safetensors.torch import save

        content = save(dict(prompts))
        self.pin(prompts=hashlib.sha256(content).hexdigest())
        self._write(self.prompts, content)

    def write_problems(self, table: bytes | None) -> None:
        """What is wrong with files of the data, as a CSV table; None, if there is nothing."""
        self._write(self.problems, table)

    def changes(self, config: Config) -> list[str]:
        """Settings that were others when this training was started; those that only matter after it do not count."""
        changed = difference(self.settings(), config)
        return [line for line in changed if not _is_read_after_training(line, config)]

    def _check_same(self, config: Config) -> None:
        if not self.config.exists():
            raise UserError(f"{self.folder} holds no config.yaml: there is nothing to resume")
        if changed := [line for line in self.changes(config) if not _is_pinned(line)]:
            raise UserError(
                f"{self.folder} was made with other settings ({'; '.join(changed)}): "
                "resume it with its own, or choose another --out"
            )
        was_trained = self.is_finished or self.model.exists()  # or its summary was deleted, or is damaged
        if was_trained and not (self.last_checkpoint.exists() or self.best_student.is_dir()):
            raise UserError(
                f"{self.folder} is finished and its checkpoints were deleted: there is nothing to go on from; start "
                "again with --overwrite, or choose another --out"
            )

    def settings(self) -> Config:
        """The resolved settings that the run was started with. Paths that are not found from here are taken from the
        folder that it was started in.

        Raises:
            UserError: there are none, or they are damaged.
        """
        try:
            values = read_yaml(self.config)
        except UserError as error:
            raise UserError(f"{error}; if it is damaged, start again with --overwrite") from error
        if not values:
            raise damaged(self.config, "it is empty", "start again with --overwrite, or choose another --out")
        config, there = from_dict(Config, merge(EARLIER, values)), []
        with suppress(UserError):  # a damaged env.json is reported when it is written
            there = [entry["folder"] for entry in self._environments() if "folder" in entry]
        return moved_from(Path(there[-1]), config) if there else config

    def close(self) -> None:
        if self._lock_file is not None:
            if self._waiting is not None:  # it was never begun
                self._early_log.unlink(missing_ok=True)
            self._lock_file.close()

    def log_to_file(self) -> logging.Handler:
        with suppress(OSError):
            self._early_log.unlink()
        handler = logging.FileHandler(
            self.log if self._resumes or self._waiting is None else self._early_log,
            encoding="utf-8",
            errors="backslashreplace",
        )
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger = logging.getLogger("linnet")
        logger.addHandler(handler)
        if logger.level == logging.NOTSET:  # called from Python: the file gets the story, the console only warnings
            logger.setLevel(logging.INFO)
        return handler

    def add_metrics(self, row: dict[str, Any]) -> None:
        """Append one epoch's row to metrics.jsonl."""
        try:
            with self.metrics_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise cannot_write(self.metrics_file, error) from error

    def metrics(self) -> list[dict[str, Any]]:
        """The rows that are whole: a kill can leave half a line, a power cut zeros."""
        rows = []
        for line in self.metrics_file.read_bytes().splitlines() if self.metrics_file.exists() else []:
            with suppress(ValueError):
                rows.append(json.loads(line))
        return [row for row in rows if isinstance(row, dict)]

    def cut_metrics(self, epochs: int) -> None:
        """Drop the rows of epochs that the checkpoint does not know."""
        rows = [row for row in self.metrics() if row["epoch"] <= epochs]
        write_atomically(self.metrics_file, "".join(json.dumps(row) + "\n" for row in rows))

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_atomically(self.summary_file, json.dumps(summary, indent=1) + "\n")

    @property
    def is_finished(self) -> bool:
        try:
            return bool(self.summary())
        except UserError:  # there is none, or it is damaged: --resume writes it again
            return False

    def summary(self) -> dict[str, Any]:
        """The finished run's numbers.

        Raises:
            UserError: the run is not finished.
        """
        if not self.summary_file.exists():
            raise UserError(f"{self.folder} holds no finished run (no summary.json)")
        return read_json(self.summary_file, dict, "linnet distill --resume writes it again")


def _is_pinned(changed: str) -> bool:
    """A path may differ from that of the start: what lies there is compared by its content. A name may not."""
    setting, _, values = changed.partition(": ")
    new = values.rpartition(" -> ")[2]
    by_content = ("data.source", "data.texts", "data.descriptions", "teacher.id", "teacher.text_encoder")
    return setting in by_content and any(os.path.exists(part) for part in new.split(":") if part)


def model_folder(path: Path) -> Path:
    """Where the saved student of a run lies; a path that is not a run folder may be the saved student itself."""
    return Run(path).model if Run(path).model.is_dir() else path


def _is_read_after_training(changed: str, config: Config) -> bool:
    """Few-shot retrieval, scoring and the export need a trained student, not another training."""
    retrieval = changed.startswith("shots.") and not changed.startswith("shots.use") and config.shots.use == "retrieval"
    return retrieval or changed.startswith(("export:", "opset:", "data.eval:", "train.checkpoint:", "logger:"))


_ANY = Run(Path())  # for its names: to make one for each of many thousands of folders takes seconds


def is_run(folder: Path) -> bool:
    """Whether linnet made this folder for a run: by what it puts into it, not by the folder's name."""
    own, names = _ANY, set[str]()
    with suppress(OSError):
        names.update(os.listdir(folder))
    if {own.environment.name, own.config.name} <= names:
        return True
    visible = {name for name in names if not name.startswith(".")}  # of one killed at its start: a lock, nothing else
    return bool(names & {".lock", own.environment.name}) and visible <= own._names

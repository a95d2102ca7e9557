"""The run folder: everything about one training, locked while it runs, resumable after a kill."""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from linnet.config import Config, difference, read_yaml, write_yaml
from linnet.environment import environment
from linnet.errors import UserError
from linnet.fields import from_dict
from linnet.files import write_atomically


class Run:
    """A run folder. :meth:`create` makes one and locks it; of several processes only the first one does.

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
        self.log = self._own("train.log")
        self.metrics_file = self._own("metrics.jsonl")
        self.checkpoints = self._own("checkpoints")
        self.gallery = self._own("gallery")
        self.gallery_picture = self._own("gallery.png")
        self.model = self._own("model")
        self.onnx = self._own("model.onnx")
        self.text_tower = self._own("text_tower.onnx")
        self.predictions = self._own("predictions")
        self.summary_file = self._own("summary.json")
        self.last_checkpoint = self.checkpoints / "last.pt"
        self.best_student = self.checkpoints / "best"
        self._lock_file: IO[str] | None = None

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
        """Make or reopen a run folder and lock it.

        Raises:
            UserError: it is in use; it holds a training and neither ``resume`` nor ``overwrite`` is set; it holds
                anything that linnet did not write; it was started with other settings than those to be resumed (the
                difference is shown).
        """
        run = cls(folder)
        run._lock()
        try:
            run._claim(config, resume, overwrite)
        except BaseException:
            run.close()
            raise
        run._add_environment()
        write_yaml(config, run.config)
        return run

    def _claim(self, config: Config, resume: bool, overwrite: bool) -> None:
        """Make sure that what lies in the folder may be continued or deleted."""
        contents = self._contents()
        if contents and resume:
            self._check_same(config)
        else:
            self.check_free(overwrite)
            for path in sorted(contents, key=lambda path: path == self.environment):  # a kill leaves it recognisable
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _contents(self) -> list[Path]:
        return [path for path in self.folder.glob("*") if not path.name.startswith(".")]

    def check_free(self, overwrite: bool) -> None:
        """
        Raises:
            UserError: what lies in the folder must not be deleted.
        """
        contents = self._contents()
        own = self.environment.exists() and {path.name for path in contents} <= self._names
        trained = self.last_checkpoint.exists() or self.model.exists()
        if contents and not own:  # somebody's config.yaml does not make his folder ours
            raise UserError(f"{self.folder} holds files that linnet did not write: choose another --out")
        if contents and trained and not overwrite:  # a run that was refused at its start is no loss
            raise UserError(
                f"{self.folder} is not empty: go on with --resume, start again with --overwrite, "
                "or choose another --out"
            )

    def _lock(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = (self.folder / ".lock").open("w")
        except OSError as error:
            raise UserError(f"cannot write the run folder {self.folder}: {error.strerror}") from error
        import fcntl  # not on every system, and only a training needs it

        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock_file.close()
            raise UserError(f"{self.folder} is in use by another linnet process") from error

    def _add_environment(self) -> None:
        """env.json has one entry for each time that the run was started or resumed."""
        earlier = json.loads(self.environment.read_text()) if self.environment.exists() else []
        write_atomically(self.environment, json.dumps([*earlier, environment()], indent=1))

    def pin(self, **inputs: str) -> None:
        """Note the hashes of what a run is made from; refuse to resume it on something else.

        Raises:
            UserError: the data or the teacher is not what the run was started with.
        """
        pinned = json.loads(self.inputs.read_text()) if self.inputs.exists() else {}
        for name, value in inputs.items():
            if pinned.get(name, value) != value:
                raise UserError(f"the {name} changed since {self.folder} was started: start again with --overwrite")
        write_atomically(self.inputs, json.dumps({**pinned, **inputs}, indent=1))

    def write_prompts(self, prompts: Mapping[str, Any]) -> None:
        """Keep the calibrated context vectors and the text bank that they give; refuse to resume with others."""
        from safetensors.torch import save

        content = save(dict(prompts))
        self.pin(prompts=hashlib.sha256(content).hexdigest())
        write_atomically(self.prompts, content)

    def changes(self, config: Config) -> list[str]:
        """Settings that were others when this training was started; those that only matter after it do not count."""
        changed = difference(self.settings(), config)
        return [line for line in changed if not _is_read_after_training(line, config)]

    def _check_same(self, config: Config) -> None:
        if not self.config.exists():
            raise UserError(f"{self.folder} holds no config.yaml: there is nothing to resume")
        if changed := self.changes(config):
            raise UserError(
                f"{self.folder} was made with other settings ({'; '.join(changed)}): "
                "resume it with its own, or choose another --out"
            )

    def settings(self) -> Config:
        """The resolved settings that the run was started with.

        Raises:
            UserError: there are none, or they are damaged.
        """
        return from_dict(Config, read_yaml(self.config))

    def close(self) -> None:
        if self._lock_file is not None:
            self._lock_file.close()

    def log_to_file(self) -> logging.Handler:
        handler = logging.FileHandler(self.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger = logging.getLogger("linnet")
        logger.addHandler(handler)
        if logger.level == logging.NOTSET:  # called from Python: the file gets the story, the console only warnings
            logger.setLevel(logging.INFO)
        return handler

    def add_metrics(self, row: dict[str, Any]) -> None:
        """Append one epoch's row to metrics.jsonl."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        path = self.metrics_file
        rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(row) for row in rows if row.endswith("}")]  # a kill can leave half a line

    def cut_metrics(self, epochs: int) -> None:
        """Drop the rows of epochs that the checkpoint does not know."""
        rows = [row for row in self.metrics() if row["epoch"] <= epochs]
        write_atomically(self.metrics_file, "".join(json.dumps(row) + "\n" for row in rows))

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_atomically(self.summary_file, json.dumps(summary, indent=1) + "\n")

    @property
    def is_finished(self) -> bool:
        return self.summary_file.exists()

    def summary(self) -> dict[str, Any]:
        """The finished run's numbers.

        Raises:
            UserError: the run is not finished.
        """
        try:
            return json.loads(self.summary_file.read_text())
        except FileNotFoundError as error:
            raise UserError(f"{self.folder} holds no finished run (no summary.json)") from error


def model_folder(path: Path) -> Path:
    """Where the saved student of a run lies; a path that is not a run folder may be the saved student itself."""
    return Run(path).model if Run(path).model.is_dir() else path


def _is_read_after_training(changed: str, config: Config) -> bool:
    """Few-shot retrieval, scoring and the export need a trained student, not another training."""
    retrieval = changed.startswith("shots.") and not changed.startswith("shots.use") and config.shots.use == "retrieval"
    return retrieval or changed.startswith(("export:", "opset:", "data.eval:"))

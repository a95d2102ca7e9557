"""The run folder: everything about one training, locked while it runs, resumable after a kill.

config.yaml  inputs.json  prompts.safetensors  env.json  metrics.jsonl  train.log  checkpoints/  gallery/
summary.json  model/  model.onnx  predictions/  gallery.png
"""

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from linnet.config import Config, difference, from_dict, read_yaml, write_yaml
from linnet.errors import UserError
from linnet.files import write_atomically

PACKAGES = (
    "linnet",
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "accelerate",
    "numpy",
    "safetensors",
    "onnx",
    "onnxruntime",
)

# What linnet writes into a run folder; anything else is somebody's, and is never deleted.
OWN_NAMES = {
    *("config.yaml", "inputs.json", "env.json", "metrics.jsonl", "train.log", "checkpoints"),
    *("summary.json", "model", "model.onnx", "text_tower.onnx", "predictions", "prompts.safetensors"),
    *("gallery", "gallery.png"),
}


class Run:
    """A run folder. :meth:`create` makes one and locks it; of several processes only the first one does."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.model = folder / "model"
        self.onnx = folder / "model.onnx"
        self.predictions = folder / "predictions"
        self.gallery = folder / "gallery"
        self._lock_file: IO[str] | None = None

    @classmethod
    def create(cls, folder: Path, config: Config, resume: bool = False, overwrite: bool = False) -> "Run":
        """Make or reopen a run folder and lock it.

        Raises:
            UserError: it is in use; it holds a training and neither ``resume`` nor ``overwrite`` is set; it holds
                anything that linnet did not write; it was made with other settings than those to be resumed (the
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
        write_yaml(config, folder / "config.yaml")
        return run

    def _claim(self, config: Config, resume: bool, overwrite: bool) -> None:
        """Make sure that what lies in the folder may be continued or deleted."""
        contents = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
        own = (self.folder / "env.json").exists() and {path.name for path in contents} <= OWN_NAMES
        trained = (self.checkpoints / "last.pt").exists() or self.model.exists()
        if contents and resume:
            self._check_same(config)
        elif contents and not own:  # somebody's config.yaml does not make his folder ours
            raise UserError(f"{self.folder} is not empty and not only a run of linnet: choose another --out")
        elif contents and trained and not overwrite:  # a run that was refused at its start is no loss
            raise UserError(
                f"{self.folder} is not empty: go on with --resume, start again with --overwrite, "
                "or choose another --out"
            )
        else:
            for path in sorted(contents, key=lambda path: path.name == "env.json"):  # a kill leaves it recognisable
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _lock(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = (self.folder / ".lock").open("w")
        except OSError as error:
            raise UserError(f"cannot write the run folder {self.folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock_file.close()
            raise UserError(f"{self.folder} is in use by another linnet process") from error

    def _add_environment(self) -> None:
        """env.json has one entry for each time that the run was started or resumed."""
        path = self.folder / "env.json"
        earlier = json.loads(path.read_text()) if path.exists() else []
        write_atomically(path, json.dumps([*earlier, environment()], indent=1))

    def pin(self, **inputs: str) -> None:
        """Note the hashes of what a run is made from; refuse to resume it on something else.

        Raises:
            UserError: the data or the teacher is not what the run was started with.
        """
        path = self.folder / "inputs.json"
        pinned = json.loads(path.read_text()) if path.exists() else {}
        for name, value in inputs.items():
            if pinned.get(name, value) != value:
                raise UserError(f"the {name} changed since {self.folder} was started: start again with --overwrite")
        write_atomically(path, json.dumps({**pinned, **inputs}, indent=1))

    def write_prompts(self, prompts: Mapping[str, Any]) -> None:
        """Keep the calibrated context vectors and the text bank that they give; refuse to resume with others."""
        from safetensors.torch import save

        content = save(dict(prompts))
        self.pin(prompts=hashlib.sha256(content).hexdigest())
        write_atomically(self.folder / "prompts.safetensors", content)

    def _check_same(self, config: Config) -> None:
        if not (self.folder / "config.yaml").exists():
            raise UserError(f"{self.folder} holds no config.yaml: there is nothing to resume")
        changed = difference(from_dict(Config, read_yaml(self.folder / "config.yaml")), config)
        changed = [line for line in changed if not _is_read_after_training(line, config)]
        if changed:
            raise UserError(
                f"{self.folder} was made with other settings ({'; '.join(changed)}): "
                "resume it with its own, or choose another --out"
            )

    def close(self) -> None:
        if self._lock_file is not None:
            self._lock_file.close()

    def log_to_file(self) -> logging.Handler:
        handler = logging.FileHandler(self.folder / "train.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger = logging.getLogger("linnet")
        logger.addHandler(handler)
        if logger.level == logging.NOTSET:  # called from Python: the file gets the story, the console only warnings
            logger.setLevel(logging.INFO)
        return handler

    def add_metrics(self, row: dict[str, Any]) -> None:
        """Append one epoch's row to metrics.jsonl."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(row) for row in rows if row.endswith("}")]  # a kill can leave half a line

    def cut_metrics(self, epochs: int) -> None:
        """Drop the rows of epochs that the checkpoint does not know."""
        rows = [row for row in self.metrics() if row["epoch"] <= epochs]
        write_atomically(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=1) + "\n")

    @property
    def is_finished(self) -> bool:
        return (self.folder / "summary.json").exists()

    def summary(self) -> dict[str, Any]:
        """The finished run's numbers.

        Raises:
            UserError: the run is not finished.
        """
        try:
            return json.loads((self.folder / "summary.json").read_text())
        except FileNotFoundError as error:
            raise UserError(f"{self.folder} holds no finished run (no summary.json)") from error


def _is_read_after_training(changed: str, config: Config) -> bool:
    """Few-shot retrieval, scoring and the export need a trained student, not another training."""
    retrieval = changed.startswith("shots.") and not changed.startswith("shots.use") and config.shots.use == "retrieval"
    return retrieval or changed.startswith(("export:", "data.eval:"))


def environment() -> dict[str, Any]:
    """What a number was measured with."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "packages": {name: version(name) for name in PACKAGES},
    }


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

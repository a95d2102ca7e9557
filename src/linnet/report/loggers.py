"""A run's numbers in TensorBoard, trackio or Weights & Biases, through Accelerate's trackers. Nothing leaves this
machine unless the user's own settings of the logger say so."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

from linnet.config import Config
from linnet.errors import require
from linnet.fields import to_dict
from linnet.run import Run

PROJECT = "linnet"
Note = Callable[[Mapping[str, Any], int], None]  # (numbers by name, epoch)


def check_logger(config: Config) -> None:
    """
    Raises:
        UserError: the logger is not installed.
    """
    if config.logger != "none":
        require(config.logger, config.logger)


@contextmanager
def logging_numbers(config: Config, run: Run, accelerator: Any) -> Iterator[Note]:
    """``with logging_numbers(...) as note: note({"loss": 2.3}, epoch)``; of several processes the first one writes. A
    run that is resumed goes on at the epoch it had reached."""
    if config.logger == "none":
        yield lambda numbers, epoch: None
        return
    is_new = not run.metrics()  # a finished run's checkpoint may have been dropped
    own: dict[str, dict[str, Any]] = {"tensorboard": {}}
    own["trackio"] = {"name": run.folder.name, "resume": "never" if is_new else "allow"}
    own["wandb"] = {"name": run.folder.name, "group": run.folder.name, "dir": str(run.logs)}
    if accelerator.is_main_process:
        run.logs.mkdir(exist_ok=True)
    if config.logger == "wandb":  # without an account: 'wandb sync' sends it later, if wanted
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
    project = run.logs.name if config.logger == "tensorboard" else PROJECT  # there it is the folder's name
    settings = _plain(to_dict(config)) if is_new else None
    with redirect_stdout(sys.stderr):  # trackio prints there, where a command has nothing but its result
        accelerator.init_trackers(project, settings, {config.logger: own[config.logger]})
    try:
        yield lambda numbers, epoch: accelerator.log(_numbers(numbers), step=epoch)
    finally:  # end_training would part the processes, too
        with redirect_stdout(sys.stderr):
            for tracker in accelerator.trackers:
                if config.logger != "trackio":
                    tracker.finish()
                elif accelerator.is_main_process:  # the tracker's own way is gone again when the process ends
                    require("trackio", "trackio").finish()


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value for name, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _plain(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names, as values that every logger takes."""
    rows: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows |= _plain(value, f"{prefix}{name}.")
        elif value is not None:
            rows[prefix + name] = value if isinstance(value, bool | int | float) else str(value)
    return rows

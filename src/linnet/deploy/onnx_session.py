"""ONNX Runtime: open a file that linnet wrote, read what it says about itself."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from linnet.environment import available_cpus
from linnet.errors import UserError, first_line, require
from linnet.text.bank import BANK


def open_session(file: Path | bytes, name: str, threads: int | None = None) -> Any:
    """An inference session on the CPU, with as many threads as this process may use processors, if nothing is said.

    Args:
        file: where it lies, or what it holds. name: what an error calls it.

    Raises:
        UserError: the extra is not installed, there is no such file, or ONNX Runtime cannot read it.
    """
    runtime = require("onnxruntime", "onnx")
    if isinstance(file, Path):
        if not file.is_file():
            raise UserError(f"{file}: no such file")
        file = file.read_bytes()  # ONNX Runtime takes no path that is not UTF-8
    options = runtime.SessionOptions()
    if threads or available_cpus() < (os.cpu_count() or 1):  # else its own choice: one for each core
        options.intra_op_num_threads = threads or available_cpus()
    # threads that wait for work would keep the processors busy that decode the next images
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # it warns that a text bank can be swapped, which is the point
    try:
        return runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a dozen of its own
        raise UserError(f"ONNX Runtime cannot load {name} ({first_line(error)})") from error


def read_meta(session: Any, path: Path) -> dict[str, Any]:
    """
    Raises:
        UserError: the file is not linnet's.
    """
    try:
        return json.loads(session.get_modelmeta().custom_metadata_map["linnet"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} was not written by linnet: it has no description of its classes and sizes") from error


def model_hash(folder: Path) -> str:
    """Of all that makes a saved student what it is: an ONNX file carries that of the student that it was made of."""
    files = (folder / name for name in ("config.json", "classes.json", "model.safetensors", BANK))
    own = [hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for file in files]
    return hashlib.sha256(" ".join(own).encode()).hexdigest()

"""The tables of predictions, of a run and of ``linnet evaluate``.

Nothing here needs torch.

Shapes: N images, C classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linnet.data.manifest import Manifest
from linnet.files import new_file, readable
from linnet.metrics import softmax


def write_predictions(
    path: Path, manifest: Manifest, logits_NC: np.ndarray, teacher_logits_NC: np.ndarray | None
) -> None:
    """One row per image: path, label, prediction, confidence, the teacher's prediction, and the logits."""
    names = np.array(manifest.class_names)
    columns = prediction_columns(
        manifest.paths, names, manifest.labels, logits_NC.argmax(axis=1), softmax(logits_NC).max(axis=1)
    )
    if teacher_logits_NC is not None:
        columns["teacher_prediction"] = names[teacher_logits_NC.argmax(axis=1)]
    columns["logits"] = list(logits_NC)
    write_table(path, columns)


def prediction_columns(
    paths: Sequence[Path], names: np.ndarray, labels_N: np.ndarray, named_N: np.ndarray, confidence_N: np.ndarray
) -> dict[str, Any]:
    """What every such table begins with."""
    return {
        "path": [readable(path) for path in paths],
        "label": names[labels_N],
        "prediction": names[named_N],
        "confidence": confidence_N,
    }


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    import pyarrow
    import pyarrow.parquet

    with new_file(path) as file:
        pyarrow.parquet.write_table(pyarrow.table(dict(columns)), file)

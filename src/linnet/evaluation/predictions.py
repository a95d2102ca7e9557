"""The tables of predictions, of a run and of ``linnet evaluate``.

Nothing here needs torch.

Shapes: N images, C classes.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from linnet.data.manifest import Manifest
from linnet.files import new_file, readable
from linnet.metrics import confidence

PART = 4_000_000  # logits of one group of rows: bounds memory


def write_predictions(
    path: Path, manifest: Manifest, logits_NC: np.ndarray, teacher_logits_NC: np.ndarray | None
) -> None:
    """One row per image: path, label, prediction, confidence, the teacher's prediction, and the logits."""
    import pyarrow
    import pyarrow.parquet

    names, (count, classes) = np.array(manifest.class_names), logits_NC.shape
    rows = max(1, PART // classes)
    with new_file(path) as file, ExitStack() as stack:
        writer = None
        for part in (slice(start, min(start + rows, count)) for start in range(0, max(1, count), rows)):
            logits, labels = logits_NC[part], manifest.labels[part]
            named, sure = logits.argmax(axis=1), confidence(logits)
            columns = prediction_columns(manifest.paths[part], names, labels, named, sure)
            if teacher_logits_NC is not None:
                columns["teacher_prediction"] = names[teacher_logits_NC[part].argmax(axis=1)]
            ends = np.arange(len(logits) + 1, dtype=np.int32) * classes
            columns["logits"] = pyarrow.ListArray.from_arrays(ends, np.ascontiguousarray(logits).ravel())
            table = pyarrow.table(columns)
            writer = writer or stack.enter_context(pyarrow.parquet.ParquetWriter(file, table.schema))
            writer.write_table(table)


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

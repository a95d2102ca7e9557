"""The tables of predictions, written in parts."""

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from linnet.data.manifest import Manifest
from linnet.evaluation import predictions as module
from linnet.evaluation.predictions import write_predictions
from linnet.metrics import softmax
from linnet.text.classes import class_table


@pytest.mark.parametrize("images", [0, 1, 8, 10])
@pytest.mark.parametrize("with_teacher", [True, False])
def test_parts_make_one_table_with_a_row_for_each_image(
    tmp_path: Path, images: int, with_teacher: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "PART", 12)  # four images of three classes
    rng, names = np.random.default_rng(0), np.array(["wren", "robin", "tit"])
    logits, teacher = (rng.normal(size=(images, 3)).astype(np.float32) for _ in range(2))
    labels, paths = rng.integers(0, 3, images), tuple(Path(f"birds/{i}.jpg") for i in range(images))
    rows = Manifest(paths, labels, np.full(images, "val"), np.zeros((images, 16), np.uint8), class_table(list(names)))
    write_predictions(tmp_path / "x.parquet", rows, logits, teacher if with_teacher else None)
    columns = {
        "path": list(map(str, paths)),
        "label": names[labels],
        "prediction": names[logits.argmax(axis=1)],
        "confidence": softmax(logits).max(axis=1),
        **({"teacher_prediction": names[teacher.argmax(axis=1)]} if with_teacher else {}),
        "logits": list(logits),
    }
    file = pyarrow.parquet.ParquetFile(tmp_path / "x.parquet")
    assert file.num_row_groups == max(1, -(-images // 4))
    if images:
        assert file.read().equals(pyarrow.table(columns))
    assert file.read().num_rows == images and file.schema_arrow.names == list(columns)

"""The path of a long tail: list files, balanced softmax, scores of frequent and rare classes."""

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from pictures import write_image

import linnet
from linnet.run import Run

OPTIONS = {
    "student.pretrained": False,
    "student.image_size": 32,
    "train.batch_size": 16,
    "train.epochs": 8,
    "export": False,
}
BIRDS = {  # training images and colour: wren and owl look alike
    "owl": (104, (200, 40, 40)),
    "heron": (30, (40, 180, 60)),
    "gull": (20, (40, 60, 200)),
    "wren": (6, (200, 40, 40)),
}
OWL, WREN = 0, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """``list:LISTS:ROOT`` in the layout of ImageNet-LT."""
    root = tmp_path_factory.mktemp("long-tail")
    (root / "lists").mkdir()
    for s, (split, count) in enumerate({"train": None, "val": 4, "test": 12}.items()):
        rows = []
        for label, (name, (training, colour)) in enumerate(BIRDS.items()):
            for i in range(count or training):
                path = f"{split}/{name}/{i}.png"
                write_image(root / "images" / path, colour, seed=10_000 * s + 1000 * label + i, size=(32, 32))
                rows.append(f"{path} {label}\n")
        (root / "lists" / f"Birds_LT_{split}.txt").write_text("".join(rows))
    return f"list:{root / 'lists'}:{root / 'images'}"


@pytest.fixture(scope="module")
def runs(data: str, tmp_path_factory: pytest.TempPathFactory) -> dict[float, Run]:
    """The same training without and with balanced softmax."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        tau: linnet.distill(
            data, method="ce", student="test_resnet", out=folder / f"{tau:g}",
            options={**OPTIONS, "train.logit_adjustment": tau},
        )
        for tau in (0.0, 1.0)
    }  # fmt: skip


def predictions(run: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and logits (N, C)."""
    table = pyarrow.parquet.read_table(run.predictions_of(split))
    names = table["label"].to_pylist()
    return np.array([list(BIRDS).index(name) for name in names]), np.array(table["logits"].to_pylist())


def test_a_summary_tells_frequent_and_rare_classes_apart(runs: dict[float, Run]):
    run = runs[1.0]
    summary = run.summary()
    assert [summary[f"classes.{group}"] for group in ("many", "medium", "few")] == [1, 2, 1]  # > 100, 20 to 100, < 20
    assert (summary["images.train"], summary["images.val"], summary["images.test"]) == (160, 16, 48)
    for split in ("val", "test"):
        labels, logits = predictions(run, split)
        right = [np.mean(logits[labels == label].argmax(axis=1) == label) for label in range(len(BIRDS))]
        expected = {"many": right[0], "medium": (right[1] + right[2]) / 2, "few": right[3]}
        assert {group: summary[f"{split}.{group}"] for group in expected} == pytest.approx(expected)


def test_balanced_softmax_takes_the_advantage_of_the_frequent_class_away(runs: dict[float, Run]):
    """Wrens look like owls, which are 17 times as frequent: plain training leans to owls by log 17 = 2.9."""
    leaning = {}
    for tau, run in runs.items():
        labels, logits = predictions(run, "test")
        alike = np.isin(labels, (OWL, WREN))
        leaning[tau] = float(np.mean(logits[alike, OWL] - logits[alike, WREN]))
    assert leaning[0.0] > 1.5
    assert abs(leaning[1.0]) < leaning[0.0] - 1.0
    assert runs[0.0].summary()["test.few"] < 0.2  # nearly every wren is an owl to it


def test_what_was_listed_is_what_was_scored(data: str, runs: dict[float, Run]):
    run = runs[1.0]
    assert run.summary()["data.source"] == data
    paths = pyarrow.parquet.read_table(run.predictions_of("test"))["path"].to_pylist()
    root = Path(data.rpartition(":")[2])
    assert sorted(Path(path).relative_to(root).parts[0] for path in paths) == ["test"] * 48

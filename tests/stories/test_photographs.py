"""One cell of each route of the tables on photos again. The photos, the weights and the teacher come with no package: a
folder ``shared`` beside the repository holds them, or there is nothing to run. About an hour on one core."""

import json
import runpy
import statistics
import sys
import tarfile
from pathlib import Path

import pytest

import linnet
from linnet.commands.comparison.grid import Request, build
from linnet.config_files import write_yaml

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SHARED / "data" / "grocery-fresh.tar").exists(), reason="the photos are not there"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    with tarfile.open(SHARED / "data" / "grocery-fresh.tar") as archive:
        archive.extractall(folder, filter="data")
    return folder / "grocery-fresh"


@pytest.fixture(scope="module")
def vision_language(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["prepare.py", str(folder)])
        runpy.run_path(str(SHARED / "teachers" / "photo-clip" / "prepare.py"))
    return f"open_clip:local-dir:{folder}"


@pytest.fixture(scope="module")
def classifier(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The teacher of grocery_classifier.yaml, trained as its first lines say."""
    run = linnet.distill(
        photos, student="tf_efficientnet_lite2", method="ce", out=tmp_path_factory.mktemp("runs") / "teacher",
        options={
            "student.pretrained": SHARED / "weights" / "tf_efficientnet_lite2", "student.image_size": 192,
            "train.epochs": 15, "train.lr": 0.003, "train.precision": "fp32", "data.views": "standard",
            "data.test": "none", "export": False,
        },
    )  # fmt: skip
    return f"run:{run.folder}"


@pytest.mark.parametrize(("grid", "row", "teacher"), [
    ("grocery_vlm", "kd", "vision_language"), ("grocery_classifier", "kd standardized", "classifier"),
])  # fmt: skip
def test_a_cell_comes_out_as_the_table_says(grid: str, row: str, teacher: str, photos: Path, tmp_path: Path, request):
    """Within two standard deviations between the seeds (that of all rows together: three seeds know little of theirs)."""
    if not (kept := ROOT / "bench" / "results" / f"{grid}.json").exists():
        pytest.skip(f"no table of bench/{grid}.yaml is kept yet")
    results = json.loads(kept.read_text())["rows"]
    deviation = statistics.fmean(statistics.variance(own["test"]) for own in results) ** 0.5
    told = next(own["test"] for own in results if own["row"] == row)
    options = {
        "student.pretrained": SHARED / "weights" / "tf_efficientnet_lite0",
        "teacher.id": request.getfixturevalue(teacher),
    }
    rows = build(Request(str(photos), ROOT / "bench" / f"{grid}.yaml", options=options)).rows
    write_yaml(next(own.config for own in rows if own.name == row), tmp_path / "cell.yaml")
    run = linnet.distill(config=tmp_path / "cell.yaml", out=tmp_path / "run", options={"export": False})
    assert abs(run.summary()["test.top1"] - statistics.fmean(told)) <= 2 * deviation

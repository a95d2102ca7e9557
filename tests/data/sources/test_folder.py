import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from linnet.config import DataConfig
from linnet.data.load import load_manifest
from linnet.errors import UserError


def remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: shutil.rmtree(root), "no such folder"),
        (lambda root: (shutil.rmtree(root), root.mkdir()), "holds no class folders"),
        (lambda root: (shutil.rmtree(root), root.write_text("x")), "is a file"),
        (lambda root: remove_all(root / "red_bird"), "holds no images"),
        (
            lambda root: (shutil.rmtree(root / "red_bird"), shutil.rmtree(root / "blue_bird")),
            "only the class 'green_bird'",
        ),
        (lambda root: (root / "red_bird").rename(root / "val"), "but no train/ folder"),
        (lambda root: (root / "red_bird").rename(root / "train"), "mixes split folders"),
    ],
)
def test_bad_folders_give_one_clear_error(make_folder: Callable[..., Path], break_it: Callable, message: str):
    root = make_folder(images=4)
    break_it(root)
    with pytest.raises(UserError, match=message):
        load_manifest(DataConfig(source=str(root)))


def test_loose_images_are_not_dropped_without_a_word(make_folder: Callable[..., Path]):
    root = make_folder(images=4, splits=("train", "val", "test"))
    shutil.copy(root / "test/red_bird/000.jpg", root / "test/000.jpg")
    with pytest.raises(UserError, match=r"test/000.jpg is in no class folder"):
        load_manifest(DataConfig(source=str(root)))


def test_a_run_inside_the_data_is_named(make_folder: Callable[..., Path]):
    root = make_folder(images=4)
    (root / "runs").mkdir()
    (root / "runs" / "config.yaml").write_text("")
    with pytest.raises(UserError, match="runs is a run of linnet inside the data"):
        load_manifest(DataConfig(source=str(root)))


def test_a_name_that_is_too_long_is_no_folder():
    with pytest.raises(UserError, match="no such folder"):
        load_manifest(DataConfig(source="x" * 300))

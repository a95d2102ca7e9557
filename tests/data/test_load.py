"""From a folder or drawn birds to a checked manifest."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from linnet.config import DataConfig
from linnet.data.load import load_manifest
from linnet.errors import UserError


def counts(manifest) -> list[int]:
    return [len(manifest.rows(split)) for split in ("train", "val", "test")]


def test_flat_folder(make_folder: Callable[..., Path]):
    manifest = load_manifest(DataConfig(source=str(make_folder(images=20))))
    assert counts(manifest) == [42, 6, 12]
    assert [info.name for info in manifest.classes] == ["blue_bird", "green_bird", "red_bird"]
    assert manifest.classes[0].prompt_name == "blue bird"
    assert all(
        manifest.classes[label].name == path.parent.name
        for label, path in zip(manifest.labels, manifest.paths, strict=True)
    )


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "validation", "testing"), ("train", "dev", "test")]
)
def test_split_folders_and_their_synonyms(make_folder: Callable[..., Path], names: tuple[str, ...]):
    assert counts(load_manifest(DataConfig(source=str(make_folder(images=4, splits=names))))) == [12, 12, 12]


def test_train_and_val_without_test_is_val_only(make_folder: Callable[..., Path]):
    assert counts(load_manifest(DataConfig(source=str(make_folder(images=5, splits=("train", "val")))))) == [15, 15, 0]


def test_val_is_carved_out_of_train_when_it_is_missing(make_folder: Callable[..., Path]):
    assert counts(load_manifest(DataConfig(source=str(make_folder(images=10, splits=("train", "test")))))) == [
        27,
        3,
        30,
    ]


@pytest.mark.parametrize("splits", [(), ("train", "val", "test")])
def test_test_none_leaves_the_test_split_alone(make_folder: Callable[..., Path], splits: tuple[str, ...]):
    assert counts(load_manifest(DataConfig(source=str(make_folder(images=10, splits=splits)), test="none")))[2] == 0


def test_limit_per_class_touches_train_only(make_folder: Callable[..., Path]):
    source = str(make_folder(images=10, splits=("train", "val", "test")))
    assert counts(load_manifest(DataConfig(source=source, limit_per_class=4))) == [12, 30, 30]


def test_classes_that_read_the_same_are_refused(make_folder: Callable[..., Path]):
    root = make_folder(images=4)
    shutil.copytree(root / "red_bird", root / "red bird")
    with pytest.raises(UserError, match="2 classes become 'red bird' in a prompt"):
        load_manifest(DataConfig(source=str(root)))


def test_a_class_only_in_val_is_refused(make_folder: Callable[..., Path]):
    root = make_folder(images=4, splits=("train", "val"))
    shutil.copytree(root / "val/red_bird", root / "val/pink_bird")
    with pytest.raises(UserError, match="no training image of 1 class.*pink_bird"):
        load_manifest(DataConfig(source=str(root)))

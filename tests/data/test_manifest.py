import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from linnet.config import DataConfig
from linnet.data.load import load_manifest
from linnet.data.manifest import in_two_classes, leaks


def test_content_hash_follows_the_content_and_not_the_place(make_folder: Callable[..., Path], tmp_path: Path):
    root = make_folder(images=6)
    before = load_manifest(DataConfig(source=str(root))).content_hash
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert load_manifest(DataConfig(source=str(moved))).content_hash == before
    (moved / "red_bird" / "000.jpg").write_bytes((moved / "blue_bird" / "000.jpg").read_bytes())
    assert load_manifest(DataConfig(source=str(moved))).content_hash != before


def test_leaks_are_named_with_what_they_are_copies_of(make_folder: Callable[..., Path]):
    root = make_folder(images=4, splits=("train", "val", "test"))
    assert leaks(load_manifest(DataConfig(source=str(root)))) == []
    of_train = shutil.copy(root / "train/red_bird/000.jpg", root / "test/red_bird/copy.jpg")
    of_val = shutil.copy(root / "val/red_bird/000.jpg", root / "test/red_bird/another.jpg")
    found = leaks(load_manifest(DataConfig(source=str(root))))
    assert {(own.path, own.detail) for own in found} == {
        (of_train, f"also {root / 'train/red_bird/000.jpg'}"),
        (of_val, f"also {root / 'val/red_bird/000.jpg'}"),
    }


def test_a_photo_in_two_classes_is_named_in_both(make_folder: Callable[..., Path]):
    root = make_folder(images=4)
    shutil.copy(root / "red_bird/000.jpg", root / "red_bird/twin.jpg")  # of the same class: no contradiction
    assert in_two_classes(load_manifest(DataConfig(source=str(root)))) == []
    other = shutil.copy(root / "red_bird/001.jpg", root / "blue_bird/x.jpg")
    found = in_two_classes(load_manifest(DataConfig(source=str(root))))
    assert {(own.path, own.detail) for own in found} == {
        (other, f"also {root / 'red_bird/001.jpg'}"),
        (root / "red_bird/001.jpg", f"also {other}"),
    }


def test_a_photo_that_is_listed_twice_is_named_once(make_folder: Callable[..., Path]):
    root = make_folder(images=4)
    shutil.copy(root / "red_bird/001.jpg", root / "blue_bird/x.jpg")
    manifest = load_manifest(DataConfig(source=str(root)))
    rows = np.arange(len(manifest)).repeat(2)
    assert len(in_two_classes(manifest.take(rows))) == 2


def test_digests_identify_bytes(make_folder: Callable[..., Path]):
    manifest = load_manifest(DataConfig(source=str(make_folder(images=6))))
    assert manifest.digests.shape == (18, 16)
    assert len(np.unique(manifest.digests, axis=0)) == 18

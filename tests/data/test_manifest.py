import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from linnet.config import DataConfig
from linnet.data.load import load_manifest
from linnet.data.manifest import leaked


def test_content_hash_follows_the_content_and_not_the_place(make_folder: Callable[..., Path], tmp_path: Path):
    root = make_folder(images=6)
    before = load_manifest(DataConfig(source=str(root))).content_hash
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert load_manifest(DataConfig(source=str(moved))).content_hash == before
    (moved / "red_bird" / "000.jpg").write_bytes((moved / "blue_bird" / "000.jpg").read_bytes())
    assert load_manifest(DataConfig(source=str(moved))).content_hash != before


def test_leaked_counts_copies_of_training_images(make_folder: Callable[..., Path]):
    root = make_folder(images=4, splits=("train", "val", "test"))
    assert leaked(load_manifest(DataConfig(source=str(root)))) == 0
    shutil.copy(root / "train/red_bird/000.jpg", root / "test/red_bird/copy.jpg")
    assert leaked(load_manifest(DataConfig(source=str(root)))) == 1
    shutil.copy(root / "val/red_bird/000.jpg", root / "test/red_bird/another.jpg")
    assert leaked(load_manifest(DataConfig(source=str(root)))) == 2


def test_digests_identify_bytes(make_folder: Callable[..., Path]):
    manifest = load_manifest(DataConfig(source=str(make_folder(images=6))))
    assert manifest.digests.shape == (18, 16)
    assert len(np.unique(manifest.digests, axis=0)) == 18

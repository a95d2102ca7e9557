"""Base and novel classes are apart; support images leave the test set by identity."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from linnet.config import Config, DataConfig, ShotsConfig
from linnet.data.load import load_manifest
from linnet.data.manifest import Manifest
from linnet.data.novel import (
    base_part,
    novel_data,
    novel_part,
    of_classes,
    support_part,
    training_part,
    with_support,
    without,
)
from linnet.errors import UserError
from linnet.text.classes import ClassInfo


def manifest(classes: int = 6, images: int = 5, novel: tuple[int, ...] = (1, 3, 4)) -> Manifest:
    """``images`` train, 2 val and 3 test images of each class; digests differ in all."""
    splits = ["train"] * images + ["val"] * 2 + ["test"] * 3
    rows = [(c, split) for c in range(classes) for split in splits]
    digests = np.arange(16 * len(rows), dtype=np.int64).reshape(-1, 16).astype(np.uint8)
    digests[:, 0] = np.arange(len(rows))
    return Manifest(
        tuple(Path(f"{i}.jpg") for i in range(len(rows))),
        np.array([c for c, _ in rows]),
        np.array([split for _, split in rows], dtype="<U5"),
        digests,
        tuple(ClassInfo(f"c{c}", f"class {c}") for c in range(classes)),
        tuple((f"text {i}",) for i in range(len(rows))),
        novel,
    )


def config(novel_images: str = "all", **shots: object) -> Config:
    return Config(data=DataConfig(novel_images=novel_images), shots=ShotsConfig(**shots))  # type: ignore[arg-type]


def novel_images(manifest: Manifest) -> Manifest:
    return of_classes(manifest, np.array(manifest.novel))


def digests(manifest: Manifest) -> set[bytes]:
    return {digest.tobytes() for digest in manifest.digests}


def test_base_and_novel_share_nothing_and_lose_nothing():
    whole = manifest()
    base, novel = base_part(whole), novel_part(whole, DataConfig())
    assert [info.name for info in base.classes] == ["c0", "c2", "c5"]
    assert [info.name for info in novel.classes] == ["c1", "c3", "c4"]
    assert not digests(base) & digests(novel)
    assert digests(base) | digests(novel) == digests(whole)
    for part in (base, novel):
        for path, label, digest in zip(part.paths, part.labels, part.digests, strict=True):
            row = whole.paths.index(path)
            assert part.classes[label] == whole.classes[whole.labels[row]]
            assert np.array_equal(digest, whole.digests[row])
    assert training_part(whole, Config()).content_hash == base.content_hash
    assert base_part(replace(whole, novel=())).labels is whole.labels


def test_novel_images_of_the_test_split_alone():
    whole = manifest()
    novel = novel_part(whole, DataConfig(novel_images="test"))
    assert set(novel.splits) == {"test"}
    assert len(novel) == 9


def test_what_cannot_be_tested_is_refused_before_training():
    whole = manifest()
    bare = whole.take(np.flatnonzero((whole.labels != 3) | (whole.splits != "test")))
    with pytest.raises(UserError, match="no test image of the novel class 'c3'"):
        novel_data(bare, config(novel_images="test"))
    train_only = whole.take(np.flatnonzero((whole.labels != 4) | (whole.splits == "train")))
    with pytest.raises(UserError, match="no image of the novel class 'c4' is left beside its support images"):
        novel_data(train_only, config(count=5))
    few = whole.take(np.flatnonzero((whole.labels != 2) | (whole.splits != "train") | (np.arange(len(whole)) % 10 < 2)))
    with pytest.raises(UserError, match="the class 'c2' has 2 training images, fewer than 5 shots"):
        novel_data(few, config(count=5))
    assert (
        novel_data(few, config(count=5, alpha=0.3)).base_support is None
    )  # nothing is chosen, base classes are not asked
    data = novel_data(whole, config(count=2))
    assert data.support is not None and data.base_support is not None
    assert [len(part) for part in (data.novel, data.support, data.base_support)] == [24, 6, 6]
    assert data.base_support.classes == data.base.classes


def test_a_novel_image_that_is_also_a_base_image_is_warned_of(caplog: pytest.LogCaptureFixture):
    whole = manifest()
    digests = whole.digests.copy()
    digests[1] = digests[12]  # of class 0, which is base, and of class 1, which is novel
    with caplog.at_level(logging.WARNING, logger="linnet"):
        novel_data(whole, Config())
        assert not caplog.text
        novel_data(replace(whole, digests=digests), Config())
    assert "1 images of novel classes are byte for byte also images of base classes" in caplog.text


def test_support_images_leave_the_test_set_by_their_bytes():
    whole = manifest()
    twin = whole.digests.copy()
    support = support_part(novel_images(whole), 2, seed=0)
    row = next(i for i in range(len(whole)) if whole.labels[i] == 1 and whole.splits[i] == "test")
    twin[row] = support.digests[0]  # a copy of a support image among the test images
    whole = replace(whole, digests=twin)
    for images in ("all", "test"):
        novel = novel_part(whole, DataConfig(novel_images=images))  # type: ignore[arg-type]
        left = without(novel, support)
        assert not digests(left) & digests(support)
        assert len(novel) - len(left) == (7 if images == "all" else 1)


def test_support_is_seeded_nested_and_from_the_training_images():
    whole = manifest(images=8)
    chosen = {n: support_part(novel_images(whole), n, seed=0) for n in (1, 3)}
    assert digests(chosen[1]) < digests(chosen[3])
    assert np.bincount(chosen[3].labels).tolist() == [3, 3, 3]
    assert set(chosen[3].splits) == {"train"}
    assert digests(support_part(novel_images(whole), 3, seed=1)) != digests(chosen[3])
    order = np.random.default_rng(0).permutation(len(whole))
    assert digests(support_part(novel_images(whole.take(order)), 3, seed=0)) == digests(chosen[3])
    with pytest.raises(UserError, match="has 8 training images, fewer than 9 shots"):
        support_part(novel_images(whole), 9, seed=0)


def test_finetuning_adds_the_support_images_and_no_other():
    whole = manifest()
    support = support_part(novel_images(whole), 2, seed=0)
    joined = training_part(whole, config(count=2, use="finetune"))
    assert joined.classes == whole.classes
    assert digests(joined) == digests(base_part(whole)) | digests(support)
    for path, label, texts in zip(joined.paths, joined.labels, joined.texts or (), strict=True):
        row = whole.paths.index(path)
        assert label == whole.labels[row]
        assert texts == (whole.texts or ())[row]
    is_novel = np.isin(joined.labels, whole.novel)
    assert is_novel.sum() == len(support) == 6
    assert set(joined.splits[is_novel]) == {"train"}
    assert with_support(replace(whole, texts=None), support).texts is None


def test_shots_need_novel_classes():
    with pytest.raises(UserError, match=r"--shots is for novel classes: add --data.novel 0.5"):
        training_part(manifest(novel=()), config(count=5))
    with pytest.raises(UserError, match="finetune needs a number of images"):
        training_part(manifest(), config(use="finetune"))
    with pytest.raises(UserError, match="no effect without --shots N"):
        training_part(manifest(), config(alpha=0.5))


def test_a_limit_leaves_the_novel_classes_as_they_are(make_folder: Callable[..., Path]):
    source = str(make_folder(images=12, splits=("train", "val", "test")))
    for name in ("grey_bird", "pink_bird"):
        make_folder(images=12, splits=("train", "val", "test"), root=Path(source).parent / name)
        for split in ("train", "val", "test"):
            (Path(source).parent / name / split / "red_bird").rename(Path(source) / split / name)
    free, tight = (
        load_manifest(DataConfig(source=source, novel_classes=("red_bird", "grey_bird"), limit_per_class=limit))
        for limit in (None, 2)
    )
    assert len(novel_part(tight, DataConfig())) == len(novel_part(free, DataConfig())) == 72
    assert len(base_part(tight).rows("train")) == 6


def test_validation_images_of_novel_classes_do_not_count(make_folder: Callable[..., Path], tmp_path: Path):
    root = make_folder(splits=("train", "val"))
    for i, name in enumerate(("a_bird", "b_bird")):
        make_folder(root=tmp_path / str(i))
        (tmp_path / str(i) / "red_bird").rename(root / "train" / name)
    import shutil

    shutil.rmtree(root / "val" / "blue_bird")
    with pytest.raises(UserError, match="no validation images"):
        load_manifest(DataConfig(source=str(root), novel_classes=("red_bird", "green_bird")))


def test_a_share_is_drawn_from_the_seed_and_the_names(make_folder: Callable[..., Path], tmp_path: Path):
    root = tmp_path / "many"
    for i in range(10):
        folder = make_folder(images=4, root=tmp_path / f"part{i}")
        (root / f"c{i}").parent.mkdir(exist_ok=True)
        (folder / "red_bird").rename(root / f"c{i}")
    source = str(root)
    half = load_manifest(DataConfig(source=source, novel=0.5))
    assert len(half.novel) == 5
    assert load_manifest(DataConfig(source=source, novel=0.5)).novel == half.novel
    assert load_manifest(DataConfig(source=source, novel=0.5, seed=1)).novel != half.novel
    assert set(load_manifest(DataConfig(source=source, novel=0.3)).novel) < set(half.novel)
    file = tmp_path / "novel.txt"
    file.write_text("c1\nc7\n")
    for given in (("c7", "c1"), ("c1,c7",), (str(file),)):
        assert load_manifest(DataConfig(source=source, novel_classes=given)).novel == (1, 7)
    named = load_manifest(DataConfig(source=source, novel_classes=("c1", "c7")))
    assert named.content_hash != load_manifest(DataConfig(source=source)).content_hash
    for bad, message in (
        ({"novel_classes": ("c1", "c77")}, "no class 'c77'"),
        ({"novel_classes": ("c1",)}, "'c1' is one class alone: give two or more"),
        ({"novel_images": "test"}, "no effect without novel classes"),
        ({"novel": 0.95}, "10 of 10 classes would be novel"),
        ({"novel": 0.5, "novel_classes": ("c1", "c2")}, "data.novel_classes \\(the classes named\\), not both"),
    ):
        with pytest.raises(UserError, match=message):
            load_manifest(DataConfig(source=source, **bad))  # type: ignore[arg-type]


def test_a_novel_class_needs_no_training_image(make_folder: Callable[..., Path], tmp_path: Path):
    root = make_folder(splits=("train", "val", "test"))
    for split in ("train", "val", "test"):
        (root / split / "red_bird").rename(tmp_path / f"{split}-red")
        make_folder(images=3, root=tmp_path / "more")
        (tmp_path / "more" / "red_bird").rename(root / split / "grey_bird")
        if split == "test":
            (tmp_path / "test-red").rename(root / split / "red_bird")
            make_folder(images=3, root=tmp_path / "yet")
            (tmp_path / "yet" / "green_bird").rename(root / split / "pink_bird")
    with pytest.raises(UserError, match="no training image of 2 class"):
        load_manifest(DataConfig(source=str(root)))
    whole = load_manifest(DataConfig(source=str(root), novel_classes=("red bird", "pink_bird")))
    assert len(novel_part(whole, DataConfig())) == 15

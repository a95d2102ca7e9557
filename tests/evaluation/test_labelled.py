from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from linnet.errors import UserError
from linnet.evaluation.labelled import LabelledImages, content_hash, given_images


def test_every_source_gives_its_test_split(make_folder: Callable[..., Path], tmp_path: Path):
    folder = make_folder(images=2, splits=("train", "val", "test"))
    for split in ("train", "test"):
        files = sorted((folder / split).rglob("*.jpg"))
        names = sorted({file.parent.name for file in files})
        lines = [f"{file.relative_to(folder)} {names.index(file.parent.name)}" for file in files]
        (tmp_path / f"my_{split}.txt").write_text("\n".join(lines))
    for data in (str(folder), f"list:{tmp_path / 'my_test.txt'}:{folder}", "aviary:species=3,images=2"):
        images = given_images(data, None, "stop")
        assert (images.split, images.notes) == ("test", ())
        assert set(images.rows.splits) == {"test"}
        assert len(images.rows) == (150 if "aviary" in data else 6)


def test_the_hash_is_that_of_images_and_class_names(make_folder: Callable[..., Path]):
    rows = given_images(make_folder(images=3), None, "stop").rows
    order = np.random.default_rng(0).permutation(len(rows))
    renumbered = replace(rows, labels=2 - rows.labels, classes=rows.classes[::-1])
    assert content_hash(rows) == content_hash(rows.take(order)) == content_hash(renumbered)
    assert content_hash(rows) != content_hash(replace(rows, labels=2 - rows.labels))
    assert content_hash(rows) != content_hash(rows.take(order[1:]))


def test_images_without_a_label_cannot_be_scored(make_folder: Callable[..., Path]):
    images = given_images(make_folder(images=3), None, "stop")
    bare = replace(images, rows=replace(images.rows, labels=np.where(np.arange(9) < 4, -1, images.rows.labels)))
    with pytest.raises(UserError, match="4 of 9 images have no label"):
        bare.in_classes(images.rows.class_names, common=True)


def test_one_spelling_of_accents(make_folder: Callable[..., Path]):
    images = given_images(make_folder(images=1), None, "stop")
    classes = (images.rows.classes[0]._replace(name="bl\u00e4uling"), *images.rows.classes[1:])
    images = LabelledImages("photos", "all", replace(images.rows, classes=classes))
    other = ["x", "red_bird", "bla\u0308uling", "green_bird"]
    assert images.in_classes(other, common=False).rows.labels.tolist() == [2, 3, 1]

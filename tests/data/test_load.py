"""From a folder or drawn birds to a checked manifest."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from linnet.config import DataConfig
from linnet.data.load import load_manifest, training_rows
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


def texts_for(manifest, file: Path) -> Path:
    rows = [f"{digest.tobytes().hex()},text {i}" for i, digest in enumerate(manifest.digests)]
    file.write_text("\n".join(["digest,text", *rows]) + "\n")
    return file


def test_texts_reach_training_images_and_no_others(
    make_folder: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    make_folder(images=10)
    shutil.copytree(tmp_path / "photos" / "red_bird", tmp_path / "photos" / "grey_bird")
    novel = ("red_bird", "grey_bird")
    config = DataConfig(source=str(tmp_path / "photos"), novel_classes=novel, limit_per_class=3)
    plain = load_manifest(config)
    assert plain.texts is None
    file = texts_for(load_manifest(replace(config, limit_per_class=None)), tmp_path / "t.csv")
    with caplog.at_level("INFO", "linnet"):
        manifest = load_manifest(replace(config, texts=file))
    trained = set(training_rows(manifest).tolist())
    assert len(trained) == 6 < len(manifest.rows("train"))
    assert manifest.texts is not None
    assert [row for row, texts in enumerate(manifest.texts) if texts] == sorted(trained)
    assert f"texts: 6 about 6 of 6 training images ({file})" in caplog.text
    assert manifest.content_hash == plain.content_hash


def test_the_hash_of_the_texts_goes_by_their_content(make_folder: Callable[..., Path], tmp_path: Path):
    config = DataConfig(source=str(make_folder(images=5)), texts=tmp_path / "t.csv")
    texts_for(load_manifest(replace(config, texts=None)), tmp_path / "t.csv")
    before = load_manifest(config).texts_hash
    lines = (tmp_path / "t.csv").read_text().splitlines()
    (tmp_path / "t.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    assert load_manifest(config).texts_hash == before
    (tmp_path / "t.csv").write_text("\n".join(line.replace("text ", "other text ") for line in lines))
    assert load_manifest(config).texts_hash != before


def test_texts_about_other_images_only_are_refused(make_folder: Callable[..., Path], tmp_path: Path):
    config = DataConfig(source=str(make_folder(images=5)))
    manifest = load_manifest(config)
    file = texts_for(manifest.take(manifest.rows("test")), tmp_path / "t.csv")
    with pytest.raises(UserError, match="no text about a training image, only about others"):
        load_manifest(replace(config, texts=file))
    with pytest.raises(UserError, match="data.text_columns says how data.texts is read: give --data.texts"):
        load_manifest(replace(config, text_columns=("a",)))


def test_captions_of_the_source_stay_unless_others_are_given(tmp_path: Path):
    config = DataConfig(source="aviary:species=2,images=3")
    own = load_manifest(config)
    assert own.texts is not None and all(own.texts)
    file = texts_for(own, tmp_path / "t.csv")
    given = load_manifest(replace(config, texts=file)).texts
    assert given is not None and given[own.rows("train")[0]][0].startswith("text ")
    assert not any(given[row] for row in own.rows("test"))

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from linnet.config import DataConfig
from linnet.data.manifest import leaked, load_manifest, prompt_names
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


def test_prompt_names():
    assert prompt_names(["001.Black_footed_Albatross", "002.Laysan_Albatross"]) == [
        "Black footed Albatross",
        "Laysan Albatross",
    ]
    assert prompt_names(["1-a", "b"]) == ["1-a", "b"]  # not every name has a number
    assert prompt_names(["1.a", "2.a"]) == ["1.a", "2.a"]  # would no longer be unique
    assert prompt_names(["707-320", "737-200"]) == ["320", "200"]


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


def test_classes_that_read_the_same_are_refused(make_folder: Callable[..., Path]):
    root = make_folder(images=4)
    shutil.copytree(root / "red_bird", root / "red bird")
    with pytest.raises(UserError, match="2 classes read 'red bird' in a prompt"):
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


def test_a_class_only_in_val_is_refused(make_folder: Callable[..., Path]):
    root = make_folder(images=4, splits=("train", "val"))
    shutil.copytree(root / "val/red_bird", root / "val/pink_bird")
    with pytest.raises(UserError, match="no training image of 1 class.*pink_bird"):
        load_manifest(DataConfig(source=str(root)))


def test_bare_aviary_names_tell_nothing():
    told, bare = (load_manifest(DataConfig(source=f"aviary:species=3,images=3{end}")) for end in ("", ",bare=1"))
    assert told.class_names == bare.class_names
    assert [info.prompt_name for info in bare.classes] == bare.class_names
    assert all(info.prompt_name.startswith("bird with ") for info in told.classes)
    assert np.array_equal(told.digests, bare.digests)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("aviary:spices=3", "unknown aviary option 'spices'.*Did you mean 'species'"),
        ("aviary:images=0", "aviary:images must be at least 1 and"),
        ("aviary:species=x", "aviary:species must be a int"),
        ("aviary:species=1", "at least two class"),
    ],
)
def test_bad_aviary_options(source: str, message: str):
    with pytest.raises(UserError, match=message):
        load_manifest(DataConfig(source=source))


def test_digests_identify_bytes(make_folder: Callable[..., Path]):
    manifest = load_manifest(DataConfig(source=str(make_folder(images=6))))
    assert manifest.digests.shape == (18, 16)
    assert len(np.unique(manifest.digests, axis=0)) == 18

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from pictures import write_image

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


def test_a_folder_around_the_classes_is_named_whatever_lies_beside_it(make_folder: Callable[..., Path], tmp_path: Path):
    make_folder(images=4, root=tmp_path / "birds/images")
    (tmp_path / "birds/labels").mkdir()
    (tmp_path / "birds/labels/boxes.xml").write_text("x")
    with pytest.raises(UserError, match=r"one class folder images/ with images: .* give .*birds/images as DATA"):
        load_manifest(DataConfig(source=str(tmp_path / "birds")))


def test_folders_around_the_classes_of_each_split_are_moved_up(make_folder: Callable[..., Path], tmp_path: Path):
    """To give one of them as DATA would lose the splits."""
    for split in ("train", "val"):
        make_folder(images=4, root=tmp_path / "birds" / split / "images")
    with pytest.raises(UserError, match=r"images/ in each split: .* move them up, as in train/blue_bird/"):
        load_manifest(DataConfig(source=str(tmp_path / "birds")))


@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train",)])
def test_images_beside_the_splits_are_counted(make_folder: Callable[..., Path], splits: tuple[str, ...]):
    root = make_folder(images=4, splits=splits)
    shutil.copy(root / "train/red_bird/000.jpg", root / "overview.jpg")
    problems = load_manifest(DataConfig(source=str(root))).problems
    assert [(own.path, own.detail) for own in problems if own.kind == "unused"] == [
        (root / "overview.jpg", "beside the splits, in none of them")
    ]


def test_all_class_folders_without_images_are_named_at_once(make_folder: Callable[..., Path]):
    root = make_folder(images=4)
    (root / "wandb").mkdir()
    (root / "grey_bird").mkdir()
    (root / "grey_bird/notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"2 class folders hold no images \(.*grey_bird, .*wandb\): 1 file was not"):
        load_manifest(DataConfig(source=str(root)))


def a_run(folder: Path, *names: str) -> None:
    """What a run leaves in its folder, with a picture."""
    for name in names or ("config.yaml", "env.json", "gallery.png", "model/config.json", "mine.txt"):
        write_image(folder / name, (9, 9, 9), seed=0) if name.endswith("png") else write_text(folder / name)


def write_text(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("[]")


@pytest.mark.parametrize("place", ["runs/photos-ce-s0", "runs/demo/ce-s0", "my run", "red_bird/run"])
@pytest.mark.parametrize("splits", [(), ("train", "test")])
def test_linnets_own_runs_are_no_classes(make_folder: Callable[..., Path], place: str, splits: tuple[str, ...]):
    """cd photos; linnet distill . -- twice."""
    root = make_folder(images=4, splits=splits)
    before = load_manifest(DataConfig(source=str(root)))
    a_run(root / ("train" if splits and place.startswith("red") else "") / place)
    after = load_manifest(DataConfig(source=str(root)))
    assert after.content_hash == before.content_hash and after.paths == before.paths
    assert {problem.detail for problem in after.problems} == {"of runs of linnet"} and len(after.problems) == 5


@pytest.mark.parametrize("names", [(".lock",), (".lock", "env.json"), ("env.json", "train.log")])
def test_a_run_that_was_killed_at_its_start_is_one(make_folder: Callable[..., Path], names: tuple[str, ...]):
    root = make_folder(images=4)
    a_run(root / "runs" / "x", *names)
    assert len(load_manifest(DataConfig(source=str(root))).classes) == 3


def test_a_class_called_runs_is_a_class(make_folder: Callable[..., Path]):
    root = make_folder(images=4)
    shutil.copytree(root / "red_bird", root / "runs")
    write_image(root / "runs" / "own.jpg", (9, 9, 9), seed=0)
    write_text(root / "runs" / "config.yaml")
    assert "runs" in load_manifest(DataConfig(source=str(root))).class_names


def test_a_class_without_images_says_what_it_has_instead(make_folder: Callable[..., Path]):
    root = make_folder(images=4)
    for path in (root / "red_bird").iterdir():
        path.unlink()
        path.symlink_to("/nowhere/" + path.name)
    with pytest.raises(UserError, match=r"red_bird holds no images: 4 files were not used: 4 behind dangling links"):
        load_manifest(DataConfig(source=str(root)))


@pytest.mark.parametrize("splits", [(), ("train", "val")])
def test_two_spellings_of_one_name_are_one_class(make_folder: Callable[..., Path], splits: tuple[str, ...]):
    root = make_folder(images=4, splits=splits)
    composed, taken_apart = (unicodedata.normalize(form, "Bläuling") for form in ("NFC", "NFD"))
    first, last = (root / (splits[i] if splits else "") for i in (0, -1))
    (first / "red_bird").rename(first / composed)
    (last / ("red_bird" if splits else "blue_bird")).rename(last / taken_apart)
    if not (last / taken_apart).is_dir() or len(list(last.iterdir())) != 3:
        pytest.skip("this file system knows one spelling only")
    manifest = load_manifest(DataConfig(source=str(root)))
    assert manifest.class_names.count(composed) == 1 and taken_apart not in manifest.class_names
    assert (manifest.labels == manifest.class_names.index(composed)).sum() == 8


@pytest.mark.parametrize("depth", ["birds", "download/birds"])
@pytest.mark.parametrize("names", [("train", "test"), ("Training", "valid", "testing"), ("train",)])
def test_a_folder_around_the_splits_is_named(make_folder: Callable[..., Path], depth: str, names: tuple[str, ...]):
    root = make_folder(images=4, splits=names)
    outer = root.parent / "outer"
    (outer / depth).parent.mkdir(parents=True)
    root.rename(outer / depth)
    (outer / "__MACOSX").mkdir()
    with pytest.raises(UserError, match=f"give {outer / depth} as DATA"):
        load_manifest(DataConfig(source=str(outer)))
    assert len(load_manifest(DataConfig(source=str(outer / depth)))) == 12 * len(names)


def test_splits_inside_the_classes_are_not_mixed_without_a_word(make_folder: Callable[..., Path]):
    root = make_folder(images=4, splits=("train", "test"))
    for split in ("train", "test"):
        for folder in list((root / split).iterdir()):
            (root / folder.name).mkdir(exist_ok=True)
            folder.rename(root / folder.name / split)
        (root / split).rmdir()
    with pytest.raises(UserError, match="every folder, such as blue_bird/, has splits in it: turn them round"):
        load_manifest(DataConfig(source=str(root)))


def test_a_folder_around_the_classes_is_named(make_folder: Callable[..., Path]):
    root = make_folder(images=4)
    root.rename(root.parent / "images")
    (root / "x").parent.mkdir()
    (root.parent / "images").rename(root / "images")
    with pytest.raises(UserError, match=f"if its 3 folders are the classes, give {root / 'images'} as DATA"):
        load_manifest(DataConfig(source=str(root)))


@pytest.mark.parametrize("thing", ["loose", "unknown", "broken", "unreadable class"])
def test_a_test_split_that_is_switched_off_is_not_looked_at(make_folder: Callable[..., Path], thing: str):
    root = make_folder(images=10, splits=("train", "test"))
    if thing == "loose":
        shutil.copy(root / "test/red_bird/000.jpg", root / "test/0001.jpg")
    elif thing == "unknown":
        (root / "test/red_bird").rename(root / "test/unknown")
    elif thing == "broken":
        (root / "test/red_bird/000.jpg").write_bytes(b"nothing")
    else:
        remove_all(root / "test/red_bird")
    with pytest.raises(UserError) as error:
        load_manifest(DataConfig(source=str(root)))
    assert "--data.test none" in str(error.value) or thing in ("broken", "unreadable class")
    manifest = load_manifest(DataConfig(source=str(root), test="none"))
    assert set(manifest.splits) == {"train", "val"} and len(manifest) == 30 and manifest.problems == ()


def test_a_name_that_is_too_long_is_no_folder():
    with pytest.raises(UserError, match="no such folder"):
        load_manifest(DataConfig(source="x" * 300))

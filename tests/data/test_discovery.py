"""What is found below a folder, seen through a folder of classes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import write_image
from PIL import Image

from linnet.config import DataConfig
from linnet.data.decoding import suffixes
from linnet.data.load import load_manifest
from linnet.data.problems import in_words
from linnet.errors import UserError


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "__MACOSX", "#recycle", "@Recycle", "$RECYCLE.BIN", "$Recycle.Bin", "RECYCLER", "FOUND.000", "Network Trash Folder", "Temporary Items", "LOST.DIR", "lost+found", "System Volume Information", ".git", ".mine", ".Trash-1000", ".ipynb_checkpoints"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["", "red_bird", "red_bird/old"])
def test_folders_of_systems_are_no_classes_and_hold_no_photos(make_folder: Callable[..., Path], name: str, place: str):
    root = make_folder(images=4)
    before = load_manifest(DataConfig(source=str(root))).paths
    for i in range(2):
        write_image(root / place / name / "photo.jpg" / f"SYNOPHOTO_THUMB_{i}.jpg", (9, 9, 9), seed=i)
    manifest = load_manifest(DataConfig(source=str(root)))
    assert manifest.paths == before
    assert len(manifest.problems) == 2 and all(
        name in own.detail or "hidden" in own.detail for own in manifest.problems
    )


@pytest.mark.parametrize(
    "name",
    ["__background__", "_other", "@home", "#1", "~other", "(empty)", "$5", "lost and found", "recycler", "found"],
)
def test_unusual_classes_are_classes(make_folder: Callable[..., Path], name: str):
    root = make_folder(images=4)
    (root / "red_bird").rename(root / name)
    assert name in load_manifest(DataConfig(source=str(root))).class_names


def test_what_is_no_photo_is_counted_by_its_reason(make_folder: Callable[..., Path]):
    root = make_folder(images=4)
    for name in ("notes.txt", "red_bird/notes.txt", "red_bird/boxes.xml", "red_bird/video.mp4"):
        (root / name).write_text("x")
    for name in ("._000.jpg", ".DS_Store", "THUMBS.DB", "Desktop.ini"):
        (root / "red_bird" / name).write_text("x")
    shutil.copy(root / "red_bird/000.jpg", root / "red_bird/photo")
    if ".heic" not in suffixes():
        (root / "red_bird" / "photo.heic").write_text("x")
    (root / "red_bird" / "annexed.jpg").symlink_to("../.git/annex/objects/gone.jpg")
    manifest = load_manifest(DataConfig(source=str(root)))
    assert len(manifest) == 12
    words = in_words(manifest.problems)
    assert words.startswith(f"{10 + (root / 'red_bird/photo.heic').exists()} files were not used: ")
    for part in (
        *(
            "2 not images (.txt)",
            "1 not images (.xml)",
            "1 hidden",
            "1 made by macOS (.DS_Store)",
            "Windows (THUMBS.DB)",
        ),
        *("1 with an image inside, but not by name (no suffix)", "1 behind dangling links"),
    ):
        assert part in words
    assert "1 in need of pillow-heif (.heic: pip install 'linnet[heif]')" in words or ".heic" in suffixes()


@pytest.mark.parametrize("suffix", ["JPG", "jfif", "jpe", "JPEG", "webp", "bmp", "tif", "TIFF", "gif", "ppm", "pgm", "tga", "avif", "jp2", "qoi"])  # fmt: skip
def test_all_that_pillow_opens_is_read(make_folder: Callable[..., Path], suffix: str):
    if f".{suffix.lower()}" not in suffixes():
        pytest.skip(f"this Pillow does not read {suffix}")
    root = make_folder(images=4)
    try:
        Image.open(root / "red_bird/000.jpg").convert("L" if suffix == "pgm" else "RGB").save(
            root / f"red_bird/x.{suffix}"
        )
    except (ValueError, OSError, KeyError):
        pytest.skip(f"this Pillow does not write {suffix}")
    assert root / f"red_bird/x.{suffix}" in load_manifest(DataConfig(source=str(root))).paths


def test_what_needs_another_program_is_not_read():
    assert not {".pdf", ".eps", ".ps", ".mpg", ".h5", ".wmf"} & suffixes()


def test_links_are_followed_once(make_folder: Callable[..., Path], tmp_path: Path):
    root = make_folder(images=4)
    (root / "red_bird").rename(tmp_path / "elsewhere")
    (root / "red_bird").symlink_to(tmp_path / "elsewhere")  # a class folder
    shutil.copytree(root / "blue_bird", tmp_path / "more")
    (root / "green_bird" / "more").symlink_to(tmp_path / "more")  # a folder in a class folder
    (root / "green_bird" / "again").symlink_to(tmp_path / "more")
    (root / "green_bird" / "loop").symlink_to(root / "green_bird")
    (root / "green_bird" / "all").symlink_to(root)
    (root / "blue_bird" / "link.jpg").symlink_to(tmp_path / "more" / "000.jpg")  # a file
    (root / "blue_bird" / "ring.jpg").symlink_to("ring.jpg")
    manifest = load_manifest(DataConfig(source=str(root)))
    assert np.bincount(manifest.labels).tolist() == [5, 8, 4]
    reasons = [problem.detail for problem in manifest.problems]
    assert sorted(reasons) == ["behind dangling links", *["links to folders that are read anyway"] * 3]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_not_waited_for(make_folder: Callable[..., Path]):
    root = make_folder(images=4)
    os.mkfifo(root / "red_bird" / "pipe.jpg")
    (problem,) = load_manifest(DataConfig(source=str(root))).problems
    assert problem.detail == "neither file nor folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_named(make_folder: Callable[..., Path]):
    root = make_folder(images=4)
    (root / "red_bird").chmod(0)
    with pytest.raises(UserError, match="cannot read the folder .*red_bird"):
        load_manifest(DataConfig(source=str(root)))
    (root / "red_bird").chmod(0o700)


@pytest.mark.parametrize("splits", [(), ("train", "val", "test")])
def test_each_folder_is_read_once(
    make_folder: Callable[..., Path], splits: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    root, read, real = make_folder(images=4, splits=splits), [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: (read.append(Path(folder)), real(folder))[1])
    load_manifest(DataConfig(source=str(root)))
    inside = [folder for folder in read if folder.is_relative_to(root)]
    assert sorted(inside) == sorted([root, *(path for path in root.rglob("*") if path.is_dir())])

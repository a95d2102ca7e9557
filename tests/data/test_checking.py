"""Images are checked before anything is done with them: all that cannot be read are named at once, or left out."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import write_deep_png, write_image
from PIL import Image

from linnet.config import DataConfig
from linnet.data import checking
from linnet.data.load import load_manifest
from linnet.errors import UserError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one."""
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cut(path: Path, bytes_left: int | float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: bytes_left if isinstance(bytes_left, int) else int(bytes_left * len(content))])
    return path


def test_all_that_cannot_be_read_is_named_at_once(make_folder: Callable[..., Path], cache: Path):
    root = make_folder(images=6)
    bad = [cut(root / name / "001.jpg", 0.5) for name in ("blue_bird", "green_bird")]
    with pytest.raises(UserError, match=r"cannot read 2 of 18 images: .*--data.on-error skip") as error:
        load_manifest(DataConfig(source=str(root)))
    assert all(str(path) in str(error.value) for path in bad)
    bad += [cut(root / "red_bird" / f"00{i}.jpg", 100 * i) for i in range(6)]
    bad += [cut(root / "blue_bird" / f"00{i}.jpg", 0) for i in range(2, 6)]
    with pytest.raises(UserError, match=r"cannot read 12 of 18 images: .*all are listed in .*\.csv") as error:
        load_manifest(DataConfig(source=str(root)))
    listed = Path(str(error.value).split("all are listed in ")[1].split(".csv")[0] + ".csv").read_text()
    assert all(str(path) in listed for path in bad) and listed.count("\n") == 13


@pytest.mark.parametrize("whites", [[16383, 9000], [8191, 8191], [16383, 65535]])
@pytest.mark.parametrize("colours", [False, True])
def test_all_images_tell_whether_sixteen_bits_are_used(
    make_folder: Callable[..., Path], cache: Path, whites: list[int], colours: bool
):
    """A camera of 14 bits gives images a quarter as bright; beside a bright one they are dark photos."""
    root = make_folder(images=6)
    for i, white in enumerate(whites):
        values_HW = np.linspace(0, white, 32 * 32).reshape(32, 32).astype(np.uint16)
        write_deep_png(root / "red_bird" / f"deep{i}.png", values_HW[..., None].repeat(3 if colours else 1, axis=2))
    if max(whites) > 16383:
        assert len(load_manifest(DataConfig(source=str(root)))) == 20
    else:
        with pytest.raises(UserError, match=r"cannot read 2 of 20 images: .*deep0.png \(like all of 16 bits here"):
            load_manifest(DataConfig(source=str(root)))
        assert len(load_manifest(DataConfig(source=str(root), on_error="skip"))) == 18


def test_a_class_that_cannot_be_read_at_all_says_why(make_folder: Callable[..., Path]):
    root = make_folder(images=3)
    for path in (root / "red_bird").iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"no training image of .*'red_bird': .*\(3 images cannot be read and were left"
    ):
        load_manifest(DataConfig(source=str(root), on_error="skip"))


def test_one_that_cannot_be_read_is_named(make_folder: Callable[..., Path]):
    root = make_folder(images=6)
    bad = cut(root / "red_bird" / "003.jpg", 0.5)
    with pytest.raises(UserError, match=rf"cannot read the image {bad} \(.*truncated.*\): replace or remove it, or"):
        load_manifest(DataConfig(source=str(root)))


@pytest.mark.parametrize("splits", [(), ("train", "val", "test")])
def test_what_cannot_be_read_may_be_left_out(make_folder: Callable[..., Path], splits: tuple[str, ...]):
    root = make_folder(images=6, splits=splits)
    plain = load_manifest(DataConfig(source=str(root)))
    bad = {cut(next((root / split).rglob("00*.jpg")), 0.5) for split in splits or ("",)}
    manifest = load_manifest(DataConfig(source=str(root), on_error="skip"))
    assert set(plain.paths) - set(manifest.paths) == bad
    assert {problem.path for problem in manifest.problems if problem.kind == "unreadable"} == bad
    removed = shutil.copytree(root, root.parent / "without them")
    for path in bad:
        (removed / path.relative_to(root)).unlink()
    assert load_manifest(DataConfig(source=str(removed))).content_hash == manifest.content_hash


def test_a_class_that_is_broken_as_a_whole_is_not_left_out(make_folder: Callable[..., Path]):
    root = make_folder(images=6)
    for path in (root / "red_bird").iterdir():
        cut(path, 0.5)
    with pytest.raises(UserError, match="no training image of 1 class.*red_bird"):
        load_manifest(DataConfig(source=str(root), on_error="skip"))


def test_a_jpeg_without_its_last_bytes_is_used_and_noted(make_folder: Callable[..., Path]):
    root = make_folder(images=6)
    short = cut(root / "red_bird" / "003.jpg", -2)
    for on_error in ("stop", "skip"):
        manifest = load_manifest(DataConfig(source=str(root), on_error=on_error))
        assert len(manifest) == 18
        assert [(problem.kind, problem.path) for problem in manifest.problems] == [("incomplete", short)]


def test_what_is_not_used_is_not_checked(make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    root, looked_at = make_folder(images=6, splits=("train", "val", "test")), []
    monkeypatch.setattr("linnet.data.load.examine", lambda manifest: looked_at.append(manifest) or {})
    manifest = load_manifest(DataConfig(source=str(root), limit_per_class=3))
    assert looked_at[-1].paths == manifest.paths and len(manifest) == 9 + 18 + 18
    load_manifest(DataConfig(source=str(root)), training=False)
    assert set(looked_at[-1].splits) == {"val", "test"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_file_without_permission_is_one_of_them(make_folder: Callable[..., Path], on_error: str, cache: Path):
    root = make_folder(images=6)
    (root / "red_bird" / "003.jpg").chmod(0)
    config = DataConfig(source=str(root), on_error=on_error)
    if on_error == "stop":
        with pytest.raises(UserError, match=r"cannot read the image .*003.jpg \(Permission denied\)"):
            load_manifest(config)
    else:
        assert len(load_manifest(config)) == 17
    (root / "red_bird" / "003.jpg").chmod(0o600)
    assert len(load_manifest(config)) == 18


def test_a_file_that_the_disk_does_not_give_is_looked_at_again(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, cache: Path
):
    root = make_folder(images=6)
    real = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == "003.jpg":
            raise OSError(5, "Input/output error")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(UserError, match="cannot read 3 of 18 images: .*Input/output error"):
            load_manifest(DataConfig(source=str(root)))
    assert len(load_manifest(DataConfig(source=str(root)))) == 18


def test_an_image_is_checked_once(make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, cache: Path):
    root = make_folder(images=6)
    short = cut(root / "red_bird" / "003.jpg", -2)
    first = load_manifest(DataConfig(source=str(root)))
    with monkeypatch.context() as patch:
        patch.setattr(checking, "decode", lambda *_, **__: pytest.fail("decoded again"))
        again = load_manifest(DataConfig(source=str(root)))
    assert again.problems == first.problems and again.problems[0].path == short
    for content in ("", "{", "[]", '{"x": 1}'):  # a damaged file is made again
        (file,) = (cache / "checks").glob("*.json")
        file.write_text(content)
        assert load_manifest(DataConfig(source=str(root))).problems == first.problems


def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are decoded for a check, from now on."""
    names, real = [], checking._examine
    monkeypatch.setattr(checking, "_examine", lambda path: (names.append(path.name), real(path))[1])
    return names


def test_of_another_set_only_what_was_never_checked_is_decoded(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, cache: Path
):
    root = make_folder(images=6)
    write_deep_png(root / "red_bird" / "deep.png", np.full((32, 32, 1), 65535, np.uint16))
    short = cut(root / "red_bird" / "003.jpg", -2)
    load_manifest(DataConfig(source=str(root)))
    write_image(root / "red_bird" / "new.jpg", (7, 90, 200), seed=1234)
    names = looked_at(monkeypatch)
    manifest = load_manifest(DataConfig(source=str(root)))
    # what is not in order, or may not be beside others, is looked at again
    assert sorted(names) == ["003.jpg", "deep.png", "new.jpg"]
    assert [(problem.kind, problem.path) for problem in manifest.problems] == [("incomplete", short)]
    for file in (cache / "checks").glob("fine-*"):
        file.write_bytes(file.read_bytes()[:-3])
    write_image(root / "red_bird" / "newer.jpg", (7, 90, 201), seed=1235)
    names.clear()
    load_manifest(DataConfig(source=str(root)))
    assert len(names) == 21  # a damaged file is ignored


def test_a_check_that_is_interrupted_goes_on_where_it_was(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, cache: Path
):
    root, real = make_folder(images=6), checking._examine
    for file in (cache / "checks").glob("*"):
        file.unlink()

    def interrupted(path: Path) -> object:
        if path.parent.name == "red_bird":
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(checking, "_examine", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_manifest(DataConfig(source=str(root)))
    names = looked_at(monkeypatch)
    load_manifest(DataConfig(source=str(root)))
    assert len(names) == 6  # red birds come last: all before them were done


def test_drawn_birds_need_no_check(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("linnet.data.load.examine", lambda *_: pytest.fail("checked"))
    load_manifest(DataConfig(source="aviary:species=2,images=3"))


def test_a_range_that_is_not_known_is_found_before_training(make_folder: Callable[..., Path]):
    root = make_folder(images=6)
    for path in root.rglob("*.jpg"):
        Image.open(path).convert("I").save(path.with_suffix(".tif"))
        path.unlink()
    with pytest.raises(UserError, match=r"cannot read 18 of 18 images: .*convert it to 8 bits"):
        load_manifest(DataConfig(source=str(root)))


def test_pixels_come_out_as_they_would_without_the_check(tmp_path: Path):
    """The check decodes JPEGs at an eighth of their size: nothing else may do so."""
    from linnet.data.images import read_image

    path = write_image(tmp_path / "x.jpg", (1, 2, 3), seed=0, size=(400, 300))
    assert checking._examine(path)[0] is None
    assert read_image(path).size == (400, 300)

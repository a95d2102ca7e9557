import errno
from pathlib import Path

import numpy as np
import pytest
from pictures import write_image

from linnet.data import store as module
from linnet.data.digests import digest_files
from linnet.data.images import CropMode, Fit, eval_pixels, read_image, train_pixels
from linnet.data.store import Images, stored_bytes
from linnet.errors import UserError


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [write_image(tmp_path / f"{i}.png", (100, 50 * i, 20), seed=i, size=(60 + 10 * i, 50)) for i in range(4)]


def test_the_store_of_squashed_images_is_another_one(paths: list[Path]):
    digests = digest_files(paths)
    center, squash = (Images(paths, digests, 32, "eval", crop_mode=mode) for mode in ("center", "squash"))
    live = Images(paths, digests, 32, "eval", limit_gb=0.0, crop_mode="squash")
    for row, path in enumerate(paths):
        assert np.array_equal(squash[row], eval_pixels(read_image(path), 32, "squash"))
        assert np.array_equal(squash[row], live[row])
        assert not np.array_equal(squash[row], center[row])
    train = [Images(paths, digests, 32, "train", crop_mode=mode) for mode in ("center", "squash")]
    assert train[0].file == train[1].file  # training images are stored uncut


@pytest.mark.parametrize("mode", ["center", "squash"])
def test_the_store_of_a_smaller_share_is_another_one(paths: list[Path], mode: CropMode):
    digests = digest_files(paths)
    whole, part = (Images(paths, digests, 32, "eval", crop_mode=mode, crop_pct=share) for share in (1.0, 0.8))
    live = Images(paths, digests, 32, "eval", 0.0, mode, 0.8)
    for row, path in enumerate(paths):
        assert np.array_equal(part[row], eval_pixels(read_image(path), 32, mode, 0.8))
        assert np.array_equal(part[row], live[row])
        assert not np.array_equal(part[row], whole[row])
    train = [Images(paths, digests, 32, "train", crop_pct=share) for share in (1.0, 0.8)]
    assert train[0].file == train[1].file


def test_other_pixels_are_another_store(paths: list[Path], monkeypatch: pytest.MonkeyPatch):
    digests = digest_files(paths)
    before = Images(paths, digests, 32, "eval").file
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert Images(paths, digests, 32, "eval").file != before


def test_stored_images_are_the_decoded_ones(paths: list[Path]):
    digests = digest_files(paths)
    for fit, to_pixels in (("train", train_pixels), ("eval", eval_pixels)):
        stored = Images(paths, digests, 32, fit)
        live = Images(paths, digests, 32, fit, limit_gb=0.0)
        assert stored.stored
        assert not live.stored
        for row, path in enumerate(paths):
            assert np.array_equal(stored[row], to_pixels(read_image(path), 32))
            assert np.array_equal(stored[row], live[row])


def test_images_are_decoded_once(paths: list[Path], monkeypatch: pytest.MonkeyPatch):
    digests = digest_files(paths)
    Images(paths, digests, 24, "eval")
    monkeypatch.setattr(module, "decode_in_order", lambda *_: pytest.fail("decoded again"))
    assert len(Images(paths, digests, 24, "eval")) == 4


def test_changed_bytes_are_decoded_again(paths: list[Path]):
    before = Images(paths, digest_files(paths), 32, "eval")[0].copy()
    write_image(paths[0], (0, 0, 255), seed=9)
    after = Images(paths, digest_files(paths), 32, "eval")[0]
    assert np.abs(before.astype(int) - after).mean() > 20


def test_a_store_cut_short_is_written_again(paths: list[Path]):
    digests = digest_files(paths)
    store = Images(paths, digests, 32, "eval")
    expected = store[3].copy()
    store.file.write_bytes(store.file.read_bytes()[:-10])
    assert np.array_equal(Images(paths, digests, 32, "eval")[3], expected)


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, cache: Path
):
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "decode_in_order", no_space)
    before = set((cache / "images").glob("*")) | set((cache / "images").glob(".*"))
    with pytest.raises(UserError, match="the disk is full"):
        Images(paths, digest_files(paths), 40, "train")
    assert set((cache / "images").glob("*")) | set((cache / "images").glob(".*")) == before


@pytest.mark.parametrize("part", ["pixels", "index"])
@pytest.mark.parametrize("damage", ["zeros", "empty", "cut", "one byte"])
def test_a_damaged_store_is_noticed_and_written_again(
    paths: list[Path], part: str, damage: str, caplog: pytest.LogCaptureFixture
):
    """A file of the right size that is full of zeros would be a data set of black images."""
    digests = digest_files(paths)
    store = Images(paths, digests, 32, "train")
    expected = [image.copy() for image in store]
    file = store.file if part == "pixels" else store.file.with_suffix(".index.npy")
    content = file.read_bytes()
    middle = len(content) - 20
    spoilt = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    file.write_bytes({"zeros": bytes(len(content)), "empty": b"", "cut": content[:-10], "one byte": spoilt}[damage])
    again = Images(paths, digests, 32, "train")
    assert all(np.array_equal(image, wanted) for image, wanted in zip(again, expected, strict=True))
    assert caplog.text.count("is damaged: the images are decoded again") == 1
    caplog.clear()
    Images(paths, digests, 32, "train")
    assert not caplog.text


def test_what_a_killed_process_left_is_cleared(paths: list[Path]):
    digests = digest_files(paths)
    folder = Images(paths, digests, 32, "eval").file.parent
    for name in (".abc.u8.4711.tmp", ".abc.u8.0a1b2c3d.tmp"):
        (folder / name).write_bytes(b"")
    Images(paths, digests, 32, "eval")
    assert not list(folder.glob(".*.tmp"))


def test_room_for_a_store_is_asked_for_before_it_is_decoded(paths: list[Path], monkeypatch: pytest.MonkeyPatch):
    from linnet import files

    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    monkeypatch.setattr(module, "decode_in_order", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match="the store of decoded images needs at least .* MB in .*images"):
        Images(paths, digest_files(paths), 33, "eval")


@pytest.mark.parametrize("shape", [(80, 60), (60, 80), (50, 50), (300, 40), (900, 40)])
def test_what_a_set_takes_is_known_before_it_is_decoded(tmp_path: Path, shape: tuple[int, int]):
    paths = [write_image(tmp_path / f"{i}.jpg", (9, 50, 20), seed=i, size=shape) for i in range(3)]
    for fit in ("train", "eval"):
        store = Images(paths, digest_files(paths), 32, fit)
        assert stored_bytes(paths, 32, fit) == store.file.stat().st_size == sum(image.nbytes for image in store)


def test_the_limit_is_compared_with_what_the_set_takes(paths: list[Path]):
    """Not with what it would take if all its images were twice as long as wide."""
    digests = digest_files(paths)
    for fit in ("train", "eval"):
        size = Images(paths, digests, 32, fit).file.stat().st_size
        assert Images(paths, digests, 32, fit, limit_gb=size / 1e9).stored
        assert not Images(paths, digests, 32, fit, limit_gb=(size - 1) / 1e9).stored


def test_the_estimate_is_that_of_a_sample_over_the_whole_set(paths: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MEASURED", 2)
    many = [paths[0]] * 99 + [paths[3]]  # 60 x 50 and 90 x 50 pixels, 37 of the shorter side
    assert stored_bytes(many, 32, "train") == 100 * 3 * 37 * (44 + 66) // 2
    many[0] = many[0].with_name("gone.png")  # found again when it is decoded
    assert stored_bytes(many, 32, "train") == 100 * 3 * 37 * (74 + 66) // 2


def test_damage_that_the_sample_did_not_meet_is_found_when_the_image_is_read(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    digests = digest_files(paths)
    store = Images(paths, digests, 32, "train")
    expected, content = [image.copy() for image in store], bytearray(store.file.read_bytes())
    content[expected[0].nbytes + 5] ^= 1
    store.file.write_bytes(content)
    monkeypatch.setattr(module, "CHECKED", 0)
    again = Images(paths, digests, 32, "train")
    assert not again.is_new and not caplog.text
    for _ in range(2):
        assert all(np.array_equal(image, wanted) for image, wanted in zip(again, expected, strict=True))
        assert np.array_equal(again[1], expected[1])
    assert caplog.text.count("is damaged: what is damaged is decoded from its file") == 1
    assert np.array_equal(again._bytes[: expected[0].nbytes], expected[0].ravel())  # the others come from the store
    mended = Images(paths, digests, 32, "train")
    assert mended.is_new
    assert mended.file.read_bytes() == b"".join(image.tobytes() for image in expected)


def test_each_image_is_compared_once(paths: list[Path], monkeypatch: pytest.MonkeyPatch):
    store = Images(paths, digest_files(paths), 32, "train")  # four images: the sample has all of them
    monkeypatch.setattr(module.zlib, "crc32", lambda *_: pytest.fail("compared again"))
    assert len([image.sum() for image in store]) == 4


@pytest.mark.parametrize("fit", ["eval", "train"])
def test_jpegs_that_are_decoded_smaller_are_another_store(tmp_path: Path, fit: Fit):
    photo = [write_image(tmp_path / "large.jpg", (200, 80, 10), seed=0, size=(640, 480))]
    small = [write_image(tmp_path / "small.jpg", (200, 80, 10), seed=0, size=(100, 80))]
    for paths, same in ((photo, False), (small, True)):
        digests = digest_files(paths)
        full, scaled = (Images(paths, digests, 32, fit, jpeg=jpeg) for jpeg in ("full", "scaled"))
        assert full.file != scaled.file
        assert np.array_equal(scaled[0], Images(paths, digests, 32, fit, 0.0, jpeg="scaled")[0])
        assert np.array_equal(full[0], scaled[0]) == same
        assert np.abs(full[0].astype(int) - scaled[0].astype(int)).mean() < 3  # of noise; photos differ by less

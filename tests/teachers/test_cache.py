import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_image

from linnet.data import batches as data_batches
from linnet.data.digests import digest_files
from linnet.data.images import read_image
from linnet.errors import UserError
from linnet.teachers import cache as module
from linnet.teachers import load_teacher
from linnet.teachers.cache import TeacherCache, center_pixels
from linnet.teachers.open_clip import OpenClipTeacher

PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic", "resize_mode": "shortest"}


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [write_image(tmp_path / f"{i}.png", (10 * i, 250 - 20 * i, 20), seed=i) for i in range(12)]


@pytest.fixture
def teacher(open_clip_folder: Callable[..., Path]) -> OpenClipTeacher:
    return load(open_clip_folder())


def load(folder: Path) -> OpenClipTeacher:
    teacher = load_teacher(f"open_clip:local-dir:{folder}")
    assert isinstance(teacher, OpenClipTeacher)
    return teacher


def filled(teacher: OpenClipTeacher, paths: list[Path], root: Path, **options: str) -> TeacherCache:
    cache = TeacherCache(teacher, root=root, **options)  # type: ignore[arg-type]
    cache.fill(digest_files(paths), center_pixels(teacher, paths))
    return cache


def test_cached_rows_are_the_live_ones(teacher: OpenClipTeacher, paths: list[Path], tmp_path: Path):
    cache = filled(teacher, paths, tmp_path / "c")
    live = teacher.embed_images(torch.stack([teacher.eval_transform(read_image(path)) for path in paths]))
    cosine = torch.nn.functional.cosine_similarity(cache.rows(digest_files(paths)).float(), live)
    assert cosine.min() > 0.999
    other = torch.nn.functional.cosine_similarity(cache.rows(digest_files(paths)).float(), live.roll(1, 0))
    assert other.min() < 0.999  # or the line above could not fail


def test_only_new_images_are_computed(teacher: OpenClipTeacher, paths: list[Path], tmp_path: Path):
    assert filled(teacher, paths[:8], tmp_path / "c").computed == 8
    assert filled(teacher, paths, tmp_path / "c").computed == 4
    again = filled(teacher, paths, tmp_path / "c")
    assert again.computed == 0
    assert again.rows(digest_files(paths[3:5])).shape == (2, 16)


def test_of_two_that_ask_the_same_one_computes_and_the_other_waits(
    teacher: OpenClipTeacher, paths: list[Path], tmp_path: Path
):
    first, second = (TeacherCache(teacher, root=tmp_path / "c") for _ in range(2))
    digests, pixels = digest_files(paths), center_pixels(teacher, paths)
    begun, failed = threading.Event(), list[BaseException]()

    def fill_second() -> None:
        try:
            second.fill(digests, pixels)
        except BaseException as error:
            failed.append(error)

    other = threading.Thread(target=fill_second)

    def slow(rows: Sequence[int]) -> torch.Tensor:
        if not begun.is_set():
            begun.set()
            other.start()
            other.join(1)  # it would be done by now if it did not wait
        return pixels(rows)

    first.fill(digests, slow)
    other.join()
    assert not failed
    assert (first.computed, second.computed) == (len(paths), 0)
    assert torch.equal(first.rows(digests), second.rows(digests))


def test_a_moved_file_is_known_and_changed_bytes_are_not(teacher: OpenClipTeacher, paths: list[Path], tmp_path: Path):
    first = filled(teacher, paths, tmp_path / "c")
    moved = paths[0].rename(tmp_path / "moved.png")
    assert filled(teacher, [moved], tmp_path / "c").computed == 0
    write_image(moved, (255, 0, 0), seed=77)
    changed = filled(teacher, [moved], tmp_path / "c")
    assert changed.computed == 1
    assert not torch.equal(changed.rows(digest_files([moved])), first.rows(digest_files([paths[1]])))


def test_another_teacher_preprocessing_size_or_policy_is_another_space(
    open_clip_folder: Callable[..., Path], paths: list[Path], tmp_path: Path
):
    """A cache keyed by path only would be stale, silently, after any of these changes."""
    root = tmp_path / "c"
    filled(load(open_clip_folder(0)), paths, root)
    assert filled(load(open_clip_folder(1)), paths, root).computed == len(paths)
    one_weight = load(open_clip_folder(0))
    with torch.no_grad():
        next(one_weight.network.parameters()).view(-1)[0] += 1e-3
    assert filled(one_weight, paths, root).computed == len(paths)
    assert filled(load(open_clip_folder(0, preprocess={**PREPROCESS, "mean": [0.5] * 3})), paths, root).computed == len(
        paths
    )
    assert filled(load(open_clip_folder(0, quick_gelu=True)), paths, root).computed == len(paths)  # the same weights
    assert filled(load(open_clip_folder(0, image_size=48)), paths, root).computed == len(paths)
    assert filled(load(open_clip_folder(0)), paths, root, policy="replay:4|light|1|seed 0").computed == len(paths)
    assert filled(load(open_clip_folder(0)), paths, root).computed == 0


@pytest.mark.parametrize("place", [0, 9, 0.5, -1])
def test_a_flipped_byte_anywhere_is_noticed_and_computed_again(
    teacher: OpenClipTeacher, paths: list[Path], tmp_path: Path, place: float, caplog: pytest.LogCaptureFixture
):
    root = tmp_path / "c"
    before = filled(teacher, paths, root)
    expected = before.rows(digest_files(paths)).clone()
    (shard,) = before.folder.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[place if isinstance(place, int) else len(content) // 2] ^= 1
    shard.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        after = filled(teacher, paths, root)
    assert "damaged" in caplog.text
    assert after.computed == len(paths)
    assert torch.equal(after.rows(digest_files(paths)), expected)
    assert filled(teacher, paths, root).computed == 0


def shards(cache: TeacherCache) -> int:
    return len(list(cache.folder.glob("*.safetensors")))


def test_a_stopped_process_loses_nothing_that_was_computed(
    teacher: OpenClipTeacher, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "LOOKED", 5)
    cache = TeacherCache(teacher, root=tmp_path / "c")

    def die(done: int) -> None:
        if done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fill(digest_files(paths), center_pixels(teacher, paths), progress=die)
    whole = filled(teacher, paths, tmp_path / "c")
    assert whole.computed == len(paths) - 10
    live = teacher.embed_images(torch.stack([teacher.eval_transform(read_image(path)) for path in paths]))
    assert torch.allclose(whole.rows(digest_files(paths)).float(), live, atol=1e-3)  # every row is its own image's


def test_an_image_that_fails_does_not_take_the_others_with_it(
    teacher: OpenClipTeacher, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "LOOKED", 5)
    digests = digest_files(paths)
    paths[11].write_bytes(b"broken")
    cache = TeacherCache(teacher, root=tmp_path / "c")
    with pytest.raises(UserError):
        cache.fill(digests, center_pixels(teacher, paths))
    assert filled(teacher, paths[:10], tmp_path / "c").computed == 0


@pytest.mark.parametrize(("rows", "seconds", "files"), [(5, 1e9, 2), (10**6, -1.0, 3), (10**6, 1e9, 1)])
def test_a_killed_process_loses_a_number_of_rows_or_seconds(
    teacher: OpenClipTeacher,
    paths: list[Path],
    tmp_path: Path,
    rows: int,
    seconds: float,
    files: int,
    monkeypatch: pytest.MonkeyPatch,
):
    """A slow teacher needs minutes for as many rows as make a file."""
    monkeypatch.setattr(module, "SHARD_ROWS", rows)
    monkeypatch.setattr(module, "SAVE_SECONDS", seconds)
    monkeypatch.setattr(module, "LOOKED", 4)
    cache, told = TeacherCache(teacher, root=tmp_path / "c"), []
    cache.fill(digest_files(paths), center_pixels(teacher, paths), progress=lambda done: told.append(shards(cache)))
    assert shards(cache) == files
    assert told[0] == (1 if seconds < 0 else 0)
    assert cache.computed == len(paths)


def test_a_large_network_on_a_cpu_gets_few_images_at_once(
    teacher: OpenClipTeacher, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of as many at once a model that takes seconds for each would show nothing for minutes; of large images more would
    not stay in the caches."""
    side = max(teacher.image_shape)
    for limit, pixels, batches in (
        (10**9, 12 * side**2, [12]),
        (10, 12 * side**2, [8, 12]),
        (10**9, 9 * side**2, [9, 12]),
    ):
        monkeypatch.setattr(module, "SMALL", limit)
        monkeypatch.setattr(data_batches, "CACHED_PIXELS", pixels)
        cache, told = TeacherCache(teacher, root=tmp_path / f"{limit}-{pixels}"), []
        cache.fill(digest_files(paths), center_pixels(teacher, paths), progress=told.append)
        assert told == batches


def test_while_the_teacher_looks_the_next_images_are_read_and_no_more(
    teacher: OpenClipTeacher, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Read one after the other, decoding and looking would take turns; read all at once, they would fill the memory."""
    monkeypatch.setattr(module, "LOOKED", 4)
    digests, pixels, look = digest_files(paths), center_pixels(teacher, paths), teacher.embed_images
    read, seen, arrived, waited_for = list[list[int]](), list[int](), threading.Semaphore(0), [2, 1, 0]

    def reading(rows: Sequence[int]) -> torch.Tensor:
        images = pixels(rows)
        read.append([*rows])
        arrived.release()
        return images

    def looking(images: torch.Tensor) -> torch.Tensor:
        for _ in range(waited_for[len(seen)]):
            assert arrived.acquire(timeout=60), "the next images are not read"
        seen.append(len(read))
        return look(images)

    monkeypatch.setattr(teacher, "embed_images", looking)
    cache = TeacherCache(teacher, root=tmp_path / "c")
    cache.fill(digests, reading)
    assert sorted(read) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert seen == [2, 3, 3]
    monkeypatch.setattr(teacher, "embed_images", look)
    assert torch.equal(cache.rows(digests), filled(teacher, paths, tmp_path / "other").rows(digests))


def test_twins_are_computed_once(teacher: OpenClipTeacher, paths: list[Path], tmp_path: Path):
    twin = tmp_path / "twin.png"
    twin.write_bytes(paths[0].read_bytes())
    assert filled(teacher, [*paths, twin], tmp_path / "c").computed == len(paths)


def views_filled(teacher: OpenClipTeacher, paths: list[Path], root: Path, views: int) -> TeacherCache:
    """``replay:K``: view k of an image is made darker by k steps."""
    cache, pixels = TeacherCache(teacher, "replay|light", root), center_pixels(teacher, paths)
    for view in range(views):
        cache.fill(digest_files(paths), lambda rows, view=view: pixels(rows) * 0.8**view, view)
    return cache


def test_more_views_compute_the_new_rows_only(teacher: OpenClipTeacher, paths: list[Path], tmp_path: Path):
    """A key without the view number would hand out view 0 for every view, or compute all of them again."""
    four = views_filled(teacher, paths, tmp_path / "c", 4)
    assert four.computed == 4 * len(paths)
    eight = views_filled(teacher, paths, tmp_path / "c", 8)
    assert eight.computed == 4 * len(paths)
    assert views_filled(teacher, paths, tmp_path / "c", 8).computed == 0
    digests, pixels = digest_files(paths), center_pixels(teacher, paths)(range(len(paths)))
    for view in range(8):
        rows = eight.rows(digests, view).float()
        assert torch.allclose(rows, teacher.embed_images(pixels * 0.8**view), atol=1e-3)
        assert not torch.allclose(rows, teacher.embed_images(pixels * 0.8 ** (view + 1)), atol=1e-3)
        assert view > 3 or torch.equal(rows, four.rows(digests, view).float())


def test_a_view_that_was_never_computed_is_an_error(teacher: OpenClipTeacher, paths: list[Path], tmp_path: Path):
    """Some other view in its place would be a wrong target, silently."""
    cache = views_filled(teacher, paths, tmp_path / "c", 2)
    assert len(cache.rows(digest_files(paths), 1)) == len(paths)
    with pytest.raises(KeyError):
        cache.rows(digest_files(paths), 2)
    with pytest.raises(KeyError):
        cache.rows(np.zeros((1, 16), dtype=np.uint8))


def test_progress_counts_up_to_the_missing_rows(
    teacher: OpenClipTeacher, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "SHARD_ROWS", 6)
    monkeypatch.setattr(module, "LOOKED", 4)
    cache, done = filled(teacher, paths[:1], tmp_path / "c"), []
    cache.fill(digest_files(paths), center_pixels(teacher, paths), progress=done.append)
    assert done == [4, 8, 11]
    cache.fill(digest_files(paths), lambda rows: pytest.fail("nothing is missing"), progress=done.append)
    assert len(done) == 3


def test_rows_are_memory_mapped(teacher: OpenClipTeacher, paths: list[Path], tmp_path: Path):
    cache = filled(teacher, paths, tmp_path / "c")
    assert all(isinstance(shard.rows_NE.base, np.memmap) for shard in cache.rows._shards)

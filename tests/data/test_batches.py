import threading
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_image

from linnet.config import Config, DataConfig, StudentConfig, TeacherConfig, TrainConfig
from linnet.data import batches as module
from linnet.data.batches import TrainLoader, class_sample, decode, eval_batch_size, eval_batches
from linnet.data.digests import digest_files
from linnet.data.images import Jpeg, eval_pixels, read_image, train_pixels
from linnet.data.manifest import Manifest
from linnet.data.store import Images
from linnet.errors import UserError
from linnet.step import TeacherOutput
from linnet.text.classes import class_table


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [write_image(tmp_path / f"{i}.png", (10 * i, 50, 20), seed=i, size=(50, 40 + i)) for i in range(10)]


def loader(
    paths: list[Path], batch_size: int = 4, limit_gb: float = 20.0, views: str = "center",
    few: np.ndarray | None = None, **place,
) -> TrainLoader:  # fmt: skip
    """Every image is a class of its own; ``few``: which of them are novel. ``place``: teacher, rank, world."""
    config = Config(
        DataConfig(views="light", workers=1), StudentConfig(image_size=32), TeacherConfig(views=views),
        TrainConfig(batch_size=batch_size),
    )  # fmt: skip
    labels, digests = np.arange(len(paths)), digest_files(paths)
    novel = () if few is None else tuple(np.flatnonzero(few))
    rows = Manifest(
        tuple(paths), labels, np.full(len(paths), "train"), digests, class_table(list(map(str, labels))), novel=novel
    )
    return TrainLoader(config, rows, Images(paths, digests, 32, "train", limit_gb), torch.device("cpu"), **place)


def test_an_epoch_is_a_function_of_its_number(paths: list[Path]):
    first, again = loader(paths), loader(paths)
    list(again.epoch(0))  # what was read before does not matter
    for a, b in zip(first.epoch(3), again.epoch(3), strict=True):
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.images, b.images)
        assert a.images.shape == (4, 3, 32, 32)
        assert torch.equal(a.labels, a.index)


def test_batches_are_the_same_whether_a_thread_makes_them_ahead_or_not(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
):
    """With idle processors the next batch, the teacher's part included, is made while this one is used; where all
    compute, nothing is made by another thread."""

    def teacher(index: np.ndarray, view: int) -> TeacherOutput:
        made_by.append(threading.current_thread() is threading.main_thread())
        return TeacherOutput(torch.from_numpy(index).float()[:, None] + view)

    found = []
    for cpus in (1, 1000):
        made_by: list[bool] = []
        monkeypatch.setattr(module, "available_cpus", lambda cpus=cpus: cpus)
        found.append([(batch, len(made_by)) for batch in loader(paths, 3, teacher=teacher).epoch(2)])
        assert made_by == [cpus == 1] * 3
        if cpus == 1:
            assert [made for _, made in found[0]] == [1, 2, 3]
    for (a, _), (b, _) in zip(*found, strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.images, b.images)
        assert a.teacher is not None and b.teacher is not None
        assert torch.equal(a.teacher.logits_BC, b.teacher.logits_BC)


def test_each_epoch_shows_each_image_at_most_once_in_a_new_order_and_view(paths: list[Path]):
    ours = loader(paths)
    orders = [torch.cat([batch.index for batch in ours.epoch(n)]).tolist() for n in range(3)]
    assert all(len(set(order)) == len(order) == 8 for order in orders)  # 10 images, batches of 4: the rest waits
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize(("count", "in_batch", "steps"), [(1, 1, 3), (2, 2, 4), (3, 2, 4), (8, 2, 1)])
def test_few_images_fill_half_of_each_batch_and_an_epoch_shows_all_others(
    paths: list[Path], count: int, in_batch: int, steps: int
):
    few = np.arange(10) < count
    ours = loader(paths, few=few)
    shown = [batch.index.numpy() for batch in ours.epoch(0)]
    assert len(shown) == len(ours) == steps
    for rows in shown:
        assert len(rows) == len(set(rows)) == 4  # an image beside itself would contradict the contrast
        assert few[rows].sum() == in_batch
    seen = np.bincount(np.concatenate(shown), minlength=10)
    assert seen[~few].min() == 1
    assert seen[few].max() - seen[few].min() <= 1  # none is shown twice before all were shown once
    assert seen[~few].max() - seen[~few].min() <= 1
    assert not np.array_equal(shown, [batch.index.numpy() for batch in ours.epoch(1)])
    if in_batch > 1:
        parts = [[b.index for b in loader(paths, few=few, rank=r, world=2).epoch(0)] for r in range(2)]
        for step, (a, b) in enumerate(zip(*parts, strict=True)):
            assert sorted(torch.cat([a, b]).tolist()) == sorted(shown[step].tolist())
            assert few[a].sum() == few[b].sum() == 1


@pytest.mark.parametrize(("base", "support", "steps"), [(4122, 500, 65), (4122, 30, 43), (4096, 500, 64)])
def test_an_epoch_of_few_shot_finetuning_is_as_long_as_that_of_li_et_al(base: int, support: int, steps: int):
    """128 a batch on their CUB: 4,122 base images beside 64 (or all) support images in each batch, 65 batches. Where
    nothing is left over, they have one batch more, of support images alone."""
    labels = np.repeat([0, 1], [base, support])
    rows = Manifest(
        (Path("x"),) * len(labels), labels, np.full(len(labels), "train"), np.zeros((len(labels), 16), np.uint8),
        class_table(["a", "b"]), novel=(1,),
    )  # fmt: skip
    images = Images([], np.empty((0, 16), np.uint8), 32, "train")
    ours = TrainLoader(Config(train=TrainConfig(batch_size=128)), rows, images, torch.device("cpu"))
    order = ours._order(0).reshape(len(ours), 128)
    assert len(ours) == steps
    assert (order >= base).sum(axis=1).tolist() == [min(64, support)] * steps
    assert set(range(base)) <= set(order.ravel().tolist())


def by_image(ours: TrainLoader, epoch: int) -> dict[int, torch.Tensor]:
    return {
        row: image for batch in ours.epoch(epoch) for row, image in zip(batch.index.tolist(), batch.images, strict=True)
    }


@pytest.mark.parametrize(("views", "replay"), [("online", None), ("replay:1", 1), ("replay:3", 3)])
def test_the_teacher_is_asked_about_the_rows_and_the_view_that_the_student_is_shown(
    paths: list[Path], views: str, replay: int | None
):
    """Another view's target would be learnt just as readily, and only the accuracy would tell."""
    asked = []

    def teacher(rows: np.ndarray, view: int) -> TeacherOutput:
        asked.append((rows.tolist(), view))
        return TeacherOutput(torch.from_numpy(100 * rows + view))

    ours = loader(paths, batch_size=10, teacher=teacher, views=views)
    shown = {}
    for epoch in range(5):
        view = epoch if replay is None else epoch % replay
        (batch,) = ours.epoch(epoch)
        assert batch.view == view
        assert asked.pop() == (batch.index.tolist(), view)
        assert batch.teacher is not None
        assert batch.teacher.logits_BC.tolist() == (100 * batch.index + view).tolist()
        shown[epoch] = by_image(ours, epoch)
        for before in range(epoch):
            same = all(torch.equal(shown[before][row], shown[epoch][row]) for row in range(10))
            assert same == (replay is not None and before % replay == view)


def test_replay_keeps_a_new_order_in_each_epoch(paths: list[Path]):
    ours = loader(paths, views="replay:1")
    orders = {tuple(torch.cat([batch.index for batch in ours.epoch(n)]).tolist()) for n in range(4)}
    assert len(orders) == 4


def test_processes_share_a_batch(paths: list[Path]):
    whole = [batch.index.tolist() for batch in loader(paths).epoch(1)]
    parts = [[batch.index.tolist() for batch in loader(paths, rank=rank, world=2).epoch(1)] for rank in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted(first + second) == sorted(batch)
        assert len(first) == len(second)


def test_a_batch_is_never_larger_than_the_data(paths: list[Path]):
    assert [len(batch.index) for batch in loader(paths, batch_size=64).epoch(0)] == [10]


def test_images_decoded_by_workers_are_the_stored_ones(paths: list[Path]):
    for a, b in zip(loader(paths).epoch(0), loader(paths, limit_gb=0.0).epoch(0), strict=True):
        assert torch.equal(a.images, b.images)


def test_the_processes_that_decode_stay_from_one_epoch_to_the_next(paths: list[Path]):
    """And give each epoch its own images, though the one before was left in the middle."""
    ours, stored = loader(paths, limit_gb=0.0), loader(paths)
    others, seen = {process.pid for process in active_children()}, []
    for number in (0, 1, 4):
        for a, b in zip(stored.epoch(number), ours.epoch(number), strict=True):
            assert torch.equal(a.index, b.index) and torch.equal(a.images, b.images)
            if number == 1:
                break
        seen.append({process.pid for process in active_children()} - others)
    assert seen[0] == seen[1] == seen[2] and len(seen[0]) == 1


@pytest.mark.parametrize("views", ["light", "paper:cifar"])
def test_evaluation_alone_cuts_a_margin_off(paths: list[Path], views: str):
    """Some views are cut from images of the student's own size, too."""
    student = StudentConfig(image_size=32, crop_mode="squash", crop_pct=0.8)
    digests, labels = digest_files(paths), np.arange(len(paths))
    rows = Manifest(tuple(paths), labels, np.full(len(paths), "x"), digests, class_table(list(map(str, labels))))
    images = decode(Config(DataConfig(views=views), student), {"train": rows, "val": rows})  # type: ignore[arg-type]
    image = read_image(paths[0])
    whole = train_pixels(image, 32) if views == "light" else eval_pixels(image, 32, "squash")
    assert np.array_equal(images["train"][0], whole)
    assert np.array_equal(images["val"][0], eval_pixels(image, 32, "squash", 0.8))


@pytest.mark.parametrize("jpeg", ["scaled", "full"])
def test_every_split_is_decoded_as_the_student_wants_its_jpegs(tmp_path: Path, jpeg: Jpeg):
    path = write_image(tmp_path / "x.jpg", (200, 80, 10), seed=0, size=(640, 480))
    rows = Manifest((path,), np.array([0]), np.array(["x"]), digest_files([path]), class_table(["a"]))
    config = Config(student=StudentConfig(image_size=32, jpeg=jpeg), data=DataConfig(views="light"))
    images = decode(config, {"train": rows, "val": rows})
    for part, side in (("train", 74), ("val", 64)):
        image = read_image(path, side if jpeg == "scaled" else None)
        pixels = train_pixels(image, 32) if part == "train" else eval_pixels(image, 32)
        assert np.array_equal(images[part][0], pixels)


def test_a_bad_image_in_a_worker_is_one_line(paths: list[Path]):
    paths[3].write_bytes(b"no image")
    with pytest.raises(UserError) as error:
        list(loader(paths, limit_gb=0.0).epoch(0))
    assert str(error.value).startswith("cannot read the image")
    assert "\n" not in str(error.value)


def test_evaluation_sees_every_image_once_in_order(paths: list[Path]):
    images = Images(paths, digest_files(paths), 32, "eval")
    batches = list(eval_batches(images, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    rows = torch.cat(batches)
    for row, pixels in enumerate(rows):
        assert np.array_equal((pixels * 255).round().byte().permute(1, 2, 0).numpy(), images[row])


def test_images_that_are_not_stored_are_scored_in_the_same_batches(paths: list[Path]):
    how = (paths, digest_files(paths), 32, "eval")
    stored, decoded = Images(*how), Images(*how, limit_gb=0)
    assert (stored.stored, decoded.stored) == (True, False)
    for one, other in zip(eval_batches(stored, 4), eval_batches(decoded, 4), strict=True):
        assert torch.equal(one, other)


def test_larger_images_are_scored_in_smaller_batches():
    """What is computed of 256 images of 224 pixels at once does not stay in a processor's caches."""
    cpu = torch.device("cpu")
    assert [eval_batch_size(side, cpu) for side in (16, 64, 224, 2048)] == [256, 195, 15, 8]
    assert eval_batch_size(224, torch.device("cuda")) == 256


def test_fewer_than_two_images_for_a_process_are_refused(paths: list[Path]):
    """Batch statistics of one image do not exist, and a batch of none would never end."""
    assert loader(paths, batch_size=4, world=2).batch_size == 4
    with pytest.raises(UserError, match="2 images a step are too few for 2 process"):
        loader(paths, batch_size=2, world=2)


LABELS = np.repeat(np.arange(4), [400, 100, 25, 4])


@pytest.mark.parametrize(("power", "weights"), [(1.0, [400, 100, 25, 4]), (0.5, [20, 10, 5, 2]), (0.0, [1, 1, 1, 1])])
def test_classes_are_drawn_as_often_as_the_power_says(power: float, weights: list[float]):
    size = 40_000
    drawn = np.bincount(LABELS[class_sample(LABELS, power, size, np.random.default_rng(0))], minlength=4)
    chance = np.array(weights) / sum(weights)
    spread = np.sqrt(size * chance * (1 - chance))
    assert (np.abs(drawn - size * chance) < 5 * spread).all()


def test_the_images_of_classes_that_are_grouped_once_are_those_that_were_looked_for_in_each():
    labels = np.random.default_rng(5).permutation(np.append(LABELS, [-1] * 30))
    for power in (0.0, 0.5):
        rng, ours = np.random.default_rng(3), class_sample(labels, power, 900, np.random.default_rng(3))
        present, counts = np.unique(labels, return_counts=True)
        chance = np.where(present < 0, 0.0, counts.astype(float) ** power)
        chance *= counts[present >= 0].sum() / len(labels) / chance.sum()
        chance[0] = counts[0] / len(labels)
        classes = rng.choice(len(present), size=900, p=chance)
        for i, label in enumerate(present):
            own, places = np.flatnonzero(labels == label), np.flatnonzero(classes == i)
            rounds = [rng.permutation(own) for _ in range(-(-len(places) // len(own)))]
            assert ours[places].tolist() == np.concatenate(rounds)[: len(places)].tolist()


def test_images_of_a_class_take_turns():
    rows = class_sample(LABELS, 0.0, 1000, np.random.default_rng(1))
    for label in range(4):
        times = np.bincount(rows[LABELS[rows] == label], minlength=len(LABELS))[label == LABELS]
        assert times.max() - times.min() <= 1


def test_unlabelled_images_keep_their_share():
    labels = np.array([-1] * 300 + [0] * 95 + [1] * 5)
    drawn = labels[class_sample(labels, 0.0, 20_000, np.random.default_rng(2))]
    assert abs((drawn == -1).mean() - 0.75) < 0.02
    assert abs((drawn == 1).mean() - 0.125) < 0.02


def test_a_balanced_epoch_has_as_many_steps_and_is_a_function_of_its_number(paths: list[Path]):
    labels = np.array([0] * 9 + [1])
    ours = [loader(paths) for _ in range(2)]
    for own in ours:
        own.rows = replace(own.rows, labels=labels)
        own.config = replace(own.config, train=replace(own.config.train, sampling="class-balanced"))
    epochs = [[torch.cat([batch.index for batch in own.epoch(n)]).tolist() for n in range(30)] for own in ours]
    assert epochs[0] == epochs[1]
    assert all(len(epoch) == 8 for epoch in epochs[0])
    assert 60 < sum(epoch.count(9) for epoch in epochs[0]) < 180  # 120 of 240 are expected, 24 without balance

"""What a run asks of its teacher: the shipped one, on 24 training and 20 validation images of drawn birds."""

import itertools
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pictures import write_image
from PIL import Image

from linnet.config import DataConfig
from linnet.data.batches import TrainLoader, decode
from linnet.data.digests import digest_files
from linnet.data.load import load_manifest
from linnet.data.manifest import Manifest
from linnet.data.store import Images
from linnet.defaults import settings
from linnet.errors import UserError
from linnet.metrics.intervals import Difference
from linnet.processes import Team
from linnet.students.student import Student
from linnet.teachers import answers, heads, load_teacher, prompts
from linnet.teachers.answers import Answers, ask, ask_together
from linnet.teachers.base import ClassHead, Teacher, VisionLanguageTeacher
from linnet.teachers.cache import TeacherCache, center_pixels
from linnet.teachers.heads import class_head
from linnet.teachers.probe import enough, linear_probe, quick_probe
from linnet.teachers.prompts import Embedded

SOURCE = "aviary:species=4,images=6"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def splits() -> dict[str, Manifest]:
    manifest = load_manifest(DataConfig(source=SOURCE))
    parts = {part: manifest.take(manifest.rows(part)) for part in ("train", "val", "test")}
    return {
        "train": parts["train"],
        "val": parts["val"].take(np.arange(0, 40, 2)),
        "test": parts["test"].take(np.arange(0, 200, 20)),
    }


@pytest.fixture(scope="module")
def teacher() -> VisionLanguageTeacher:
    teacher = load_teacher("mini-clip")
    assert isinstance(teacher, VisionLanguageTeacher)
    return teacher


@dataclass
class Room:
    """A folder for the teacher cache, and how to ask a teacher there."""

    folder: Path
    splits: Mapping[str, Manifest]

    def ask(self, teacher: Teacher, views: str = "center", **options: object) -> Answers:
        given = {"teacher.views": views, "teacher.cache": self.folder, "teacher.head": "zero-shot"} | {
            key.replace("__", "."): value for key, value in options.items()
        }
        config, _ = settings(SOURCE, teacher=teacher.id, options=given)
        return ask(config, teacher, self.splits, CPU)


@pytest.fixture
def room(tmp_path: Path, splits: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch) -> Room:
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path / "cache"))
    return Room(tmp_path / "teacher", splits)


def watch(teacher: VisionLanguageTeacher, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Everything that the teacher is shown from now on."""
    seen, real = [], teacher.embed_images

    def embed_images(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return real(images)

    monkeypatch.setattr(teacher, "embed_images", embed_images)
    return seen


def student_loader(train: Manifest, said: Answers, views: str, mix: str = "none") -> TrainLoader:
    options = {"teacher.views": views, "train.batch_size": 8, "data.mix": mix}
    config, _ = settings(SOURCE, seed=5, options=options)
    images = Images(train.paths, train.digests, config.student.image_size, "train")
    return TrainLoader(config, train, images, CPU, teacher=said.train)


def test_under_center_every_view_has_the_teachers_own_look_at_the_image(
    teacher: VisionLanguageTeacher, room: Room, monkeypatch: pytest.MonkeyPatch
):
    train, seen = room.splits["train"], watch(teacher, monkeypatch)
    said = room.ask(teacher)
    assert sum(len(images) for images in seen) == 24 + 20 + 10
    rows = np.array([7, 3, 20])
    live = teacher.embed_images(center_pixels(teacher, train.paths)(rows))
    for view in (0, 5):
        out = said.train(rows, view)
        assert out.embedding_BE is not None
        assert torch.allclose(out.embedding_BE, live, atol=1e-3)
        assert torch.allclose(out.logits_BC, said.settled.head(live).logits_BC, atol=0.05)
    assert not torch.allclose(said.train(rows[:1], 0).logits_BC, said.train(rows[1:2], 0).logits_BC, atol=0.05)


@pytest.mark.parametrize("mix", ["none", "mixup", "both"])
def test_replay_shows_the_teacher_the_very_pixels_that_the_student_is_shown(
    mix: str, teacher: VisionLanguageTeacher, room: Room, monkeypatch: pytest.MonkeyPatch
):
    """A crop, a number, an order or a partner apart, and the student would learn what the teacher said of another
    picture."""
    seen = watch(teacher, monkeypatch)
    said = room.ask(teacher, "replay:3", data__mix=mix)
    shown = seen[-3:]
    assert [len(images) for images in seen[:-3]] == [20, 10]  # of the training images, nothing but the views
    assert [len(images) for images in shown] == [24, 24, 24]
    loader = student_loader(room.splits["train"], said, "replay:3", mix)
    for epoch in range(5):
        here, there = shown[epoch % 3], shown[(epoch + 1) % 3]
        for batch in loader.epoch(epoch):
            assert torch.allclose(batch.images, here[batch.index], atol=1e-5)
            assert not torch.allclose(batch.images, there[batch.index], atol=0.1)
            assert batch.teacher is not None and batch.teacher.embedding_BE is not None
            live, other = teacher.embed_images(batch.images), teacher.embed_images(there[batch.index])
            assert F.cosine_similarity(batch.teacher.embedding_BE, live).min() > 0.999
            assert F.cosine_similarity(batch.teacher.embedding_BE, other).min() < 0.999
            assert torch.allclose(batch.teacher.logits_BC, said.settled.head(live).logits_BC, atol=0.05)


def test_online_says_what_replay_says_of_the_same_view(
    teacher: VisionLanguageTeacher, room: Room, monkeypatch: pytest.MonkeyPatch
):
    replayed, online = room.ask(teacher, "replay:2"), room.ask(teacher, "online")
    seen, rows = watch(teacher, monkeypatch), np.array([11, 0, 23, 5])
    for view in (0, 1):
        live, cached = online.train(rows, view), replayed.train(rows, view)
        assert live.embedding_BE is not None and cached.embedding_BE is not None
        assert torch.allclose(live.embedding_BE, cached.embedding_BE, atol=1e-3)
        assert torch.allclose(live.logits_BC, cached.logits_BC, atol=0.05)
        assert not torch.allclose(live.embedding_BE, replayed.train(rows, 1 - view).embedding_BE, atol=1e-3)
    assert [len(images) for images in seen] == [4, 4]
    batch = next(student_loader(room.splits["train"], online, "online").epoch(9))  # a view beyond any that is cached
    assert torch.allclose(seen[2], batch.images, atol=1e-5)  # behind it may come the next one, made ahead


def test_under_squash_the_teacher_looks_once_at_all_of_each_image(
    room: Room, open_clip_folder: Callable[..., Path], tmp_path: Path
):
    """Of a photo that is not square, too; train, val and test alike, in a space of their own."""
    rng, parts = np.random.default_rng(0), {}
    teacher = load_teacher(f"open_clip:local-dir:{open_clip_folder()}")
    assert isinstance(teacher, VisionLanguageTeacher)
    for part, rows in room.splits.items():
        paths = [tmp_path / f"{part}{i}.png" for i in range(len(rows))]
        for path in paths:
            Image.fromarray(rng.integers(0, 256, (40, 90, 3)).astype(np.uint8)).save(path)
        parts[part] = replace(rows, paths=tuple(paths), digests=digest_files(paths))
    asked = Room(room.folder, parts)
    said, centred = asked.ask(teacher, "squash"), asked.ask(teacher, "center")
    for part, rows in parts.items():
        squashed = [Image.open(path).resize((32, 32), Image.Resampling.BICUBIC) for path in rows.paths]
        images = torch.from_numpy(np.stack(squashed)).permute(0, 3, 1, 2).float() / 255
        expected = said.settled.head(teacher.embed_images(images)).logits_BC.numpy()
        index = np.arange(len(rows))
        seen, other = (
            a.train(index, 7).logits_BC.numpy() if part == "train" else a.logits[part] for a in (said, centred)
        )
        assert np.allclose(seen, expected, atol=0.05)
        assert not np.allclose(seen, other, atol=0.05)


def test_views_of_a_photo_in_the_students_size_are_squashed_for_both_or_for_neither(
    room: Room, open_clip_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_image(tmp_path / "wide.png", (200, 40, 90), seed=0, size=(90, 40))
    parts = {part: rows.take(np.array([0, 1])) for part, rows in room.splits.items()}
    train = parts["train"] = replace(parts["train"], paths=(path, path), digests=digest_files([path, path]))
    teacher = load_teacher(f"open_clip:local-dir:{open_clip_folder()}")
    assert isinstance(teacher, VisionLanguageTeacher)
    given = {"data.views": "paper:cifar", "student.image_size": 32, "train.batch_size": 2, "train.epochs": 1}
    for mode, views in itertools.product(("center", "squash"), ("replay:1", "online")):
        seen = watch(teacher, monkeypatch)
        options = {**given, "teacher.cache": room.folder, "student.crop_mode": mode, "teacher.views": views}
        config, _ = settings(SOURCE, teacher=teacher.id, options=options)
        said = ask(config, teacher, parts, CPU)
        images = decode(config, {"train": train})["train"]
        batch = next(TrainLoader(config, train, images, CPU, teacher=said.train).epoch(0))
        assert torch.allclose(seen[-1][0], batch.images[0], atol=1e-5)


def test_asking_again_computes_nothing_and_more_views_compute_the_new_ones(
    teacher: VisionLanguageTeacher, room: Room, monkeypatch: pytest.MonkeyPatch
):
    options = {"teacher__head": "prompt", "prompts__max_steps": 2}
    first = room.ask(teacher, "replay:2", **options)
    seen = watch(teacher, monkeypatch)
    monkeypatch.setattr(prompts, "calibrate", lambda *_: pytest.fail("calibrates again"))
    again = room.ask(teacher, "replay:2", **options)
    rows = np.arange(24)
    assert torch.equal(first.train(rows, 1).logits_BC, again.train(rows, 1).logits_BC)
    assert np.array_equal(first.logits["val"], again.logits["val"])
    assert not seen
    more = room.ask(teacher, "replay:4", **options)
    assert [len(images) for images in seen] == [24, 24]
    assert torch.equal(first.train(rows, 1).logits_BC, more.train(rows, 1).logits_BC)
    assert not torch.equal(more.train(rows, 3).logits_BC, more.train(rows, 1).logits_BC)


@pytest.mark.parametrize("changed", [{"data__views": "standard"}, {"data__seed": 1}, {"data__mix": "cutmix"}])
def test_another_recipe_or_data_seed_is_another_view(
    teacher: VisionLanguageTeacher, room: Room, changed: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    """Views of another recipe under the same name would be stale, silently."""
    first, seen = room.ask(teacher, "replay:1"), watch(teacher, monkeypatch)
    other = room.ask(teacher, "replay:1", **changed)
    assert [len(images) for images in seen] == [24]
    rows = np.arange(24)
    assert not torch.allclose(first.train(rows, 0).logits_BC, other.train(rows, 0).logits_BC, atol=0.05)


def test_whoever_is_stopped_is_told_that_nothing_is_lost(
    teacher: VisionLanguageTeacher, room: Room, monkeypatch: pytest.MonkeyPatch
):
    def stop(cache: TeacherCache, *rest: object) -> None:
        cache.computed += 7
        raise KeyboardInterrupt

    monkeypatch.setattr(TeacherCache, "fill", stop)
    with pytest.raises(KeyboardInterrupt, match="7 answers of the teacher were added .* the same command goes on"):
        room.ask(teacher)


# --- several processes ---


def side_by_side(room: Room, teachers: list[Teacher], views: str = "center") -> list[Exception | None]:
    """ask_together() by as many threads as there are teachers, each in the place of a process -> what each raised."""
    meet, said = threading.Barrier(len(teachers), timeout=120), [True] * len(teachers)

    def tell(rank: int, well: bool) -> list[bool]:
        said[rank] = well
        meet.wait()
        heard = [*said]
        meet.wait()
        return heard

    def work(rank: int) -> Exception | None:
        options = {"teacher.views": views, "teacher.cache": room.folder, "teacher.head": "zero-shot"}
        config, _ = settings(SOURCE, teacher=teachers[rank].id, options=options)
        try:
            team = Team(rank, len(teachers), partial(tell, rank))
            ask_together(config, teachers[rank], room.splits, CPU, team)
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(len(teachers)) as pool:
        return list(pool.map(work, range(len(teachers))))


def three_of_a_kind() -> list[VisionLanguageTeacher]:
    teachers = [load_teacher("mini-clip") for _ in range(3)]
    return [teacher for teacher in teachers if isinstance(teacher, VisionLanguageTeacher)]


@pytest.mark.parametrize("views", ["center", "replay:2"])
def test_processes_share_the_images_and_one_that_asks_later_finds_the_answers_of_all(
    room: Room, views: str, monkeypatch: pytest.MonkeyPatch
):
    teachers = three_of_a_kind()
    Room(room.folder, {part: rows.take(np.arange(7)) for part, rows in room.splits.items()}).ask(teachers[0], views)
    seen = [watch(teacher, monkeypatch) for teacher in teachers]
    assert side_by_side(room, teachers, views) == [None] * 3
    counts = [sum(map(len, own)) for own in seen]
    new = 13 + 3 + (17 if views == "center" else 2 * 17)
    assert sum(counts) == new
    assert max(counts) - min(counts) <= 4  # one for each kind of look
    for own in seen:
        own.clear()
    assert not any(side_by_side(room, teachers, views))
    together, alone = room.ask(teachers[1], views), Room(room.folder / "alone", room.splits).ask(teachers[2], views)
    assert not seen[0] + seen[1]
    for view in range(2):
        rows = np.arange(24)
        ours, theirs = (answers.train(rows, view).embedding_BE for answers in (together, alone))
        assert torch.allclose(ours, theirs, atol=1e-3)
        assert not torch.allclose(ours, theirs.roll(1, 0), atol=1e-3)
    assert np.allclose(together.logits["test"], alone.logits["test"], atol=0.05)


def test_when_one_process_fails_the_others_end_too_and_what_they_computed_is_kept(
    room: Room, monkeypatch: pytest.MonkeyPatch
):
    """They would wait for it until somebody looks."""
    teachers = three_of_a_kind()
    seen = watch(teachers[0], monkeypatch)

    def fail(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(teachers[1], "embed_images", fail)
    first, failed, third = side_by_side(room, teachers)
    assert isinstance(failed, RuntimeError)
    for other in (first, third):
        assert isinstance(other, UserError)
        assert str(other) == "process 1 of the others failed while asking the teacher: see its own message"
    assert sum(map(len, seen)) == 8 + 7 + 4  # its own of 24, 20 and 10, to the end
    seen.clear()
    room.ask(teachers[0])
    assert sum(map(len, seen)) == 8 + 7 + 3  # those of the one that failed


def test_what_is_refused_is_refused_before_any_process_asks(
    room: Room, open_clip_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    teachers = [load_teacher(f"open_clip:local-dir:{open_clip_folder(image_size=[32, 48])}") for _ in range(2)]
    errors = side_by_side(room, teachers, "replay:2")
    assert sum("needs a teacher that takes square images" in str(error) for error in errors) >= 1
    assert all(isinstance(error, UserError) for error in errors)


# --- heads ---


def zero_shot(teacher: VisionLanguageTeacher, splits: Mapping[str, Manifest]) -> torch.Tensor:
    bank = class_head(teacher, splits["train"].classes, ("a photo of a {}.",))
    assert bank.bank_CE is not None
    return bank.bank_CE


def embedded(teacher: VisionLanguageTeacher, rows: Manifest) -> Embedded:
    images = center_pixels(teacher, rows.paths)(range(len(rows)))
    return Embedded(teacher.embed_images(images), torch.from_numpy(rows.labels))


def accuracy(logits: np.ndarray, rows: Manifest) -> float:
    return float((logits.argmax(axis=1) == rows.labels).mean())


@pytest.mark.parametrize("head", ["zero-shot", "prompt", "probe"])
def test_accuracies_and_logits_are_those_of_the_head_in_use(teacher: VisionLanguageTeacher, room: Room, head: str):
    said = room.ask(teacher, teacher__head=head, prompts__max_steps=3, prompts__vectors=2)
    assert list(said.settled.val_top1) == list(dict.fromkeys(["zero-shot", head]))
    assert set(said.logits) == {"val", "test"}
    texts = zero_shot(teacher, room.splits)
    for part in ("val", "test"):
        rows = room.splits[part]
        live = embedded(teacher, rows)
        assert np.allclose(said.logits[part], said.settled.head(live.rows_NE).logits_BC.numpy(), atol=0.1)
        if part == "val":
            by_texts = (live.rows_NE @ texts.T).numpy()
            assert said.settled.val_top1["zero-shot"] == pytest.approx(accuracy(by_texts, rows))
            in_use = said.settled.val_top1["probe"] if head == "probe" else max(said.settled.val_top1.values())
            assert in_use == pytest.approx(accuracy(said.logits["val"], rows))
    assert set(said.settled.prompts) == ({"context_PW", "bank_CE"} if said.settled.name == "prompt" else set())
    assert (said.settled.head.probe is not None) == (head == "probe")
    assert said.settled.head.bank_CE is not None  # methods that need texts find them under every head
    if head == "zero-shot":
        assert torch.equal(said.settled.head.bank_CE, texts)


def test_a_probe_is_fitted_on_the_training_images(teacher: VisionLanguageTeacher, room: Room):
    said = room.ask(teacher, teacher__head="probe")
    train, val = (embedded(teacher, room.splits[part]) for part in ("train", "val"))
    weights_CE, biases_C = linear_probe(train, val, 4)
    expected = val.rows_NE @ weights_CE.T + biases_C
    assert np.allclose(said.logits["val"], expected.numpy(), rtol=0.02, atol=0.1)
    assert said.settled.val_top1["probe"] == pytest.approx(accuracy(expected.numpy(), room.splits["val"]))


def test_a_prompt_is_calibrated_on_the_class_texts_and_the_training_images(
    teacher: VisionLanguageTeacher, room: Room, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def calibrated(teacher: object, texts: list[str], train: Embedded, val: Embedded, *rest: object) -> dict:
        asked.append((texts, train.labels_N.tolist(), val.labels_N.tolist()))
        assert torch.allclose(train.rows_NE.norm(dim=1), torch.ones(24), atol=1e-5)
        return {"context_PW": torch.zeros(1, 128), "bank_CE": zero_shot(teacher, room.splits)}  # type: ignore[arg-type]

    monkeypatch.setattr(heads, "calibrated_bank", calibrated)
    room.ask(teacher, teacher__head="prompt", teacher__templates=["one {} here", "unused {}"])
    room.ask(teacher, teacher__head="prompt", prompts__text="name")
    names = [info.prompt_name for info in room.splits["train"].classes]
    labels = [room.splits[part].labels.tolist() for part in ("train", "val")]
    assert asked == [([f"one {name} here" for name in names], *labels), (names, *labels)]


@pytest.mark.parametrize("good", [True, False])
def test_prompts_that_lose_on_val_are_not_used(
    teacher: VisionLanguageTeacher,
    room: Room,
    good: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """With few images a calibration can be worse than the texts that it starts from; the teacher must not be."""
    texts = zero_shot(teacher, room.splits)
    bank = F.normalize(texts + 1e-3 * texts.roll(1, 1), dim=1) if good else texts.roll(1, 0)
    monkeypatch.setattr(heads, "calibrated_bank", lambda *_: {"context_PW": torch.zeros(1, 128), "bank_CE": bank})
    with caplog.at_level(logging.WARNING):
        said = room.ask(teacher, teacher__head="prompt")
    assert said.settled.head.bank_CE is not None
    assert torch.equal(said.settled.head.bank_CE, bank if good else texts)
    assert ("worse than the class texts on val" in caplog.text) != good
    assert (said.settled.val_top1["prompt"] >= said.settled.val_top1["zero-shot"]) == good
    live = embedded(teacher, room.splits["val"]).rows_NE
    expected = teacher.logit_scale * live @ (bank if good else texts).T
    assert np.allclose(said.logits["val"], expected.numpy(), atol=0.1)


def test_a_probe_that_loses_on_val_is_said(
    teacher: VisionLanguageTeacher, room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(heads, "linear_probe", lambda *_: (torch.zeros(4, 192), -torch.arange(4.0)))
    with caplog.at_level(logging.WARNING):
        said = room.ask(teacher, teacher__head="probe")
    assert said.settled.val_top1["probe"] == 0.25 < said.settled.val_top1["zero-shot"]
    assert "the probe is worse than the class texts on val" in caplog.text


def test_where_val_chooses_a_whole_probe_that_loses_gives_way_to_the_class_texts(
    teacher: VisionLanguageTeacher, room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """The quick one, which was better, is not what a student would learn from."""
    monkeypatch.setattr(heads, "over_images", lambda *_: Difference(0.2, 0.1, 0.3, 0.001))
    monkeypatch.setattr(heads, "linear_probe", lambda *_: (torch.zeros(4, 192), -torch.arange(4.0)))
    with caplog.at_level(logging.WARNING):
        said = room.ask(teacher, teacher__head="val")
    assert (said.settled.name, said.settled.head.probe) == ("zero-shot", None)
    assert said.settled.val_top1["probe"] == 0.25 < said.settled.val_top1["zero-shot"]
    assert "the class texts are used" in caplog.text


class TestQuickProbe:
    """What decides between the class texts and a probe, and warns of texts that make little of a teacher."""

    @pytest.mark.parametrize(("views", "view"), [("center", None), ("replay:2", 0)])
    def test_it_is_fitted_to_the_view_that_is_kept(
        self, teacher: VisionLanguageTeacher, room: Room, views: str, view: int | None
    ):
        said = room.ask(teacher, views)
        train, val = room.splits["train"], room.splits["val"]
        rows_NE = F.normalize(said.train(np.arange(len(train)), view or 0).embedding_BE, dim=1)  # type: ignore[arg-type]
        named_N = quick_probe(Embedded(rows_NE, torch.from_numpy(train.labels)), embedded(teacher, val).rows_NE)
        assert said.settled.probed_N is not None
        assert said.settled.probed_N.shape == (len(val),)
        assert (said.settled.probed_N != (named_N == val.labels)).mean() < 0.1  # embeddings are kept in half precision

    def test_nothing_is_probed_where_it_would_be_of_no_use_or_cost_a_pass(
        self, teacher: VisionLanguageTeacher, classifier: Teacher, room: Room
    ):
        assert room.ask(teacher, teacher__head="probe").settled.probed_N is None
        assert room.ask(teacher, "online").settled.probed_N is None
        assert room.ask(classifier).settled.probed_N is None

    @pytest.mark.parametrize("views", ["center", "replay:1", "online"])
    @pytest.mark.parametrize("texts", ["good", "bad"])
    def test_val_chooses_the_probe_where_it_is_clearly_better(
        self, teacher: VisionLanguageTeacher, room: Room, views: str, texts: str, monkeypatch: pytest.MonkeyPatch
    ):
        bank_CE = zero_shot(teacher, room.splits).roll(int(texts == "bad"), 0)  # or the texts of other classes
        monkeypatch.setattr(answers, "class_head", lambda *_: ClassHead(bank_CE=bank_CE, scale=teacher.logit_scale))
        said = room.ask(teacher, views, teacher__head="val")
        name = {"good": "zero-shot", "bad": "probe"}[texts]
        assert said.settled.name == name
        assert list(said.settled.val_top1) == list(dict.fromkeys(["zero-shot", name]))
        assert (said.settled.head.probe is None) == (said.settled.probed_N is not None) == (texts == "good")
        assert np.mean(said.logits["val"].argmax(axis=1) == room.splits["val"].labels) > 0.6
        own = said.train(np.arange(24), 0)
        assert (own.logits_BC.argmax(dim=1).numpy() == room.splits["train"].labels).mean() > 0.6

    def test_it_is_fitted_to_some_images_of_each_class(self):
        labels = np.array([1] * 70 + [0] * 3 + [-1] * 5)
        assert enough(labels).tolist() == [*range(50), 70, 71, 72]
        assert not len(enough(np.array([-1, -1])))
        assert not len(enough(np.arange(5000)))  # C x C is too many for a closed form


# --- what is refused ---


@pytest.fixture
def classifier(tmp_path: Path, splits: dict[str, Manifest]) -> Teacher:
    torch.manual_seed(0)
    Student("test_resnet", splits["train"].classes, image_size=32).eval().save(tmp_path / "run" / "model")
    return load_teacher(f"run:{tmp_path / 'run'}")


def test_a_classifier_answers_with_its_own_logits(classifier: Teacher, room: Room):
    said = room.ask(classifier, "replay:1")
    assert list(said.settled.val_top1) == ["classifier"]
    assert said.logits["val"].shape == (20, 4)
    assert said.train(np.arange(3), 0).embedding_BE is None


@pytest.mark.parametrize("head", ["prompt", "probe"])
def test_a_classifier_has_no_head_to_choose(classifier: Teacher, room: Room, head: str):
    with pytest.raises(UserError, match=f"--teacher.head {head} needs a vision-language teacher; 'run:.*classifier"):
        room.ask(classifier, teacher__head=head)


@pytest.mark.parametrize("views", ["replay:2", "online"])
def test_a_teacher_of_images_that_are_not_square_has_only_its_own_view(
    open_clip_folder: Callable[..., Path], room: Room, views: str
):
    """Views are square: the teacher would see a shape that it was not made for."""
    teacher = load_teacher(f"open_clip:local-dir:{open_clip_folder(image_size=[32, 48])}")
    assert teacher.image_shape == (32, 48)
    with pytest.raises(
        UserError,
        match=f"--teacher.views {views} needs a teacher that takes square images, not 32 x 48: use --teacher.views center or squash",
    ):
        room.ask(teacher, views)
    assert room.ask(teacher).logits["val"].shape == (20, 4)


def test_equal_logits_of_a_classifier_count_as_it_names_them(splits: dict[str, Manifest]):
    """Kept in float16 they often tie: of 8.001 and 8.002 both become 8.0."""
    exact = torch.full((20, 4), 8.001)
    exact[:, 2] = 8.002
    kept = exact.half()
    assert (kept == kept[0, 0]).all()
    rows = SimpleNamespace(rows=lambda digests: kept)
    share = heads.right_ones(ClassHead(order_C=torch.arange(4)), rows, splits["val"]).mean()  # type: ignore[arg-type]
    assert share == (splits["val"].labels == 0).mean() > 0

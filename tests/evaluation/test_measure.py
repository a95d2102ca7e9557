from pathlib import Path

import numpy as np
import pytest
from pictures import write_image

from linnet.data.digests import digest_files
from linnet.data.manifest import Manifest
from linnet.errors import UserError
from linnet.evaluation.measure import Outcome, mistakes, name_images, numbers, of_classes, paired
from linnet.metrics import all_metrics, softmax
from linnet.text.classes import ClassInfo

CLASSES = tuple(ClassInfo(name, name) for name in "abcdefgh")


def rows(labels: np.ndarray, classes: tuple[ClassInfo, ...] = CLASSES, paths: list[Path] | None = None) -> Manifest:
    files = paths or [Path(f"{i}.jpg") for i in range(len(labels))]
    digests = digest_files(files) if paths else np.zeros((len(labels), 16), np.uint8)
    return Manifest(tuple(files), labels, np.full(len(labels), "test"), digests, classes)


class Fake:
    """Gives the logits of a table by the red of an image, its classes in an order of its own."""

    image_size, crop_mode, crop_pct, jpeg = 16, "center", 1.0, "full"

    def __init__(self, table_NC: np.ndarray, names: str):
        self.table_NC, self.class_names, self.sizes = table_NC, list(names), []

    def logits(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.float32 and images.shape[1:] == (3, 16, 16) and images.max() <= 1
        self.sizes.append(len(images))
        return self.table_NC[np.round(images[:, 0].mean(axis=(1, 2)) * 255).astype(int)]


@pytest.fixture
def shades(tmp_path: Path) -> list[Path]:
    """150 images, the i-th with i as its red."""
    from PIL import Image

    paths = [tmp_path / f"{i:03d}.png" for i in range(150)]
    for i, path in enumerate(paths):
        Image.new("RGB", (20, 16), (i, 0, 0)).save(path)
    return paths


def test_batches_make_the_metrics_of_all(shades: list[Path]):
    """More images than a batch, and classes in another order than the network's."""
    rng = np.random.default_rng(0)
    logits, labels = 2 * rng.normal(size=(150, 8)).astype(np.float32), rng.integers(0, 8, 150)
    order = rng.permutation(8)
    network = Fake(logits[:, order], "".join("abcdefgh"[i] for i in order))
    outcome = name_images(network, rows(labels, paths=shades), "fake")
    assert network.sizes == [16] * 9 + [6]
    assert outcome.named_N.tolist() == logits.argmax(axis=1).tolist()
    assert outcome.confidence_N == pytest.approx(softmax(logits).max(axis=1))
    ours = numbers(outcome, labels)
    for key, value in all_metrics(logits, labels).items():
        assert ours[key] == pytest.approx(value, abs=1e-6)
    for key in ("top1", "top5", "mean_per_class"):
        low, high = ours[f"{key}_interval"]
        assert low < ours[key] < high


def test_some_of_the_classes_of_a_network(shades: list[Path]):
    """Where two models know different ones, both choose among those that both know."""
    logits = np.tile([9.0, 0.0, 1.0], (150, 1))
    outcome = name_images(Fake(logits, "xab"), rows(np.ones(150, int), CLASSES[:2], shades), "fake")
    assert set(outcome.named_N) == {1}
    assert outcome.right5_N.all()
    assert outcome.confidence_N == pytest.approx(1 / (1 + np.exp(-1)))


def test_an_image_that_cannot_be_read_stops_it(tmp_path: Path):
    good = write_image(tmp_path / "a.jpg", (9, 9, 9), seed=0)
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="b.jpg"):
        name_images(Fake(np.zeros((256, 8)), "abcdefgh"), rows(np.zeros(2, int), paths=[good, tmp_path / "b.jpg"]), "")


def test_a_student_that_answers_with_nan_is_refused(shades: list[Path]):
    logits = np.zeros((150, 8), np.float32)
    logits[70, 3] = np.nan
    with pytest.raises(UserError, match=r"one: the student answers .*070.png with NaN"):
        name_images(Fake(logits, "abcdefgh"), rows(np.zeros(150, int), paths=shades), "one")


def outcome_of(named: list[int], labels: list[int], confidence: list[float]) -> Outcome:
    right = np.array(named) == np.array(labels)
    return Outcome(np.array(named), np.array(confidence), right, right)


def test_classes_and_mistakes():
    labels, named = [0, 0, 0, 2, 2, 2, 2], [0, 1, 1, 2, 0, 1, 1]
    sure = [0.9, 0.5, 0.8, 0.9, 0.99, 0.3, 0.4]
    outcome, manifest = outcome_of(named, labels, sure), rows(np.array(labels))
    first, second = of_classes(outcome, manifest, outcome_of([0] * 7, labels, sure))
    assert (first["class"], first["images"], first["right"], first["mistaken_for"], first["mistaken"]) == ("a", 3, 1, "b", 2)  # fmt: skip
    assert (second["class"], second["images"], second["right"], second["mistaken_for"]) == ("c", 4, 1, "b")
    assert (first["against_right"], second["against_right"]) == (3, 0)
    told = mistakes(outcome, manifest)
    assert [(pair["label"], pair["prediction"], pair["images"], pair["of"]) for pair in told["confused"]] == [("a", "b", 2, 3), ("c", "b", 2, 4), ("c", "a", 1, 4)]  # fmt: skip
    assert told["confused"][0]["paths"] == ["2.jpg", "1.jpg"]  # the surest first
    assert [image["path"] for image in told["worst"]] == ["4.jpg", "2.jpg", "1.jpg", "6.jpg", "5.jpg"]


def test_pairs_of_models():
    labels = [0] * 10
    told = paired(outcome_of([0] * 7 + [1] * 3, labels, [1.0] * 10), outcome_of([0] * 4 + [1] * 5 + [0], labels, [1.0] * 10))  # fmt: skip
    assert (told["both_right"], told["only_first_right"], told["only_second_right"], told["neither_right"]) == (4, 3, 1, 2)  # fmt: skip
    assert told["difference"] == pytest.approx(0.2)
    assert told["mcnemar_p"] == pytest.approx(0.625)  # 2 * (1 + 4) / 2 ** 4

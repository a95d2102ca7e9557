"""The commands in the head of the recipe for Li et al., on drawn photos of as many classes as CUB has: they start with
the released values, and end in a student that is scored."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase

import pytest
from pictures import write_image

from linnet.__main__ import main
from linnet.config import Config
from linnet.run import Run
from linnet.students.student import Student

RECIPE = Path(__file__).parents[2] / "recipes" / "openvocab_cub200_resnet18.yaml"
IMAGES = 8  # of each class: 2 are for the test, 1 for val, 5 are left
SIZE = 64  # nothing hangs on it but time

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cub") / "images"
    for c in range(200):
        name = f"{c + 1:03d}.{ascii_lowercase[c // 26].upper()}_{ascii_lowercase[c % 26]}_bird"
        for i in range(IMAGES):
            write_image(root / name / f"{i}.png", (c, 255 - c, 37 * c % 256), seed=1000 * c + i, size=(60, 40 + i))
    return root


@pytest.fixture
def start(
    birds: Path, tmp_path: Path, open_clip_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Run]:
    """``start("zero-shot")`` types the recipe's command of that run, with a teacher of random weights and small
    images; what else is given overrides it."""
    monkeypatch.chdir(tmp_path)
    head = "".join(line.removeprefix("#") for line in RECIPE.read_text().splitlines(True) if line.startswith("#"))
    typed = re.findall(r"^ +(linnet distill .*)$", head.replace("\\\n", " "), re.MULTILINE)
    commands = {words[words.index("--out") + 1]: words for words in (shlex.split(command) for command in typed)}
    teacher = f"open_clip:local-dir:{open_clip_folder()}"

    def start(name: str, *more: str) -> Run:
        _, _, _, *words = commands[f"runs/{name}"]
        values = dict(zip(words[::2], words[1::2], strict=True)) | {"--config": str(RECIPE), "--teacher": teacher}
        values |= {"--student.image-size": str(SIZE), **dict(zip(more[::2], more[1::2], strict=True))}
        try:
            main(["distill", str(birds), *(word for pair in values.items() for word in pair), "--no-export"])
        except SystemExit as stop:
            if stop.code == 130:
                raise KeyboardInterrupt from stop
            raise
        return Run(Path("runs", name))

    return start


def check_released(config: Config) -> None:
    """What both trainings have in common."""
    train, options = config.train, config.options["openvocab"]
    assert (config.method, config.student.name) == ("openvocab", "resnet18")
    assert (train.optimizer, train.nesterov, train.weight_decay, train.batch_size) == ("sgd", False, 1e-4, 128)
    assert (train.precision, train.clip_norm) == ("fp32", None)
    assert {options[f"{name}_weight"] for name in ("cls", "mse", "contrast", "align")} == {1.0}
    assert (options["caption_weight"], options["temperature"], options["texts"]) == (0.0, 0.07, 256)
    assert (config.data.views, config.teacher.views, config.teacher.templates) == (
        "paper:openvocab", "squash", ("a photo of {}",),
    )  # fmt: skip
    assert (config.student.crop_mode, config.student.crop_pct) == ("squash", 0.875)


def test_zero_shot_and_few_shot_start_with_the_released_values(start: Callable[..., Run], killed_after: Callable):
    with killed_after(1):
        start("zero-shot")
    run = Run(Path("runs", "zero-shot"))
    config, (row,) = run.settings(), run.metrics()
    check_released(config)
    assert (config.train.epochs, config.train.lr, config.train.schedule) == (450, 0.05, "step")
    assert [450 * milestone for milestone in config.train.milestones] == pytest.approx([150, 300])
    assert (config.student.pretrained, row["lr"], row["step"]) == (False, 0.05, 100 * (IMAGES - 3) // 128)
    assert {"ce", "mse", "contrast", "align"} <= row.keys()
    with killed_after(1):
        start("five-shot", "--student.pretrained", str(run.best_student))
    run = Run(Path("runs", "five-shot"))
    config, (row,) = run.settings(), run.metrics()
    check_released(config)
    train, steps = config.train, -(-100 * (IMAGES - 3) // 64)  # all base images, beside 64 support images a batch
    assert (train.epochs, train.lr, train.schedule, train.select) == (20, 0.001, "one-cycle", "last")
    assert (config.shots.count, config.shots.use, row["step"]) == (5, "finetune", steps)
    assert 0.001 / 25 < row["lr"] < 0.001


def test_both_commands_end_in_a_scored_student(start: Callable[..., Run]):
    first = start("zero-shot", "--train.epochs", "1", "--shots", "5", "--shots.form", "released")
    summary = first.summary()
    assert (summary["classes"], summary["classes.novel"], summary["images.ood"]) == (100, 100, 100 * (IMAGES - 5))
    assert (summary["teacher.views"], summary["few_shot.retrieval.alpha"]) == ("squash", 1.0)
    assert {"id.mean_per_class", "ood.mean_per_class", "last1.ood.mean_per_class"} <= summary.keys()
    student = Student.load(first.model)
    assert (student.image_size, student.crop_mode, student.crop_pct) == (SIZE, "squash", 0.875)
    second = start("five-shot", "--train.epochs", "1").summary()
    assert (second["classes"], second["images.train"]) == (200, 100 * (IMAGES - 3) + 500)
    assert (second["images.ood"], second["train.best_epoch"]) == (100 * (IMAGES - 5), 1)
    assert "last1.ood.mean_per_class" in second

"""Shared fixtures: a cache of its own for every test process, small real image folders, a small real run."""

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes with two threads each stall one another
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
from PIL import Image

TINY = {"student.name": "test_resnet", "train.epochs": 2, "train.batch_size": 16, "student.image_size": 32}


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """linnet's cache in a folder of this test session."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["LINNET_CACHE"] = str(folder)
    return folder


def write_image(path: Path, colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (40, 36)) -> Path:
    """A noisy image of one colour: classes of different colours can be learnt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 25, (size[1], size[0], 3))
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path, quality=95)
    return path


COLOURS = {"red_bird": (200, 40, 40), "green_bird": (40, 180, 60), "blue_bird": (40, 60, 200)}


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make an image folder: ``make_folder(images=12)`` is flat, ``make_folder(splits=("train", "val"))`` is not."""

    def make(images: int = 12, splits: tuple[str, ...] = (), root: Path = tmp_path / "photos") -> Path:
        for s, split in enumerate(splits or ("",)):
            for c, (name, colour) in enumerate(COLOURS.items()):
                for i in range(images):
                    write_image(root / split / name / f"{i:03d}.jpg", colour, seed=1000 * s + 100 * c + i)
        return root

    return make


@pytest.fixture
def run_python() -> Callable[[str], str]:
    """Run code in a fresh interpreter and return what it printed."""
    import subprocess
    import sys

    def run(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run

"""The aviary: a data set of drawn birds, so that linnet works on a machine with no network and no data."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from linnet.data.birds import BACKGROUNDS, Species, caption, draw_bird, make_species, seeded
from linnet.files import cache_folder, new_file

log = logging.getLogger("linnet")

VERSION = 1  # part of every cache key: raise it when the same options draw other images
VAL_IMAGES, TEST_IMAGES = 10, 50  # of each species, drawn apart from the training images


class BirdImage(NamedTuple):
    path: Path
    species: int
    split: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Aviary:
    species: tuple[Species, ...]
    images: tuple[BirdImage, ...]


def build(
    species: int = 60, images: int = 20, genus: int = 6, seed: int = 0, imbalance: int = 1, captions: int = 1
) -> Aviary:
    """Draw the aviary into linnet's cache folder; images that are there already are left alone.

    Args:
        species: number of species; those of a smaller aviary are among them.
        images: training images of each species (of the most frequent one in a long tail); val has 10, test 50 of each.
        genus: species in a genus; 1 gives unrelated species, which are easy to tell apart.
        seed: other seeds give other species.
        imbalance: ratio of the most to the least frequent species in train; n_k = images *
            imbalance^(-k/(species-1)) for the k-th species of a seeded permutation (the CIFAR-LT convention).
        captions: of each image; those of a smaller number are the first ones.
    """
    birds = make_species(species, genus, seed)
    rank = seeded("imbalance", seed).permutation(species) / max(1, species - 1)
    folder = cache_folder() / "aviary" / f"v{VERSION}-genus{genus}-seed{seed}"
    rows, damaged = [], 0
    for index, bird in enumerate(birds):
        train = max(1, round(images * imbalance ** -float(rank[index])))
        for split, count in (("train", train), ("val", VAL_IMAGES), ("test", TEST_IMAGES)):
            for number in range(count):
                path = folder / split / f"{index:04d}-{bird.name.replace(' ', '_')}" / f"{number:05d}.png"
                rng = seeded("image", genus, seed, index, split, number)
                background = str(rng.choice(list(BACKGROUNDS)))
                texts = [caption(bird.plumage, background, rng)]
                further = seeded("captions", genus, seed, index, split, number)
                texts += [caption(bird.plumage, background, further) for _ in range(captions - 1)]
                was_there = path.exists()  # asked first: another process may draw it now
                if not _is_whole(path):
                    damaged += was_there
                    _write_png(draw_bird(bird.plumage, background, rng), path)
                rows.append(BirdImage(path, index, split, tuple(texts)))
    if damaged:
        log.warning("%d drawn birds in %s were damaged: they are drawn again", damaged, folder)
    return Aviary(tuple(birds), tuple(rows))


def _is_whole(path: Path) -> bool:
    """Whether a picture is there as it was written: each part of a PNG file has a checksum."""
    try:
        with Image.open(path) as image:
            image.verify()
        return True
    except Exception:  # Pillow raises OSError, SyntaxError and others
        return False


def _write_png(pixels: np.ndarray, path: Path) -> None:
    with new_file(path, durable=False) as file:  # they are many, and a damaged one is drawn again
        Image.fromarray(pixels).save(file, format="PNG", compress_level=1)

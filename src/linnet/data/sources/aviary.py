"""``aviary[:species=60,images=20]``: drawn birds (see :mod:`linnet.data.aviary`)."""

import numpy as np

from linnet.config import DataConfig
from linnet.data import aviary
from linnet.data.digests import digest_files
from linnet.data.manifest import Manifest
from linnet.data.paths import Paths
from linnet.data.sources.base import Source
from linnet.errors import UserError, did_you_mean
from linnet.fields import coerce
from linnet.text.classes import ClassInfo

MILLION = 1_000_000
OPTIONS = {  # the values that each may take
    "species": (1, 10_000),
    "images": (1, MILLION),
    "genus": (1, 100),
    "seed": (0, MILLION),
    "imbalance": (1, MILLION),
    "bare": (0, 1),
    "captions": (1, 100),
}


def read(data: str, training: bool, config: DataConfig = DataConfig()) -> Manifest:
    """Birds, drawn where the cache does not hold them yet. ``bare=1`` leaves the species only their invented names.

    Raises:
        UserError: an unknown option, or a value out of its range.
    """
    options: dict[str, int] = {}
    for part in filter(None, data.partition(":")[2].split(",")):
        key, _, value = part.partition("=")
        if key not in OPTIONS:
            raise UserError(f"unknown aviary option '{key}' (known: {', '.join(OPTIONS)}).{did_you_mean(key, OPTIONS)}")
        options[key] = coerce(value, int, f"aviary:{key}")
        low, high = OPTIONS[key]
        if not low <= options[key] <= high:
            raise UserError(f"aviary:{key} must be at least {low} and at most {high}, not {options[key]}")
    bare = options.pop("bare", 0)
    birds = aviary.build(**options)
    paths = [bird.path for bird in birds.images]
    return Manifest(
        Paths(paths),
        np.array([bird.species for bird in birds.images], dtype=np.int64),
        np.array([bird.split for bird in birds.images], dtype="<U5"),
        digest_files(paths),
        tuple(ClassInfo(species.name, species.name if bare else species.prompt_name) for species in birds.species),
        tuple(bird.captions for bird in birds.images),
    )


def run_name(data: str) -> str:
    kind, _, options = data.partition(":")
    return f"{kind}-{options}".rstrip("-")


SOURCE = Source(
    forms={
        "aviary[:KEY=VALUE,...]": (
            "drawn look-alike birds; keys: species=60 images=20 genus=6 seed=0 imbalance=1 bare=0 captions=1"
        )
    },
    matches=lambda data: data.partition(":")[0] == "aviary",
    read=read,
    run_name=run_name,
    is_own=True,
    defaults="drawn",
)

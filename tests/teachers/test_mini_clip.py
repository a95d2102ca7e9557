"""What the README says about the shipped teacher, held to."""

from pathlib import Path

import pytest

from linnet.config import DataConfig
from linnet.data.load import load_manifest
from linnet.metrics import top_k_accuracy
from linnet.teachers import load_teacher, mini_clip
from linnet.teachers.cache import TeacherCache, center_pixels
from linnet.teachers.heads import class_head

WEIGHTS = Path(mini_clip.__file__).with_name("open_clip_model.safetensors")


def zero_shot(source: str) -> float:
    manifest = load_manifest(DataConfig(source=source))
    val = manifest.take(manifest.rows("val"))
    teacher = load_teacher("mini-clip")
    head = class_head(teacher, val.classes, ("a photo of a {}.",))
    cache = TeacherCache(teacher)
    cache.fill(val.digests, center_pixels(teacher, val.paths))
    return top_k_accuracy(head(cache.rows(val.digests)).logits_BC.numpy(), val.labels)


@pytest.mark.parametrize(("genus", "at_least"), [pytest.param(1, 0.90, marks=pytest.mark.slow), (6, 0.70)])
def test_zero_shot_on_species_it_never_saw(genus: int, at_least: float):
    """30 species x 10 images: unrelated ones (genus=1) and look-alikes (genus=6)."""
    assert zero_shot(f"aviary:species=30,images=1,genus={genus}") > at_least


def test_it_stays_small():
    assert WEIGHTS.stat().st_size < 25e6

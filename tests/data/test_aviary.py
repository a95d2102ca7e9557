import importlib.util
from pathlib import Path

import numpy as np

from linnet.config import DataConfig
from linnet.data.aviary import build
from linnet.data.birds import (
    BACKGROUNDS,
    CHOICES,
    caption,
    draw_bird,
    is_reserved,
    make_species,
    prompt_name,
    random_plumage,
    seeded,
)
from linnet.data.load import load_manifest


def test_damaged_birds_are_drawn_again(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path))
    paths = [bird.path for bird in build(species=2, images=3).images]
    contents = [path.read_bytes() for path in paths]
    length = len(contents[0])
    spoilt = [b"", bytes(length), contents[2][:-20], contents[3][:200] + bytes(8) + contents[3][208:]]
    for path, content in zip(paths, spoilt, strict=False):
        path.write_bytes(content)
    build(species=2, images=3)
    assert [path.read_bytes() for path in paths] == contents
    assert caplog.text.count("4 drawn birds in") == 1


def differences(a: tuple, b: tuple) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


def test_species_of_a_genus_differ_in_one_or_two_attributes_from_its_type():
    species = make_species(60, genus_size=6)
    for start in range(0, 60, 6):
        assert all(
            1 <= differences(species[start].plumage, other.plumage) <= 2 for other in species[start + 1 : start + 6]
        )
    assert (
        len({s.plumage for s in species})
        == len({s.name for s in species})
        == len({s.prompt_name for s in species})
        == 60
    )


def test_every_species_is_reserved_and_no_bird_of_the_mini_clip_is():
    """The zero-shot numbers of the aviary are only honest if the teacher never saw one of its species."""
    assert all(is_reserved(s.plumage) for seed in range(3) for s in make_species(50, seed=seed))
    script = Path(__file__).parents[2] / "scripts" / "train_mini_clip.py"
    spec = importlib.util.spec_from_file_location("train_mini_clip", script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    family = module.family_plumages(seeded("any", 1))
    assert len(family) == module.FAMILY
    assert not any(is_reserved(plumage) for plumage in family)


def test_half_of_all_combinations_is_reserved():
    rng = seeded("half")
    names = list(CHOICES)
    from linnet.data.birds import Plumage

    drawn = [Plumage(*[str(rng.choice(CHOICES[n])) for n in names]) for _ in range(2000)]
    assert 0.45 < np.mean([is_reserved(p) for p in drawn]) < 0.55


def test_a_larger_aviary_contains_the_smaller_one():
    assert make_species(30)[:10] == make_species(10)
    small, large = build(3, 2), build(4, 3)
    assert set(small.images) <= set(large.images)


def test_images_are_a_function_of_their_key_alone():
    plumage = make_species(1)[0].plumage
    first, again = (draw_bird(plumage, "sky", seeded("k", 1)) for _ in range(2))
    other = draw_bird(plumage, "sky", seeded("k", 2))
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 5


def test_every_attribute_shows_in_the_picture():
    """An attribute that changes no pixel could not be learnt and would cap every model's accuracy."""
    base = make_species(1)[0].plumage
    for name, values in CHOICES.items():
        pictures = [draw_bird(base._replace(**{name: value}), "sky", seeded("same")) for value in values]
        for i, a in enumerate(pictures):
            for b in pictures[i + 1 :]:
                assert (np.abs(a.astype(int) - b).max(axis=2) > 20).sum() >= 10, name


def test_captions_are_exact():
    rng = seeded("captions")
    for _ in range(100):
        bird = random_plumage(rng, reserved=False)
        background = str(rng.choice(list(BACKGROUNDS)))
        text = caption(bird, background, rng)
        said = text.split(" with ", 1)[1].removesuffix(".").removesuffix(f", {background} behind it")
        phrases = [p for part in said.split(", ") for p in part.split(" and ")]
        assert len(phrases) >= 3
        assert set(phrases) <= set(bird.phrases())


def test_prompt_name_tells_every_attribute():
    bird = make_species(1)[0].plumage
    assert all(phrase in prompt_name(bird) for phrase in bird.phrases())


def test_manifest_has_the_promised_counts():
    manifest = load_manifest(DataConfig(source="aviary:species=3,images=4"))
    assert [len(manifest.rows(split)) for split in ("train", "val", "test")] == [12, 30, 150]
    assert manifest.texts is not None
    assert manifest.classes[0].prompt_name.startswith("bird with ")


def test_long_tail():
    manifest = load_manifest(DataConfig(source="aviary:species=5,images=40,imbalance=10"))
    counts = np.bincount(manifest.labels[manifest.rows("train")])
    assert sorted(counts.tolist(), reverse=True) == [
        40,
        round(40 * 10**-0.25),
        round(40 * 10**-0.5),
        round(40 * 10**-0.75),
        4,
    ]

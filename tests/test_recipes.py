"""Every recipe is a valid configuration, and says what the paper says."""

from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import timm

from linnet.config import Config
from linnet.settings import settings

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
TEMPLATES = {
    "cub200": "a photo of {}, a type of bird",
    "aircraft": "a photo of {}, one of the airplane models",
    "dogs": "a photo of {}, a type of dog",
    "pets": "a photo of {}, a type of pet",
}
STUDENTS = {"resnet18": "resnet18.tv_in1k", "mobilenetv2": "mobilenetv2_100.ra_in1k"}
PAPERS = [
    (f"{method}_{data}_{student}", method, data, student)
    for method in ("pand", "vl2lite")
    for data in TEMPLATES
    for student in STUDENTS
]


@pytest.fixture
def resolve(make_folder: Callable[..., Path]) -> Callable[[Path], Config]:
    return lambda path: settings(make_folder(images=3), config=path)[0]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_resolves_and_says_how_it_is_started(path: Path, resolve: Callable[[Path], Config]):
    config = resolve(path)
    assert config.student.name in timm.list_pretrained()
    architecture, tag = (config.teacher.id or "").removeprefix("open_clip:").split("/")
    assert tag in open_clip.list_pretrained_tags_by_model(architecture)
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"--config recipes/{path.name}" in line for line in comment)
    assert any("on val" in line for line in comment)


@pytest.mark.parametrize(("name", "method", "data", "student"), PAPERS, ids=[row[0] for row in PAPERS])
def test_settings_of_the_papers(name: str, method: str, data: str, student: str, resolve: Callable[[Path], Config]):
    config = resolve(next(path for path in RECIPES if path.stem == name))
    train, teacher, pand = config.train, config.teacher, method == "pand"
    assert config.method == method
    assert config.data.views == "paper:vl2lite"
    assert teacher.id == "open_clip:convnext_xxlarge/laion2b_s34b_b82k_augreg_soup"
    assert (teacher.views, teacher.head) == ("online", "prompt" if pand else "zero-shot")
    assert teacher.templates == (TEMPLATES[data],)
    assert config.student.name == STUDENTS[student]
    assert config.student.pretrained is True
    assert (config.student.image_size, config.student.crop_mode) == (224, "squash")
    assert (train.epochs, train.batch_size) == (300, 128 if pand else 512)
    assert (train.optimizer, train.lr, train.weight_decay) == ("adamw", 1e-4, 1e-4 if pand else 0.0)
    assert (train.warmup, train.clip_norm, train.label_smoothing) == (0.0, None, 0.0)
    options = {"schedule": "published", "temperature": 2.0, "scale": pytest.approx(1 / 0.07)}
    if pand:
        assert (train.schedule, train.half_cycles, train.lr_min) == ("cosine", 3, 1e-5)
        options |= {"text_weight": 1.0, "nsd_weight": 1.0, "neighbours": 3}
        prompts = config.prompts
        assert (prompts.vectors, prompts.text, prompts.epochs, prompts.max_steps) == (16, "template", 200, None)
        assert (prompts.lr, prompts.batch_size, prompts.patience) == (0.002, 128, 50)
    else:
        assert (train.schedule, train.decay) == ("step", 0.5)
        assert train.milestones == pytest.approx([0.1 * i for i in range(1, 10)])
        options |= {"text_weight": 0.5}
    assert {key: config.options[method][key] for key in options} == options

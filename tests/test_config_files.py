from pathlib import Path

import pytest

from linnet.config import Config, DataConfig, TeacherConfig, TrainConfig
from linnet.config_files import difference, merge, moved_from, nest


def test_nest_tells_method_options_from_settings():
    assert nest({"kd.temperature": 2, "data.limit-per-class": 5, "method": "kd"}) == {
        "options": {"kd": {"temperature": 2}},
        "data": {"limit_per_class": 5},
        "method": "kd",
    }


def test_merge_is_deep_and_the_last_one_wins():
    assert merge({"a": {"x": 1, "y": 1}}, {"a": {"y": 2}}, {"b": 3}) == {"a": {"x": 1, "y": 2}, "b": 3}


def test_difference_names_each_changed_setting():
    assert difference(Config(), Config(train=TrainConfig(epochs=3), seed=1)) == [
        "train.epochs: None -> 3",
        "seed: 0 -> 1",
    ]


@pytest.mark.parametrize(
    ("id", "moved"),
    [
        ("mini-clip", "mini-clip"),
        ("timm:resnet18", "timm:resnet18"),
        ("open_clip:x/y", "open_clip:x/y"),
        ("open_clip:hf-hub:x/y", "open_clip:hf-hub:x/y"),
        ("run:x/y", "run:{}/x/y"),
        ("run:a:b", "run:{}/a:b"),
        ("hf:x/y", "hf:{}/x/y"),
        ("timm:local-dir:x", "timm:local-dir:{}/x"),
        ("timm:resnet18:x/w", "timm:resnet18:{}/x/w"),
    ],
)
def test_a_teacher_is_found_from_elsewhere_and_a_name_stays_one(tmp_path: Path, id: str, moved: str):
    """Whatever lies in the folder that the run was started in."""
    for name in ("mini-clip", "resnet18", "x/y", "x/w", "a:b"):
        (tmp_path / name).mkdir(parents=True)
    config = moved_from(tmp_path, Config(data=DataConfig(source="a:b"), teacher=TeacherConfig(id=id)))
    assert config.teacher.id == moved.format(tmp_path)
    assert config.data.source == str(tmp_path / "a:b")

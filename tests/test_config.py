from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from linnet.config import (
    GROUPS,
    Config,
    DataConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    difference,
    merge,
    moved_from,
    nest,
)
from linnet.errors import UserError
from linnet.fields import field_sentences, from_dict, to_dict
from linnet.methods import METHODS


def test_round_trip_through_yaml_keeps_every_value():
    config = Config(
        data=DataConfig(source="photos", limit_per_class=3),
        student=StudentConfig(name="resnet10t", pretrained=Path("weights.safetensors")),
        train=TrainConfig(milestones=(0.5,), clip_norm=None),
        options={"kd": {"temperature": 3.0}},
    )
    assert from_dict(Config, yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"epoch": 3}}, "unknown setting 'train.epoch'. Did you mean 'epochs'?"),
        ({"trian": {}}, "unknown setting 'trian'. Did you mean 'train'?"),
        ({"train": {"epochs": 0}}, "train.epochs must be at least 1, not 0"),
        ({"train": {"epochs": 2.5}}, "train.epochs must be a whole number, not 2.5"),
        ({"train": {"epochs": True}}, "train.epochs must be a whole number, not True"),
        ({"train": {"lr": "fast"}}, "train.lr must be a number, not 'fast'"),
        ({"train": {"lr": float("nan")}}, "train.lr must be a number, not nan"),
        ({"train": {"label_smoothing": 1.5}}, "train.label_smoothing must be at least 0 and at most 0.99, not 1.5"),
        (
            {"train": {"optimizer": "adam"}},
            "train.optimizer must be one of adamw, sgd, not 'adam'. Did you mean 'adamw'?",
        ),
        ({"train": {"epochs": float("inf")}}, "train.epochs must be a whole number, not inf"),
        ({"train": {"milestones": None}}, "train.milestones must be a list, not None"),
        ({"train": {"batch_size": 1}}, "train.batch_size must be at least 2, not 1"),
        ({"train": 3}, "train must be a mapping of settings, not 3"),
        ({"export": "perhaps"}, "export must be true or false, not 'perhaps'"),
    ],
)
def test_bad_values_say_what_was_expected(values: dict, message: str):
    with pytest.raises(UserError) as error:
        from_dict(Config, values)
    assert str(error.value) == message


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


@pytest.mark.parametrize(
    "kind",
    [Config, *GROUPS.values(), *dict.fromkeys(method.Options for method in METHODS.values())],
    ids=lambda kind: kind.__name__,
)
def test_every_setting_says_in_one_sentence_what_it_is(kind: type):
    """The command line's help is made of these sentences; a field without one would be shown bare."""
    sentences = field_sentences(kind)
    names = {spec.name for spec in fields(kind) if spec.name not in GROUPS or kind is not Config}
    assert names <= set(sentences)
    assert all(sentences[name].endswith(".") for name in names)


@pytest.mark.parametrize(
    "views", ["replay", "replay:0", "replay:04", "replay:-1", "replay:99999", "Replay:4", "centre", ""]
)
def test_views_that_do_not_exist(views: str):
    with pytest.raises(
        UserError, match="teacher.views must be center, squash, online or replay:K, as in replay:4, not"
    ):
        from_dict(Config, {"teacher": {"views": views}})


def test_replay_says_how_many():
    assert [TeacherConfig(views=views).replay for views in ("center", "online", "replay:12")] == [None, None, 12]

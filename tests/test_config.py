from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from linnet.config import GROUPS, Config, DataConfig, StudentConfig, TeacherConfig, TrainConfig
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

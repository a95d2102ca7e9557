import itertools
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from linnet.config import (
    Config,
    DataConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    difference,
    from_dict,
    merge,
    nest,
    to_dict,
)
from linnet.errors import UserError
from linnet.settings import settings


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
        ({"train": {"epochs": 2.5}}, "train.epochs must be a int, not 2.5"),
        ({"train": {"epochs": True}}, "train.epochs must be a int, not True"),
        ({"train": {"lr": "fast"}}, "train.lr must be a float, not 'fast'"),
        ({"train": {"lr": float("nan")}}, "train.lr must be a float, not nan"),
        ({"train": {"label_smoothing": 1.5}}, "train.label_smoothing must be at least 0 and at most 0.99, not 1.5"),
        (
            {"train": {"optimizer": "adam"}},
            "train.optimizer must be one of adamw, sgd, not 'adam'. Did you mean 'adamw'?",
        ),
        ({"train": {"epochs": float("inf")}}, "train.epochs must be a int, not inf"),
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


def test_strings_of_the_command_line_become_values():
    config = from_dict(
        Config,
        nest(
            {
                "train.epochs": "3",
                "train.clip-norm": "none",
                "student.pretrained": "false",
                "train.milestones": ["0.5", "0.9"],
            }
        ),
    )
    assert (config.train.epochs, config.train.clip_norm, config.student.pretrained) == (3, None, False)
    assert config.train.milestones == (0.5, 0.9)
    assert from_dict(Config, nest({"student.pretrained": "a/b.pth"})).student.pretrained == Path("a/b.pth")


def test_nest_tells_method_options_from_settings():
    assert nest({"kd.temperature": 2, "data.limit-per-class": 5, "method": "kd"}) == {
        "options": {"kd": {"temperature": 2}},
        "data": {"limit_per_class": 5},
        "method": "kd",
    }


def test_merge_is_deep_and_the_last_one_wins():
    assert merge({"a": {"x": 1, "y": 1}}, {"a": {"y": 2}}, {"b": 3}) == {"a": {"x": 1, "y": 2}, "b": 3}


def test_precedence_argument_over_file_over_default(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("data: {source: aviary}\ntrain: {epochs: 7, batch_size: 32}\nmethod: ce\n")
    config, _ = settings(config=file, options={"train.epochs": 9})
    assert (config.train.epochs, config.train.batch_size, config.train.warmup, config.method) == (
        9,
        32,
        TrainConfig.warmup,
        "ce",
    )


def test_resolved_settings_are_a_valid_file_and_resolve_to_themselves(tmp_path: Path):
    first, reasons = settings("aviary", method="kd")
    assert reasons
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_dict(first)))
    again, none = settings(config=file)
    assert again == first
    assert none == []


def test_method_options_are_checked_before_anything_runs():
    with pytest.raises(UserError, match="unknown setting 'kd.temperatur'. Did you mean 'temperature'"):
        settings("aviary", method="kd", options={"kd.temperatur": 2})
    with pytest.raises(UserError, match=r"kd.alpha must be at least 0 and at most 1, not 2"):
        settings("aviary", method="kd", options={"kd.alpha": 2})
    with pytest.raises(UserError, match=r"unknown settings 'kd.\*': the method is 'ce'"):
        settings("aviary", method="ce", options={"kd.alpha": 0.5})


@pytest.mark.parametrize(("side", "expected"), [(64, 64), (36, 64), (500, 224), (24, 32)])
def test_small_photos_are_not_blown_up(tmp_path: Path, side: int, expected: int):
    from pictures import write_image

    for i in range(3):
        write_image(tmp_path / "train" / "ant" / f"{i}.png", (9, 9, 9), seed=i, size=(side + 10, side))
    config, reasons = settings(tmp_path)
    assert config.student.image_size == expected
    assert any(f"about {side} pixels" in reason for reason in reasons)
    assert settings(tmp_path, options={"student.image_size": 96})[0].student.image_size == 96


def test_the_learning_rate_follows_where_the_student_starts():
    assert settings("aviary")[0].train.lr == 0.006
    assert settings("photos")[0].train.lr == 0.001
    assert settings("photos", options={"student.pretrained": False})[0].train.lr == 0.006
    assert settings("photos", options={"student.pretrained": "a.pth"})[0].train.lr == 0.001
    assert settings("aviary", options={"train.lr": 0.02})[0].train.lr == 0.02
    sgd = settings("photos", options={"train.optimizer": "sgd"})[0].train
    assert (sgd.lr, sgd.weight_decay) == (0.01, 5e-4)  # AdamW's decay would be a hundred times too much
    assert settings("photos/")[0].data.source == "photos"


def test_few_shot_finetuning_has_defaults_of_its_own():
    def train(**options: object) -> TrainConfig:
        options = {"shots.use": "finetune", "shots.count": 5, "student.pretrained": "runs/x/model", **options}
        return settings("aviary", method="openvocab", options=options)[0].train

    assert (train().epochs, train().lr, train().select) == (20, 2e-4, "last")
    assert train(**{"train.optimizer": "sgd"}).lr == 1e-3
    assert train(**{"train.epochs": 3, "train.select": "val"}).select == "val"
    assert settings("aviary", options={"shots.count": 5})[0].train.select == "val"
    with pytest.raises(UserError, match="goes on from a student that knows the base classes"):
        settings("aviary", method="openvocab", options={"shots.use": "finetune", "shots.count": 5})


def test_none_can_be_a_choice_and_can_be_auto():
    """The recipe "none" must not turn into "auto", which is "light"."""
    assert settings("aviary", options={"data.views": "none"})[0].data.views == "none"
    assert settings("aviary", options={"data.views": "auto"})[0].data.views == "light"
    assert settings("aviary", options={"train.clip_norm": "none"})[0].train.clip_norm is None


def test_the_file_of_a_kd_run_starts_its_ce_row(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("data: {source: aviary}\nmethod: kd\noptions: {kd: {temperature: 3}}\ntrain: {epochs: 7}\n")
    config, _ = settings(config=file, method="ce")
    assert (config.method, config.train.epochs, config.options) == ("ce", 7, {"ce": {}})
    file.write_text("data: {source: aviary}\nmethod: kd\noptions: {kdd: {temperature: 3}}\n")
    with pytest.raises(UserError, match=r"unknown settings 'kdd.\*'"):
        settings(config=file)


def test_difference_names_each_changed_setting():
    assert difference(Config(), Config(train=TrainConfig(epochs=3), seed=1)) == [
        "train.epochs: None -> 3",
        "seed: 0 -> 1",
    ]


def test_every_setting_says_in_one_sentence_what_it_is():
    """The command line's help is made of these sentences; a field without one would be shown bare."""
    import ast
    import inspect

    import linnet.config as module

    for kind in (DataConfig, module.TeacherConfig, StudentConfig, TrainConfig):
        body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
        documented = {
            node.target.id
            for node, after in itertools.pairwise(body)
            if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        }
        assert documented == {spec.name for spec in fields(kind)}


@pytest.mark.parametrize(
    "views", ["replay", "replay:0", "replay:04", "replay:-1", "replay:99999", "Replay:4", "centre", ""]
)
def test_views_that_do_not_exist(views: str):
    with pytest.raises(UserError, match="teacher.views must be center, online or replay:K, as in replay:4, not"):
        from_dict(Config, {"teacher": {"views": views}})


def test_replay_says_how_many():
    assert [TeacherConfig(views=views).replay for views in ("center", "online", "replay:12")] == [None, None, 12]

from pathlib import Path

import pytest
import yaml

from linnet.config import TrainConfig
from linnet.defaults import default_folder, in_a_block, settings
from linnet.errors import UserError
from linnet.fields import to_dict


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
    with pytest.raises(UserError, match=r"--kd.\* are options of kd, but the method is ce"):
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
    assert settings("photos")[0].train.lr == 0.002
    assert settings("photos", student="vit_tiny_patch16_224")[0].train.lr == 0.0003  # no BatchNorm
    assert settings("photos", student="timm/none", options={"train.lr": 0.1})[0].train.lr == 0.1  # not looked up
    assert settings("photos", options={"student.pretrained": False})[0].train.lr == 0.006
    assert settings("photos", options={"student.pretrained": "a.pth"})[0].train.lr == 0.002
    assert settings("aviary", options={"train.lr": 0.02})[0].train.lr == 0.02
    sgd = settings("photos", options={"train.optimizer": "sgd"})[0].train
    assert (sgd.lr, sgd.weight_decay) == (0.01, 5e-4)  # AdamW's decay would be a hundred times too much
    assert settings("photos/")[0].data.source == "photos"


def test_the_default_method_has_its_reason():
    assert settings("aviary")[1][0].startswith("method = kd: on the mean above ce on val on every set measured")
    assert not any(reason.startswith("method") for reason in settings("aviary", method="kd")[1])


def test_few_shot_finetuning_has_defaults_of_its_own():
    def train(**options: object) -> TrainConfig:
        options = {"shots.use": "finetune", "shots.count": 5, "student.pretrained": "runs/x/model", **options}
        return settings("aviary", method="openvocab", options=options)[0].train

    assert (train().epochs, train().lr, train().select) == (20, 2e-4, "last")
    assert train(**{"train.optimizer": "sgd"}).lr == 1e-3
    assert train(**{"train.epochs": 3, "train.select": "val"}).select == "val"
    assert settings("aviary", method="openvocab", options={"shots.count": 5})[0].train.select == "val"
    with pytest.raises(UserError, match="continues from a student that knows the base classes"):
        settings("aviary", method="openvocab", options={"shots.use": "finetune", "shots.count": 5})


def test_none_can_be_a_choice_and_can_be_auto():
    """The recipe "none" must not turn into "auto", which is "light"."""
    assert settings("aviary", options={"data.views": "none"})[0].data.views == "none"
    assert settings("aviary", options={"data.views": "auto"})[0].data.views == "light"
    assert settings("photos")[0].data.views == "standard"
    assert settings("aviary", options={"train.clip_norm": "none"})[0].train.clip_norm is None


def test_the_file_of_a_kd_run_starts_its_ce_row(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("data: {source: aviary}\nmethod: kd\noptions: {kd: {temperature: 3}}\ntrain: {epochs: 7}\n")
    config, _ = settings(config=file, method="ce")
    assert (config.method, config.train.epochs, config.options) == ("ce", 7, {"ce": {}})
    file.write_text("data: {source: aviary}\nmethod: kd\noptions: {kdd: {temperature: 3}}\n")
    with pytest.raises(UserError, match=r"unknown settings 'kdd.\*'"):
        settings(config=file)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a/photos", "photos-kd-s0"),
        ("aviary", "aviary-kd-s0"),
        ("aviary:species=9,images=3", "aviary-species=9-images=3-kd-s0"),
    ],
)
def test_default_run_folder(source: str, expected: str):
    assert default_folder(settings(source)[0]) == Path("runs") / expected


def test_what_was_chosen_is_told_in_one_block():
    reasons = ["train.epochs = 30: drawn birds", "teacher.id = open_clip:ARCH/TAG: a strong: open model"]
    assert in_a_block(reasons).splitlines() == [
        "settings chosen for you:",
        "  train.epochs  30                  drawn birds",
        "  teacher.id    open_clip:ARCH/TAG  a strong: open model",
    ]


class TestHeadOfTheTeacher:
    """A probe may take the place of the class texts where nothing but the teacher's logits is read."""

    @pytest.mark.parametrize(
        ("method", "teacher", "head"),
        [
            ("kd", "mini-clip", "val"),
            ("kd+dist", "mini-clip", "val"),
            ("kd", "timm:resnet18", "zero-shot"),
            ("ce", None, "zero-shot"),
            ("vl2lite", "mini-clip", "zero-shot"),
            ("kd+embedding", "mini-clip", "zero-shot"),
            ("openvocab", "mini-clip", "zero-shot"),
            ("dual+kd", "mini-clip", "zero-shot"),
            ("pand", "mini-clip", "prompt"),
        ],
    )
    def test_it_follows_what_the_method_reads(self, method: str, teacher: str | None, head: str):
        config, reasons = settings("aviary", method=method, teacher=teacher)
        assert config.teacher.head == head
        assert any("teacher.head = val" in reason for reason in reasons) == (head == "val")

    @pytest.mark.parametrize(("method", "head"), [("pand", "prompt"), ("openvocab", "zero-shot"), ("ce", "zero-shot")])
    def test_another_method_starts_from_the_file_of_a_kd_run(self, tmp_path: Path, method: str, head: str):
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(to_dict(settings("aviary", method="kd")[0])))
        assert settings(config=file, method=method)[0].teacher.head == head
        assert settings(config=file, teacher="timm:resnet18")[0].teacher.head == "zero-shot"

    @pytest.mark.parametrize(
        ("method", "others"), [("pand", "zero-shot, prompt or probe"), ("openvocab", "zero-shot or prompt$")]
    )
    def test_val_chooses_nothing_for_a_method_that_reads_class_texts(self, method: str, others: str):
        with pytest.raises(
            UserError, match=f"'{method}' reads more than the teacher's logits.*use --teacher.head {others}"
        ):
            settings("aviary", method=method, options={"teacher.head": "val"})

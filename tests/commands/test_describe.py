"""Texts written by a tiny vision-language model: once for each image and prompt, whatever happens in between."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pictures import write_image
from tiny_vlm import qwen2_vl

import linnet
from linnet.__main__ import main
from linnet.config import DataConfig
from linnet.data.digests import digest_files
from linnet.data.load import load_manifest, training_rows
from linnet.teachers.writer import Writer
from linnet.text.captions import Caption, read_captions
from linnet.text.classes import read_descriptions

PER_CLASS = 4  # training images of each of the three classes


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen2_vl(tmp_path_factory.mktemp("vlm"))


@pytest.fixture
def photos(make_folder: Callable[..., Path]) -> Path:
    return make_folder(images=PER_CLASS, splits=("train", "val"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """What reaches the model: how many images, and the words."""
    seen: list[tuple[int, str]] = []
    real = Writer.write

    def write(self: Writer, conversations: list) -> list:
        seen.extend((len(images), words) for images, words in conversations)
        return real(self, conversations)

    monkeypatch.setattr(Writer, "write", write)
    return seen


def described(photos: Path, vlm: Path, out: Path, **how) -> list[Caption]:
    linnet.describe(photos, vlm=str(vlm), out=out, **{"max_tokens": 8, **how})
    return read_captions(out)[0]


def test_each_training_image_gets_a_text_for_each_prompt(photos: Path, vlm: Path, tmp_path: Path, asked: list):
    captions = described(photos, vlm, tmp_path / "t.parquet")
    names = [f"train/{name}/{i:03d}.jpg" for name in ("blue_bird", "green_bird", "red_bird") for i in range(PER_CLASS)]
    assert [(own.path, own.prompt) for own in captions] == [(name, prompt) for name in names for prompt in ("p1", "p2")]
    assert {own.digest for own in captions[:2]} == {digest_files([photos / names[0]])[0].tobytes().hex()}
    assert all(own.class_name == Path(own.path).parent.name for own in captions)
    assert sum('"red bird"' in words for _, words in asked) == PER_CLASS
    assert len({own.text for own in captions}) > 1
    manifest = load_manifest(DataConfig(source=str(photos), texts=tmp_path / "t.parquet"))
    assert manifest.texts is not None
    assert next(manifest.texts[row] for row in training_rows(manifest)) == (captions[0].text, captions[1].text)
    assert not any(manifest.texts[row] for row in manifest.rows("val"))
    assert not list(tmp_path.glob("*.journal"))


def test_the_file_says_what_made_it(photos: Path, vlm: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO", "linnet"):
        described(photos, vlm, tmp_path / "t.csv", prompts=["p1"])
    _, about = read_captions(tmp_path / "t.csv")
    assert {"vlm", "weights", "prompts", "max_tokens", "precision", "linnet", "transformers", "data", "created"} <= set(about)  # fmt: skip
    assert (about["vlm"], about["max_tokens"], about["precision"]) == (str(vlm), 8, "fp32")
    assert about["prompts"]["p1"].startswith("Describe the main object")
    assert about["texts"] == 3 * PER_CLASS and about["input_tokens"] > 100 and 0 < about["output_tokens"] <= 8
    assert f"{about['input_tokens']:.0f} in" in caplog.text
    assert "precision: fp32 (there is no GPU" in caplog.text


KILLED = """
import os, signal, sys, linnet
from linnet.text.journal import Journal
real = Journal.add
def add(self, asked, written):
    real(self, asked, written)
    if len(self.written) >= 4:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.add = add
linnet.describe(sys.argv[1], vlm=sys.argv[2], out=sys.argv[3], max_tokens=8, batch_size=2)
"""


def test_a_killed_process_goes_on_where_it_was(
    photos: Path, vlm: Path, tmp_path: Path, asked: list, caplog: pytest.LogCaptureFixture
):
    whole = described(photos, vlm, tmp_path / "whole.parquet")
    assert described(photos, vlm, tmp_path / "again.parquet", batch_size=3) == whole
    out = tmp_path / "killed.parquet"
    done = subprocess.run([sys.executable, "-c", KILLED, photos, vlm, out], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    journal = tmp_path / "killed.parquet.journal"
    assert len(journal.read_text().splitlines()) == 1 + 2 and not out.exists()
    with journal.open("a") as file:
        file.write('[[["ab12", "blue_bird", "p')
    asked.clear()
    with caplog.at_level("INFO", "linnet"):
        assert described(photos, vlm, out) == whole
    assert len(asked) == len(whole) - 4
    assert f"4 of {len(whole)} texts are in {journal} already" in caplog.text
    assert not journal.exists()


def test_only_new_images_are_asked_about(photos: Path, vlm: Path, tmp_path: Path, asked: list):
    before = described(photos, vlm, tmp_path / "t.parquet")
    _, first = read_captions(tmp_path / "t.parquet")
    asked.clear()
    assert described(photos, vlm, tmp_path / "t.parquet") == before
    assert not asked
    write_image(photos / "train/red_bird/100.jpg", (1, 2, 3), seed=7)
    after = described(photos, vlm, tmp_path / "t.parquet")
    assert len(asked) == 2 and len(after) == len(before) + 2
    assert [own for own in after if not own.path.endswith("100.jpg")] == before
    assert read_captions(tmp_path / "t.parquet")[1]["texts"] == first["texts"] + 2
    # images that are not trained on any more keep their texts: they cost nothing, and reach no other image
    assert described(photos, vlm, tmp_path / "t.parquet", options={"data.limit_per_class": 1}) == after
    assert len(asked) == 2


def test_the_same_image_is_asked_about_once(photos: Path, vlm: Path, tmp_path: Path, asked: list):
    plain = described(photos, vlm, tmp_path / "plain.parquet")
    asked.clear()
    shutil.copy(photos / "train/red_bird/000.jpg", photos / "train/red_bird/twin.jpg")
    assert described(photos, vlm, tmp_path / "t.parquet") == plain
    assert len(asked) == len(plain)
    shutil.copy(photos / "train/red_bird/000.jpg", photos / "train/blue_bird/100.jpg")  # and what would make it one
    asked.clear()
    captions = described(photos, vlm, tmp_path / "t.parquet")
    assert [words for _, words in asked] == [words for _, words in asked if '"blue bird"' in words] and len(asked) == 1
    both = {own.class_name: own.text for own in captions if own.path.endswith(("red_bird/000.jpg", "blue_bird/100.jpg")) and own.prompt == "p1"}  # fmt: skip
    assert both["red_bird"] == both["blue_bird"]


def test_texts_made_in_another_way_are_not_mixed(photos: Path, vlm: Path, tmp_path: Path):
    out = tmp_path / "t.parquet"
    described(photos, vlm, out, prompts=["p1"])
    other = qwen2_vl(tmp_path / "other", seed=1)
    (tmp_path / "mine.txt").write_text("What?")
    cases = (
        (vlm, {"max_tokens": 9}, "max-tokens: 8 -> 9"),
        (vlm, {"prompts": ["p1", str(tmp_path / "mine.txt")]}, "the prompt mine"),
        (vlm, {"precision": "bf16"}, "precision: fp32 -> bf16"),
        (other, {}, f"vlm: {vlm} -> {other}"),
    )
    for model, how, message in cases:
        with pytest.raises(linnet.UserError, match="was made with other settings") as error:
            described(photos, model, out, **{"prompts": ["p1"], **how})
        assert f"({message}): use its own, choose another --out, or start again with --overwrite" in str(error.value)
    write_image(photos / "train/red_bird/100.jpg", (1, 2, 3), seed=7).write_bytes(b"no image")
    with pytest.raises(linnet.UserError, match="cannot read the image"):  # nothing is deleted for a start that fails
        described(photos, other, out, prompts=["p1"], overwrite=True)
    (photos / "train/red_bird/100.jpg").unlink()
    assert read_captions(out)[1]["vlm"] == str(vlm)
    again = described(photos, other, out, prompts=["p1"], overwrite=True)
    assert read_captions(out)[1]["vlm"] == str(other) and len(again) == 3 * PER_CLASS


def test_a_broken_image_is_found_before_anything_is_asked(photos: Path, vlm: Path, tmp_path: Path, asked: list):
    broken = photos / "train/red_bird/003.jpg"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    with pytest.raises(linnet.UserError, match=r"cannot read the image .*red_bird/003.jpg"):
        described(photos, vlm, tmp_path / "t.parquet", batch_size=2)
    assert asked == []
    left_out = described(photos, vlm, tmp_path / "t.parquet", batch_size=2, options={"data.on_error": "skip"})
    assert len(left_out) == 2 * (3 * PER_CLASS - 1)


def test_ctrl_c_says_how_to_go_on(
    photos: Path, vlm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    real, calls = Writer.write, []

    def write(self: Writer, conversations: list) -> list:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, conversations)

    monkeypatch.setattr(Writer, "write", write)
    words = ["describe", str(photos), "--vlm", str(vlm), "--out", str(tmp_path / "t.csv"), "--prompt", "p1"]
    words += ["--max-tokens", "8", "--batch-size", "5"]
    with pytest.raises(SystemExit) as exit:
        main(words)
    assert exit.value.code == 130
    assert "stopped (5 of 12 texts are written: the same command goes on behind them)" in capsys.readouterr().err
    main([*words, "--show", "2"])
    *shown, file = capsys.readouterr().out.splitlines()
    captions = read_captions(tmp_path / "t.csv")[0]
    assert file == str(tmp_path / "t.csv") and len(calls) == 2 + 2 and len(captions) == 12
    assert shown == [f"{captions[i].path}   {captions[i].text}" for i in (0, 6)]


def test_the_settings_of_a_run_say_which_images_are_trained_on(photos: Path, vlm: Path, tmp_path: Path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"data": {"source": str(photos), "limit_per_class": 2, "texts": "later.parquet"}}))  # fmt: skip
    linnet.describe(config=tmp_path / "run.yaml", vlm=str(vlm), out=tmp_path / "t.csv", prompts=["p1"], max_tokens=2)
    assert len(read_captions(tmp_path / "t.csv")[0]) == 6
    how = {"data.limit_per_class": 1}
    linnet.describe(photos, config=tmp_path / "run.yaml", vlm=str(vlm), out=tmp_path / "u.csv", max_tokens=2, options=how)  # fmt: skip
    assert len(read_captions(tmp_path / "u.csv")[0]) == 3 * 2


def test_texts_about_classes_are_descriptions(photos: Path, vlm: Path, tmp_path: Path, asked: list):
    shutil.copytree(photos / "train/red_bird", photos / "train/grey_bird")
    for i, path in enumerate(sorted((photos / "train/grey_bird").iterdir())):
        write_image(path, (99, 99, 99), seed=i)
    (tmp_path / "more.txt").write_text("Which parts has a {class}?")
    novel = {"data.novel_classes": ["grey_bird", "red_bird"]}
    how = {"vlm": str(vlm), "per": "class", "max_tokens": 8, "options": novel}
    linnet.describe(photos, out=tmp_path / "d.yaml", prompts=["class", str(tmp_path / "more.txt")], examples=2, **how)
    sentences = read_descriptions(tmp_path / "d.yaml")
    assert list(sentences) == ["blue_bird", "green_bird", "grey_bird", "red_bird"]
    assert {len(texts) for texts in sentences.values()} == {2}
    assert [images for images, _ in asked] == [2, 2, 0, 0] * 2  # the images of novel classes are for the test
    assert "Which parts has a grey bird?" in [words for _, words in asked]
    settings = DataConfig(source=str(photos), descriptions=tmp_path / "d.yaml")
    assert load_manifest(settings).classes[0].descriptions == sentences["blue_bird"]
    with pytest.raises(linnet.UserError, match=r"d.yaml exists: choose another --out, or replace it with --overwrite"):
        linnet.describe(photos, out=tmp_path / "d.yaml", **how)
    linnet.describe(photos, out=tmp_path / "d.json", **how)
    assert set(json.loads((tmp_path / "d.json").read_text())) == set(sentences)


def test_without_a_model_the_texts_of_the_data_are_shown(capsys: pytest.CaptureFixture[str]):
    main(["describe", "aviary:species=2,images=3", "--show", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(".png   " in line and len(line.split("   ")[1]) > 20 for line in lines)


def test_a_table_becomes_linnets_own_file(photos: Path, tmp_path: Path):
    (tmp_path / "a.csv").write_text("file,wing,crest\nred_bird/000.jpg,red,1\nval/red_bird/001.jpg,red,0\ntrain/blue_bird/002.jpg,blue,0\n")  # fmt: skip
    main(["describe", str(photos), "--data.texts", str(tmp_path / "a.csv"), "--out", str(tmp_path / "t.parquet"), "--data.text-templates", "a {wing} wing", "--data.text-templates", "{crest} crests"])  # fmt: skip
    captions, about = read_captions(tmp_path / "t.parquet")
    assert [(own.path, own.prompt, own.text) for own in captions] == [
        ("train/blue_bird/002.jpg", "t1", "a blue wing"),
        ("train/blue_bird/002.jpg", "t2", "0 crests"),
    ]
    assert about["texts"] == str(tmp_path / "a.csv")
    settings = DataConfig(source=str(photos), texts=tmp_path / "a.csv", text_templates=("a {wing} wing", "{crest} crests"))  # fmt: skip
    plain = load_manifest(replace(settings, texts=tmp_path / "t.parquet", text_templates=None))
    assert plain.texts == load_manifest(settings).texts


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "give --vlm MODEL and --out texts.parquet to write texts, or --show 20 to see those of the data"),
        ({"show": 3}, "has no texts: give a table with --data.texts, or a model with --vlm"),
        ({"vlm": "x"}, "where shall the texts go. Give --out texts.parquet"),
        ({"vlm": "x", "out": "t.txt"}, "--out must end in .parquet or .csv, not be 't.txt'"),
        ({"vlm": "x", "out": "t.csv", "per": "class"}, "--out must end in .yaml or .yml or .json"),
        ({"vlm": "x", "out": "pyproject.toml/t.csv"}, "cannot write pyproject.toml/t.csv: .* is not a folder"),
        ({"show": -1}, "--show must be at least 0, not -1"),
        ({"vlm": "x", "out": "t.csv", "max_tokens": 0}, "--max-tokens must be at least 1, not 0"),
        (
            {"vlm": "x", "out": "t.csv", "options": {"data.texts": "a.csv"}},
            "--vlm writes new texts: leave --data.texts",
        ),
        ({"vlm": "x", "out": "t.csv", "options": {"train.lr": 3}}, "'train' is no setting of the data"),
        ({"vlm": "x", "out": "t.csv", "prompts": ["p5.txt"]}, "there is no prompt 'p5.txt'"),
        ({"vlm": "no/model", "out": "t.csv"}, "'no/model' is neither a folder nor a model"),
        ({"show": 3, "options": {"data.texts": "none.csv"}}, "none.csv: no such file"),
    ],
)
def test_what_cannot_be_done_is_said_first(photos: Path, monkeypatch: pytest.MonkeyPatch, how: dict, message: str):
    monkeypatch.chdir(photos.parent)
    Path("pyproject.toml").touch()
    with pytest.raises(linnet.UserError, match=message):
        linnet.describe(photos, **how)
    assert {path.name for path in Path().iterdir()} == {"photos", "pyproject.toml"}


def test_a_file_of_somebody_else_stays(photos: Path, vlm: Path, tmp_path: Path):
    (tmp_path / "t.csv").write_text("path,text\nmine,mine\n")
    with pytest.raises(linnet.UserError, match="was not written by linnet"):
        described(photos, vlm, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "path,text\nmine,mine\n"

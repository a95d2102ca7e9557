import csv
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from pictures import write_image

import linnet
from linnet.__main__ import main
from linnet.config import DataConfig
from linnet.config_files import write_yaml
from linnet.data.load import load_manifest
from linnet.data.manifest import Manifest
from linnet.data.store import Images
from linnet.defaults import settings
from linnet.deploy.export import export_onnx
from linnet.errors import UserError
from linnet.evaluation import labelled
from linnet.evaluation.score import Evaluation, look_at_splits, score
from linnet.run import Run
from linnet.students.student import Student
from linnet.text.bank import TextBank
from linnet.text.classes import class_table

BIRDS = ("red_bird", "green_bird", "blue_bird")
TINY = {"student.name": "test_resnet", "student.image_size": 32, "train.epochs": 1, "train.precision": "fp32"}


@pytest.fixture
def photos(make_folder: Callable[..., Path]) -> Path:
    return make_folder(images=6, splits=("train", "val", "test"))


def hand_made(folder: Path, data: Path, seed: int = 0, names: tuple[str, ...] = BIRDS, **options: object) -> Run:
    """A finished run of random weights, without a training."""
    config, _ = settings(str(data), method="ce", options={**TINY, **{k.replace("_", ".", 1): v for k, v in options.items()}}, timed=False)  # fmt: skip
    run = Run.create(folder, config)
    torch.manual_seed(seed)
    Student("test_resnet", class_table(sorted(names)), image_size=32).save(run.model)
    run.pin(data=load_manifest(config.data).content_hash)
    run.write_summary({"method": "ce", "student.name": "test_resnet", "test.top1": 0.5})
    run.close()
    return run


@pytest.fixture
def run(tmp_path: Path, photos: Path) -> Run:
    return hand_made(tmp_path / "runs" / "first", photos)


@pytest.fixture
def scored(run: Run) -> Run:
    """The same, scored and exported as at the end of a training."""
    config, student = run.settings(), Student.load(run.model)
    manifest = load_manifest(config.data)
    splits = {part: manifest.take(manifest.rows(part)) for part in ("val", "test")}
    images = {part: Images(rows.paths, rows.digests, 32, "eval") for part, rows in splits.items()}
    evaluation = Evaluation(splits, images)
    numbers = score(look_at_splits(student, evaluation, torch.device("cpu")), evaluation, run)
    run.write_summary({"method": "ce", "student.name": "test_resnet", **numbers})
    export_onnx(student, run.onnx, images["val"])
    return run


def predictions(folder: Path) -> dict[str, list]:
    return pyarrow.parquet.read_table(folder / "predictions.parquet").to_pydict()


# --- the numbers ---


def test_a_run_is_scored_as_at_its_end(
    scored: Run, run_without_torch: Callable[[str], str], caplog: pytest.LogCaptureFixture
):
    """With torch, and as an ONNX file where there is none."""
    said = scored.summary()
    done = linnet.evaluate(scored.folder)
    assert done.folder == scored.folder / "evaluation" / "photos-test"
    assert done.numbers["summary.top1"] == done.numbers["top1"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    code = f"import linnet; print(linnet.evaluate({str(scored.onnx)!r}).folder)"
    from_onnx = Path(run_without_torch(code))
    code = (
        f"import linnet\ntry: linnet.evaluate({str(scored.folder)!r})\nexcept linnet.UserError as error: print(error)"
    )
    assert "is not installed; its model.onnx does without" in run_without_torch(code)
    before = pyarrow.parquet.read_table(scored.predictions_of("test")).to_pydict()
    for folder, error in ((done.folder, 1e-5), (from_onnx, 1e-4)):
        numbers = json.loads((folder / "evaluation.json").read_text())
        for key in ("top1", "top5", "mean_per_class", "ece"):
            assert numbers[key] == pytest.approx(said[f"test.{key}"], abs=error)
        table = predictions(folder)
        for column in ("path", "label", "prediction"):
            assert table[column] == before[column]
        assert table["confidence"] == pytest.approx(before["confidence"], abs=error)


@pytest.mark.slow
def test_the_numbers_of_a_training(tmp_path: Path, run_without_torch: Callable[[str], str]):
    run = linnet.distill("aviary:species=4,images=4", method="ce", out=tmp_path / "run", options={**TINY, "train.epochs": 3})  # fmt: skip
    said, first = run.summary(), linnet.evaluate(run.folder)
    code = f"import linnet; print(linnet.evaluate({str(run.onnx)!r}).folder)"
    second = json.loads((Path(run_without_torch(code)) / "evaluation.json").read_text())
    for key in ("top1", "top5", "mean_per_class"):
        assert first.numbers[key] == pytest.approx(said[f"test.{key}"], abs=0.006)  # an image that is on the edge
        assert second[key] == pytest.approx(said[f"test.{key}"], abs=0.006)
    assert (first.numbers["looks"], second["looks"]) == (2, 3)


@pytest.mark.parametrize("said", [None, "0.5", [0.5]])
def test_a_summary_that_says_no_number_is_no_hindrance(run: Run, said: object):
    run.write_summary(run.summary() | {"test.top1": said})
    assert "summary.top1" not in linnet.evaluate(run.folder).numbers


def test_a_summary_that_says_something_else_is_told_of(run: Run, caplog: pytest.LogCaptureFixture):
    numbers = linnet.evaluate(run.folder).numbers
    assert numbers["top1"] != 0.5
    assert "the run's summary says 50.0 %" in caplog.text


def test_tables_by_a_plain_count(run: Run):
    done = linnet.evaluate(run.folder)
    table = predictions(done.folder)
    rows = list(zip(table["label"], table["prediction"], table["right"], strict=True))
    assert [label == named for label, named, _ in rows] == table["right"]
    assert done.numbers["top1"] == np.mean(table["right"])
    lines = list(csv.DictReader((done.folder / "per_class.csv").open(newline="")))
    assert [line["class"] for line in lines] == sorted(BIRDS)
    for line in lines:
        own = [named for label, named, _ in rows if label == line["class"]]
        wrong = [named for named in own if named != line["class"]]
        assert int(line["images"]) == len(own) == 6
        assert int(line["right"]) == 6 - len(wrong)
        assert int(line["mistaken"]) == max((wrong.count(name) for name in wrong), default=0)
        assert float(line["low"]) <= float(line["accuracy"]) <= float(line["high"])
    for pair in done.numbers["confused"]:
        assert rows.count((pair["label"], pair["prediction"], False)) == pair["images"] == len(pair["paths"])
    wrong = [confidence for confidence, right in zip(table["confidence"], table["right"], strict=True) if not right]
    assert [image["confidence"] for image in done.numbers["worst"]] == pytest.approx(sorted(wrong, reverse=True)[:20])


# --- two models ---


def test_two_models_on_the_same_images(run: Run, tmp_path: Path, photos: Path):
    other = hand_made(tmp_path / "runs" / "second", photos, seed=3)
    done = linnet.evaluate(run.folder, against=other.folder)
    table, numbers = predictions(done.folder), done.numbers
    first, second = np.array(table["right"]), np.array(table["against_right"])
    assert [label == named for label, named in zip(table["label"], table["against_prediction"], strict=True)] == second.tolist()  # fmt: skip
    assert (first != second).any()
    assert numbers["against.difference"] == pytest.approx(first.mean() - second.mean())
    assert numbers["against.only_first_right"] == (first & ~second).sum()
    assert numbers["against.neither_right"] == (~first & ~second).sum()
    low, high = numbers["against.difference_interval"]
    assert low < numbers["against.difference"] < high
    apart = list(csv.DictReader((done.folder / "only_one_right.csv").open(newline="")))
    assert [row["path"] for row in apart] == [p for p, a, b in zip(table["path"], first, second, strict=True) if a != b]
    assert predictions(linnet.evaluate(other.folder).folder)["prediction"] == table["against_prediction"]


def test_a_model_against_itself(run: Run):
    numbers = linnet.evaluate(run.folder, against=run.folder).numbers
    low, high = numbers["against.difference_interval"]
    assert numbers["against.difference"] == 0 and low < 0 < high and numbers["against.mcnemar_p"] == 1
    assert (numbers["looks"], numbers["against.looks"]) == (2, 2)  # one look
    assert linnet.evaluate(run.folder).numbers["looks"] == 3


def test_two_runs_on_the_same_data_read_them_once(
    run: Run, tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
):
    other, read, real = hand_made(tmp_path / "second", photos, seed=3), [], labelled.load_manifest

    def watched(config: DataConfig, training: bool) -> Manifest:
        read.append(config.source)
        return real(config, training)

    monkeypatch.setattr(labelled, "load_manifest", watched)
    linnet.evaluate(run.folder, against=other.folder)
    assert read == [str(photos)]


def test_models_of_other_classes_are_compared_on_request_only(run: Run, tmp_path: Path, photos: Path):
    shutil.copytree(photos, tmp_path / "more")
    for split in ("train", "val", "test"):
        write_image(tmp_path / "more" / split / "black_bird" / "0.jpg", (0, 0, 0), seed=1)
    more = hand_made(tmp_path / "runs" / "more", tmp_path / "more", names=(*BIRDS, "black_bird"))
    with pytest.raises(UserError, match=r"only the first: none; only the second: black_bird.*--classes common"):
        linnet.evaluate(run.folder, against=more.folder)
    for pair in ((run, more), (more, run)):
        done = linnet.evaluate(pair[0].folder, against=pair[1].folder, classes="common", out=tmp_path / f"out-{pair[0].folder.name}")  # fmt: skip
        assert done.numbers["images"] == 18
        assert done.numbers["classes"] == 3
        assert ("summary.top1" in done.numbers) == (pair[0] is run)  # else it chose among fewer classes than at its end
        named = predictions(done.folder)
        assert {*named["prediction"], *named["against_prediction"]} <= {*BIRDS}
    assert done.numbers["images.left_out"] == {"black_bird": 1}


# --- other data ---


def test_classes_are_compared_by_name(tmp_path: Path, tiny_run: Path):
    """A part of them, in another order than the model's."""
    for i in range(3):
        write_image(tmp_path / "new" / "c,d" / f"{i}.jpg", (200, 0, 0), seed=i)
        write_image(tmp_path / "new" / "amsel" / f"{i}.jpg", (0, 0, 0), seed=i)
    done = linnet.evaluate(tiny_run / "run" / "model.onnx", tmp_path / "new", out=tmp_path / "out")
    table = predictions(done.folder)
    assert sorted(set(table["label"])) == ["amsel", "c,d"]
    assert [Path(path).parent.name for path in table["path"]] == table["label"]
    predictor = linnet.load(tiny_run / "run" / "model.onnx")
    assert [one.classes[0] for one in predictor.predict(table["path"])] == table["prediction"]
    assert done.numbers["classes.without_images"] == ["bläuling"]
    assert "looks" not in done.numbers
    write_image(tmp_path / "new" / "amsl" / "0.jpg", (0, 0, 0), seed=0)
    with pytest.raises(UserError, match=r"does not know: amsl; .*--classes common"):
        linnet.evaluate(tiny_run / "run" / "model.onnx", tmp_path / "new", out=tmp_path / "out")
    done = linnet.evaluate(
        tiny_run / "run" / "model.onnx", tmp_path / "new", out=tmp_path / "out", classes="common"
    )  # the same images as before: the same evaluation
    assert (done.numbers["images"], done.numbers["images.left_out"]) == (6, {"amsl": 1})


def test_data_without_splits_are_scored_whole_and_training_images_are_told_of(
    run: Run, photos: Path, caplog: pytest.LogCaptureFixture
):
    (photos / "val" / "red_bird" / "notes.txt").touch()
    done = linnet.evaluate(run.folder, photos / "val")
    assert "1 file was not used" in caplog.text and "notes.txt" in caplog.text
    assert (done.numbers["looks"], done.numbers["looks.in_training"]) == (1, False)
    assert (done.numbers["split"], done.numbers["images"], done.numbers["images.trained_on"]) == ("all", 18, 0)
    assert "has no test split of its own: all of its images are scored" in done.numbers["notes"][0]
    assert "TRAINED ON" not in caplog.text and done.numbers["looks.at_part"] == 0
    shutil.copy(photos / "train" / "red_bird" / "000.jpg", photos / "val" / "red_bird" / "copy.jpg")
    done = linnet.evaluate(run.folder, photos / "val", overwrite=True)
    assert done.numbers["images.trained_on"] == 1
    assert "was TRAINED ON 1 of these 19 images" in caplog.text


def test_a_test_split_among_other_images_was_looked_at_before(
    run: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """As a set they are new; the test images in it are not."""
    together = shutil.copytree(photos / "test", tmp_path / "together")
    shutil.copy(photos / "val" / "red_bird" / "000.jpg", together / "red_bird" / "more.jpg")
    count = len(list((photos / "test").rglob("*.jpg")))
    main(["evaluate", str(run.folder), str(together)])
    told = " ".join(capsys.readouterr().out.split())
    assert f"looked at once, now; {count} of them are test images of the run, which were looked at before" in told


def test_training_data_that_are_gone_are_no_hindrance(run: Run, photos: Path, caplog: pytest.LogCaptureFixture):
    shutil.rmtree(photos / "train")
    done = linnet.evaluate(run.folder, photos / "test")
    assert done.numbers["images.trained_on"] is None
    assert "is not known: the data of the run are not there" in caplog.text


def test_texts_that_a_student_learned_from_are_not_needed(run: Run, tmp_path: Path):
    config = run.settings()
    write_yaml(replace(config, data=replace(config.data, texts=tmp_path / "gone.csv")), run.config)
    assert linnet.evaluate(run.folder).numbers["images"] == 18


def test_own_data_that_changed_are_told_of(run: Run, photos: Path):
    assert linnet.evaluate(run.folder).numbers["notes"] == []
    (photos / "train" / "red_bird" / "000.jpg").unlink()
    assert "images, labels or splits changed" in linnet.evaluate(run.folder).numbers["notes"][0]


@pytest.mark.parametrize("split", ["val", "train", "all"])
def test_each_split_of_the_run(run: Run, split: str, caplog: pytest.LogCaptureFixture):
    numbers = linnet.evaluate(run.folder, split=split).numbers
    assert numbers["images"] == {"val": 18, "train": 18, "all": 54}[split]
    assert numbers["images.trained_on"] == (0 if split == "val" else 18)
    assert ("val images choose the epoch" in " ".join(numbers["notes"])) == (split == "val")


def test_novel_classes_are_left_out_and_told_of(tmp_path: Path, make_folder: Callable[..., Path]):
    folder = make_folder(images=4)
    write_image(folder / "black_bird" / "0.jpg", (0, 0, 0), seed=0)
    run = hand_made(tmp_path / "named", folder, names=("blue_bird", "red_bird"), data_novel_classes="black_bird,green_bird")  # fmt: skip
    numbers = linnet.evaluate(run.folder).numbers
    assert (numbers["classes"], numbers["images"]) == (2, 2)
    assert "images of novel classes are left out (1)" in numbers["notes"][0]
    assert "left out (5)" in linnet.evaluate(run.folder, split="all").numbers["notes"][0]
    with pytest.raises(UserError, match="does not know: black_bird, green_bird"):
        linnet.evaluate(run.folder, folder)


def test_a_bank_names_other_classes(run: Run, photos: Path, tmp_path: Path):
    def bank_of(names: tuple[str, ...], seed: int) -> TextBank:
        rows = np.random.default_rng(seed).normal(size=(len(names), 8)).astype(np.float32)
        return TextBank(names, rows / np.linalg.norm(rows, axis=1, keepdims=True), "fake", "hash", ("a {}.",))

    names, file = (*BIRDS[::-1], "black_bird"), tmp_path / "names.safetensors"
    bank_of(names, 0).save(file)
    with pytest.raises(UserError, match="has a classifier for its 3 classes and cannot name others"):
        linnet.evaluate(run.folder, bank=file)
    shutil.rmtree(run.model)
    Student("test_resnet", class_table(["x", "y"]), image_size=32, bank=bank_of(("x", "y"), 1)).save(run.model)
    done = linnet.evaluate(run.folder, bank=file)
    assert done.folder.name == "photos-test-names"
    assert (done.numbers["classes"], done.numbers["classes.without_images"]) == (4, ["black_bird"])
    table = predictions(done.folder)
    named = linnet.load(run.folder, TextBank.load(file)).predict(table["path"])
    assert [one.classes[0] for one in named] == table["prediction"]
    bank_of(names, 2).save(file)  # another question
    with pytest.raises(UserError, match="evaluation of other images or another model"):
        linnet.evaluate(run.folder, bank=file)


def test_a_run_without_data(run: Run, photos: Path, tmp_path: Path):
    """It was trained on nothing; what scored it at its end scores it again."""
    config = run.settings()
    write_yaml(replace(config, data=replace(config.data, source=None, eval=str(photos))), run.config)
    numbers = linnet.evaluate(run.folder).numbers
    assert (numbers["images"], numbers["images.trained_on"], numbers["looks"]) == (18, 0, 2)
    write_yaml(replace(config, data=replace(config.data, source=None)), run.config)
    with pytest.raises(UserError, match="was trained without data: give DATA"):
        linnet.evaluate(run.folder)
    assert linnet.evaluate(run.folder, photos).numbers["images"] == 18


def test_images_that_cannot_be_read(run: Run, photos: Path):
    (photos / "test" / "red_bird" / "bad.jpg").write_bytes(b"no image")
    for data in (None, photos, photos / "test"):
        with pytest.raises(UserError, match="cannot read the image .*bad.jpg"):
            linnet.evaluate(run.folder, data)
    assert not run.evaluations.exists()
    for data in (None, photos):
        numbers = linnet.evaluate(run.folder, data, on_error="skip").numbers
        assert numbers["images"] == 18
        assert "1 image(s) of the data could not be read and are left out" in numbers["notes"]


# --- what is refused ---


def test_what_is_refused(run: Run, photos: Path, tmp_path: Path, tiny_run: Path):
    def refused(words: str, *arguments: object, **more: object) -> None:
        with pytest.raises(UserError, match=words):
            linnet.evaluate(*arguments, **more)  # type: ignore[arg-type]

    refused("nix: no such run folder or .onnx file", tmp_path / "nix")
    refused("no such run folder or .onnx file", run.folder, against=tmp_path / "nix.onnx")
    refused("photos holds no saved student", photos)
    refused("lies in no run.*give DATA", tiny_run / "run" / "model.onnx")
    refused(
        r"has no splits|no test split, no splits at all: give --split all", run.folder, photos / "val", split="test"
    )
    shutil.rmtree(photos / "val")
    refused("no val split, only train, test: give --split train or --split test or --split all", run.folder, photos, split="val")  # fmt: skip
    for name in ("a", "b"):
        write_image(tmp_path / "others" / name / "0.jpg", (0, 0, 0), seed=0)
    refused("no class in common: a, b here, blue_bird, green_bird, red_bird there", run.folder, tmp_path / "others", classes="common")  # fmt: skip
    assert not run.evaluation.exists() and not run.evaluations.exists()
    run.summary_file.unlink()
    refused("holds no finished run", run.folder)


def test_a_folder_of_somebody_is_not_touched(run: Run, tmp_path: Path, photos: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.parquet").write_text("precious")
    with pytest.raises(UserError, match="holds files that linnet did not write"):
        linnet.evaluate(run.folder, out=out, overwrite=True)
    assert (out / "predictions.parquet").read_text() == "precious"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file: --out must be a folder"):
        linnet.evaluate(run.folder, out=tmp_path / "file")
    run.evaluation.touch()
    with pytest.raises(UserError, match="is not a folder; choose another --out"):
        linnet.evaluate(run.folder)
    linnet.evaluate(run.folder, against=run.folder, out=tmp_path / "new")
    with pytest.raises(UserError, match="evaluation of other images or another model"):
        linnet.evaluate(run.folder, out=tmp_path / "new")
    linnet.evaluate(run.folder, out=tmp_path / "new", overwrite=True)
    assert not (tmp_path / "new" / "only_one_right.csv").exists()
    linnet.evaluate(run.folder, out=tmp_path / "new")  # the same question
    with pytest.raises(UserError, match="evaluation of other images or another model: .*--overwrite"):
        linnet.evaluate(run.folder, split="val", out=tmp_path / "new")
    linnet.evaluate(run.folder, split="val", out=tmp_path / "new", overwrite=True)


# --- looks ---


def test_looks_are_counted(run: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert linnet.evaluate(run.folder).numbers["looks"] == 2  # the first was that of the training
    with run.evaluations.open("a") as file:
        file.write('{"when": "20')  # half a line of a killed process
    linnet.evaluate(run.folder, split="val")
    other = hand_made(tmp_path / "runs" / "second", photos, seed=3)
    numbers = linnet.evaluate(other.folder, photos / "test", against=run.folder).numbers  # the same images
    assert (numbers["looks"], numbers["against.looks"]) == (2, 3)
    run.best_student.mkdir(parents=True)
    Run.create(run.folder, run.settings(), resume=True).close()
    main(["evaluate", str(run.folder)])
    assert "looked at 4 times (the first at the end of training)" in capsys.readouterr().out
    Run.create(run.folder, run.settings(), overwrite=True).close()
    assert not run.evaluations.exists()


def test_a_run_that_cannot_be_written_is_scored_all_the_same(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run.evaluations.mkdir()
    assert linnet.evaluate(run.folder, out=tmp_path / "out").numbers["images"] == 18
    assert "could not be noted" in caplog.text


# --- the page ---


def test_the_page_fits_and_names_what_there_is(
    run: Run, tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
):
    long = tmp_path / "long"
    shutil.copytree(photos, long)
    for path in sorted(long.rglob("*.jpg")):
        path.rename(path.with_name(f"{'x' * 120}{path.name}"))
    main(["evaluate", str(run.folder), str(long), "--against", str(run.folder)])
    page = capsys.readouterr().out
    assert "18 images of 3 classes" in page
    assert "top-5" not in page  # of three classes
    for words in ("mean per class", "worst classes", "most confused", "surest mistakes", "both right", "written to"):
        assert words in page
    free = ("images lie in", "written to", "against ", str(run.folder))
    assert all(len(line) <= 100 for line in page.splitlines() if not line.startswith(free))


def test_json_is_the_file_and_nothing_else(run: Run, capsys: pytest.CaptureFixture[str]):
    main(["evaluate", str(run.folder), "--split", "val", "--json"])
    numbers = json.loads(capsys.readouterr().out)
    assert numbers == json.loads((run.evaluation / "photos-val" / "evaluation.json").read_text())
    assert numbers["split"] == "val"

import io
import itertools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_image
from PIL import Image

import linnet
from linnet.data.digests import digest_files
from linnet.data.store import Images
from linnet.deploy.export import export_onnx
from linnet.deploy.predictor import OnnxNetwork, Prediction, TorchNetwork, collect, largest, load
from linnet.errors import UserError
from linnet.students.student import Student


def test_run_and_onnx_file_say_the_same(tiny_run: Path):
    paths = collect([tiny_run / "images"])
    from_run = list(load(tiny_run / "run").predict(paths))
    from_onnx = list(load(tiny_run / "run" / "model.onnx").predict(paths))
    assert [p.path for p in from_run] == paths
    for a, b in zip(from_run, from_onnx, strict=True):
        assert a.classes == b.classes
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
        assert sum(a.probabilities) == pytest.approx(1)
        assert list(a.probabilities) == sorted(a.probabilities, reverse=True)


@pytest.mark.parametrize("count", [1, 3, 7, 50])
def test_the_largest_are_those_of_a_stable_sort(count: int):
    for seed in range(20):
        row = np.random.default_rng(seed).integers(0, 12, size=30).astype(np.float32)  # many ties
        assert np.array_equal(largest(row, count), np.argsort(-row, kind="stable")[:count])


def test_the_onnx_file_is_all_that_is_needed(tiny_run: Path, run_without_torch, tmp_path: Path):
    """Class names, size and normalisation are in the file, and torch, timm and open_clip are not imported."""
    (tmp_path / "M.ONNX").write_bytes((tiny_run / "run" / "model.onnx").read_bytes())
    code = f"""
from linnet.__main__ import main
main(["predict", {str(tmp_path / "M.ONNX")!r}, {str(tiny_run / "images")!r}, "--json", "--top", "2"])
"""
    lines = [json.loads(line) for line in run_without_torch(code).splitlines()]
    expected = list(load(tiny_run / "run").predict(collect([tiny_run / "images"]), top=2))
    assert [line["class"] for line in lines] == [p.classes[0] for p in expected]
    assert [[row["class"] for row in line["top"]] for line in lines] == [list(p.classes) for p in expected]


@pytest.fixture
def exported(tiny_run: Path, tmp_path: Path) -> Path:
    """The run with a model.onnx that says of which student it is, as every run has one."""
    shutil.copytree(tiny_run / "run", tmp_path / "exported")
    linnet.export(tmp_path / "exported")
    return tmp_path / "exported"


def test_a_run_is_opened_as_its_own_onnx_file(exported: Path, tiny_run: Path, run_without_torch):
    """Seconds sooner than torch is imported; whoever names a device asks for torch."""
    code = f"""
from linnet.__main__ import main
main(["predict", {str(exported)!r}, {str(tiny_run / "images")!r}, "--json"])
"""
    lines = [json.loads(line) for line in run_without_torch(code).splitlines()]
    by_torch = load(exported, device="cpu")
    assert isinstance(by_torch.network, TorchNetwork)
    for line, expected in zip(lines, by_torch.predict(tiny_run / "images"), strict=True):
        assert [row["class"] for row in line["top"]] == list(expected.classes)
        assert line["probability"] == pytest.approx(expected.probabilities[0], abs=1e-5)


def test_a_run_whose_onnx_file_is_of_another_student_is_opened_with_torch(
    exported: Path, tiny_run: Path, run_without_torch, tmp_path: Path
):
    """Trained again without the export, damaged, or written before files said whose they are."""
    assert isinstance(load(exported).network, OnnxNetwork)
    for break_it in (
        lambda run: Student("test_resnet", Student.load(run / "model").classes, 32).save(run / "model"),
        lambda run: (run / "model" / "classes.json").write_bytes((run / "model" / "classes.json").read_bytes() + b" "),
        lambda run: (run / "model.onnx").write_bytes(b"no model"),
        lambda run: (run / "model.onnx").unlink(),
        lambda run: shutil.copy(tiny_run / "run" / "model.onnx", run),
    ):
        run = Path(tempfile.mkdtemp(dir=tmp_path))
        shutil.copytree(exported, run, dirs_exist_ok=True)
        break_it(run)
        assert isinstance(load(run).network, TorchNetwork)
    code = f"""
import linnet
try:
    linnet.load({str(run)!r})
except linnet.UserError as error:
    print(error)
"""
    assert "torch is needed for" in run_without_torch(code)


def test_a_damaged_student_is_told_of_though_there_is_an_onnx_file(exported: Path):
    weights = exported / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="is damaged"):
        load(exported)
    weights.unlink()
    with pytest.raises(UserError, match="no saved student"):
        load(exported)


def test_a_picture_that_is_given_twice_is_read_twice(tiny_run: Path):
    """Several threads read, and Pillow loads a picture when it is first looked at."""
    path = tiny_run / "images" / "0.jpg"
    predictor = load(tiny_run / "run" / "model.onnx")
    (expected,) = predictor.predict(path)
    for _ in range(5):
        same(predictor.predict([Image.open(path)] * 8), [expected] * 8)


def test_a_bad_image_is_reported_and_the_others_are_named(tiny_run: Path, tmp_path: Path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    first, second = load(tiny_run / "run").predict([tmp_path / "bad.jpg", tiny_run / "images" / "0.jpg"])
    assert first.error
    assert "bad.jpg" in first.error
    assert second.error is None
    assert len(second.classes) == 3


def test_bad_models_and_paths(tiny_run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="neither a run folder nor an .onnx file"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "nowhere.onnx")
    with pytest.raises(UserError, match="no saved student"):
        load(tmp_path)
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="ONNX Runtime cannot load"):
        load(tmp_path / "x.onnx")
    with pytest.raises(UserError, match="no such file or folder"):
        collect([tmp_path / "gone.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images in"):
        collect([tmp_path / "empty"])


def test_an_onnx_file_of_somebody_else_is_refused(tiny_run: Path, tmp_path: Path):
    import onnx

    model = onnx.load(tiny_run / "run" / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="not written by linnet"):
        load(tmp_path / "foreign.onnx")


def test_squashed_images_are_squashed_by_every_predictor(tiny_run: Path, tmp_path: Path):
    """Torch and ONNX agree on an image that is not square, and see another picture than with a centre crop."""
    wide = Image.fromarray(np.tile(np.arange(160, dtype=np.uint8), (40, 1))).convert("RGB")  # brighter to the right
    wide.save(tmp_path / "wide.png")
    paths, seen = [tmp_path / "wide.png"], {}
    student = Student.load(tiny_run / "run" / "model")
    student.backbone.get_classifier().weight.data.mul_(10)  # random weights barely tell two pictures apart
    for mode in ("center", "squash"):
        student.crop_mode = mode
        student.save(tmp_path / mode / "model")
        images = Images(paths, digest_files(paths), 32, "eval", crop_mode=mode)
        export_onnx(student, tmp_path / mode / "model.onnx", images)
        (from_run,) = load(tmp_path / mode).predict(paths)
        (from_onnx,) = load(tmp_path / mode / "model.onnx").predict(paths)
        logits = student(torch.from_numpy(images[0].copy()).permute(2, 0, 1)[None].float() / 255).logits_BC
        assert from_run.classes == from_onnx.classes
        assert from_run.probabilities == pytest.approx(from_onnx.probabilities, abs=1e-4)
        assert from_run.probabilities[0] == pytest.approx(logits.softmax(dim=1).max().item(), abs=1e-4)
        seen[mode] = dict(zip(from_run.classes, from_run.probabilities, strict=True))
    assert seen["center"] != pytest.approx(seen["squash"], abs=1e-3)


def test_every_predictor_decodes_jpegs_as_the_student_was_taught(tiny_run: Path, tmp_path: Path):
    write_image(tmp_path / "large.jpg", (200, 80, 10), seed=0, size=(640, 480))
    paths, seen = [tmp_path / "large.jpg"], {}
    student = Student.load(tiny_run / "run" / "model")
    student.backbone.get_classifier().weight.data.mul_(10)
    for jpeg in ("full", "scaled"):
        student.jpeg = jpeg
        student.save(tmp_path / jpeg / "model")
        images = Images(paths, digest_files(paths), 32, "eval", jpeg=jpeg)
        export_onnx(student, tmp_path / jpeg / "model.onnx", images)
        logits = student(torch.from_numpy(images[0].copy()).permute(2, 0, 1)[None].float() / 255).logits_BC
        for model in (tmp_path / jpeg, tmp_path / jpeg / "model.onnx"):
            for image in (paths[0], paths[0].read_bytes()):
                (prediction,) = load(model).predict(image)
                assert prediction.probabilities[0] == pytest.approx(logits.softmax(dim=1).max().item(), abs=1e-4)
        seen[jpeg] = prediction.probabilities
    assert seen["full"] != pytest.approx(seen["scaled"], abs=1e-4)


def same(one: list[Prediction], other: list[Prediction]) -> None:
    assert [p.classes for p in one] == [p.classes for p in other]
    for a, b in zip(one, other, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)


def test_one_image_or_many_of_any_kind(tiny_run: Path):
    """A path that is a str was once gone through letter by letter."""
    predictor, paths = load(tiny_run / "run" / "model.onnx"), collect([tiny_run / "images"])
    expected = predictor.predict(paths)
    images = [Image.open(path) for path in paths]
    arrays = [np.asarray(image) for image in images]
    files = [path.read_bytes() for path in paths]
    for many in (
        *(paths, tuple(paths), iter(paths), (path for path in paths), map(str, paths), np.array(paths, dtype=object)),
        *(np.array([str(path) for path in paths]), images, arrays, np.stack(arrays), np.stack(arrays) / 255.0, files),
        *(map(io.BytesIO, files), [str(paths[0]), images[1], arrays[2], files[3]]),
    ):
        same(predictor.predict(many), expected)
    with paths[0].open("rb") as file, tempfile.NamedTemporaryFile() as temporary:
        temporary.write(files[0])
        temporary.seek(0)
        column = np.array(str(paths[0]))  # what is left of a table's column of one
        for one in (
            paths[0],
            str(paths[0]),
            images[0],
            arrays[0],
            files[0],
            memoryview(files[0]),
            file,
            temporary,
            column,
        ):
            same(predictor.predict(one), expected[:1])
    assert predictor.predict(str(paths[0]))[0].path == paths[0]
    assert predictor.predict(arrays[0])[0].as_dict()["path"] is None
    assert predictor.predict([]) == []
    for folder in (str(tiny_run / "images"), [tiny_run / "images"]):
        same(predictor.predict(folder), expected)
    assert [p.path for p in predictor.predict([tiny_run / "images", paths[0]])] == [*paths, paths[0]]


def test_a_stream_looks_at_no_more_images_than_it_is_asked_for(tiny_run: Path):
    endless = itertools.repeat(tiny_run / "images" / "0.jpg")
    assert len(list(itertools.islice(load(tiny_run / "run").stream(endless), 3))) == 3


def test_pictures_of_any_mode_and_shape(tiny_run: Path):
    predictor = load(tiny_run / "run")
    grey = np.asarray(Image.effect_noise((50, 40), 60))
    as_rgb = predictor.predict(np.stack([grey] * 3, axis=2))
    for other in (grey, grey[:, :, None], Image.fromarray(grey), Image.fromarray(grey).convert("RGBA"), grey / 255):
        same(predictor.predict(other), as_rgb)
    turned = Image.fromarray(grey.T.copy())
    turned.getexif()[0x0112] = 5  # mirrored and on its side
    same(predictor.predict(turned), as_rgb)


def test_what_cannot_be_read_is_told_in_its_place(tiny_run: Path, tmp_path: Path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    good = str(tiny_run / "images" / "0.jpg")
    bad = [
        str(tmp_path / "gone.jpg"),
        tmp_path / "bad.jpg",
        b"no image",
        b"",
        str(tmp_path),
        "https://a.b/c.jpg",
        "a\0b",
        Image.new("RGB", (0, 5)),  # cut out beyond a border
    ]
    predictions = load(tiny_run / "run").predict([good, *bad, good])
    assert [p.error is None for p in predictions] == [True, *[False] * len(bad), True]
    assert all("cannot read the image" in str(p.error) for p in predictions[1:-1])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (7, "must be a path, a Pillow image, an array, bytes or an open file, not int"),
        ([None], "not NoneType"),
        ("", "the path of an image is empty"),  # Path("") is the current folder
        (["a.jpg", " "], "the path of an image is empty"),
        (torch.zeros(3, 40, 40), "not Tensor"),
        ([["a.jpg"]], "not list"),
        (io.StringIO("a.jpg"), "opened as text is no image: open it with 'rb'"),
        (np.zeros((3, 40, 50), np.uint8), r"not of the shape \(3, 40, 50\)"),
        (np.zeros(5, np.uint8), "not of the shape"),
        (np.zeros((2, 3, 40, 50), np.uint8), "not of the shape"),
        (np.zeros((0, 40, 3), np.uint8), "not of the shape"),
        (np.full((40, 50, 3), 255.0), r"must lie in \[0, 1\], not from 255 to 255: give the image as uint8"),
        (np.full((40, 50, 3), -1.0), "must lie in"),
        (np.full((40, 50, 3), np.nan), "must lie in"),
        (np.zeros((40, 50, 3), np.int64), "must be uint8, or floating point in .*, not int64"),
        (np.zeros((40, 50), np.uint16), "not uint16"),
        (np.zeros((40, 50), bool), "not bool"),
    ],
)
def test_what_is_no_image_is_refused(images: object, message: str, tiny_run: Path):
    with pytest.raises(UserError, match=message):
        load(tiny_run / "run").predict(images)  # type: ignore[arg-type]


def test_at_least_one_class_is_asked_for(tiny_run: Path):
    with pytest.raises(UserError, match="top must be at least 1, not 0"):
        load(tiny_run / "run").predict(tiny_run / "images" / "0.jpg", top=0)

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from pictures import write_image
from PIL import Image

import linnet
from linnet.commands.distill import distill
from linnet.commands.export import export as export_run
from linnet.data.digests import digest_files
from linnet.data.images import CropMode, eval_pixels
from linnet.data.store import Images
from linnet.deploy import export
from linnet.deploy.export import export_onnx, preprocessing
from linnet.deploy.predictor import collect, load
from linnet.errors import UserError
from linnet.students.student import Student
from linnet.text.classes import ClassInfo, class_table


def test_an_onnx_file_that_disagrees_with_torch_is_not_kept(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Wrong:
        def __init__(self, *_: object): ...

        def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.full((len(inputs["images"]), 3), 7.0)]

    monkeypatch.setattr(export, "open_session", Wrong)
    paths = collect([tiny_run / "images"])
    with pytest.raises(UserError, match="does not agree with torch"):
        export_onnx(
            Student.load(tiny_run / "run" / "model"),
            tmp_path / "x.onnx",
            Images(paths, digest_files(paths), 32, "eval"),
        )
    assert not list(tmp_path.iterdir())


def test_what_the_file_says_of_its_input_is_all_that_is_needed(tiny_run: Path, tmp_path: Path):
    """Whoever follows the metadata without linnet gets linnet's own answers; colour order above all."""
    file = tiny_run / "run" / "model.onnx"
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    meta = json.loads(session.get_modelmeta().custom_metadata_map["linnet"])
    how, side = meta["input"], meta["input"]["resize"]["shorter_side"]
    assert (how["layout"], how["type"], how["colour_order"], how["range"]) == ("NCHW", "float32", "RGB", [0, 1])
    assert how["crop"]["center"] == [side, side]
    for size in ((61, 44), (45, 87), (333, 250)):
        image = Image.effect_noise(size, 90).convert("RGB")
        resized = image.resize(tuple(side * length // min(size) for length in size), Image.Resampling.BICUBIC)
        left, top = (round((length - side) / 2) for length in resized.size)
        pixels = np.asarray(resized)[top : top + side, left : left + side].astype(np.float32) / 255
        (logits,) = session.run(None, {how["name"]: pixels.transpose(2, 0, 1)[None]})
        shares = np.exp(logits[0]) / np.exp(logits[0]).sum()
        (prediction,) = load(file).predict(image)
        assert [meta["classes"][i] for i in np.argsort(-shares)] == list(prediction.classes)
        assert sorted(shares, reverse=True) == pytest.approx(prediction.probabilities, abs=1e-5)
    inputs = {value.name: value.doc_string for value in onnx.load(file).graph.input}
    assert "RGB (not BGR), in [0, 1]: the middle of the image, shorter side 32" in inputs["images"]


def test_the_code_in_the_guide_gives_linnets_answer(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "deployment.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "onnxruntime" in block)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes((tiny_run / "run" / "model.onnx").read_bytes())
    for seed in range(3):
        write_image(tmp_path / "photo.jpg", (40 + 80 * seed, 100, 200 - 60 * seed), seed, size=(87, 45))
        exec(code, {})
        assert capsys.readouterr().out.strip() == load("model.onnx").predict("photo.jpg")[0].classes[0]


CLASSES = (ClassInfo("a", "a"), ClassInfo("b", "b"))


def test_a_squashing_student_says_so():
    how = preprocessing(Student("test_resnet", CLASSES, 32, crop_mode="squash"))
    assert how["resize"] == {"both_sides": 32, "interpolation": "bicubic", "antialias": True}
    assert how["crop"] is None


def test_a_student_says_how_it_decodes_jpegs():
    assert preprocessing(Student("test_resnet", CLASSES, 32))["jpeg_decoding"] == "at full size"
    how = preprocessing(Student("test_resnet", CLASSES, 32, crop_pct=0.8, jpeg="scaled"))["jpeg_decoding"]
    assert how == {"scales": [8, 4, 2], "if_both_sides_are_multiples_and_remain_at_least": 80}


@pytest.mark.parametrize(("mode", "side"), [("center", "shorter_side"), ("squash", "both_sides")])
def test_a_student_that_sees_a_part_of_the_resized_image_says_so(mode: CropMode, side: str, tmp_path: Path):
    """Whoever follows the metadata gets linnet's own pixels, and so do linnet's two ways to predict."""
    student = Student("test_resnet", CLASSES, 32, crop_mode=mode, crop_pct=0.8).eval()
    student.save(tmp_path / "model")
    export_onnx(student, tmp_path / "model.onnx")
    how = preprocessing(student)
    assert (how["resize"][side], how["crop"]["center"]) == (40, [32, 32])
    image = Image.effect_noise((61, 44), 90).convert("RGB")
    pixels = eval_pixels(image, 32, mode, 0.8).astype(np.float32) / 255
    expected = student(torch.from_numpy(pixels).permute(2, 0, 1)[None]).logits_BC.softmax(dim=1)[0]
    for saved in (tmp_path / "model", tmp_path / "model.onnx"):
        (prediction,) = load(saved).predict(image)
        assert prediction.probabilities == pytest.approx(sorted(expected.tolist(), reverse=True), abs=1e-5)
    words = {value.name: value.doc_string for value in onnx.load(tmp_path / "model.onnx").graph.input}["images"]
    assert "40" in words


def test_the_opset_is_asked_of_torch_and_checked(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = SimpleNamespace(model_proto=onnx.load(tiny_run / "run" / "model.onnx"))
    (written,) = (one.version for one in program.model_proto.opset_import if not one.domain)
    asked = []
    monkeypatch.setattr(torch.onnx, "export", lambda *_, opset_version, **__: asked.append(opset_version) or program)
    student, file = Student.load(tiny_run / "run" / "model"), tmp_path / "x.onnx"
    for opset in (written, None):
        export_onnx(student, file, opset=opset)
    with pytest.raises(UserError, match=f"cannot be written with opset {written + 1}: torch made it {written}"):
        export_onnx(student, file, opset=written + 1)
    assert asked == [written, None, written + 1]


@pytest.mark.parametrize("opset", [0, 17, 99])
def test_an_opset_that_torch_cannot_write_is_refused_before_anything_is_read(opset: int, tmp_path: Path):
    with pytest.raises(UserError, match=f"--opset must be from 18, .* not {opset}"):
        linnet.export(tmp_path / "no run", opset=opset)


def test_nothing_works_in_place_while_it_is_exported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """torch rewrites that, which takes it up to half of the time; the student itself stays as it is."""
    student = Student("test_resnet", CLASSES, 32).eval()
    student.backbone.act1 = torch.nn.ReLU(inplace=True)
    asked: list[bool] = []

    def export_(module: torch.nn.Module, *rest: object, **more: object):
        asked.extend(part.inplace for part in module.modules() if hasattr(part, "inplace"))
        raise ValueError("enough")

    monkeypatch.setattr(torch.onnx, "export", export_)
    with pytest.raises(UserError, match="enough"):
        export_onnx(student, tmp_path / "x.onnx")
    assert asked
    assert not any(asked)
    assert student.backbone.act1.inplace


def test_the_onnx_file_takes_any_batch_of_images_in_zero_to_one(tiny_run: Path):
    session = onnxruntime.InferenceSession(str(tiny_run / "run" / "model.onnx"), providers=["CPUExecutionProvider"])
    student = Student.load(tiny_run / "run" / "model")
    for count in (1, 3, 7):
        images = torch.rand(count, 3, 32, 32)
        (logits,) = session.run(None, {"images": images.numpy()})
        assert np.abs(logits - student(images).logits_BC.detach().numpy()).max() < 1e-4


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The students that were exported; a cache of its own."""
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path / "cache"))
    done: list[str] = []
    monkeypatch.setattr(export, "export_onnx", lambda student, path, opset: done.append(student.name))
    return done


def test_an_export_is_tried_once_on_a_machine(exports: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def student(name: str = "test_resnet", size: int = 32) -> Student:
        return Student(name, class_table(["a", "b"]), size)

    first = student()
    export.check_exportable(first)
    export.check_exportable(student())
    assert exports == ["test_resnet"]
    export.check_exportable(student(size=64))
    export.check_exportable(student("test_vit"))
    assert exports == ["test_resnet", "test_resnet", "test_vit"]
    for note in (tmp_path / "cache" / "export").iterdir():
        note.write_bytes(b"")  # a power cut
    export.check_exportable(first)
    monkeypatch.setattr(export, "version", lambda package: "another")
    export.check_exportable(first)
    assert len(exports) == 5


def test_a_student_that_cannot_be_exported_is_told_of_before_anything_is_trained(
    exports: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def refuse(student: Student, path: Path, opset: int | None) -> None:
        torch.rand(3)
        raise UserError("test_resnet could not be exported to ONNX (no such operator)")

    monkeypatch.setattr(export, "export_onnx", refuse)
    options = {"student.name": "test_resnet", "student.image_size": 32, "train.epochs": 1, "method": "ce"}
    with pytest.raises(UserError, match=r"no such operator.*; nothing was trained yet: .* \(--no-export\)"):
        distill("aviary:species=2,images=3", out=tmp_path / "run", options=options)
    assert not (tmp_path / "run" / "checkpoints").exists()
    options["export"] = False
    assert distill("aviary:species=2,images=3", out=tmp_path / "run", options=options).is_finished
    monkeypatch.setattr(export, "missing_modules", lambda extra: ["onnxscript"])  # said at the end, as it was
    export.check_exportable(Student.load(tmp_path / "run" / "model"))


def test_the_trial_leaves_the_random_state_alone(exports: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export, "export_onnx", lambda student, path, opset: torch.rand(5))
    student = Student("test_resnet", class_table(["a", "b"]), 32)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    export.check_exportable(student)
    assert torch.rand(1) == expected


def test_where_the_file_cannot_go_is_known_before_the_export(tiny_run: Path, tmp_path: Path, exports: list[str]):
    with pytest.raises(UserError, match="is a folder: --out must be a file"):
        export_run(tiny_run / "run", out=tmp_path)
    (tmp_path / "mine.onnx").write_text("precious")
    with pytest.raises(UserError, match="exists: choose another --out, or replace it with --overwrite"):
        export_run(tiny_run / "run", out=tmp_path / "mine.onnx")
    assert (tmp_path / "mine.onnx").read_text() == "precious"
    export_run(tiny_run / "run", out=tmp_path / "mine.onnx", overwrite=True)
    with pytest.raises(UserError, match="not a folder"):
        export_run(tiny_run / "run", out=tmp_path / "mine.onnx" / "x.onnx")

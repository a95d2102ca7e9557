import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from linnet.errors import UserError
from linnet.teachers import load_teacher
from linnet.teachers.base import ClassifierTeacher
from linnet.teachers.heads import class_head
from linnet.text.classes import ClassInfo


@pytest.fixture
def timm_folder(tmp_path: Path) -> Path:
    """A timm classifier in timm's own Hugging Face layout, with label names."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(
        model, tmp_path / "timm", model_config={"label_names": ["bee", "ant", "cat"]}, safe_serialization=True
    )
    return tmp_path / "timm"


def load(id: str) -> ClassifierTeacher:
    teacher = load_teacher(id)
    assert isinstance(teacher, ClassifierTeacher)
    return teacher


def classes(*names: str) -> list[ClassInfo]:
    return [ClassInfo(name, name) for name in names]


def test_logits_are_those_of_timm_itself(timm_folder: Path):
    teacher = load(f"timm:local-dir:{timm_folder}")
    model = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model), is_training=False)
    image = Image.effect_noise((200, 170), 80).convert("RGB")
    with torch.no_grad():
        expected = model(transform(image)[None])
    pixels = teacher.eval_transform(image)
    assert 0 <= pixels.min() <= pixels.max() <= 1
    assert torch.allclose(teacher.logits(pixels[None]), expected, atol=1e-4)


def test_logits_are_put_in_the_order_of_the_data(timm_folder: Path):
    teacher = load(f"timm:local-dir:{timm_folder}")
    head = class_head(teacher, classes("ant", "bee", "cat"), ())
    rows = torch.tensor([[1.0, 2.0, 3.0]])  # bee, ant, cat
    assert head(rows).logits_BC.tolist() == [[2.0, 1.0, 3.0]]


def test_another_class_table_is_refused(timm_folder: Path):
    teacher = load(f"timm:local-dir:{timm_folder}")
    command = (
        f"'linnet distill DATA --method ce --student test_resnet --student.pretrained {timm_folder} --out runs/teacher'"
    )
    with pytest.raises(UserError, match=rf"knows 3 classes .* train it on this data first, as in {command}"):
        class_head(teacher, classes("ant", "bee", "dog"), ())


def test_classes_without_names_are_refused(timm_folder: Path):
    config = json.loads((timm_folder / "config.json").read_text())
    del config["label_names"]
    (timm_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="knows classes without names"):
        class_head(load(f"timm:local-dir:{timm_folder}"), classes("ant", "bee", "cat"), ())


def test_class_weights_are_those_behind_the_logits(timm_folder: Path):
    teacher = load(f"timm:local-dir:{timm_folder}")
    weights = teacher.network.fc.weight
    head = class_head(teacher, classes("ant", "bee", "cat"), ())
    assert head.class_vectors is not None
    assert torch.equal(head.class_vectors, weights[[1, 0, 2]])  # the folder's order is bee, ant, cat


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "efficientvit_m0",
        "dla46_c",
        "test_vit",
        "mobilenetv3_small_050",
        "deit_tiny_distilled_patch16_224",
        "levit_128s",
    ],
)
def test_what_is_watched_is_what_the_teacher_says(name: str, tmp_path: Path):
    """Heads differ: a norm before the last layer, a convolution as the last layer, two last layers."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True)
    teacher = load(f"timm:local-dir:{tmp_path / 'timm'}")
    images = torch.rand(2, 3, *teacher.image_shape, requires_grad=True)
    for with_maps in (False, True):
        seen = teacher.watch(images, with_maps)
        assert torch.allclose(seen.logits_BC, teacher.logits(images), atol=1e-4)
        assert seen.features_BD.ndim == 2
        assert bool(seen.maps) == with_maps
    (gradient,) = torch.autograd.grad(seen.logits_BC.sum(), images)
    assert gradient.abs().sum() > 0
    assert [info.name for info in teacher.classes] == ["0", "1", "2"]


def test_class_names_that_occur_twice_are_told_apart(tmp_path: Path):
    """ImageNet has two cranes."""
    model = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(
        model, tmp_path / "timm", model_config={"label_names": ["crane", "ant", "crane"]}, safe_serialization=True
    )
    names = [info.name for info in load(f"timm:local-dir:{tmp_path / 'timm'}").classes]
    assert names == ["crane 0", "ant", "crane 2"]


def test_a_network_with_the_weights_of_a_file(timm_folder: Path, tmp_path: Path):
    """The file says how many classes there are, but not which."""
    folder, own = load(f"timm:local-dir:{timm_folder}"), timm_folder / "model.safetensors"
    torch.save({"state_dict": {f"module.{key}": value for key, value in load_file(own).items()}}, tmp_path / "a.pth")
    for place in (own, tmp_path / "a.pth", timm_folder):
        teacher = load(f"timm:test_resnet:{place}")
        images = torch.rand(2, 3, *teacher.image_shape)
        assert torch.equal(teacher.logits(images), folder.logits(images))
        assert teacher.class_names is None
        assert not teacher.knows(["bee", "ant", "cat"])
        assert teacher.start == ("test_resnet", place)
    thousand = timm.create_model("test_resnet")
    torch.save(thousand.state_dict(), tmp_path / "b.pth")
    assert "goldfish" in str(load(f"timm:test_resnet.r160_in1k:{tmp_path / 'b.pth'}").class_names)
    assert load(f"timm:test_resnet.r160_in1k:{tmp_path / 'b.pth'}").start[0] == "test_resnet.r160_in1k"


@pytest.mark.parametrize(("name", "options"), [("test_vit", {"img_size": 64}), ("test_resnet", {})])
def test_a_folder_says_what_its_weights_were_shown(name: str, options: dict[str, int], tmp_path: Path):
    """Not the size of timm's own weights of that name, to which a transformer's positions would be stretched."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=3, **options).eval()
    shown = {"input_size": (3, 64, 64), "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}
    timm.models.save_for_hf(network, tmp_path, safe_serialization=True, data_config=shown)
    teacher, same = load(f"timm:{name}:{tmp_path}"), load(f"timm:local-dir:{tmp_path}")
    assert teacher.image_shape == same.image_shape == (64, 64)
    photo = Image.effect_noise((90, 70), 50).convert("RGB")
    images = teacher.eval_transform(photo)[None]
    assert torch.equal(images, same.eval_transform(photo)[None])
    assert torch.allclose(teacher.logits(images), same.logits(images), atol=1e-6)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:1000]), "cannot read the weights at {file}"),
        (lambda file: file.write_bytes(b"<html>"), "cannot read the weights at {file}: it is a web page"),
        (lambda file: file.unlink(), "no weights at"),
        (lambda file: save_file({"a": torch.ones(1)}, file), "the weights at {file} are of another architecture"),
        (lambda file: cut_head(file), "the weights at {file} .*fc.weight'"),
    ],
)
def test_bad_weights_of_a_teacher_are_named(damage, message: str, timm_folder: Path):
    damage(timm_folder / "model.safetensors")
    for id in (f"timm:local-dir:{timm_folder}", f"timm:test_resnet:{timm_folder / 'model.safetensors'}"):
        with pytest.raises(UserError, match=message.format(file=timm_folder / "model.safetensors")):
            load(id)


def cut_head(file: Path) -> None:
    save_file({key: value for key, value in load_file(file).items() if not key.startswith("fc.")}, file)


EMPTY = ("timm:local-dir", "timm:resnet18", "timm:hf-hub", "open_clip:local-dir")  # of an unset variable


def test_teachers_that_are_not_there(tmp_path: Path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text('{"architecture": "test_resnet"}')
    for id, message in (
        (f"timm:local-dir:{tmp_path / 'clip'}", "names no architecture: expected timm's layout"),
        (f"timm:local-dir:{tmp_path / 'bare'}", "no weights at"),
        ("timm:resnet188", "timm has no model 'resnet188'. Did you mean 'resnet18'"),
        ("timm:test_resnet.r1", "no weights 'r1' of 'test_resnet': give test_resnet or test_resnet.r160_in1k"),
        ("timm:resnet188:w.pth", "timm has no model 'resnet188'. Did you mean 'resnet18'"),
        (f"timm:resnet18:{tmp_path / 'w.pth'}", "no weights at"),
        (f"timm:local-dir:{tmp_path}", "has no config.json"),
        (f"timm:local-dir:{tmp_path / 'run'}", f"no config.json .*: it is a run, give run:{tmp_path / 'run'}"),
        (f"timm:{tmp_path / 'run'}", f"for weights of your own give timm:ARCHITECTURE:{tmp_path / 'run'}"),
        *((f"{empty}:", f"behind the last colon of the teacher '{empty}:'") for empty in EMPTY),
        ("timm:test_resnet", r"or give weights of your own, as timm:test_resnet:FILE or timm:local-dir:PATH"),
    ):
        with pytest.raises(UserError, match=message):
            load(id)


def test_a_damaged_download_of_a_teacher_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "blob").write_bytes(b"\0" * 1000)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(tmp_path / "blob"))
    with pytest.raises(UserError, match=f"cannot read the weights at {tmp_path / 'blob'}: .* delete this file"):
        load("timm:test_resnet")


def test_a_model_of_the_hub_is_tuned_from_its_files(tmp_path: Path, timm_folder: Path, monkeypatch: pytest.MonkeyPatch):
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **rest: real(name.replace("hf-hub:me/it@v2", f"local-dir:{timm_folder}"), **rest))  # fmt: skip
    seen = []

    def find(*asked: object, revision: str | None) -> str:
        seen.append((*asked, revision))
        return str(timm_folder / "config.json")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", find)
    assert load("timm:hf-hub:me/it@v2").start == ("test_resnet", timm_folder)
    assert seen == [("me/it", "config.json", "v2")]

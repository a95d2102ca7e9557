import argparse
import gzip
import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save, save_file

from linnet.errors import UserError
from linnet.students import network
from linnet.students.student import Student
from linnet.students.weights import IN_TORCHVISIONS_ORDER, find_weights, load_weights
from linnet.text.classes import ClassInfo

CLASSES = tuple(ClassInfo(f"class {i}", f"thing {i}") for i in range(5))

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def weights() -> State:
    torch.manual_seed(0)
    return {
        key: value.contiguous() for key, value in timm.create_model("test_resnet", num_classes=5).state_dict().items()
    }


def started_from(
    path: Path, name: str = "test_resnet", size: int = 32, classes: tuple[ClassInfo, ...] = CLASSES
) -> State:
    return Student(name, classes, size, pretrained=path).backbone.state_dict()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, with the student in it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    Student("test_resnet", CLASSES, 32).save(folder / "model")
    return folder


WRAPPED: dict[str, Callable[[State], Any]] = {
    "plain": lambda own: own,
    "state_dict": lambda own: {"state_dict": own, "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(())}}}},
    "model": lambda own: {"model": own},
    "model_state_dict": lambda own: {"model_state_dict": own, "loss": 0.5},
    "of timm": lambda own: {"state_dict": own, "args": argparse.Namespace(lr=0.1), "arch": "test_resnet"},
    "numpy's numbers": lambda own: {
        "state_dict": own,
        "best": np.float64(0.5),
        "epoch": np.int64(3),
        "ok": np.bool_(1),
    },
    "paths": lambda own: {"state_dict": own, "args": {"data": Path("photos"), "lr": np.float32(0.1)}},
    "averaged": lambda own: {"state_dict": {key: value * 0 for key, value in own.items()}, "state_dict_ema": own},
    "nested": lambda own: {"state": {"task": own}},
}


@pytest.mark.parametrize(
    "prefix", ["", "model.", "module.", "_orig_mod.", "backbone.", "module._orig_mod.", "student.net."]
)
@pytest.mark.parametrize("file", ["a.safetensors", "a.pth"])
def test_what_stands_before_the_names_goes(prefix: str, file: str, weights: State, tmp_path: Path):
    state = {f"{prefix}{key}": value for key, value in weights.items()}
    if file.endswith(".safetensors"):
        save_file(state, tmp_path / file)
    else:
        torch.save(state, tmp_path / file)
    assert all(torch.equal(value, weights[key]) for key, value in started_from(tmp_path / file).items())


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_trainers_wrap_around_the_weights_goes(kind: str, weights: State, tmp_path: Path):
    state = {f"model.{key}": value for key, value in weights.items()} | {"criterion.weight": torch.ones(3)}
    for own in (weights, state):
        torch.save(WRAPPED[kind](own), tmp_path / "a.pth")
        assert all(torch.equal(value, weights[key]) for key, value in started_from(tmp_path / "a.pth").items())


def test_the_format_is_that_of_the_content_not_of_the_name(weights: State, tmp_path: Path):
    (tmp_path / "a.bin").write_bytes(save(weights))
    for name in ("a.safetensors", "a.pth.tar", "a.pt", "a"):
        torch.save(weights, tmp_path / name)
    for file in tmp_path.iterdir():
        assert torch.equal(started_from(file)["fc.weight"], weights["fc.weight"])


def test_counters_may_be_missing_and_half_precision_is_read(weights: State, tmp_path: Path):
    state = {key: value.half() for key, value in weights.items() if "num_batches_tracked" not in key}
    torch.save(state, tmp_path / "a.pth")
    started = started_from(tmp_path / "a.pth")
    assert all(torch.equal(started[key], value.float()) for key, value in state.items())


def test_a_classifier_for_other_classes_starts_anew_and_that_is_said(
    weights: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    without = {key: value for key, value in weights.items() if not key.startswith("fc.")}
    for state, classes in ((weights, CLASSES[:3]), (without, CLASSES)):
        torch.save(state, tmp_path / "a.pth")
        with caplog.at_level(logging.INFO, "linnet"):
            started = started_from(tmp_path / "a.pth", classes=classes)
        assert len(started["fc.weight"]) == len(classes)
        assert torch.equal(started["conv1.0.weight"], weights["conv1.0.weight"])
        assert "has no classifier for these classes: it starts anew" in caplog.text
        caplog.clear()
    torch.save(weights, tmp_path / "a.pth")
    started_from(tmp_path / "a.pth")
    assert not caplog.text


def test_runs_and_folders(run: Path, tmp_path: Path):
    for place in (run, run / "model", Path(f"local-dir:{run / 'model'}")):
        assert find_weights(place) == run / "model" / "model.safetensors"
    for name in ("model.safetensors", "pytorch_model.bin", "weights.pth"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
        (tmp_path / name / "config.json").touch()
        assert find_weights(tmp_path / name) == tmp_path / name / name
    (tmp_path / "weights.pth" / "other.pth").touch()
    with pytest.raises(
        UserError, match=r"expected model.safetensors or one other .*, not several: other.pth, weights.pth"
    ):
        find_weights(tmp_path / "weights.pth")
    with pytest.raises(UserError, match="the path of the weights is empty"):
        find_weights(Path("local-dir:"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no weights at .*, not none"):
        find_weights(tmp_path / "empty")
    with pytest.raises(UserError, match="no weights at .*: no such file or folder. Did you mean 'weights.pth'?"):
        find_weights(tmp_path / "weihgts.pth")


def test_a_run_is_gone_on_from(run: Path):
    started = started_from(run)
    saved = Student.load(run / "model").backbone.state_dict()
    assert all(torch.equal(value, started[key]) for key, value in saved.items())


def test_a_classifier_for_as_many_other_classes_starts_anew_too(run: Path, caplog: pytest.LogCaptureFixture):
    """Or the class in row 2 would start as what was in row 2 of another class table."""
    saved = Student.load(run / "model").backbone.state_dict()["fc.weight"]
    with caplog.at_level(logging.INFO, "linnet"):
        started = started_from(run, classes=CLASSES[::-1])
    assert not torch.equal(started["fc.weight"], saved)
    assert "has no classifier for these classes: it starts anew" in caplog.text


def test_position_embeddings_are_resized_as_timm_does_it(tmp_path: Path):
    torch.manual_seed(0)
    large = timm.create_model("test_vit", num_classes=5, img_size=160)
    torch.save(large.state_dict(), tmp_path / "a.pth")
    started = started_from(tmp_path / "a.pth", "test_vit", size=64)
    overlay = {"state_dict": large.state_dict(), "num_classes": 5}
    theirs = timm.create_model("test_vit", num_classes=5, img_size=64, pretrained=True, pretrained_cfg_overlay=overlay)
    assert started["pos_embed"].shape != large.pos_embed.shape
    assert all(torch.equal(value, started[key]) for key, value in theirs.state_dict().items())


def test_mean_and_deviation_come_with_the_weights(tmp_path: Path):
    """A folder of weights that were trained with others than timm's usual ones; and they stay with the student."""
    model = timm.create_model(
        "test_resnet", num_classes=5, pretrained_cfg_overlay={"mean": (0.1, 0.2, 0.3), "std": (1, 1, 1)}
    )
    timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True)
    student = Student("test_resnet", CLASSES, 32, pretrained=tmp_path / "timm")
    assert student.normalize.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    student.eval().save(tmp_path / "saved")
    shutil.rmtree(tmp_path / "timm")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(Student.load(tmp_path / "saved")(images).logits_BC, student(images).logits_BC)
    settings = json.loads((tmp_path / "saved" / "config.json").read_text())["pretrained_cfg"]
    assert settings["mean"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own.pop("conv1.0.weight"), r"of another architecture than this 'test_resnet': 'conv1.0.weight' is missing$"),
        (lambda own: own.update({"bn1.bias": torch.ones(3)}), "'bn1.bias' has another shape$"),
        (lambda own: [own.pop(key) for key in list(own) if "weight" in key], r"'conv1.0.weight' is missing, '.*' is missing, '.*' is missing and \d+ more$"),
        (lambda own: own.clear(), "and .* more$"),
        (lambda own: own["bn1.bias"].fill_(float("nan")), "damaged: 'bn1.bias' holds numbers that are not finite"),
        (lambda own: own["bn1.running_var"].fill_(float("nan")), "damaged: 'bn1.running_var' holds numbers that are not"),
        (lambda own: own.update({"bn1.bias": own["bn1.bias"].to_sparse()}), "sparse or quantised: save them as plain tensors"),
        (lambda own: [value.zero_() for value in own.values()], "damaged: whole layers are zero"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_told(change: Callable[[State], Any], message: str, weights: State, tmp_path: Path):
    state = {key: value.clone() for key, value in weights.items()}
    change(state)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match=rf"the weights at {tmp_path / 'a.pth'} are .*{message}"):
        started_from(tmp_path / "a.pth")


def test_the_architecture_beside_the_weights_is_named(run: Path):
    with pytest.raises(UserError, match=r"of another architecture \('test_resnet'\) than this 'resnet10t'"):
        started_from(run, "resnet10t")


def test_an_empty_path_is_not_the_current_folder(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(run)
    with pytest.raises(UserError, match="the path of the weights is empty"):
        find_weights(Path("local-dir:"))


def damages(content: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "cut off": content[: len(content) // 2],
        "a few bytes": content[:5],
        "zeros": bytes(len(content)),
        "a web page": b"<!DOCTYPE html><html>404</html>",
        "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "words": b"no weights at all",
        "settings": b'{\n  "architecture": "test_resnet"\n}\n',
        "compressed": gzip.compress(content),
    }


@pytest.mark.parametrize("damage", damages(b"12345678"))
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_a_damaged_file_is_named(name: str, damage: str, weights: State, tmp_path: Path):
    file = tmp_path / name
    save_file(weights, file) if name == "a.safetensors" else torch.save(weights, file)
    file.write_bytes(damages(file.read_bytes())[damage])
    with pytest.raises(UserError, match=f"cannot read the weights at {file}: it ") as caught:
        started_from(file)
    words = {"empty": "is empty", "cut off": "is damaged", "zeros": "zeros", "a web page": "web page", "a pointer": "git lfs pull", "words": "no file of weights"}  # fmt: skip
    assert words.get(damage, "") in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's own words say how to run what code a file holds


def test_a_pickled_model_is_not_run(tmp_path: Path):
    torch.save(timm.create_model("test_resnet"), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"holds code beside tensors.*torch.save\(model.state_dict\(\), FILE\)"):
        started_from(tmp_path / "a.pth")
    with warnings.catch_warnings(action="error", category=UserWarning):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "jit.pth")
        with pytest.raises(UserError, match="holds code beside tensors"):
            started_from(tmp_path / "jit.pth")
    torch.save([torch.ones(3)], tmp_path / "b.pth")
    with pytest.raises(UserError, match="it holds a list, not a state dict"):
        started_from(tmp_path / "b.pth")


def test_a_damaged_download_is_named(weights: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As the hub's cache keeps it after a disk was full: a link to half a file."""
    (tmp_path / "blob").write_bytes(save(weights)[:1000])
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors"))
    with pytest.raises(
        UserError, match=rf"cannot read the weights at {tmp_path / 'blob'}: .*; delete this file, and it is"
    ):
        Student("test_resnet", CLASSES, 32, pretrained=True)
    (tmp_path / "blob").write_bytes(save(weights))  # it is whole: something else went wrong
    with pytest.raises(UserError, match="cannot be downloaded or loaded"):
        Student("test_resnet", CLASSES, 32, pretrained=True)


def test_a_download_of_zeros_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    real = timm.create_model

    def zeros(name: str, **rest: Any) -> torch.nn.Module:
        model = real(name, **{**rest, "pretrained": False})
        for value in model.parameters():
            torch.nn.init.zeros_(value)
        return model

    monkeypatch.setattr(timm, "create_model", zeros)
    monkeypatch.setattr(network, "downloaded", lambda name: tmp_path / "blob")
    with pytest.raises(UserError, match=f"the weights at {tmp_path / 'blob'} are damaged: whole layers are zero"):
        Student("test_resnet", CLASSES, 32, pretrained=True)


def test_a_checkpoint_of_linnet_is_a_file_of_weights(weights: State, tmp_path: Path):
    torch.save(
        {"task": {f"student.backbone.{key}": value for key, value in weights.items()}, "epoch": 3}, tmp_path / "last.pt"
    )
    model = timm.create_model("test_resnet", num_classes=5)
    load_weights(model, tmp_path / "last.pt")
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


TORCHVISION = {"mobilenet_v2": "mobilenetv2_100", "mnasnet1_0": "mnasnet_100", "mnasnet0_5": "mnasnet_050", "efficientnet_b0": "efficientnet_b0", "efficientnet_b1": "efficientnet_b1", "efficientnet_b2": "efficientnet_b2"}  # fmt: skip


def test_every_network_that_is_fitted_in_by_order_is_compared_with_torchvisions():
    assert sorted(TORCHVISION.values()) == sorted(IN_TORCHVISIONS_ORDER)


@pytest.mark.parametrize(
    ("theirs", "name"),
    [
        pair
        if pair[0] in ("mobilenet_v2", "mnasnet0_5", "efficientnet_b0")
        else pytest.param(*pair, marks=pytest.mark.slow)
        for pair in TORCHVISION.items()
    ],
)
def test_a_file_of_torchvision_is_fitted_in_by_the_order_of_its_tensors(theirs: str, name: str, tmp_path: Path):
    torch.manual_seed(0)
    network: Any = getattr(torchvision.models, theirs)(num_classes=5).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # else the order of these four could not be seen
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    torch.save(network.state_dict(), tmp_path / f"{theirs}.pth")
    student = Student(name, CLASSES, 64, pretrained=tmp_path / f"{theirs}.pth").eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(student.normalize(images))
        assert torch.allclose(student(images).logits_BC, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_weights_in_order_lose_a_classifier_for_other_classes_and_nothing_else(tmp_path: Path):
    state = torchvision.models.mnasnet0_5(num_classes=9).state_dict()
    without_counters = {key: value for key, value in state.items() if value.is_floating_point()}
    torch.save({"state_dict": without_counters}, tmp_path / "own.pth")
    found = started_from(tmp_path / "own.pth", "mnasnet_050")
    assert torch.equal(found["conv_stem.weight"], state["layers.0.weight"])
    assert found["classifier.weight"].shape == (5, 1280)
    swapped = list(without_counters.items())
    swapped[2], swapped[3] = swapped[3], swapped[2]  # bias and running mean: the same shape
    torch.save(dict(swapped), tmp_path / "swapped.pth")
    with pytest.raises(UserError, match="are of another architecture"):
        started_from(tmp_path / "swapped.pth", "mnasnet_050")


def test_torchvisions_resnet18_has_timms_names(tmp_path: Path):
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=5).eval()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    student = Student("resnet18", CLASSES, 64, pretrained=tmp_path / "resnet18.pth").eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.allclose(student(images).logits_BC, network(student.normalize(images)), atol=1e-5)

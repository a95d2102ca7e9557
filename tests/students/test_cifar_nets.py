from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import linnet
from linnet.students.cifar_nets import NETWORKS
from linnet.students.network import architectures
from linnet.students.student import Student
from linnet.teachers import load_teacher

# millions of parameters as published for the benchmark, 100 classes
PUBLISHED = {
    "resnet20": 0.28,
    "resnet56": 0.86,
    "resnet110": 1.74,
    "resnet8x4": 1.23,
    "resnet32x4": 7.43,
    "wrn_16_2": 0.70,
    "wrn_40_1": 0.57,
    "wrn_40_2": 2.26,
    "vgg8_cifar": 3.97,
    "vgg13_cifar": 9.46,
    "mobilenetv2_cifar": 0.81,
    "shufflenetv1_cifar": 0.95,
    "shufflenetv2_cifar": 1.36,
    "resnet18_cifar": 11.22,
    "resnet50_cifar": 23.71,
}


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_those_published(name: str):
    assert f"{parameters(timm.create_model(name)) / 1e6:.2f}" == f"{PUBLISHED[name]:.2f}"


@pytest.mark.parametrize(("name", "count"), [("wrn_16_1", 175066), ("wrn_16_2", 691674), ("wrn_40_1", 563930)], ids=str)
def test_exact_counts_published_for_ten_classes(name: str, count: int):
    assert parameters(timm.create_model(name, num_classes=10)) == count


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_one_of_timms(name: str):
    """The student needs these methods; and a network that is wired wrongly often still has the right size."""
    assert name in architectures()
    network = timm.create_model(name, num_classes=7).eval()
    assert network.get_classifier().out_features == 7
    assert network.pretrained_cfg["mean"] == pytest.approx((0.5071, 0.4867, 0.4408))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = network.forward_head(network.forward_features(images), pre_logits=True)
        assert features.shape == (2, network.head_hidden_size)
        assert torch.equal(network.get_classifier()(features), network(images))
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert not torch.equal(features[0], features[1])
    used = {id(p) for p in network.parameters() if p.requires_grad}
    network(images).square().sum().backward()
    assert {id(p) for p in network.parameters() if p.grad is not None} == used
    network.reset_classifier(0)
    assert network(images).shape == (2, network.num_features)


@pytest.mark.parametrize(("name", "side"), [("resnet8x4", 8), ("wrn_16_2", 8), ("vgg8_cifar", 4), ("mobilenetv2_cifar", 2), ("shufflenetv1_cifar", 4), ("shufflenetv2_cifar", 4), ("resnet18_cifar", 4), ("mobilenetv2_tinyimagenet", 5)])  # fmt: skip
def test_side_of_the_last_maps_at_32_pixels(name: str, side: int):
    assert timm.create_model(name).eval().forward_features(torch.zeros(1, 3, 32, 32)).shape[2:] == (side, side)


def test_half_of_a_block_of_shufflenet_v2_passes_through_and_is_shuffled():
    block = timm.create_model("shufflenetv2_cifar").eval().stages[1][1]
    x = torch.randn(1, 116, 4, 4)
    with torch.no_grad():
        out = block(x)
        changed = block.right(x[:, 58:])
    assert torch.equal(out[:, ::2], x[:, :58])  # shuffled: one of this half, one of the other, in turn
    assert torch.equal(out[:, 1::2], changed)


def test_a_student_of_this_kind_is_trained_saved_and_exported(tmp_path: Path):
    run = linnet.distill(
        "aviary:species=4,images=16", student="resnet8", method="ce", out=tmp_path / "run",
        options={"student.image_size": 32, "train.batch_size": 16, "train.epochs": 1},
    )  # fmt: skip
    assert run.summary()["onnx.max_difference"] < 1e-4
    images = torch.rand(2, 3, 32, 32)
    student: Any = Student.load(run.model)
    student.to(memory_format=torch.channels_last)  # as teachers are: another layout rounds otherwise
    assert torch.equal(load_teacher(f"run:{run.folder}").logits(images), student(images).logits_BC)  # type: ignore[operator]

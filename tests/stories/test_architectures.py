"""Architectures of timm as students: one small network of each family, computed, trained, saved and loaded as timm does.

A quick few, one of each kind of head, are in the default suite; all are in ``make slow``.
"""

import inspect
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import distributed

from linnet.deploy.export import export_onnx
from linnet.errors import UserError
from linnet.students.network import WITH_WEIGHTS, architectures
from linnet.students.student import Student
from linnet.teachers.timm import TimmTeacher
from linnet.text.bank import TextBank
from linnet.text.classes import class_table

CLASSES = class_table([f"class {i}" for i in range(5)])
# by the smallest side in pixels that they take
FAMILIES = {
    32: """
        caformer_s18 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 cpubone_nano cs3darknet_focus_s
        cspnext_tiny davit_tiny deit_tiny_distilled_patch16_224 densenet121 dla46x_c dpn48b
        edgenext_xx_small efficientformerv2_s0 efficientvim_m1 efficientvim_m1_dist efficientvit_b0
        efficientvit_m0 ese_vovnet19b_slim_dw fasternet_t0 fastvit_t8 fbnetc_100 focalnet_tiny_srf
        gcvit_xxtiny ghostnet_050 gmlp_ti16_224 hgnetv2_b0 hiera_tiny_224 hrnet_w18_small
        iformer_m_distilled iformer_t inception_next_atto lcnet_035 lcnetv2_small legacy_seresnet18
        legacy_xception levit_128s levit_256d lowformer_b0 mobilenetv3_small_050 mobilenetv4_conv_small_035
        mvitv2_tiny nest_tiny nextvit_small pit_ti_224 pit_ti_distilled_224 poolformerv2_s12 pvt_v2_b0
        rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 resnet8 resnetv2_18 rexnet_100 sam2_hiera_tiny
        selecsls42 sequencer2d_s shvit_s1 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
        swinv2_cr_tiny_224 swinv2_tiny_window8_256 test_byobnet test_coatnet test_convnext test_efficientnet
        test_mambaout test_nfnet test_resnet test_vit test_vit_relpos tiny_vit_5m_224
        tnt_s_legacy_patch16_224 tresnet_m twins_svt_small visformer_tiny vit_tiny_patch16_dinov3_qkvb
        volo_d1_224 xception41p xcit_nano_12_p8_224
    """,
    64: """
        csatv2
    """,
    96: """
        inception_resnet_v2 inception_v3 inception_v4
    """,
    224: """
        efficientformer_l1
    """,
    240: """
        crossvit_tiny_240
    """,
}

SIDES = {name: side for side, names in FAMILIES.items() for name in names.split()}
QUICK = {
    "test_vit": "one linear layer",
    "lcnet_035": "a hidden layer between pool and classifier",
    "dla46x_c": "a convolution as classifier",
    "efficientvit_m0": "a norm between features and classifier",
    "deit_tiny_distilled_patch16_224": "two heads that see different features",
    "levit_128s": "two heads with norms",
    "repvit_m1": "two heads in one module",
    "efficientvim_m1": "a head for each stage",
    "crossvit_tiny_240": "features of several sizes",
    "coat_tiny": "tensors with several names",
    "fbnetc_100": "an epsilon that timm sets with its weights only",
}


def every(*quick: str) -> list:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in SIDES]


def same(first: torch.Tensor | None, second: torch.Tensor) -> bool:
    """But for rounding, which depends on where in memory a tensor lies."""
    return first is not None and torch.allclose(first, second, rtol=1e-5, atol=1e-5)


def images_for(name: str, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, SIDES[name], SIDES[name], generator=torch.Generator().manual_seed(7))


def trained(name: str) -> Student:
    """After two steps: with batch statistics that are not those of a fresh network."""
    torch.manual_seed(0)
    student = Student(name, CLASSES, SIDES[name])
    optimizer = torch.optim.SGD(student.parameters(), 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        student(images_for(name)).logits_BC.square().mean().backward()
        assert [key for key, value in student.named_parameters() if value.grad is None] == []  # DDP waits for each
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
    return student.eval()


@pytest.mark.parametrize("name", every(*QUICK))
@torch.no_grad()
def test_a_student_is_the_network_that_timm_knows(name: str, tmp_path: Path):
    with torch.enable_grad():
        student = trained(name)
    images, network = images_for(name), student.backbone
    seen, expected = student(images), network(student.normalize(images))
    pooled = network.forward_head(network.forward_features(student.normalize(images)), pre_logits=True).flatten(1)
    assert same(seen.logits_BC, expected)
    assert same(seen.features_BD, pooled)
    assert seen.features_BD.shape == (2, student.width)
    assert seen.features_BD.isfinite().all() and seen.logits_BC.isfinite().all()
    assert same(student(images, with_maps=True).logits_BC, expected)
    student.save(tmp_path)
    assert same(Student.load(tmp_path)(images).logits_BC, expected)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert same(model(student.normalize(images)), expected)
    teacher = TimmTeacher("teacher", f"local-dir:{tmp_path}")
    told = teacher.watch(images)
    assert same(told.logits_BC, expected) and same(told.features_BD, pooled)
    assert teacher.class_weights is not None and len(teacher.class_weights) == len(CLASSES)


@pytest.mark.parametrize("name", every("lcnet_035", "dla46x_c", "efficientvit_m0", "levit_128s", "ghostnet_050"))
@torch.no_grad()
def test_in_training_it_is_the_same_network_too(name: str):
    """A head that is computed twice would update its batch norms and draw its dropout twice."""
    torch.manual_seed(0)
    student = Student(name, CLASSES, SIDES[name])
    fresh = {key: value.clone() for key, value in student.state_dict().items()}
    images = student.normalize(images_for(name))
    torch.manual_seed(1)
    output = student(images_for(name)).logits_BC
    updated = {key: value.clone() for key, value in student.state_dict().items()}
    student.load_state_dict(fresh)
    torch.manual_seed(1)
    expected = student.backbone.forward_head(student.backbone.forward_features(images))
    assert same(output, expected)
    for key, value in student.state_dict().items():
        assert same(updated[key], value), key


@pytest.mark.parametrize("name", every("lcnet_035", "dla46x_c", "deit_tiny_distilled_patch16_224"))
@torch.no_grad()
def test_an_embedding_head_is_the_same_network_with_other_outputs(name: str, tmp_path: Path):
    rows = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    bank = TextBank(tuple("abcde"), rows / np.linalg.norm(rows, axis=1, keepdims=True), "teacher", "hash", ("a {}.",))
    torch.manual_seed(0)
    student, images = Student(name, CLASSES, SIDES[name], bank=bank), images_for(name)
    student.train()(images)  # the batch statistics are no longer those of a fresh network
    seen = student.eval()(images)
    assert seen.embedding_BE is not None and seen.embedding_BE.shape == (2, 7)
    assert same(seen.embedding_BE, student.backbone(student.normalize(images)))
    assert seen.logits_BC.shape == (2, 5)
    student.save(tmp_path)
    assert same(Student.load(tmp_path)(images).logits_BC, seen.logits_BC)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SIDES))
def test_onnx_agrees(name: str, tmp_path: Path):
    try:
        assert export_onnx(trained(name), tmp_path / "model.onnx") <= 1e-4
    except UserError:  # a run is told so before it trains
        assert name in {"hiera_tiny_224", "nest_tiny", "twins_svt_small"}  # torch cannot write them


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1, timeout=timedelta(seconds=60)
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["efficientvit_m0", "deit_tiny_distilled_patch16_224", "dla46x_c"])
def test_no_process_waits_for_a_gradient_that_never_comes(name: str, one_process: None):
    torch.manual_seed(0)
    student = torch.nn.parallel.DistributedDataParallel(Student(name, CLASSES, SIDES[name]))
    for _ in range(2):  # the second step is refused if the first left a parameter out
        student(images_for(name)).logits_BC.sum().backward()


@pytest.mark.slow
def test_every_factory_that_builds_another_network_for_its_weights_is_known():
    """``if pretrained:`` in a factory: what it sets must be in WITH_WEIGHTS."""
    found = {name for name in architectures() if "if pretrained" in inspect.getsource(timm.model_entrypoint(name))}
    assert found == set(WITH_WEIGHTS)


def test_weights_of_a_folder_get_the_network_that_they_were_made_in(tmp_path: Path):
    """Another activation or epsilon leaves no trace in the weights: config.json tells."""
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=5, act_layer="silu").eval()
    timm.models.save_for_hf(network, tmp_path / "timm", safe_serialization=True)
    images = torch.rand(2, 3, 32, 32)
    student = Student("test_resnet", CLASSES, 32, pretrained=tmp_path / "timm").eval()
    assert same(student.backbone(images), network(images))
    student.save(tmp_path / "linnet")
    assert same(Student.load(tmp_path / "linnet").backbone(images), network(images))
    teacher = TimmTeacher("teacher", f"test_resnet:{tmp_path / 'timm'}")
    assert same(teacher.network.eval()(images), network(images))
    other = Student("test_resnet", CLASSES, 32, pretrained=tmp_path / "timm" / "model.safetensors").eval()
    assert same(other.backbone(images), network(images))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (
            {"act_layer": "none"},
            "cannot be built at 32 pixels \\('none'\\): .*, or look at 'model_args' in {folder}/config.json",
        ),
        ({"newer": 1}, "cannot be built \\(.*'newer'\\): .*, or look at 'model_args' in {folder}/config.json"),
        ({"checkpoint_path": "other.pth", "pretrained": True, "pretrained_cfg": {}}, ""),
    ],
)
def test_what_a_folder_says_of_its_network(told: dict[str, object], words: str, tmp_path: Path):
    """It tells how the network is built, not which weights it gets."""
    timm.models.save_for_hf(timm.create_model("test_resnet", num_classes=5), tmp_path, safe_serialization=True)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"model_args": told}))
    if words:
        with pytest.raises(UserError, match=words.format(folder=tmp_path)):
            Student("test_resnet", CLASSES, 32, pretrained=tmp_path)
    else:
        Student("test_resnet", CLASSES, 32, pretrained=tmp_path)

"""The networks of the CIFAR-100 distillation benchmark (mdistiller, CRD) that timm lacks, registered with timm.

Importing this module makes them known to ``timm.create_model``. They are made for 32 pixels and take other sizes. Names
are the benchmark's; where timm has another network of that name, ``_cifar`` is added.

Reference:
    ResNet for CIFAR: He et al. 2016, section 4.2 (as in the benchmark, with 1 x 1 convolutions in the shortcuts that
    change shape). WRN: Zagoruyko and Komodakis 2016. VGG: Simonyan and Zisserman 2015, with batch norm and one linear
    layer. MobileNetV2: Sandler et al. 2018. ShuffleNet: Zhang et al. 2018; its second version: Ma et al. 2018.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock as TimmBasicBlock
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # of the CIFAR-100 training images, as in the benchmark


class CifarNet(nn.Module):
    """Stages, average pool, one linear layer, with the methods that timm's networks have."""

    def __init__(self, stages: Iterable[nn.Module], width: int, num_classes: int):
        super().__init__()
        self.stages = nn.Sequential(*stages)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = width
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.fc: nn.Module = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.stages(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        pooled = x.mean(dim=(2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, **{"bias": False, **options})


def conv_norm(inputs: int, outputs: int, size: int = 3, stride: int = 1, **options: Any) -> list[nn.Module]:
    return [conv(inputs, outputs, size, stride, **options), nn.BatchNorm2d(outputs)]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, activated after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(*conv_norm(inputs, outputs, 3, stride), nn.ReLU(), *conv_norm(outputs, outputs))
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv_norm(inputs, outputs, 1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


class WideBlock(nn.Module):
    """Activated before each convolution; a shortcut that changes shape starts after the first activation."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.residual = nn.Sequential(*conv_norm(inputs, outputs, 3, stride), nn.ReLU(), conv(outputs, outputs))
        self.shortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = self.before(x)
        return self.residual(active) + (x if self.shortcut is None else self.shortcut(active))


def blocks(make: Callable[[int, int, int], nn.Module], inputs: int, outputs: int, count: int, stride: int) -> nn.Module:
    """``count`` blocks, of which the first changes width and size."""
    first = make(inputs, outputs, stride)
    return nn.Sequential(first, *(make(outputs, outputs, 1) for _ in range(count - 1)))


def resnet(depth: int, widths: tuple[int, int, int, int], num_classes: int = 100, in_chans: int = 3) -> CifarNet:
    """Depth 6n + 2: n blocks in each of three stages."""
    n, (stem, *outputs) = (depth - 2) // 6, widths
    pairs = zip(widths[:3], outputs, (1, 2, 2), strict=True)
    stages = [blocks(BasicBlock, inputs, width, n, stride) for inputs, width, stride in pairs]
    return CifarNet([nn.Sequential(*conv_norm(in_chans, stem), nn.ReLU()), *stages], widths[3], num_classes)


def wide_resnet(depth: int, factor: int, num_classes: int = 100, in_chans: int = 3) -> CifarNet:
    """Depth 6n + 4: n blocks in each of three stages, ``factor`` times as wide as ResNet's."""
    n, widths = (depth - 4) // 6, (16, 16 * factor, 32 * factor, 64 * factor)
    pairs = zip(widths[:3], widths[1:], (1, 2, 2), strict=True)
    stages = [blocks(WideBlock, inputs, width, n, stride) for inputs, width, stride in pairs]
    last = nn.Sequential(nn.BatchNorm2d(widths[3]), nn.ReLU())
    return CifarNet([conv(in_chans, widths[0]), *stages, last], widths[3], num_classes)


def vgg(convolutions: int, num_classes: int = 100, in_chans: int = 3) -> CifarNet:
    """Five stages of ``convolutions`` each, halved by max-pooling after the first three; above 32 pixels after the
    fourth, too."""
    stages: list[nn.Module] = []
    inputs = in_chans
    for number, width in enumerate((64, 128, 256, 512, 512)):
        layers: list[nn.Module] = []
        for _ in range(convolutions):
            layers += [*conv_norm(inputs, width, bias=True), nn.ReLU()]
            inputs = width
        pool = (nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2), PoolAbove(4), nn.Identity())[number]
        stages.append(nn.Sequential(*layers, pool))
    return CifarNet(stages, inputs, num_classes)


class PoolAbove(nn.Module):
    """Halves maps that are larger than ``side``."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.max_pool2d(x, 2) if x.shape[-1] > self.side else x


class InvertedResidual(nn.Module):
    """1 x 1 up, 3 x 3 in each channel, 1 x 1 down without activation."""

    def __init__(self, expansion: int, act: type[nn.Module], bias: bool, inputs: int, outputs: int, stride: int):
        super().__init__()
        inner = expansion * inputs
        self.same = stride == 1 and inputs == outputs
        self.residual = nn.Sequential(
            *conv_norm(inputs, inner, 1, bias=bias), act(),
            *conv_norm(inner, inner, 3, stride, groups=inner, bias=bias), act(),
            *conv_norm(inner, outputs, 1, bias=bias),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.residual(x) if self.same else self.residual(x)


def mobilenetv2(tiny: bool, num_classes: int = 100, in_chans: int = 3) -> CifarNet:
    """The benchmark's two: for CIFAR at half width and with a stem of stride 2, for Tiny-ImageNet at full width with a
    1 x 1 stem (padded by one pixel), ReLU6, biases in the convolutions and other strides."""
    act: type[nn.Module] = nn.ReLU6 if tiny else nn.ReLU
    scale, strides = (1.0, (1, 2, 2, 2, 1, 1, 1)) if tiny else (0.5, (1, 1, 2, 2, 1, 2, 1))
    inputs = int(32 * scale)
    first = nn.Conv2d(in_chans, inputs, 1, padding=1) if tiny else conv(in_chans, inputs, 3, 2)
    stages: list[nn.Module] = [nn.Sequential(first, nn.BatchNorm2d(inputs), act())]
    for number, (width, count) in enumerate(((16, 1), (24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1))):
        make = partial(InvertedResidual, 1 if number == 0 else 6, act, tiny)
        stages.append(blocks(make, inputs, int(width * scale), count, strides[number]))
        inputs = int(width * scale)
    last = nn.Sequential(*conv_norm(inputs, 1280, 1, bias=tiny), act())
    return CifarNet([*stages, last], 1280, num_classes)


class ShuffleBlock(nn.Module):
    """Grouped 1 x 1 convolutions with the channels shuffled between them; a block that halves adds its channels to the
    pooled input's."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int = 3):
        super().__init__()
        self.halves, outputs = stride == 2, outputs - inputs if stride == 2 else outputs
        inner, first = outputs // 4, 1 if inputs == 24 else groups  # the stem has too few channels for groups
        self.residual = nn.Sequential(
            *conv_norm(inputs, inner, 1, groups=first), nn.ReLU(), nn.ChannelShuffle(first),
            *conv_norm(inner, inner, 3, stride, groups=inner), nn.ReLU(),
            *conv_norm(inner, outputs, 1, groups=groups),
        )  # fmt: skip
        self.pool = nn.AvgPool2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.residual(x)
        return torch.relu(torch.cat([residual, self.pool(x)], dim=1) if self.halves else residual + x)


def shufflenet(num_classes: int = 100, in_chans: int = 3) -> CifarNet:
    stages: list[nn.Module] = [nn.Sequential(*conv_norm(in_chans, 24, 1), nn.ReLU())]
    for inputs, width, count in ((24, 240, 4), (240, 480, 8), (480, 960, 4)):
        stages.append(blocks(ShuffleBlock, inputs, width, count, 2))
    return CifarNet(stages, 960, num_classes)


class SplitBlock(nn.Module):
    """One half of the channels stays, the other goes through 1 x 1, 3 x 3 in each channel, 1 x 1; then all are
    shuffled. A block that halves has no half that stays: both sides see the whole input."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        half = outputs // 2
        self.halves = stride == 2
        sees = inputs if self.halves else inputs - half
        self.left = nn.Sequential(
            *conv_norm(inputs, inputs, 3, 2, groups=inputs),
            *conv_norm(inputs, half, 1), nn.ReLU(),
        ) if self.halves else nn.Identity()  # fmt: skip
        self.right = nn.Sequential(
            *conv_norm(sees, half, 1), nn.ReLU(),
            *conv_norm(half, half, 3, stride, groups=half),
            *conv_norm(half, half, 1), nn.ReLU(),
        )  # fmt: skip
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = (x, x) if self.halves else x.chunk(2, dim=1)
        return self.shuffle(torch.cat([self.left(left), self.right(right)], dim=1))


def shufflenet_v2(num_classes: int = 100, in_chans: int = 3) -> CifarNet:
    """The benchmark's, at width 1, with a 1 x 1 stem and no max-pool."""
    stages: list[nn.Module] = [nn.Sequential(*conv_norm(in_chans, 24, 1), nn.ReLU())]
    for inputs, width, count in ((24, 116, 4), (116, 232, 8), (232, 464, 4)):
        stages.append(blocks(SplitBlock, inputs, width, count, 2))
    last = nn.Sequential(*conv_norm(464, 1024, 1), nn.ReLU())
    return CifarNet([*stages, last], 1024, num_classes)


def imagenet_resnet(block: type[nn.Module], layers: tuple[int, ...], **options: Any) -> nn.Module:
    """timm's own with a 3 x 3 stem of stride 1 and no max-pool."""
    network: Any = ResNet(block, layers, **options)  # type: ignore[arg-type]
    network.conv1 = conv(options.get("in_chans", 3), 64)
    network.maxpool = nn.Identity()
    return network


NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(resnet, depth, NARROW) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": partial(resnet, depth, WIDE) for depth in (8, 32)},
    **{f"wrn_{depth}_{factor}": partial(wide_resnet, depth, factor) for depth in (16, 40) for factor in (1, 2)},
    "vgg8_cifar": partial(vgg, 1),
    "vgg13_cifar": partial(vgg, 2),
    "mobilenetv2_cifar": partial(mobilenetv2, False),
    "mobilenetv2_tinyimagenet": partial(mobilenetv2, True),
    "shufflenetv1_cifar": shufflenet,
    "shufflenetv2_cifar": shufflenet_v2,
    "resnet18_cifar": partial(imagenet_resnet, TimmBasicBlock, (2, 2, 2, 2)),
    "resnet50_cifar": partial(imagenet_resnet, Bottleneck, (3, 4, 6, 3)),
}
SETTINGS = {
    "num_classes": 100,
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "mean": MEAN,
    "std": STD,
    "classifier": "fc",
}
default_cfgs = generate_default_cfgs(dict.fromkeys(NETWORKS, SETTINGS))


def _register(name: str, make: Callable[..., nn.Module]) -> None:
    def build(pretrained: bool = False, **options: Any) -> nn.Module:
        return build_model_with_cfg(make, name, pretrained, **options)

    build.__name__ = name
    register_model(build)


for _name, _make in NETWORKS.items():
    _register(_name, _make)

"""Attention over feature maps: where a generator puts detail, and what two networks of different width attend to.

Shapes: B batch, C channels, H height, W width.
"""

import torch
from torch import nn


class SpatialAttention(nn.Module):
    """F + strength * (H W softmax(A)) * F, with A from a small encoder and decoder that unpools where it pooled.

    1x1 C -> C/r, 3x3 -> 2C/r, max-pool, 3x3 -> 4C/r, 3x3 transposed -> 2C/r, max-unpool with the indices of the
    max-pool, 3x3 transposed -> C/r, 1x1 -> C; all 3x3 ones with BatchNorm and ReLU. The softmax is over the positions
    of each channel.

    Args:
        channels: C. reduction: r. strength: lambda of the paper, .05 there.

    Expects:
        maps of even height and width.

    Reference:
        DFKD-FGVC, ICCV 2023, arXiv 2404.12037, the spatial-wise attention of the generator.

    Deviation:
        the factor H W, so that the mean weight is 1: a bare softmax over positions changes F by 1 / (H W) of that, and
        ``strength`` could not matter as it does in the paper. r = 8 is linnet's.
    """

    def __init__(self, channels: int, reduction: int = 8, strength: float = 0.05):
        super().__init__()
        self.strength, width = strength, max(1, channels // reduction)
        self.squeeze = nn.Conv2d(channels, width, 1)
        self.encode = _normalised(nn.Conv2d(width, 2 * width, 3, padding=1, bias=False))
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.middle = nn.Sequential(
            _normalised(nn.Conv2d(2 * width, 4 * width, 3, padding=1, bias=False)),
            _normalised(nn.ConvTranspose2d(4 * width, 2 * width, 3, padding=1, bias=False)),
        )
        self.unpool = nn.MaxUnpool2d(2)
        self.decode = _normalised(nn.ConvTranspose2d(2 * width, width, 3, padding=1, bias=False))
        self.expand = nn.Conv2d(width, channels, 1)

    def weights(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W), positive, with mean 1 over the positions of each channel."""
        pooled, indices = self.pool(self.encode(self.squeeze(maps_BCHW)))
        scores_BCHW = self.expand(self.decode(self.unpool(self.middle(pooled), indices)))
        flat = scores_BCHW.flatten(2)
        return (flat.shape[2] * flat.softmax(dim=2)).view_as(scores_BCHW)

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        return maps_BCHW + self.strength * self.weights(maps_BCHW) * maps_BCHW


class HighOrderAttention(nn.Module):
    """A * F with A = mean over r = 1 .. R of sigmoid(V_r relu(U_r1 F * ... * U_rr F)): products of r linear maps.

    All U (C -> 2 floor(C/8)) and V (back to C) are 1x1 convolutions without bias.

    Args:
        channels: C. order: R.

    Reference:
        DFKD-FGVC, ICCV 2023, arXiv 2404.12037, the mixed high-order attention; the widths are those of the code of
        Chen et al.: Mixed High-Order Attention Network, ICCV 2019.
    """

    def __init__(self, channels: int, order: int = 3):
        super().__init__()
        width = 2 * max(1, channels // 8)
        self.factors = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(channels, width, 1, bias=False) for _ in range(r + 1)) for r in range(order)
        )
        self.back = nn.ModuleList(nn.Conv2d(width, channels, 1, bias=False) for _ in range(order))

    def weights(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) between 0 and 1."""
        orders = []
        for factors, back in zip(self.factors, self.back, strict=True):
            product = torch.ones_like(maps_BCHW[:, :1])
            for factor in factors:  # type: ignore[attr-defined]
                product = product * factor(maps_BCHW)
            orders.append(back(product.relu()).sigmoid())
        return torch.stack(orders).mean(dim=0)

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        return self.weights(maps_BCHW) * maps_BCHW


def _normalised(convolution: nn.Module) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True))  # type: ignore[arg-type]

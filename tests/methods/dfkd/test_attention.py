"""Attention over feature maps: shapes, means, the indices of the unpooling, and products of linear maps."""

import pytest
import torch
from torch import Tensor

from linnet.methods.dfkd.attention import HighOrderAttention, SpatialAttention


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("side", [4, 8, 14, 28])
def test_spatial_attention_has_mean_one_over_the_positions_of_each_channel(side: int):
    torch.manual_seed(0)
    attention = SpatialAttention(16).double()
    weights = attention.weights(maps(3, 16, side, side))
    assert weights.shape == (3, 16, side, side)
    assert (weights > 0).all()
    assert torch.allclose(weights.mean(dim=(2, 3)), torch.ones(3, 16, dtype=torch.float64))
    assert weights.std() > 0.01, "the same everywhere: it attends to nothing"


def test_spatial_attention_adds_its_share_to_the_map():
    torch.manual_seed(0)
    attention = SpatialAttention(16, strength=0.2).double().eval()
    seen = maps(2, 16, 8, 8)
    assert torch.allclose(attention(seen), seen * (1 + 0.2 * attention.weights(seen)))
    attention.strength = 0.0
    assert torch.equal(attention(seen), seen)


def test_what_was_pooled_goes_back_to_where_it_came_from():
    """Were the indices those of another map, the attention would point to the wrong place."""
    torch.manual_seed(0)
    attention = SpatialAttention(8, reduction=8).double().eval()
    attention.squeeze, attention.encode = torch.nn.Identity(), torch.nn.Identity()
    seen: dict[str, Tensor] = {}
    attention.middle = torch.nn.Identity()
    attention.decode.register_forward_pre_hook(lambda _, inputs: seen.update(unpooled=inputs[0]))
    image = maps(1, 2, 4, 4)
    attention.weights(image)
    for c in range(2):
        for i in range(0, 4, 2):
            for j in range(0, 4, 2):
                window = [(i + a, j + b) for a in range(2) for b in range(2)]
                best = max(window, key=lambda at: float(image[0, c, at[0], at[1]]))
                for at in window:
                    expected = float(image[0, c, at[0], at[1]]) if at == best else 0.0
                    assert float(seen["unpooled"][0, c, at[0], at[1]]) == expected


@pytest.mark.parametrize("order", [1, 2, 3])
def test_high_order_attention_is_the_naive_product(order: int):
    torch.manual_seed(1)
    attention = HighOrderAttention(16, order).double()
    seen = maps(2, 16, 3, 3)
    expected = torch.zeros_like(seen)
    for b in range(2):
        for h in range(3):
            for w in range(3):
                pixel, total = seen[b, :, h, w], torch.zeros(16, dtype=torch.float64)
                for r in range(order):
                    product = torch.ones(4, dtype=torch.float64)  # 2 * floor(16 / 8)
                    for factor in attention.factors[r]:
                        product = product * torch.stack([row @ pixel for row in factor.weight[:, :, 0, 0]])
                    total += torch.sigmoid(attention.back[r].weight[:, :, 0, 0] @ product.clamp(min=0)) / order
                expected[b, :, h, w] = total * pixel
    assert torch.allclose(attention(seen), expected, atol=1e-12)
    assert len(attention.factors[order - 1]) == order


def test_narrow_maps_have_attention_too():
    assert HighOrderAttention(4)(torch.rand(2, 4, 1, 1)).shape == (2, 4, 1, 1)
    assert SpatialAttention(4)(torch.rand(2, 4, 2, 2)).shape == (2, 4, 2, 2)

"""What a teacher's BatchNorm layers say about a batch."""

import pytest
import torch
from torch import Tensor, nn

from linnet.methods.dfkd.batch_norm import BatchNormStatistics


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)
    ).double()


def test_the_distance_is_zero_where_the_batch_has_the_running_statistics():
    network, images = net(), random(16, 3, 8, 8)
    found = images
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.copy_(found.mean(dim=(0, 2, 3)))
                layer.running_var.copy_(found.var(dim=(0, 2, 3), correction=0))
            found = layer.eval()(found)
    with BatchNormStatistics(network) as statistics:
        network(images)
    assert len(statistics.layers) == 2
    # the running statistics of linnet's teachers are float32, and so is the comparison
    assert statistics.distance().item() == pytest.approx(0, abs=1e-5)
    with BatchNormStatistics(network) as statistics:
        network(2 * images + 1)
    assert statistics.distance().item() > 1


def test_the_distance_reaches_the_images_and_hooks_do_not_stay():
    network, images = net().eval().requires_grad_(False), random(4, 3, 8, 8).requires_grad_()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with BatchNormStatistics(network) as statistics:
        network(images)
    network(images)  # outside: does not count
    assert len(statistics._distances) == 2
    statistics.distance().backward()
    assert images.grad.abs().sum() > 0
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(not layer._forward_pre_hooks for layer in statistics.layers)

"""The generator of data-free distillation and its training."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from linnet.errors import UserError
from linnet.methods.dfkd.attention import SpatialAttention
from linnet.methods.dfkd.generator import Adversary, Generator


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
@pytest.mark.parametrize("side", [32, 64, 128, 224])
def test_images_have_the_right_side_and_range(side: int, upsampling: str):
    torch.manual_seed(0)
    generator = Generator(side, upsampling, width=8)
    images = generator(torch.randn(2, 100))
    assert images.shape == (2, 3, side, side)
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0.01
    assert not torch.equal(images[0], images[1])


def test_the_published_channels_and_start_map():
    generator = Generator(224, "transposed")
    kernels = [m for m in generator.modules() if isinstance(m, nn.ConvTranspose2d) and m.stride == (2, 2)]
    assert [(k.in_channels, k.out_channels) for k in kernels] == [(512, 256), (256, 128), (128, 64), (64, 64)]
    assert generator.start(torch.randn(2, 100)).shape == (2, 512, 14, 14)
    assert all(parametrize.is_parametrized(k, "weight") for k in kernels)


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
def test_spectral_norm_makes_the_largest_singular_value_one(upsampling: str):
    torch.manual_seed(0)
    generator = Generator(32, upsampling, width=8)
    for _ in range(50):
        generator(torch.randn(4, 100))
    kernels = [module for module in generator.modules() if parametrize.is_parametrized(module, "weight")]
    assert len(kernels) == 4
    for kernel in kernels:
        weight = kernel.weight.detach()
        matrix = weight.transpose(0, 1) if isinstance(kernel, nn.ConvTranspose2d) else weight  # output channels first
        assert torch.linalg.matrix_norm(matrix.flatten(1), 2).item() == pytest.approx(1.0, abs=0.02)


def test_attention_and_batch_norm_can_be_left_out():
    def count(generator: Generator, kind: type[nn.Module]) -> int:
        return sum(isinstance(module, kind) for module in generator.blocks.modules())

    assert count(Generator(32, "nearest", width=8), SpatialAttention) == 4
    bare = Generator(32, "nearest", width=8, attention=0.0, batch_norm=False)
    assert (count(bare, SpatialAttention), count(bare, nn.BatchNorm2d)) == (0, 0)
    assert count(Generator(32, "nearest", width=8, attention=0.0), nn.BatchNorm2d) == 4


@pytest.mark.parametrize(("side", "near"), [(40, "32 or 48"), (8, "16 or 32")])
def test_a_side_that_cannot_be_made_is_refused(side: int, near: str):
    with pytest.raises(UserError, match=f"multiple of 16, not {side}: choose {near}"):
        Generator(side, "nearest")


def adversary(seed: int = 0) -> Adversary:
    torch.manual_seed(seed)
    return Adversary(Generator(32, "nearest", width=8), lr=1e-3, clip=5.0)


def brightness(images: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"bright": images.mean(), "contrast": 0.1 * images.std()}


def test_steps_go_down_and_leave_nothing_behind():
    player = adversary()
    before = copy.deepcopy(list(player.generator.parameters()))
    losses = [sum(player.step(8, brightness).values()).item() for _ in range(20)]
    assert losses[-1] < losses[0] - 0.02
    assert all(not torch.equal(a, b) for a, b in zip(before, player.generator.parameters(), strict=True) if a.ndim > 1)
    assert all(p.grad is None and not p.requires_grad for p in player.generator.parameters())


def test_a_large_gradient_is_scaled_down(monkeypatch: pytest.MonkeyPatch):
    """The generator's loss has no lower bound."""
    player, norms = adversary(), []
    real = player.optimizer.step

    def look() -> None:
        grads = [p.grad for group in player.optimizer.param_groups for p in group["params"]]
        norms.append(torch.stack([grad.norm() for grad in grads]).norm().item())
        real()

    monkeypatch.setattr(player.optimizer, "step", look)
    player.step(8, lambda images: {"huge": 1e6 * images.mean()})
    assert norms == [pytest.approx(5.0, rel=1e-4)]


def test_the_optimiser_is_part_of_the_state(tmp_path):
    """Without its moments a resumed run would go another way."""
    whole, stopped = adversary(), adversary()
    for player in (whole, stopped):
        torch.manual_seed(1)
        for _ in range(3):
            player.step(4, brightness)
    torch.save(stopped.state_dict(), tmp_path / "state.pt")
    resumed = adversary(seed=5)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for player in (whole, resumed):
        torch.manual_seed(2)
        player.step(4, brightness)
    expected, found = whole.generator.state_dict(), resumed.generator.state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_pictures_are_of_the_same_noise_and_change_nothing():
    player = adversary()
    state = copy.deepcopy(player.generator.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again = player.pictures(4), player.pictures(4)
    assert torch.equal(torch.rand(1), expected), "the global random state has moved"
    assert torch.equal(first, again)
    assert first.shape == (4, 3, 32, 32)
    assert all(torch.equal(state[key], value) for key, value in player.generator.state_dict().items())
    assert player.generator.training
    player.step(4, brightness)
    assert not torch.equal(player.pictures(4), first)

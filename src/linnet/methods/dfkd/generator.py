"""The generator of data-free distillation, from noise to images in [0, 1], and how it is trained.

Shapes: B batch, S image side.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from linnet.errors import UserError
from linnet.methods.dfkd.attention import SpatialAttention

BLOCKS = 4  # each doubles the side
Upsampling = Literal["transposed", "nearest"]


class Generator(nn.Module):
    """Noise (B, noise) -> images (B, 3, image_size, image_size) in [0, 1].

    A linear layer to a map of 8 ``width`` channels and 1/16 of the side, BatchNorm, four blocks (twice the side, 3x3
    convolution with spectral norm, BatchNorm, LeakyReLU 0.2, spatial attention) with 4, 2, 1 and 1 times ``width``
    channels, a 3x3 convolution to RGB, (tanh + 1) / 2.

    Args:
        image_size: side in pixels, a multiple of 16.
        upsampling: ``transposed``: the convolution is a transposed one of stride 2; ``nearest``: pixels are doubled
            before it.
        noise: length of the noise vectors. width: channels at the end, 64 in the paper.
        attention: strength of the spatial attention; 0 for none (a DCGAN). batch_norm: BatchNorm in the blocks.

    Raises:
        UserError: a side that is not a multiple of 16.

    Reference:
        DFKD-FGVC, ICCV 2023, arXiv 2404.12037.

    Deviation:
        ``nearest``, the output padding of 1 with ``transposed`` (which doubles the side exactly) and the BatchNorm in
        the blocks are linnet's.
    """

    def __init__(
        self,
        image_size: int,
        upsampling: Upsampling,
        noise: int = 100,
        width: int = 64,
        attention: float = 0.05,
        batch_norm: bool = True,
    ):
        super().__init__()
        start = max(1, image_size // 2**BLOCKS)
        if start * 2**BLOCKS != image_size:
            raise UserError(
                f"the generator makes images whose side is a multiple of {2**BLOCKS}, not {image_size}: choose "
                f"{start * 2**BLOCKS} or {(start + 1) * 2**BLOCKS}"
            )
        channels = [8 * width, 4 * width, 2 * width, width, width]
        self.noise = noise
        self.start = nn.Sequential(
            nn.Linear(noise, channels[0] * start**2),
            nn.Unflatten(1, (channels[0], start, start)),
            nn.BatchNorm2d(channels[0]),
        )
        self.blocks = nn.Sequential(
            *(_block(wide, narrow, upsampling, attention, batch_norm) for wide, narrow in pairwise(channels))
        )
        self.paint = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        return (self.paint(self.blocks(self.start(noise))).tanh() + 1) / 2


def _block(wide: int, narrow: int, upsampling: Upsampling, attention: float, batch_norm: bool) -> nn.Sequential:
    if upsampling == "transposed":
        doubled: list[nn.Module] = [nn.ConvTranspose2d(wide, narrow, 3, stride=2, padding=1, output_padding=1)]
    else:
        doubled = [nn.Upsample(scale_factor=2), nn.Conv2d(wide, narrow, 3, padding=1)]
    layers: list[nn.Module] = [
        *doubled[:-1],
        spectral_norm(doubled[-1]),
        *([nn.BatchNorm2d(narrow)] if batch_norm else []),
        nn.LeakyReLU(0.2, inplace=True),
        *([SpatialAttention(narrow, strength=attention)] if attention else []),
    ]
    return nn.Sequential(*layers)


class Adversary(nn.Module):
    """A generator with an optimiser of its own (Adam, betas .5 and .99), whose state is part of the module's state.

    The generator's parameters ask for no gradient outside :meth:`step`, so that no other optimiser takes them.

    Args:
        lr: learning rate. clip: gradient norm above which gradients are scaled down.
    """

    def __init__(self, generator: Generator, lr: float, clip: float):
        super().__init__()
        self.generator, self.clip = generator.requires_grad_(False), clip
        self.optimizer = torch.optim.Adam(generator.parameters(), lr=lr, betas=(0.5, 0.99))

    @torch.no_grad()
    def images(self, count: int) -> torch.Tensor:
        """New images (B, 3, S, S) in [0, 1], constants."""
        return self.generator(self._noise(count))

    def step(self, count: int, terms_of: Callable[[torch.Tensor], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """One step down the sum of the terms of new images; no gradient is left on anything else.

        Returns:
            the terms, detached.
        """
        parameters = list(self.generator.requires_grad_(True).parameters())
        terms = terms_of(self.generator(self._noise(count)))
        gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), parameters)
        self.generator.requires_grad_(False)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {name: term.detach() for name, term in terms.items()}

    def pictures(self, count: int) -> torch.Tensor:
        """Images (count, 3, S, S) of noise that is always the same, as the generator makes them now; its state stays as
        it is."""
        noise = torch.randn(count, self.generator.noise, generator=torch.Generator().manual_seed(0))
        training = self.generator.training
        with torch.no_grad():
            images = self.generator.eval()(noise.to(self._device()))
        self.generator.train(training)
        return images

    def get_extra_state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)

    def _noise(self, count: int) -> torch.Tensor:
        return torch.randn(count, self.generator.noise).to(self._device())  # drawn on the CPU: the same everywhere

    def _device(self) -> torch.device:
        return next(self.generator.parameters()).device

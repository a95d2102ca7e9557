"""What a network's BatchNorm layers remember of the images that it was trained on."""

from types import TracebackType

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from linnet.losses import statistics_distance


class BatchNormStatistics:
    """Compares the statistics of a batch with the running ones, in every BatchNorm layer that the batch goes through.

    Example:
        >>> with BatchNormStatistics(network) as statistics:
        ...     network(images)
        >>> statistics.distance().backward()  # into the images

    Attributes:
        layers: the BatchNorm layers with running statistics; empty if the network has none.
    """

    def __init__(self, network: nn.Module):
        found = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self.layers = [layer for layer in found if layer.running_mean is not None]
        self._distances: list[torch.Tensor] = []
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "BatchNormStatistics":
        self._distances = []
        self._hooks = [layer.register_forward_pre_hook(self._compare) for layer in self.layers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _compare(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        running = layer.running_mean.float(), layer.running_var.float()
        self._distances.append(statistics_distance(inputs[0].float(), *running))

    def distance(self) -> torch.Tensor:
        """Sum over the layers of ||mean - running mean|| + ||variance - running variance||; see
        :func:`linnet.losses.statistics_distance`."""
        return torch.stack(self._distances).sum()

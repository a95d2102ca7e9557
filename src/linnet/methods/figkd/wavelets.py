"""The discrete wavelet transform along the last axis: differentiable, batched, of any length.

The conventions are PyWavelets' in mode "periodization": a signal of odd length repeats its last sample, the ends are
joined, and each half of the result has half the length, rounded up. The wavelets are orthogonal, so the transform of an
even length keeps sums of squares and its inverse is its transpose.

Shapes: N length of the signal, K = ceil(N / 2), F filter length; any leading axes.
"""

import math

import torch

ORTHOGONAL = r"haar|db([1-9]|[12]\d|3[0-8])|sym([2-9]|1\d|20)|coif([1-9]|1[0-7])"
"""Names of PyWavelets' orthogonal wavelets, but for ``dmey``, whose filters reconstruct to 1e-2 only."""


def filters(wavelet: str) -> torch.Tensor:
    """(2, F) float64: the low-pass and the high-pass decomposition filter of an orthogonal wavelet."""
    import pywt

    chosen = pywt.Wavelet(wavelet)
    return torch.tensor([chosen.dec_lo, chosen.dec_hi], dtype=torch.float64)


def max_levels(length: int) -> int:
    """How often a signal can be halved, rounding up, until one sample is left."""
    return math.ceil(math.log2(length))


def dwt(signal_N: torch.Tensor, filters_2F: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One level: (..., N) -> approximation (low frequencies) and detail (high frequencies), each (..., K).

    With Haar's filters approximation and detail are (x_2k + x_2k+1) / sqrt(2) and (x_2k - x_2k+1) / sqrt(2).
    """
    if signal_N.shape[-1] % 2:
        signal_N = torch.cat([signal_N, signal_N[..., -1:]], dim=-1)
    length, taps = signal_N.shape[-1], filters_2F.shape[1]
    joined = torch.arange(1 - taps // 2, length + taps // 2 - 1, device=signal_N.device) % length
    windows_KF = signal_N[..., joined].unfold(-1, taps, 2)
    low, high = (windows_KF @ filters_2F.flip(1).to(signal_N).T).unbind(-1)
    return low, high


def wavedec(signal_N: torch.Tensor, filters_2F: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """Several levels: the approximation of the last level, then the details from the coarsest to the finest."""
    details = []
    for _ in range(levels):
        signal_N, detail = dwt(signal_N, filters_2F)
        details.append(detail)
    return [signal_N, *reversed(details)]

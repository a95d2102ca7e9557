"""PyWavelets is the oracle, over all wavelets, lengths and levels."""

import re
import warnings

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.methods.figkd.wavelets import ORTHOGONAL, dwt, filters, max_levels, wavedec

WAVELETS = [name for name in pywt.wavelist(kind="discrete") if re.fullmatch(ORTHOGONAL, name)]


def oracle(signal: np.ndarray, wavelet: str, levels: int) -> list[np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the filter is longer than the signal; periodization can do it
        return pywt.wavedec(signal, wavelet, mode="periodization", level=levels, axis=-1)


def inverse(parts: list[torch.Tensor], wavelet: str) -> np.ndarray:
    return pywt.waverec([part.numpy() for part in parts], wavelet, mode="periodization", axis=-1)


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, str, int]:
    classes = draw(st.integers(2, 400))
    signal = np.random.default_rng(draw(st.integers(0, 10**6))).normal(size=(3, classes))
    return torch.from_numpy(signal), draw(st.sampled_from(WAVELETS)), draw(st.integers(1, max_levels(classes)))


def test_every_orthogonal_wavelet_but_one_is_there():
    orthogonal = {name for name in pywt.wavelist(kind="discrete") if pywt.Wavelet(name).orthogonal}
    assert orthogonal - set(WAVELETS) == {"dmey"}
    assert len(WAVELETS) == 75


@settings(deadline=None, max_examples=200)
@given(cases())
def test_the_transform_is_that_of_pywavelets_and_loses_nothing(case: tuple[torch.Tensor, str, int]):
    signal, wavelet, levels = case
    expected = oracle(signal.numpy(), wavelet, levels)
    ours = wavedec(signal, filters(wavelet), levels)
    assert [part.shape for part in ours] == [part.shape for part in expected]
    for part, theirs in zip(ours, expected, strict=True):
        assert np.abs(part.numpy() - theirs).max() < 1e-10
    single = wavedec(signal.float(), filters(wavelet), levels)
    assert single[0].dtype == torch.float32
    for part, theirs in zip(single, expected, strict=True):
        assert np.abs(part.numpy() - theirs).max() < 1e-6 * signal.norm(dim=1).max()
    back = inverse(ours, wavelet)[:, : signal.shape[1]]
    assert np.abs(back - signal.numpy()).max() < 1e-9  # as exact as PyWavelets' filters are


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_every_wavelet_at_an_odd_length_shorter_than_most_filters(wavelet: str):
    signal = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 7)))
    for part, theirs in zip(wavedec(signal, filters(wavelet), 3), oracle(signal.numpy(), wavelet, 3), strict=True):
        assert np.abs(part.numpy() - theirs).max() < 1e-10


def test_haar_by_hand():
    low, high = dwt(torch.tensor([[5.0, 1.0, 2.0]]), filters("haar"))
    root = 2**0.5
    assert low[0].tolist() == pytest.approx([6 / root, 4 / root])
    assert high[0].tolist() == pytest.approx([4 / root, 0.0])  # the last of an odd number repeats: no detail


@pytest.mark.parametrize("wavelet", ["haar", "db4", "sym20", "coif3"])
def test_an_even_length_keeps_its_sum_of_squares(wavelet: str):
    signal = torch.randn(5, 64, dtype=torch.float64)
    squares = sum(part.square().sum(dim=1) for part in wavedec(signal, filters(wavelet), 6))
    assert torch.allclose(squares, signal.square().sum(dim=1), rtol=1e-9)


def test_any_leading_axes():
    signal = torch.randn(2, 3, 4, 10, dtype=torch.float64)
    flat = wavedec(signal.flatten(0, 2), filters("db3"), 2)
    for part, row in zip(wavedec(signal, filters("db3"), 2), flat, strict=True):
        assert torch.equal(part.flatten(0, 2), row)


@pytest.mark.parametrize(("wavelet", "classes"), [("haar", 8), ("db3", 7), ("sym5", 4), ("coif1", 2)])
def test_gradients_of_the_transform(wavelet: str, classes: int):
    taps, levels = filters(wavelet), max_levels(classes)
    signal = torch.randn(2, classes, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tuple(wavedec(x, taps, levels)), [signal])


def test_levels_end_with_one_coefficient():
    for classes in range(2, 70):
        low, *_ = wavedec(torch.randn(1, classes), filters("haar"), max_levels(classes))
        assert low.shape[1] == 1
        if max_levels(classes) > 1:
            assert wavedec(torch.randn(1, classes), filters("haar"), max_levels(classes) - 1)[0].shape[1] == 2

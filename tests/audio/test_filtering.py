"""The crossover's high-pass, against sines and a convolution with the whole signal."""

import numpy as np
import pytest
import scipy.signal

from apollo_plugin.audio import high_pass

RATE, CUTOFF = 44100, 11000.0


def sine(hertz, n=RATE):
    return np.sin(2 * np.pi * hertz / RATE * np.arange(n) + 0.3)[None].astype("f4")


@pytest.mark.parametrize("hertz", [CUTOFF + 200, 15000.0, 22000.0])
def test_what_lies_above_keeps_level_and_phase(hertz):
    wav = sine(hertz)
    inside = slice(RATE // 4, -RATE // 4)
    np.testing.assert_allclose(high_pass(wav, CUTOFF, RATE)[:, inside], wav[:, inside], atol=2e-4)


@pytest.mark.parametrize("hertz", [0.0, 50.0, CUTOFF])
def test_what_lies_below_goes(hertz):
    inside = slice(RATE // 4, -RATE // 4)
    assert np.abs(high_pass(sine(hertz), CUTOFF, RATE)[:, inside]).max() < 2e-4


@pytest.mark.parametrize("n", [1, 100, 2**18 - 1, 2**18, 2**18 + 300, 2**18 + 5000])
@pytest.mark.parametrize("channels", [1, 6])
def test_blocks_are_one_convolution(n, channels):
    wav = np.random.default_rng(n).standard_normal((channels, n)).astype("f4")
    # The filter's taps, from its answer to an impulse.
    impulse = np.zeros((1, 2 * 1023 + 1), np.float32)
    impulse[0, 1023] = 1
    taps = high_pass(impulse, CUTOFF, RATE)
    np.testing.assert_allclose(taps, taps[:, ::-1], atol=1e-7)
    expected = scipy.signal.fftconvolve(wav, taps, axes=1)[:, 1023 : 1023 + n]
    np.testing.assert_allclose(high_pass(wav, CUTOFF, RATE), expected, atol=1e-5)


def test_nothing_is_left_without_room_for_the_filter():
    for cutoff in (22049.0, 22050.0, 30000.0):
        assert not high_pass(sine(15000), cutoff, RATE).any()
    assert high_pass(np.zeros((2, 0), np.float32), CUTOFF, RATE).shape == (2, 0)

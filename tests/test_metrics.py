"""Measures against another library and closed forms."""

import math

import fast_bss_eval
import numpy as np
import pytest
import torch
from conftest import tone

from apollo_plugin.metrics import lsd, si_sdr


def test_si_sdr_against_fast_bss_eval():
    ref = tone(20000)
    est = 0.7 * ref + 0.05 * torch.randn(2, 20000) + 0.1
    for channel in range(2):
        one = slice(channel, channel + 1)
        expected = fast_bss_eval.si_sdr(
            ref[one].double().numpy(), est[one].double().numpy(), zero_mean=True
        )
        assert si_sdr(est[one], ref[one]) == pytest.approx(float(expected[0]), abs=1e-3)


def test_si_sdr_ignores_level_and_offset():
    ref = tone(8000)
    est = ref + 0.01 * torch.randn(2, 8000)
    assert si_sdr(3 * est + 0.5, ref) == pytest.approx(si_sdr(est, ref), abs=1e-6)
    assert si_sdr(ref, ref) > 200
    assert math.isnan(si_sdr(ref, torch.zeros(2, 8000)))


def test_lsd_of_a_change_of_level_is_that_level():
    """Where all bins lie far above 1e-8, a factor of 10 in amplitude is 2 in log10 of power."""
    ref = torch.randn(2, 44100)
    assert lsd(10 * ref, ref) == pytest.approx(2.0, abs=1e-3)
    assert lsd(ref, ref) == 0


def test_lsd_against_numpy():
    ref, est = tone(10000, 1), tone(10000, 1) * 0.5 + 0.01 * torch.randn(1, 10000)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)

    def log_power(x):
        x = np.pad(x[0].double().numpy(), 1024, mode="reflect")
        frames = [x[i : i + 2048] * window for i in range(0, len(x) - 2047, 512)]
        return np.log10(np.abs(np.fft.rfft(frames)) ** 2 + 1e-8)

    expected = np.sqrt(((log_power(ref) - log_power(est)) ** 2).mean(1)).mean()
    assert lsd(est, ref) == pytest.approx(expected, abs=1e-6)


def test_silence_is_a_finite_distance():
    assert math.isfinite(lsd(torch.zeros(1, 5000), torch.randn(1, 5000)))
    assert lsd(torch.zeros(1, 5000), torch.zeros(1, 5000)) == 0

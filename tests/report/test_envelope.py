"""Levels of the high band over time, against closed forms."""

import math

import numpy as np
import pytest
import scipy.signal
import torch

from apollo_plugin.report import envelope as envelope_module
from apollo_plugin.report.envelope import Envelope, envelope

RATE = 44100
TIME = torch.arange(2 * RATE) / RATE
SINE = torch.sin(2 * torch.pi * 10000 * TIME)[None]


def test_a_full_scale_sine_in_the_band_is_at_0_db():
    low = torch.sin(2 * torch.pi * 1000 * TIME)[None]
    levels = envelope({"in": SINE, "both": 0.1 * SINE + low, "out": low}, RATE, 6000.0).levels
    assert np.abs(levels["in"]).max() < 0.05
    assert np.abs(levels["both"] + 20).max() < 0.1
    assert levels["out"].max() < -60


@pytest.mark.parametrize(
    "rate, cutoff, band",
    [
        (44100, 5700.0, (5700, 16000)),
        (44100, 15200.0, (15200, 22050)),
        (44100, 14399.0, (14399, 16000)),
        (44100, 14401.0, (14401, 22050)),
        (44100, None, (8000, 16000)),
        (96000, None, (8000, 16000)),
        (16000, 5000.0, (5000, 8000)),
        (8000, None, (2000, 4000)),
        (8000, 3900.0, (3900, 4000)),
        (8000, 3901.0, None),
    ],
)
def test_the_band(rate, cutoff, band):
    found = envelope({"x": torch.randn(2, rate)}, rate, cutoff)
    assert (found and (found.low, found.high)) == band


@pytest.mark.parametrize(
    "rate, n_samples, n_fft, hop",
    [
        (44100, 44100, 882, 441),
        (44100, 529_200, 882, 441),
        (8000, 97_000, 160, 81),
        (1000, 9, 20, 10),
    ],
)
def test_levels_against_scipy(rate, n_samples, n_fft, hop):
    """Frames of 20 ms each 10 ms, or so that there are 1200: by Parseval, as mean squares."""
    wav = np.random.default_rng(0).normal(0, 0.1, (2, n_samples))
    low, high = rate / 8, rate / 4
    levels = envelope_module._level(wav, rate, low, high)
    padded = np.pad(wav, ((0, 0), (0, max(0, n_fft - n_samples))))
    how = dict(nperseg=n_fft, noverlap=n_fft - hop, detrend=False)
    hertz, _, density = scipy.signal.spectrogram(padded, rate, "hann", **how)
    inside = density[:, (hertz >= low) & (hertz < high)].sum(1).mean(0) * rate / n_fft
    # Of the mean square of a full-scale sine.
    np.testing.assert_allclose(levels, 10 * np.log10(2 * inside + 1e-12), atol=1e-6)


@pytest.mark.parametrize(
    "ref, n_counted",
    [
        ([0.0, -39.9, -40.1], 2),
        ([-80.0, -118.9, -119.1], 2),
        ([-119.1, -119.5, -120.0], 0),
    ],
)
def test_what_the_original_lacks_does_not_count(ref, n_counted):
    found = Envelope(1.0, 2.0, {"a": np.array([3.0, 5.0, 99.0]), "b": np.array(ref)})
    differences = np.array([3.0, 5.0]) - ref[:2]
    expected = (differences.mean(), differences.std()) if n_counted else None
    assert found.error("a", "b") == (expected and pytest.approx(expected))


def test_a_burst_stands_where_it_is():
    burst = torch.zeros(1, 2 * RATE)
    burst[:, RATE : RATE + 2205] = SINE[:, :2205]
    level = envelope({"x": burst}, RATE, 6000.0).levels["x"]
    seconds = (np.arange(len(level)) + 0.5) * 2 / len(level)
    loud = seconds[level > -6]
    assert loud.min() == pytest.approx(1, abs=0.02) and loud.max() == pytest.approx(1.05, abs=0.02)
    # A long file has no more points than a short one.
    assert len(envelope({"x": burst.repeat(1, 20)}, RATE, 6000.0).levels["x"]) <= 1200


def test_error_is_level_and_variation():
    half = torch.cat((torch.full((RATE,), 10 ** (3 / 20)), torch.full((RATE,), 10 ** (-1 / 20))))
    waves = {"Restored": half * SINE, "Original": SINE, "Silent": 0 * SINE}
    found = envelope(waves, RATE, 6000.0)
    mean, deviation = found.error("Restored", "Original")
    assert mean == pytest.approx(1, abs=0.05) and deviation == pytest.approx(2, abs=0.05)
    assert found.error("Restored", "Silent") is None


@pytest.mark.parametrize("n_samples", [1, 7, 900])
def test_short_and_antiphase(n_samples):
    wav = torch.randn(1, n_samples)
    one = envelope({"x": wav}, RATE, None).levels["x"]
    two = envelope({"x": torch.cat((wav, -wav))}, RATE, None).levels["x"]
    assert len(one) >= 1 and np.isfinite(one).all() and np.allclose(one, two, atol=1e-4)
    assert math.isfinite(envelope({"x": 0 * wav}, RATE, None).levels["x"].max())

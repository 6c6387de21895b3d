"""Levels of the high band over time, against closed forms."""

import math

import numpy as np
import pytest
import torch

from apollo_plugin.report.envelope import envelope

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
        (44100, None, (8000, 16000)),
        (96000, None, (8000, 16000)),
        (16000, 5000.0, (5000, 8000)),
        (8000, None, (2000, 4000)),
        (8000, 3990.0, None),
    ],
)
def test_the_band(rate, cutoff, band):
    found = envelope({"x": torch.randn(2, rate)}, rate, cutoff)
    assert (found and (found.low, found.high)) == band


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

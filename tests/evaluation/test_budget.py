"""The error budget against closed forms: each kind of error gives its own figure and no other."""

import math

import pytest
import torch

from apollo_plugin.evaluation import budget
from apollo_plugin.evaluation.budget import (
    band_levels,
    bands_above,
    below,
    error_budget,
    level_errors,
)


def noise(n_samples=88200, n_channels=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(n_channels, n_samples, generator=generator)


def filtered(wav, gain):
    spectrum = torch.fft.rfft(wav.double())
    hertz = torch.fft.rfftfreq(wav.shape[-1], 1 / 44100)
    return torch.fft.irfft(spectrum * gain(hertz), wav.shape[-1]).float()


@pytest.mark.parametrize("gain_db", [-12.0, 3.0])
def test_a_gain_is_bias_alone(gain_db):
    wav = noise()
    errors = error_budget(10 ** (gain_db / 20) * wav, wav, 44100, 5700)
    assert errors.bias == pytest.approx(gain_db, abs=1e-3)
    assert errors.band < 1e-3 and errors.time < 1e-3
    assert errors.si_sdr_below > 100  # scale-invariant


def test_a_slope_over_bands_is_the_error_band_by_band():
    slope = torch.linspace(-6, 6, 40).reshape(1, 40, 1)
    ref = torch.randn(2, 40, 300).double()
    errors = level_errors(ref + slope, ref)
    assert errors.bias == pytest.approx(0, abs=1e-5)
    assert errors.band == pytest.approx(12 / math.sqrt(12) * math.sqrt(41 / 39), abs=1e-4)
    assert errors.time == pytest.approx(0, abs=1e-5)


def test_a_shelf_in_a_signal():
    """Half of the bands 6 dB up: 3 dB of bias, 3 dB band by band."""
    wav = noise()
    up = filtered(wav, lambda hertz: torch.where(hertz > 12875, 2.0, 1.0))
    errors = error_budget(up, wav, 44100, 5750)  # 23 .. 79: 28.5 bands on either side
    assert errors.bias == pytest.approx(3.01, abs=0.2)
    assert errors.band == pytest.approx(3.01, abs=0.1)
    assert errors.time < 0.5


def test_a_tremolo_is_error_over_time():
    wav = noise(441000)
    seconds = torch.arange(441000) / 44100
    depth_db = 4.0
    tremolo = 10 ** (depth_db * torch.sin(2 * torch.pi * seconds) / 20)
    errors = error_budget(tremolo * wav, wav, 44100, 7700)
    assert errors.time == pytest.approx(depth_db / math.sqrt(2), rel=0.02)
    assert abs(errors.bias) < 0.1 and errors.band < 0.1


def test_two_noises_of_one_envelope():
    """Sums of 5 Hann-windowed bins: some 3 to 4 dB, nothing else."""
    errors = error_budget(noise(441000), noise(441000, seed=1), 44100, 4400)
    assert 3 < errors.time < 4.5
    assert abs(errors.bias) < 0.3 and errors.band < 0.5


def test_what_lies_below_the_cutoff_is_told_from_what_lies_above():
    wav = noise()
    low = filtered(wav, lambda hertz: (hertz < 8000).double())
    errors = error_budget(low, wav, 44100, 8000)
    assert errors.si_sdr_below > 100
    assert errors.bias < -40
    spoiled = error_budget(
        wav + filtered(noise(seed=1), lambda hertz: (hertz < 7000) * 0.1), wav, 44100, 8000
    )
    assert spoiled.si_sdr_below == pytest.approx(20 + 10 * math.log10(7700 / 7000), abs=0.2)
    assert spoiled.time < 0.3


def test_above_an_original_s_own_end_nothing_is_asked_for():
    whole = noise()
    dark = filtered(whole, lambda hertz: (hertz < 15000).double())
    # But for its slope, one or two bands of 30.
    assert 0 < error_budget(whole, dark, 44100, 7750).bias < 3
    assert level_errors(*(band_levels(x, 44100)[:, 31:80] for x in (whole, dark))).bias > 15
    assert error_budget(dark, whole, 44100, 7750).bias < -10
    # Where it ends below the cut-off, all is asked for: there is no other answer.
    silent = torch.zeros_like(whole)
    assert error_budget(whole, silent, 44100, 7750).bias > 20


def test_levels_are_those_of_an_stft():
    wav = noise(4410, 1)
    levels = band_levels(wav, 44100)
    window = torch.hann_window(882, dtype=torch.float64)
    frame = torch.fft.rfft(wav[0, 441 : 441 + 882].double() * window).abs().square()
    expected = 10 * (frame[40:45].sum() + 1e-6).log10()
    assert levels[0, 8, 2] == pytest.approx(expected.item(), abs=1e-6)
    assert bands_above(4400, 44100) == range(18, 80)
    assert bands_above(4400, 44100, 16000) == range(18, 64)
    assert bands_above(4000, 16000) == range(16, 32)


def test_a_band_sounds_10_db_above_the_floor_in_more_than_a_hundredth_of_the_frames():
    levels = torch.full((2, 5, 200), -60.0)
    assert budget._n_sounding(levels) == 0
    levels[0, 1] = -49.9
    levels[:, 4] = -50.0  # the bound itself does not
    levels[1, 3, :2] = 0.0
    assert budget._n_sounding(levels) == 2
    levels[1, 3, 2] = 0.0
    assert budget._n_sounding(levels) == 4


def test_what_is_below_ends_300_hz_before_the_cut_off():
    seconds = torch.arange(44100, dtype=torch.float64) / 44100
    low, high = (torch.sin(2 * torch.pi * hertz * seconds) for hertz in (7699, 7700))
    torch.testing.assert_close(below(low + high, 44100, 8000), low)


def test_less_than_a_window_is_a_window():
    assert band_levels(noise(100), 44100).shape == (2, 88, 3)
    assert band_levels(noise(882), 44100).shape == (2, 88, 3)


def test_silence_and_bad_input():
    silent = torch.zeros(1, 44100)
    assert error_budget(silent, silent, 44100, 5000)[:3] == (0, 0, 0)
    with pytest.raises(ValueError, match="differ"):
        error_budget(noise(1000), noise(1001), 44100, 5000)
    with pytest.raises(ValueError, match="20500"):
        error_budget(noise(1000), noise(1000), 44100, 20500)

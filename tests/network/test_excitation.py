"""Excitation: its parts against textbook versions, its energies against a closed form."""

import math

import numpy as np
import pytest
import scipy.signal
import torch

from apollo_plugin.network.bands import BandSplit
from apollo_plugin.network.highs.evidence import Findings
from apollo_plugin.network.highs.excitation import Excitation, tiled
from apollo_plugin.network.highs.gain_bands import TARGET_START, GainBands, extrapolation
from apollo_plugin.network.highs.noise import (
    NOISE_PERIOD,
    WhiteNoise,
)


def parts(expects=True):
    gains = GainBands(882, 44100)
    return gains, Excitation(gains, expects)


def filled(excitation, spec, noise, log_gain):
    """Its part of the spectrum where all bands lie above the edge."""
    return excitation(spec, noise, log_gain, torch.ones(*spec.shape[:2], 88))[0]


def spectrum(n_frames=7, streams=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(streams, n_frames, 442, 2, generator=generator)


def grain(n_frames=7, seed=1):
    return spectrum(n_frames, 1, seed)[0]


# ---------------------------------------------------------------------------------------- the noise


def textbook_noise(position):
    """Python's own integers, of any size."""
    x = position % (2**31 - 1)
    for factor, term in ((1103515245, 12345), (1597334677, 907633385), (741103597, 1013904223)):
        x = (x * factor + term) % (2**31 - 1)
        x = (x * x + term) % (2**31 - 1)
    level = x * 256 // (2**31 - 1)
    return (level - 127.5) / (65535 / 12) ** 0.5


@pytest.mark.parametrize("hop", [1, 16, 441])
def test_noise_is_the_textbooks_at_any_position(hop):
    for first in (0, 1, 543, NOISE_PERIOD - 2):
        noise = WhiteNoise(hop)(torch.tensor(first), 4)
        hops = [(first + k) % NOISE_PERIOD for k in range(4)]
        expected = [[textbook_noise(at * hop + k) for k in range(hop)] for at in hops]
        assert noise.dtype == torch.float32
        np.testing.assert_allclose(noise, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_noise_is_the_same_wherever_it_is_asked_for_and_a_frame_before_the_first_is_the_last(dtype):
    noise = WhiteNoise(441)
    whole = noise(torch.tensor(0, dtype=dtype), 20)
    for first in (0, 7, 19):
        for turn in (0, 3 * NOISE_PERIOD, 2**30):
            assert torch.equal(noise(torch.tensor(first + turn, dtype=dtype), 1)[0], whole[first])
    last = noise(torch.tensor(NOISE_PERIOD - 1), 1)
    assert torch.equal(noise(torch.tensor(-1, dtype=dtype), 1), last)


def test_noise_is_white_with_variance_1_and_does_not_repeat_within_its_period():
    noise = WhiteNoise(441)(torch.tensor(0), NOISE_PERIOD).flatten().double().numpy()
    assert abs(noise.mean()) < 0.01 and abs(noise.var() - 1) < 0.01
    assert np.abs(noise).max() <= 3**0.5 + 1e-6
    # Welch's estimate of the density: flat to what 1000 frames leave.
    _, density = scipy.signal.welch(noise, nperseg=882, scaling="spectrum", detrend=False)
    assert np.abs(10 * np.log10(density[1:-1] / density[1:-1].mean())).max() < 1.0
    # No two places alike, neighbouring hops and powers of two above all.
    for lag in (1, 2, 3, 220, 441, 882, 1024, 65536, 220500):
        assert abs(np.mean(noise[lag:] * noise[:-lag])) < 5 / len(noise[lag:]) ** 0.5


def test_noise_is_no_part_of_a_checkpoint():
    noise = WhiteNoise(8)
    assert not noise.state_dict()
    assert torch.equal(noise.half()(torch.tensor(3), 2), WhiteNoise(8)(torch.tensor(3), 2))


# --------------------------------------------------------------------------------------- gain bands


def test_energies_are_those_of_the_split():
    bands, (gains, _) = BandSplit([5] * 87 + [7]), parts()
    spec = spectrum()
    expected = torch.cat([part[..., -1] for part in bands.split(spec)], -1)
    torch.testing.assert_close(gains.log_gains(spec), expected, atol=1e-5, rtol=1e-5)


def test_gains_stay_250_hz_wide_at_other_rates_and_windows():
    for rate, ms, width in ((48000, 20, 5), (22050, 40, 10), (44100, 40, 10), (44100, 4, 1)):
        kernel = int(rate * ms / 1000)
        gains = GainBands(kernel, rate)
        assert gains.width == width and sum(gains.widths) == kernel // 2 + 1
    with pytest.raises(ValueError, match="8000 Hz leaves no room .* which ends at 4250 Hz$"):
        GainBands(160, 8000)
    # 17 bands of 5 bins, 50 Hz each, are the source and what lies below it.
    assert sum(GainBands(178, 8900).widths) == 90 and len(GainBands(178, 8900).widths) == 18
    with pytest.raises(ValueError, match="8800 Hz leaves no room .* ends at 4250 Hz$"):
        GainBands(176, 8800)
    with pytest.raises(ValueError, match="441 samples at 22050 Hz is no two hops"):
        GainBands(441, 22050)


# ---------------------------------------------------------------------------------------- the tiles


def test_tiles_are_the_source_bands_with_unit_norm():
    spec = spectrum()
    found = torch.view_as_complex(tiled(spec, 5).contiguous())
    source = torch.view_as_complex(spec)
    assert found.shape[-1] == 442 - 85
    for bin_ in range(85, 442):
        from_bin = 45 + (bin_ - 45) % 40
        band = from_bin // 5 * 5
        norm = source[..., band : band + 5].abs().square().sum(-1).sqrt()
        torch.testing.assert_close(
            found[..., bin_ - 85], source[..., from_bin] / norm, atol=1e-5, rtol=1e-5
        )
    assert not tiled(torch.zeros_like(spec), 5).any()


def test_a_tile_of_a_tone_is_a_tone_in_phase():
    """Shifted bins of a sinusoid are those of a sinusoid 2, 4, ... kHz higher, frame by frame."""
    time = torch.arange(44100, dtype=torch.float64) / 44100
    window = torch.hann_window(882, dtype=torch.float64)

    def stft(hz):
        wave = torch.polar(torch.ones_like(time), 2 * torch.pi * hz * time)
        return torch.fft.fft(wave.unfold(-1, 882, 441) * window)[:, :442]

    low = torch.view_as_real(stft(3100.0))[None]
    tiles = torch.view_as_complex(tiled(low, 5).contiguous())[0]
    for shift in (1, 2, 5):
        high = stft(3100.0 + 2000 * shift)
        near = slice(62 + 40 * shift - 2, 62 + 40 * shift + 3)  # the main lobe, one band of 5 bins
        lobe = high[:, 60 + 40 * shift : 65 + 40 * shift]
        lobe = lobe / lobe.abs().square().sum(-1, keepdim=True).sqrt()
        assert near.start == 60 + 40 * shift
        torch.testing.assert_close(
            tiles[:, near.start - 85 : near.stop - 85], lobe, atol=1e-6, rtol=0
        )


# --------------------------------------------------------------------------------------- excitation


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_energies_come_out_as_asked(share):
    gains, excitation = parts()
    amplitude = torch.rand(2, 7, 71, generator=torch.Generator().manual_seed(3)) * 5
    filled = excitation.mix(
        spectrum(), grain(), amplitude, torch.full_like(amplitude, share).logit()
    )
    energy = gains.energies(filled)
    torch.testing.assert_close(energy[..., TARGET_START:].sqrt(), amplitude, rtol=1e-4, atol=1e-5)
    assert not filled[..., :85, :].any()


def test_the_share_turns_noise_into_tile():
    _, excitation = parts()
    spec, noise = spectrum(), grain()
    ones = torch.ones(2, 7, 71)

    def cosine(share, other):
        filled = excitation.mix(spec, noise, ones, (share * ones).logit())[..., 85:, :]
        return (filled * other).sum((-2, -1)) / (
            filled.norm(dim=(-2, -1)) * other.norm(dim=(-2, -1))
        )

    tile = tiled(spec, 5)
    torch.testing.assert_close(cosine(1.0, tile), torch.ones(2, 7), atol=1e-2, rtol=0)
    assert (cosine(0.0, tile).abs() < 0.2).all()
    # Energies are shared, so at a half the tile's part of the norm is the root of a half.
    torch.testing.assert_close(cosine(0.5, tile), torch.full((2, 7), 0.5**0.5), atol=0.1, rtol=0)


def test_noise_takes_the_place_of_a_silent_source():
    gains, excitation = parts()
    spec = spectrum()
    spec[..., 45:85, :] = 0
    amplitude = torch.full((2, 7, 71), 2.0)
    filled = excitation.mix(spec, grain(), amplitude, torch.zeros_like(amplitude))
    torch.testing.assert_close(gains.energies(filled)[..., TARGET_START:].sqrt(), amplitude)


def test_empty_bands_get_the_expected_gain_and_full_ones_nothing():
    gains, excitation = parts()
    spec = spectrum()
    spec[..., 200:, :] = 0
    expected = gains.log_gains(spectrum())  # 1.2 or so, in all bands
    found = filled(excitation, spec, grain(), expected)
    energy = gains.energies(found)
    torch.testing.assert_close(0.5 * energy[..., 40:].log(), expected[..., 40:], atol=1e-3, rtol=0)
    # Where the input has what is expected, less than 50 dB below it are added.
    present = gains.energies(spec)
    assert (10 * (energy / present)[..., :40].clamp(min=1e-20).log10() < -50).all()


def test_without_expectations_the_source_is_continued_at_9_db_an_octave():
    gains, excitation = parts(expects=False)
    spec = spectrum()
    spec[..., 85:, :] = 0
    found = 0.5 * gains.energies(filled(excitation, spec, grain(), None)).log()
    source = gains.log_gains(spec)[..., 9:17].mean(-1)
    for band in (26, 52):  # one and two octaves above the source's centre, 13 * 250 Hz
        fall = 9 * np.log2((band + 0.5) / 13) / 20 * np.log(10)
        torch.testing.assert_close(found[..., band], source - fall, atol=1e-2, rtol=0)
    weight, bias = extrapolation(88)
    assert weight[:TARGET_START].equal(torch.eye(88)[:TARGET_START])
    assert not bias[:TARGET_START].any()


def test_only_what_lies_above_the_edge_is_filled():
    gains, excitation = parts()
    spec = spectrum(60, 1)
    spec[:, :, 200:] = 0
    expected = gains.log_gains(spectrum(60, 1, seed=4))
    above = torch.zeros(1, 60, 88)
    above[..., 50:] = 1
    above[..., 45:50] = 0.25
    added, fills = excitation(spec, grain(60), expected, above)
    assert not fills[..., :225, :].any() and not added[..., :225, :].any()
    assert ((fills[..., 225:250, :] - 0.25).abs() < 0.05).all()
    assert (fills[..., 250:, :] > 0.9).all()


def test_tokens_are_kept_where_coding_was_coarse_and_in_holes_no_louder_than_expected():
    gains, excitation = parts()
    spec, restored = spectrum(4, 1), spectrum(4, 1, seed=6)
    spec[:, :, 100:120] = 0
    expected = gains.log_gains(restored) - 1  # the tokens are 8.7 dB louder
    for coarse, holes in ((1.0, 1.0), (0.0, 1.0), (0.0, 0.3), (0.0, 0.0)):
        found = Findings(*(torch.full((1, 4, n), x) for n, x in ((1, 0), (88, 0))), None, None)
        found = found._replace(
            coarse=torch.full((1, 4, 1), coarse), holes=torch.full((1, 4, 1), holes)
        )
        share = excitation.share_of_tokens(restored, spec, expected, found)
        assert (share[:, :, :100] == coarse).all() and (share[:, :, 120:] == coarse).all()
        in_hole = torch.full_like(share[:, :, 100:120], max(coarse, holes) * math.exp(-1.25))
        torch.testing.assert_close(share[:, :, 100:120], in_hole, rtol=1e-3, atol=1e-6)


def test_gradients_are_those_of_finite_differences_and_reach_every_gain():
    _, excitation = parts(expects=False)
    spec, noise = spectrum(2, 1), grain(2)
    spec[..., 85:, :] *= 0.05
    generator = torch.Generator().manual_seed(5)
    asked = [torch.randn(1, 2, 71, generator=generator).double() for _ in range(2)]
    assert torch.autograd.gradcheck(
        lambda *asked: excitation.mix(spec.double(), noise.double(), *asked),
        [x.requires_grad_() for x in asked],
    )
    filled(excitation, spec, noise, None).square().sum().backward()
    for name, parameter in excitation.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name
    assert (excitation.level.bias.grad[TARGET_START:] != 0).all()


def test_gradients_stay_finite_where_all_is_tile_or_all_is_noise():
    _, excitation = parts()
    for extreme in (-200.0, 200.0):
        tonality = torch.full((2, 7, 71), extreme, requires_grad=True)
        excitation.mix(spectrum(), grain(), torch.ones(2, 7, 71), tonality).sum().backward()
        assert tonality.grad.isfinite().all()


@pytest.mark.parametrize("more, n_tiles", [(1, 1), (40, 1), (41, 2), (9 * 40, 9)])
def test_as_many_tiles_as_there_is_room_for(more, n_tiles, monkeypatch):
    """Tiles are of 8 bands, here of 5 bins; more would be made to be thrown away."""
    made, cat = [], torch.cat
    spec = torch.randn(1, 2, TARGET_START * 5 + more, 2)
    with monkeypatch.context() as patch:
        patch.setattr(
            torch, "cat", lambda parts, *rest: made.append(len(parts)) or cat(parts, *rest)
        )
        assert tiled(spec, 5).shape == (1, 2, more, 2)
    assert made == [n_tiles]

"""Evidence of coding: against textbook loops, codecs, and music that was never coded."""

import numpy as np
import pytest
import scipy.signal
import torch

from apollo_plugin import Apollo
from apollo_plugin.data.codecs import aac, lowpass, mp3, opus
from apollo_plugin.data.demo import mixture
from apollo_plugin.metrics import snr
from apollo_plugin.network.highs.evidence import WINDOW, Evidence
from apollo_plugin.network.highs.exportable import LeanEvidence

RATE = 44100
WIDTHS = [5] * 87 + [7]


@pytest.fixture(scope="module")
def music():
    """Six seconds, up to 22 kHz: tones that fade, and strokes of noise."""
    generator = np.random.default_rng(7)
    t = np.arange(6 * RATE) / RATE
    tones = sum(
        np.sin(2 * np.pi * 110 * k * t) * np.exp(-3 * ((t * 2) % 1)) / k for k in range(1, 60)
    )
    strokes = generator.standard_normal((2, len(t))) * np.exp(-25 * ((t * 4) % 1))
    wav = tones + 0.5 * strokes + 0.003 * generator.standard_normal((2, len(t)))
    return torch.from_numpy(0.5 * wav / np.abs(wav).max()).float()


@pytest.fixture(scope="module")
def model():
    return Apollo.from_pretrained("apollo-small")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def findings(model, wav):
    bank = model.filterbank
    spec = torch.view_as_real(bank.analysis(wav, bank.initial_analysis(len(wav), wav), True)[0])
    return model.highs.evidence(spec, model.highs.evidence.initial_memory(spec, len(wav)))[0]


def rounded(wav, dither, seed=0):
    """To 16 bits, with or without dither of triangular density."""
    noise = np.random.default_rng(seed).random((2, *wav.shape)).astype(np.float32)
    noise = torch.from_numpy(noise[0] - noise[1]) if dither else 0.0
    return (wav * 32768 + noise).round() / 32768


def test_a_crop_shows_its_edge(model):
    """Beginning in the middle of a loud low tone hides no edge."""
    t = torch.arange(3 * RATE) / RATE
    noise = torch.randn(2, len(t), generator=torch.Generator().manual_seed(0))
    sos = scipy.signal.butter(12, 5500, fs=RATE, output="sos")
    cut = torch.from_numpy(scipy.signal.sosfiltfilt(sos, noise.numpy()).copy()).float()
    wav = 0.4 * torch.cos(2 * torch.pi * 110 * t) + 10 ** (-44 / 20) * cut + 1e-5 * noise
    assert findings(model, wav).above[:, 60:200, 60:].min() > 0.9


# ------------------------------------------------------------------------------- against textbooks


def textbook(energies, n_ahead):
    """Findings of one stream, by loops over frames and bands; energies ``(frames, bands)``."""
    n, bands = energies.shape
    energies = energies * (np.arange(n) > 0)[:, None]
    sounds, holes = np.zeros((n, bands), bool), np.zeros((n, bands), bool)
    for t in range(n):
        for b in range(4, bands):
            past = [energies[s, b] if s >= 0 else 0.0 for s in range(t - 4, t + 1)]
            near = [energies[t, c] if c < bands else 0.0 for c in range(b - 2, b + 3)]
            around = min(sorted(past)[2], sorted(near)[2])
            sounds[t, b] = around > 10**-3.5
            holes[t, b] = sounds[t, b] and energies[t, b] < 0.01 * around
    above, coarse, floor = np.zeros((n, bands)), np.zeros(n), np.zeros(n)
    for t in range(n):
        seen = slice(max(0, t + n_ahead - WINDOW + 1), t + n_ahead + 1)
        mean = energies[seen].mean(0)
        per_bin = mean / np.array(WIDTHS)
        floor[t] = min(per_bin[b : b + 4].mean() for b in range(bands - 3))
        level = 10 * np.log10(mean + 10**-7.2)
        share = holes[seen].sum() / (sounds[seen].sum() + 1000)
        coarsely = np.clip((share - 3e-4) / 5e-4, 0, 1)
        edge = np.zeros(bands)
        for b in range(14, 66):
            fall = level[b - 4 : b].mean() - level[b + 2 :].max()
            steeper = 8 * np.clip((28 - b) / 12, 0, 1)
            falling = max(0, np.mean(level[b + 6 : b + 10]) - level[-1] - 10)
            no_codec = np.clip((b - 30) / 6, 0, 1) * np.clip((48 - b) / 6, 0, 1)
            finer = (6 + 9 * no_codec) * (1 - coarsely)
            noise = 10 * np.log10(5 * floor[t] + 10**-7.2)
            white = np.clip((5 - level[b + 2 :].max() + noise) / 2, 0, 1)
            hidden = min(noise + 72, 10) * white * coarsely
            edge[b] = np.clip((fall + hidden - steeper - falling - finer - 18) / 6, 0, 1)
        edge *= np.clip((sounds[seen].any(1).sum() - 20) / 25, 0, 1)
        for b in np.flatnonzero(edge):
            for c in range(b, bands):
                fall = level[b - 4 : b].mean() - level[c:].max()
                fallen = np.clip((fall - 5) / 5, 0, 1) if c < b + 2 else 1
                missed = 1 - 0.65 * np.clip((b - 56) / 8, 0, 1)
                within = level[b - 12 : b - 8].mean() - level[b - 4 : b].mean()
                ending = np.clip((within - 15) / 10, 0, 1) * np.clip((b - 26) / 4, 0, 1)
                above[t, c] = max(above[t, c], edge[b] * missed * (1 - ending) * fallen)
        low = max(edge[b] * np.clip((49 - b) / 4, 0, 1) for b in range(14, 66))
        coarse[t] = low * coarsely
    return floor, above, coarse


@pytest.mark.parametrize(
    "n_ahead, cut, noise, most",
    [(0, 22, 0.0, (1, 1)), (7, 59, 0.0, (0.91875, 0)), (7, 40, 0.08, (1, 1))],
)
def test_findings_are_the_textbooks(n_ahead, cut, noise, most):
    generator = torch.Generator().manual_seed(1)
    spec = torch.randn(1, WINDOW + 60, 442, 2, generator=generator)
    white = noise * torch.randn(1, WINDOW + 60, 442, 2, generator=generator)
    spec[:, :, 5 * cut :] *= 1e-5  # at first with music above the edge that falls
    spec[:, :50, 5 * cut :] *= torch.logspace(3.6, 0, 442 - 5 * cut)[:, None]
    gone = torch.rand(1, WINDOW + 60, cut, generator=generator) < 0.004
    spec[:, :, : 5 * cut] *= torch.where(gone, 1e-3, 1.0).repeat_interleave(5, -1).unsqueeze(-1)
    spec[:, :40] *= 1e-4
    spec += white
    evidence = Evidence(WIDTHS)
    found, _ = evidence(spec, evidence.initial_memory(spec, 1), n_ahead)
    found = found.newest(spec.shape[1])
    energies = torch.stack([x.square().sum((-2, -1)) for x in spec[0].split(WIDTHS, 1)], -1)
    expected = textbook(energies.double().numpy(), n_ahead)
    for mine, other in zip(found, expected):
        other = torch.from_numpy(other).float().reshape(mine.shape[1:])
        torch.testing.assert_close(mine[0], other, rtol=1e-3, atol=1e-3)
    assert (found.above.max(), found.coarse.max()) == most


@pytest.mark.parametrize("sizes", [(1,) * 30, (13, 0, 17), (30,)])
def test_steps_are_the_whole(sizes):
    spec = torch.randn(2, 30, 442, 2) * torch.linspace(1, 0, 442)[:, None] ** 8
    evidence = Evidence(WIDTHS)
    whole, kept = evidence(spec, evidence.initial_memory(spec, 2), more=5)
    memory, parts, begin = evidence.initial_memory(spec, 2), [], 0
    for index, size in enumerate(sizes):
        more = 5 if index == len(sizes) - 1 else 0
        found, memory = evidence(spec[:, begin : begin + size], memory, more)
        parts.append(found)
        begin += size
    for mine, other in zip(map(torch.cat, zip(*parts), [1] * len(whole)), whole):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(memory, kept)


# ------------------------------------------------------------------ what codecs leave, and what not


def test_an_edge_is_where_the_codec_put_it(model, music):
    for kbps, hertz in ((24, 4200), (32, 5600), (48, 7600), (64, 11000), (96, 15100)):
        above = findings(model, mp3(music, RATE, kbps)).above[0, -1]
        first = 250 * int((above > 0.5).nonzero()[0])
        assert abs(first - hertz) < 600, kbps
        assert (above[first // 250 :] == 1).all() or above[-1] > 0.5


def test_what_was_never_coded_shows_nothing(model, music):
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(6 * RATE) / RATE).expand(2, -1) * 0.5
    sos = scipy.signal.butter(2, 2000, fs=RATE, output="sos")
    dark = torch.from_numpy(scipy.signal.sosfilt(sos, music.numpy())).float()
    for wav in (
        music,
        rounded(music, True),
        rounded(0.1 * music, True),
        torch.from_numpy(mixture(6)).float(),
        dark,
        tone,
    ):
        found = findings(model, wav)
        assert not found.above.any() and not found.coarse.any() and not found.holes.any()


@pytest.mark.parametrize("slope, edge", [(0.0, 1.0), (-1.0, 0.0)])
def test_a_fall_that_goes_on_is_no_edge(model, slope, edge):
    """Of 37 dB at 5 kHz, to a level that stays, as noise does, or goes on falling by dB a band."""
    hertz = torch.fft.rfftfreq(4 * RATE, 1 / RATE)
    decibels = torch.where(hertz < 5000, 0.0, -37 + slope * (hertz - 5000) / 250)
    noise = torch.randn(1, 4 * RATE, generator=torch.Generator().manual_seed(0))
    wav = 0.05 * torch.fft.irfft(torch.fft.rfft(noise) * 10 ** (decibels / 20))
    assert (findings(model, wav).above[0, -1, 24:] == edge).all()


def edge_of_noise(edge, fall, gone=0.0, ends=None):
    """Greatest share that is filled of noise that falls by so many dB at band ``edge``, of which a
    share of the bands below vanishes, and which ends at band ``ends``."""
    generator = torch.Generator().manual_seed(0)
    spec = torch.randn(1, WINDOW, 442, 2, generator=generator)
    spec[:, :, 5 * edge :] *= 10 ** (-fall / 20)
    holes = torch.rand(1, WINDOW, edge, generator=generator) < gone
    spec[:, :, : 5 * edge] *= torch.where(holes, 1e-3, 1.0).repeat_interleave(5, -1).unsqueeze(-1)
    if ends:
        spec[:, :, 5 * ends :] *= 1e-5
    evidence = Evidence(WIDTHS)
    found, _ = evidence(spec, evidence.initial_memory(spec, 1))
    assert found.above[0, -1, max(edge, ends or 0) + 2] == found.above[0, -1].max()
    return float(found.above[0, -1].max())


def test_a_small_edge_needs_holes():
    """As of sounds sampled at a lower rate; still more where no codec cuts."""
    assert edge_of_noise(40, 24) == edge_of_noise(50, 24) == 0
    assert edge_of_noise(40, 24, gone=0.01) == 1
    assert edge_of_noise(50, 32) == 1
    assert edge_of_noise(40, 32) == 0
    assert edge_of_noise(40, 41) == 1


@pytest.mark.parametrize(
    "fall, edge, least, most", [(30, 50, 0, 0.3), (12, 50, 1, 1), (30, 16, 1, 1)]
)
def test_music_that_ends_by_itself_misses_little(fall, edge, least, most):
    """Noise that falls before a codec's edge; not below 6.5 kHz, where partials do."""
    assert least <= edge_of_noise(edge, fall, gone=0.01, ends=edge + 8) <= most


@pytest.mark.parametrize("name", ["apollo-small", "apollo-small-streaming"])
def test_what_is_whole_comes_back_bit_by_bit(name, music):
    model = Apollo.from_pretrained(name)
    wavs = dict(uncoded=music, mp3=mp3(music, RATE, 320), opus=opus(music, RATE, 128))
    wavs |= dict(rounded=rounded(music, False), quiet=rounded(0.02 * music, True))
    for kind, wav in wavs.items():
        wav = wav[:1]  # channels are restored alone
        assert torch.equal(model(wav), wav), kind
        assert torch.equal(model.restore(wav, block_seconds=0.5), wav), kind


def test_what_was_cut_is_filled_and_the_rest_stays(model, music):
    """A low-pass leaves no holes, so below it nothing changes; 96 kbit/s is no coarse coding."""
    for wav, hertz in ((lowpass(music, RATE, 96), 13000), (aac(music, RATE, 64), 12000)):
        restored = model(wav)
        low = scipy.signal.butter(12, hertz - 1500, fs=RATE, output="sos")
        below = [
            torch.from_numpy(scipy.signal.sosfiltfilt(low, x.numpy(), axis=-1).copy())[
                :, 2000:-2000
            ]
            for x in (restored, wav)
        ]
        assert snr(*below) > 60
        assert snr(restored, wav) < 40


def test_rounding_to_16_bits_hides_no_cut(model, music):
    """Of a decoded MP3 at any peak, rounded or dithered, the highs are those of the MP3 itself."""
    coded = mp3(music, RATE, 48)
    high = scipy.signal.butter(8, 9000, "high", fs=RATE, output="sos")

    def level(wav):
        return 10 * np.log10(np.square(scipy.signal.sosfilt(high, wav.numpy())).mean())

    expected = level(model(coded))
    for peak in (0.5, 0.1, 0.03):
        gain = peak / coded.abs().max()
        for dither in (False, True):
            wav = rounded(coded * gain, dither)
            # As files are: a power of two brings them to the level of training.
            lift = 2.0 ** torch.log2(0.5 / wav.abs().max()).round()
            assert level(model(wav * lift) / lift / gain) == pytest.approx(expected, abs=1.0)


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("n", [1, 2, 441, 5000])
def test_short_silent_and_constant_signals_stay_as_they_are(model, n):
    for wav in (torch.zeros(2, n), torch.full((1, n), 0.3), 0.1 * torch.randn(6, n)):
        assert torch.equal(model(wav), wav)


@pytest.mark.parametrize("n_frames", [1, 50])
@pytest.mark.parametrize("kind", [Evidence, LeanEvidence])
def test_means_are_of_four_seconds(kind, n_frames):
    rows = torch.rand(
        2, WINDOW - 1 + n_frames, 92, generator=torch.Generator().manual_seed(0)
    ).exp()
    found = kind.means(rows)
    assert found.shape == (2, n_frames, 92)
    for t in range(n_frames):
        expected = rows[:, t : t + WINDOW].double().sum(1) / 400
        torch.testing.assert_close(found[:, t].double(), expected, rtol=3e-6, atol=0)


def test_nan_ends_with_what_looks_back_on_it(model, music):
    spec = torch.randn(1, 2 * WINDOW, 442, 2)
    spec[:, 5] = torch.nan
    found, _ = model.highs.evidence(spec, model.highs.evidence.initial_memory(spec, 1))
    assert found.above[:, 5].isnan().any() and not found.above[:, -1].isnan().any()


def test_every_split_of_the_spectrum_has_room():
    for rate in (10000, 16000, 32000, 48000, 96000):
        window = rate // 50
        model = Apollo(
            sample_rate=rate, bands=10, feature_dim=8, n_layers=1, n_heads=2, excitation=True
        )
        assert model(torch.randn(1, 3 * window)).shape == (1, 3 * window)

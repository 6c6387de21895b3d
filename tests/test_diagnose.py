"""The cut-off of coded music is found, uncoded music looks it, and the rest has an answer too."""

import importlib
import statistics

import numpy as np
import pytest
import torch
from helpers import tone

from apollo_plugin.cli import main
from apollo_plugin.data.codecs import mp3
from apollo_plugin.data.demo import mixture
from apollo_plugin.diagnose import Diagnosis, _refine, diagnose

diagnose_module = importlib.import_module("apollo_plugin.diagnose")


@pytest.fixture(scope="module")
def songs():
    """Music without a codec, with noise to 22 kHz as recordings have it."""
    waves = [torch.from_numpy(mixture(4.0, seed=seed)) for seed in range(3)]
    return [wav + 1e-4 * torch.randn(wav.shape) for wav in waves]


@pytest.mark.parametrize(
    "kbps, edge", [(24, 4400), (32, 5700), (48, 7700), (64, 11200), (96, 15200), (128, 16500)]
)
def test_edges_of_lame(songs, kbps, edge):
    for wav in songs:
        found = diagnose(mp3(wav, kbps=kbps), 44100)
        assert found.cutoff == pytest.approx(edge, abs=400) and found.drop > 30


def test_uncoded_music_looks_it(songs):
    for wav in songs:
        found = diagnose(wav, 44100)
        assert found.cutoff is None and "uncoded" in str(found)


@pytest.mark.parametrize("cutoff", [3000, 6000, 9000, 14000, 18000])
def test_an_edge_of_known_place(cutoff):
    """Noise whose spectrum is cut by hand."""
    spectrum = torch.fft.rfft(0.1 * torch.randn(2, 131072))
    spectrum[:, torch.fft.rfftfreq(131072, 1 / 44100) > cutoff] = 0
    found = diagnose(torch.fft.irfft(spectrum), 44100)
    assert found.cutoff == pytest.approx(cutoff, abs=60)


def with_a_fall(decibels, edge=6000.0, slope=0.0, rate=44100):
    """Noise that falls by so much at an edge, and by ``slope`` more up to the top."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.fft.rfft(0.1 * torch.randn(1, 4 * rate, generator=generator))
    hertz = torch.fft.rfftfreq(4 * rate, 1 / rate)
    level = torch.where(hertz > edge, -decibels - slope * (hertz - edge) / (rate / 2 - edge), 0.0)
    return torch.fft.irfft(spectrum * 10 ** (level / 20))


@pytest.mark.parametrize(
    "decibels, edge, slope, is_found",
    [
        (14, 6000, 0, False),
        (16, 6000, 0, True),  # with nothing but a floor above
        (16, 6000, 20, False),
        (28, 6000, 20, False),
        (32, 6000, 20, True),
        (60, 2000, 0, False),  # a pitch
        (60, 2600, 0, True),
        (60, 18800, 0, True),
        (60, 19200, 0, False),  # nothing worth restoring is above
        (60, 21000, 0, False),
    ],
)
def test_what_counts_as_an_edge(decibels, edge, slope, is_found):
    found = diagnose(with_a_fall(decibels, edge, slope), 44100)
    assert found.cutoff == (pytest.approx(edge, abs=40) if is_found else None)
    if 2500 < edge < 19000:
        assert found.drop == pytest.approx(decibels, abs=1) and found.uncoded != is_found


@pytest.mark.parametrize("edge", [3000, 4321, 6000, 9999, 15000, 18000])
def test_edges_are_placed_to_the_bin(edge):
    """Of 10.8 Hz: the window spreads what ends there over half a bin to one and a half more."""
    found = diagnose(with_a_fall(60, edge), 44100)
    assert 0.5 < (found.cutoff - edge) / (44100 / 4096) < 1.5
    assert found.drop == pytest.approx(60, abs=0.5)


@pytest.mark.parametrize("rate, is_wide", [(6200, False), (6500, True)])
def test_narrow_bands_have_no_room_for_an_edge(rate, is_wide):
    """From 2.5 kHz on, with 650 Hz above it."""
    found = diagnose(with_a_fall(0, 2800, rate=rate), rate)
    assert (found.cutoff, found.silent, found.drop != 0) == (None, False, is_wide)


def test_long_files_are_looked_at_in_places(monkeypatch):
    """Spread evenly over all of it."""
    wav, rows, real = np.ones((1, 4096 * 5), np.float32), [], np.fft.rfft
    monkeypatch.setattr(np.fft, "rfft", lambda frame: rows.append(frame.sum()) or real(frame))
    wav[0] *= np.arange(wav.shape[1])
    places = []
    for most in (9, 8, 4, 3, 1):
        monkeypatch.setattr(diagnose_module, "_MAX_FRAMES", most)
        diagnose(wav, 44100)
        # The mean of a ramp is its middle.
        places.append([round((row / 2048 - 2048) / 2048) for row in rows])
        rows.clear()
    assert places == [[*range(9)], [0, 2, 4, 6, 8], [0, 3, 6], [0, 3, 6], [0]]


@pytest.mark.parametrize("edge, is_found", [(6700, True), (7050, False)])
def test_of_low_rates_the_top_is_lower(edge, is_found):
    """86 % of the half of 16 kHz: 6.9 kHz."""
    found = diagnose(with_a_fall(60, edge, rate=16000), 16000)
    assert (found.cutoff is not None) == is_found and (is_found or "below 6.9 kHz" in str(found))


def test_quiet_frames_do_not_count():
    """Those 40 dB below the loudest: here they are of noise without an edge."""
    loud, quiet = with_a_fall(60), with_a_fall(0)
    same = (loud.square().mean() / quiet.square().mean()).sqrt()
    for decibels, is_found in ((-42, True), (-38, False)):
        wav = torch.cat((loud[:, :44100], *[10 ** (decibels / 20) * same * quiet] * 3), 1)
        assert (diagnose(wav, 44100).drop > 55) == is_found


@pytest.mark.parametrize(
    "found, text",
    [
        (Diagnosis(None, 0.0, 8000, True), "silent: nothing to judge by, nothing to restore"),
        (
            Diagnosis(None, 1.0, 44100, coding="MP2, 32 kbit/s"),
            "coded (MP2, 32 kbit/s), with no edge: it is filled up to the top",
        ),
        (
            Diagnosis(None, 1.0, 16000),
            "looks uncoded: no edge below 6.9 kHz, nothing to restore above",
        ),
        (
            Diagnosis(11200.0, 41.6, 44100),
            "cut off at 11.2 kHz (by 42 dB), as MP3 at 64 kbit/s has it in stereo",
        ),
        (Diagnosis(9300.0, 30.0, 44100), "cut off at 9.3 kHz (by 30 dB)"),
    ],
)
def test_in_words(found, text):
    assert str(found) == text


@pytest.mark.parametrize(
    "hertz, kbps", [(4093, 24), (4091, None), (4707, 24), (4709, None), (16500, 128), (0, None)]
)
def test_bit_rates_of_edges_within_seven_hundredths(hertz, kbps):
    assert Diagnosis(float(hertz), 40.0, 44100).like_kbps == kbps


def sixteen_bits(wav):
    return (wav * 32768).round().clamp(-32768, 32767) / 32768


@pytest.mark.parametrize(
    "change",
    [
        lambda wav: 0.05 * wav,
        sixteen_bits,
        lambda wav: sixteen_bits(0.1 * wav),
        lambda wav: wav * torch.linspace(1, 0, wav.shape[-1]) ** 3,
        lambda wav: torch.nn.functional.pad(wav, (200000, 200000)),
        lambda wav: wav[:1],
        lambda wav: torch.stack((wav[0], -wav[0])),
        lambda wav: torch.cat((wav, wav), 0),
    ],
)
def test_what_happens_to_files_afterwards(songs, change):
    coded = mp3(songs[0], kbps=48)
    plain = diagnose(coded, 44100).cutoff
    assert diagnose(change(coded), 44100).cutoff == pytest.approx(plain, abs=400)


def test_single_partials_are_no_edge():
    t = torch.arange(88200) / 44100
    chord = sum(torch.sin(2 * torch.pi * hertz * t) for hertz in (440.0, 3520.0, 7040.0))
    assert diagnose(0.1 * chord[None], 44100).cutoff is None


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000, 96000])
def test_other_rates(rate):
    wav = 0.1 * torch.randn(1, 2 * rate)
    assert diagnose(wav, rate).cutoff is None
    spectrum = torch.fft.rfft(wav)
    spectrum[:, torch.fft.rfftfreq(2 * rate, 1 / rate) > rate / 3] = 0
    expected = rate / 3 if rate / 3 < 19000 else None
    assert diagnose(torch.fft.irfft(spectrum), rate).cutoff == pytest.approx(expected, abs=100)


@pytest.mark.parametrize("wav", [torch.zeros(2, 50000), torch.zeros(1, 1)])
def test_silence(wav):
    found = diagnose(wav, 44100)
    assert found.silent and found.cutoff is None and "silent" in str(found)


def test_a_single_sample_is_not_silent():
    assert not diagnose(torch.full((2, 1), 0.3), 44100).silent


@pytest.mark.parametrize("n_samples", [1, 100, 3000])
def test_short_files(n_samples):
    assert isinstance(diagnose(tone(n_samples), 44100), Diagnosis)


def test_command_line(songs, tmp_path, capsys):
    from apollo_plugin import audio

    audio.write(tmp_path / "a coded.wav", mp3(songs[1], kbps=64), 44100)
    audio.write(tmp_path / "b uncoded.wav", songs[1], 44100)
    (tmp_path / "c broken.wav").write_bytes(b"RIFF of nothing")
    assert main(["--diagnose", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    first, second = captured.out.splitlines()
    assert "a coded.wav: cut off at 11." in first and "64 kbit/s" in first
    assert "b uncoded.wav: looks uncoded" in second
    assert "c broken.wav" in captured.err and len(captured.err.splitlines()) == 1
    assert main(["--diagnose", str(tmp_path / "a coded.wav")]) == 0
    assert sorted(p.name[0] for p in tmp_path.iterdir()) == ["a", "b", "c"]
    assert main(["--diagnose", str(tmp_path / "missing.wav")]) == 1
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("band, gap", [(22, 7), (23, 6), (12, 4)])
def test_an_edge_is_refined_as_by_the_textbook(band, gap):
    """To the last bin whose median of five lies above the middle of both bands' medians."""
    random = np.random.default_rng(0)
    for edge in range(40, 60):
        level = np.sort(random.exponential(20, 110))[::-1] + random.standard_normal(110)
        around = level[edge - gap - band : edge + gap + band].tolist()
        middle = (statistics.median(around[:band]) + statistics.median(around[-band:])) / 2
        above = [
            i
            for i in range(2, len(around) - 2)
            if statistics.median(around[i - 2 : i + 3]) > middle
        ]
        assert _refine(level, edge, band, gap) == edge - gap - band + above[-1]

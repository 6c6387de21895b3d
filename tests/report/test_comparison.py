"""A page's view of a file: the right stretch, equal levels, aligned originals, true spectra."""

import math
import re

import numpy as np
import pytest
import scipy.signal
import torch
from helpers import tone

from apollo_plugin import audio
from apollo_plugin.report import build, comparison
from apollo_plugin.report.comparison import CHANGE, compare, compare_files

FAST = ("snr", "si_sdr", "lsd")


def test_short_files_are_whole():
    ref = tone(44100)
    item = compare("a.mp3", 0.9 * ref, 0.95 * ref, 44100, ref, metrics=FAST)
    assert (item.start, item.seconds, item.total_seconds) == (0, 1, 1)
    assert [version.label for version in item.versions] == ["MP3", "Restored", "Original"]
    coded, restored, original = (version.metrics for version in item.versions)
    # Before the levels are matched, after which all three would be equal.
    assert coded["snr"] == pytest.approx(20, abs=1e-3)
    assert restored["snr"] == pytest.approx(20 * math.log10(20), abs=1e-3)
    assert original == {}


def test_levels_are_matched_by_loudness(torchaudio):
    ref = tone(88200)
    item = compare("a", 0.5 * ref, 0.3 * ref, 44100, ref, metrics=())
    gains = [version.gain for version in item.versions]
    expected = [0, 20 * math.log10(0.5 / 0.3), 20 * math.log10(0.5)]
    assert gains == pytest.approx(expected, abs=1e-3)
    loudness = [
        float(torchaudio.functional.loudness(torch.from_numpy(v.wav), 44100)) for v in item.versions
    ]
    assert np.ptp(loudness) < 1e-3


def test_nothing_clips_after_matching():
    loud = 0.9 * torch.sign(tone(44100))
    peaky = loud.clone() * 0.1
    peaky[:, 1000] = 0.9
    item = compare("a", loud, peaky, 44100)
    assert max(np.abs(version.wav).max() for version in item.versions) <= 1 + 1e-6
    assert any("lowered" in note for note in item.notes)


def test_the_excerpt_is_where_most_was_changed():
    coded = tone(44100 * 8)
    restored = coded.clone()
    restored[:, 44100 * 5 : 44100 * 6] += 0.05 * torch.randn(2, 44100)
    item = compare("a", coded, restored, 44100, seconds=2)
    assert item.seconds == 2 and item.total_seconds == 8
    assert item.start <= 5 and item.start + 2 >= 6
    untouched = compare("a", coded, coded, 44100, seconds=2)
    assert untouched.seconds == 2 and untouched.versions[1].gain == 0


def test_spectra_are_in_decibels_of_a_full_scale_sine():
    t = torch.arange(44100) / 44100
    sine = torch.sin(2 * torch.pi * 5512.5 * t)[None]
    item = compare("a", 0.1 * sine, sine, 44100)
    for label, level in (("MP3", -20), ("Restored", 0), (CHANGE, 20 * math.log10(0.9))):
        picture, average = item.spectrograms[label], item.averages[label]
        assert picture.max() == pytest.approx(level, abs=0.05)
        assert average.max() == pytest.approx(level, abs=0.05)
        # A quarter of the way up to 22.05 kHz.
        assert picture.max(1).argmax() / len(picture) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("rate, n_fft", [(44100, 2048), (8000, 512), (96000, 4096), (1000, 64)])
@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_spectra_against_scipy(rate, n_fft, seconds):
    """Windows of some 46 ms, overlapping by three quarters at least; peaks where the picture has
    fewer rows and columns than the spectra."""
    n_samples = round(seconds * rate)
    wav = np.random.default_rng(0).normal(0, 0.1, (2, n_samples)).astype(np.float32)
    picture, average = comparison._spectrogram(wav, rate)
    hop = max(1, min(n_fft // 4, n_samples // 900))
    how = dict(nperseg=n_fft, noverlap=n_fft - hop, detrend=False, scaling="spectrum")
    power = scipy.signal.spectrogram(wav, rate, "hann", **how)[2].mean(0)
    # One-sided, and the mean square of a full-scale sine is a half; so there are three factors.
    power *= 2
    power[[0, -1]] *= 2
    np.testing.assert_allclose(average, 10 * np.log10(power.mean(-1)), atol=0.01)
    shape = min(320, n_fft // 2 + 1), min(900, power.shape[1])
    assert picture.shape == shape
    for axis, n in enumerate(shape):
        length = power.shape[axis]
        parts = [
            power.take(range(k * length // n, -(-(k + 1) * length // n)), axis).max(axis)
            for k in range(n)
        ]
        power = np.stack(parts, axis)
    np.testing.assert_allclose(picture, 10 * np.log10(power), atol=0.01)


@pytest.mark.parametrize(
    "begin, seconds, start",
    [
        (3.25, 2, 3.25),
        (0, 2, 0),
        (5.75, 2, 5.75),
        (5.9, 2, 5.75),
        (5.75, 2.2, 5.7),
        (0.25, 0.1, 0.25),
    ],
)
def test_the_excerpt_begins_with_the_change(begin, seconds, start):
    """In quarters of a second; the last one begins early enough to be whole."""
    coded = np.zeros((1, round(7.9 * 8000)), np.float32)
    restored = coded.copy()
    restored[:, round(begin * 8000) : round((begin + seconds) * 8000)] = 0.1
    n_keep = round(seconds * 8000)
    assert comparison._find_excerpt(coded, restored, n_keep, 8000) == start * 8000


@pytest.mark.parametrize("shift", [-1601, -1600, -1599, 3, 1599, 1600, 1601])
def test_originals_are_moved_by_a_fifth_of_a_second_at_most(shift):
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 20000)).astype(np.float32)
    wav, reference = noise[:, 2000:18000], noise[:, 2000 + shift : 18000 + shift]
    moved, found = comparison._align(reference, wav, 8000, "reference 'a'", "b")
    assert moved.shape == wav.shape and (found == shift) == (abs(shift) <= 1600)
    if found == shift:
        inside = slice(max(0, shift), 16000 + min(0, shift))
        assert np.array_equal(moved[:, inside], wav[:, inside])
        assert not np.delete(moved, np.arange(16000)[inside], 1).any()
    assert comparison._align(0 * reference, wav, 8000, "reference 'a'", "b")[1] == 0


@pytest.mark.parametrize("n_samples", [-8001, -8000, 8000, 8001])
def test_lengths_differ_by_a_second_at_most(n_samples):
    wav = tone(20000, 1, 8000).numpy()
    reference = np.pad(wav, ((0, 0), (0, max(0, n_samples))))[:, : 20000 + n_samples]
    if abs(n_samples) <= 8000:
        assert comparison._align(reference, wav, 8000, "a", "b")[0].shape == wav.shape
    else:
        words = f"^reference 'a' is {len(reference[0]) / 8000:.1f} s long and 'b' 2.5 s; both have"
        with pytest.raises(audio.AudioError, match=words):
            comparison._align(reference, wav, 8000, "reference 'a'", "b")


def test_levels_of_what_is_too_short_for_loudness_are_powers():
    one, other = tone(17639), tone(17639).flip(-1) ** 3
    item = compare("a", one, other, 44100)
    ratio = 10 * math.log10(one.square().mean() / other.square().mean())
    assert item.versions[1].gain == pytest.approx(ratio, abs=1e-4)


def test_how_far_all_were_lowered():
    loud = 0.9 * torch.sign(tone(44100))
    item = compare("a", loud, loud * torch.linspace(0, 2, 44100), 44100)
    gains = [version.gain for version in item.versions]
    assert item.notes == [f"All versions were lowered by {-gains[0]:.1f} dB to avoid clipping."]
    assert max(np.abs(version.wav).max() for version in item.versions) == pytest.approx(1)


def test_what_was_done_is_noted(tmp_path):
    wav = tone(9000, 6).numpy()
    broken = wav.copy()
    broken[2, 5:8], broken[0, 9] = math.nan, math.inf
    item = compare("a", wav, broken, 44100, label="Input", notes=("first",))
    assert item.notes == [
        "first",
        "Restored: 4 samples are NaN or infinite and set to 0.",
        "Only channels 1 and 2 of 6 are played.",
    ]
    assert compare("a", wav[:2], wav[:2], 44100).notes == []


@pytest.mark.parametrize(
    "name, label, expected",
    [
        ("a.ogg", None, "OGG"),
        ("a.flac", None, "Input"),
        ("a.Mp3", None, "MP3"),
        ("a.mp3", "X", "X"),
    ],
)
def test_inputs_are_called_by_their_coding(tmp_path, name, label, expected):
    audio.write(tmp_path / "a.wav", tone(3000), 44100)
    (tmp_path / "a.wav").rename(tmp_path / name)  # read by what it is
    item = compare_files("a", tmp_path / name, tmp_path / name, label=label)
    assert item.versions[0].label == expected


@pytest.mark.parametrize("shift", [-1105, 0, 700])
def test_an_original_is_aligned(tmp_path, shift):
    ref = tone(60000) + 0.1 * torch.randn(2, 60000)
    coded = ref[:, 5000:55000] + 0.001 * torch.randn(2, 50000)
    original = ref[:, 5000 + shift : 55000 + shift + 100]
    for name, wav in (("coded.mp3", coded), ("restored.wav", coded), ("original.wav", original)):
        audio.write(tmp_path / name, wav, 44100)
    item = compare_files(
        "a", *(tmp_path / n for n in ("coded.mp3", "restored.wav", "original.wav")), metrics=FAST
    )
    inside = (item.versions[0].wav - item.versions[2].wav)[:, 2000:-2000]
    assert np.abs(inside).max() < 0.02
    moved = (
        f"The original was moved by {shift} samples ({shift / 44.1:.1f} ms) to align it with the "
        "input."
    )
    assert item.notes == [moved] * (shift != 0)


def test_an_original_of_another_rate(tmp_path):
    ref = tone(48000, sample_rate=48000)
    coded = audio.resample(ref, 48000, 44100)
    audio.write(tmp_path / "coded.wav", coded, 44100)
    audio.write(tmp_path / "original.wav", ref, 48000)
    item = compare_files(
        "a", tmp_path / "coded.wav", tmp_path / "coded.wav", tmp_path / "original.wav", metrics=FAST
    )
    assert item.versions[0].label == "Input" and item.versions[0].metrics["snr"] > 60
    assert item.notes[0] == "The original was resampled from 48000 to 44100 Hz."


@pytest.mark.parametrize(
    "original, reason",
    [
        (tone(44100 * 3), "is 3.0 s long and '{}' 1.0 s; both have to be the same recording"),
        (tone(44100, 1), "has 1 channel(s) and '{}' has 2; a comparison needs the same"),
    ],
)
def test_another_recording_is_refused(tmp_path, original, reason):
    audio.write(tmp_path / "a.wav", tone(44100), 44100)
    audio.write(tmp_path / "original.wav", original, 44100)
    with pytest.raises(audio.AudioError) as caught:
        compare_files("a", tmp_path / "a.wav", tmp_path / "a.wav", tmp_path / "original.wav")
    message = str(caught.value)
    assert reason.format(tmp_path / "a.wav") in message and "original.wav" in message


def test_a_result_of_another_file_is_refused(tmp_path):
    audio.write(tmp_path / "a.wav", tone(44100), 44100)
    audio.write(tmp_path / "b.wav", tone(44000), 44100)
    with pytest.raises(audio.AudioError, match="no restoration of"):
        compare_files("a", tmp_path / "a.wav", tmp_path / "b.wav")
    with pytest.raises(ValueError, match="differ in channels or length"):
        compare("a", tone(100), tone(99), 44100)


@pytest.mark.parametrize("n_samples", [1, 50, 3000])
@pytest.mark.parametrize("n_channels", [1, 2, 6])
def test_short_silent_and_many(n_samples, n_channels):
    wav = tone(n_samples, n_channels)
    for coded, restored in ((wav, 0.9 * wav), (0 * wav, wav), (wav, 0 * wav), (0 * wav, 0 * wav)):
        item = compare("a", coded, restored, 44100, wav, metrics=FAST)
        for version in item.versions:
            assert version.wav.shape == (min(2, n_channels), n_samples)
            assert np.isfinite(version.wav).all() and math.isfinite(version.gain)
        for picture in item.spectrograms.values():
            assert np.isfinite(picture).all() and picture.ndim == 2


def middle_silent(wav):
    wav = wav.clone()
    wav[:, wav.shape[-1] // 3 : 2 * wav.shape[-1] // 3] = 0
    return wav


ODD = {
    "antiphase": lambda wav: torch.stack((wav[0], -wav[0])),
    "a silent middle": middle_silent,
    "silence": lambda wav: 0 * wav,
    "NaN": lambda wav: wav.where(torch.rand(wav.shape) > 0.01, math.nan),
    "infinity": lambda wav: wav.where(torch.rand(wav.shape) > 0.01, -math.inf),
    "one sample": lambda wav: wav[:, :1],
    "a click": lambda wav: torch.nn.functional.pad(wav[:, :1], (1000, 1000)),
    "as integers": lambda wav: 32768 * wav,
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("which", ["all", "restored"])
def test_odd_sound_ends_no_page(kind, which):
    wav = tone(60000)
    odd = ODD[kind](wav)
    length = odd.shape[-1]
    coded, original = (odd, odd) if which == "all" else (wav[:, :length], wav[:, :length])
    item = compare(kind, coded, 0.9 * odd, 44100, original, seconds=0.5)
    text = build([item])
    assert kind in text and "nan" not in "".join(re.findall('points="[^"]*"', text)).lower()
    assert all(np.isfinite(version.wav).all() for version in item.versions)
    if kind in ("NaN", "infinity"):
        assert any("are NaN or infinite and set to 0" in note for note in item.notes)


def test_headroom_is_no_change(tmp_path):
    """A tenth of the sound came to be the change, wherever the sound is."""
    wav = tone(30000).numpy()
    for name, gain in (("a", 1.0), ("same", 1.0), ("quiet", 10 ** (-3 / 20))):
        audio.write(tmp_path / f"{name}.wav", gain * wav, 44100)
    pages = [
        compare_files("A", tmp_path / "a.wav", tmp_path / f"{name}.wav", headroom=headroom)
        for name, headroom in (("same", 0.0), ("quiet", 3.0), ("quiet", 0.0))
    ]
    loudest = [page.averages[CHANGE].max() for page in pages]
    assert loudest[0] < -100 and loudest[1] < -100 and loudest[2] > -60
    assert any("headroom of 3 dB" in note for note in pages[1].notes)


def test_what_a_metric_cannot_do_is_a_note(tmp_path):
    """A few samples of many channels: no figures, but a page."""
    wav = torch.randn(6, 3)
    item = compare("a", wav, 0.9 * wav, 44100, wav, metrics=FAST)
    assert all(map(math.isnan, item.versions[0].metrics.values()))
    assert any("more channels than samples" in note for note in item.notes)


def test_an_original_in_antiphase_is_aligned(tmp_path):
    noise = 0.1 * torch.randn(1, 60000)
    noise = torch.cat((noise, -noise))
    for name, start in (("coded.wav", 5000), ("original.wav", 5300)):
        audio.write(tmp_path / name, noise[:, start : start + 50000], 44100)
    item = compare_files(
        "a", *(tmp_path / n for n in ("coded.wav", "coded.wav", "original.wav")), metrics=FAST
    )
    assert any("moved by 300 samples" in note for note in item.notes)

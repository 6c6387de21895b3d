"""A page's view of a file: the right stretch, equal levels, aligned originals, true spectra."""

import math
import re

import numpy as np
import pytest
import torch
from helpers import tone

from apollo_plugin import audio
from apollo_plugin.report import build
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
    assert any(f"moved by {shift} samples" in note for note in item.notes) == (shift != 0)


def test_an_original_of_another_rate(tmp_path):
    ref = tone(48000, sample_rate=48000)
    coded = audio.resample(ref, 48000, 44100)
    audio.write(tmp_path / "coded.wav", coded, 44100)
    audio.write(tmp_path / "original.wav", ref, 48000)
    item = compare_files(
        "a", tmp_path / "coded.wav", tmp_path / "coded.wav", tmp_path / "original.wav", metrics=FAST
    )
    assert item.versions[0].label == "Input" and item.versions[0].metrics["snr"] > 60
    assert "resampled from 48000" in item.notes[0]


@pytest.mark.parametrize(
    "original, reason",
    [
        (tone(44100 * 3), "same recording"),
        (tone(44100, 1), "1 channel(s) and"),
    ],
)
def test_another_recording_is_refused(tmp_path, original, reason):
    audio.write(tmp_path / "a.wav", tone(44100), 44100)
    audio.write(tmp_path / "original.wav", original, 44100)
    with pytest.raises(audio.AudioError) as caught:
        compare_files("a", tmp_path / "a.wav", tmp_path / "a.wav", tmp_path / "original.wav")
    assert reason in str(caught.value) and "original.wav" in str(caught.value)


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

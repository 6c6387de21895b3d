"""Restoring one signal of any rate, against the model and against what filters promise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import at_one_level, resample, save, small_model, snr, tone

from apollo_plugin import Apollo, blocks, checkpoints, restore, tags
from apollo_plugin.data.codecs import mp3
from apollo_plugin.data.demo import mixture
from apollo_plugin.errors import AudioError, TagError
from apollo_plugin.restore import restore_audio
from apollo_plugin.settings import Job, Settings


def test_without_options_it_is_the_model():
    model, wav = small_model(residual=True), tone(20000)
    assert snr(restore_audio(model, wav, 44100), at_one_level(model, wav)) > 90


@pytest.fixture(scope="module")
def small():
    return Apollo.from_pretrained("apollo-small")


@pytest.mark.parametrize(
    "rate, options", [(44100, {}), (48000, dict(keep_below=4000.0, mix=0.5)), (22050, {})]
)
@pytest.mark.parametrize("decibels", [-60, -20, 14])
def test_the_effect_does_not_depend_on_the_level(small, rate, options, decibels):
    """From -60 to +20 dB; at +14 dB the peak is 1.5."""
    wav = mp3(torch.from_numpy(mixture(1.5, seed=3, sample_rate=rate)), rate, 32)
    gain = 10 ** (decibels / 20)
    changed = restore_audio(small, wav, rate, **options) - wav
    scaled = restore_audio(small, gain * wav, rate, **options) / gain - wav
    assert snr(scaled, changed) > 60


@pytest.mark.parametrize("peak", [1.0, 0.25, None])
def test_the_level_is_the_checkpoint_s(tmp_path, peak):
    """Kept in the file; of one that says nothing it is 0.5."""
    wav, model = tone(9000), small_model(residual=True, input_peak=peak)
    checkpoints.save(model, tmp_path / "a.safetensors")
    again = Apollo.from_pretrained(tmp_path / "a.safetensors")
    level = 1.0 if peak is None else wav.abs().max() / peak
    with torch.no_grad():
        expected = level * model(wav / level)
        as_it_is = model(wav)
    for one in (again.separate, lambda x: restore_audio(again, x, 44100)):
        assert snr(one(wav), expected) > 90
    assert snr(restore_audio(again, wav, 44100, keep_level=True), as_it_is) > 90
    state = torch.load(_as_it_was(again, tmp_path), weights_only=True)
    assert "input_peak" not in state["model_args"]
    assert Apollo.from_pretrained(tmp_path / "old.pth").input_peak == 0.5


def _as_it_was(model, folder):
    """A file of before there was a choice."""
    package = model.serialize()
    del package["model_args"]["input_peak"]
    torch.save(package, folder / "old.pth")
    return folder / "old.pth"


@pytest.mark.parametrize(
    "values, peak, level",
    [
        ([-0.8, 0.2], 0.5, 1.6),
        ([-0.2, 0.8], 0.25, 3.2),
        ([0.0, 0.0], 0.5, 2e-6),  # as if at -120 dB
        ([0.0, 2e-6], 0.5, 4e-6),
        ([0.3, float("nan")], 0.5, 1),
        ([0.3, float("inf")], 0.5, 1),
        ([0.3, float("-inf")], 0.5, 1),
        ([0.3, 0.1], None, 1),
    ],
)
def test_levels_by_peaks(values, peak, level):
    assert restore.model_level(np.float32([values]), peak) == pytest.approx(level)


@pytest.mark.parametrize("n_failures", range(4))
def test_a_restoration_outlives_its_tags(monkeypatch, n_failures):
    """Without them if they cannot be written, and without its mark if that cannot be either."""
    carried, asked = tags.Tags(text={"album": ["A"]}), []

    def write(place, wav, rate, settings, carried, layout, made):
        asked.append((carried, made))
        if len(asked) <= n_failures:
            raise TagError(f"error {len(asked)}")
        return restore.Restored(3)

    monkeypatch.setattr(restore, "_write", write)
    given = Path("a"), None, 44100, Settings(), carried, "", "mark"
    if n_failures == 3:
        with pytest.raises(TagError, match="error 1"):
            restore.write_result(*given)
    else:
        notes = ("its tags were left out: error 1",) * bool(n_failures)
        assert restore.write_result(*given) == restore.Restored(3, notes=notes)
    every = [(carried, "mark"), (tags.Tags(), "mark"), (tags.Tags(), "")]
    assert asked == every[: n_failures + 1]


@pytest.mark.parametrize(
    "options, n_results, n_bytes",
    [
        ({}, 1, 4 * 2 * 3000),
        ({}, 3, 3 * 4 * 2 * 3000),
        (dict(subtype="PCM_16"), 1, 2 * 2 * 3000),
        (dict(subtype="PCM_24", rate=48000), 1, 3 * 2 * 6000),
        (dict(format="FLAC"), 1, None),
        (dict(format="OGG"), 1, None),
        (dict(format="MP3"), 1, None),
    ],
)
def test_room_for_the_result_is_asked_for(tmp_path, monkeypatch, options, n_results, n_bytes):
    """Its samples and 64 kB; how much compressed formats take is unknown."""
    asked = []
    monkeypatch.setattr(restore.audio, "check_room", lambda *given: asked.append(given))
    job = Job(save(tmp_path / "a.wav", tone(3000), 24000), tmp_path / "b")
    wav, rate, _, _ = restore.read_source(job, Settings(**options), n_results)
    assert rate == options.get("rate", 24000) and wav.shape == (2, 3000 * rate // 24000)
    assert asked == ([] if n_bytes is None else [(job.target, n_bytes + (1 << 16))])


def test_overflow_is_told_with_the_peak():
    job, wav = Job(Path("a"), Path("b")), np.float32([[0.5, -12.3456]])
    restore.check_finite(wav, job, wav)
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(AudioError, match="^'a' made the model overflow; its peak is 12.3, sc"):
            restore.check_finite(np.float32([[0.0, value]]), job, wav)


@pytest.mark.parametrize("peak", [0, -0.5, 1.5, float("nan")])
def test_peaks_that_cannot_be(peak):
    with pytest.raises(ValueError, match="input_peak .* between 0 and 1"):
        small_model(input_peak=peak)


def test_the_model_alone_depends_on_the_level(small):
    wav = tone(10000)
    with torch.no_grad():
        assert snr(small(wav / 100) * 100 - wav, small(wav) - wav) < 20


@pytest.mark.parametrize("rate", [44100, 48000])
@pytest.mark.parametrize("gain", [0.0, 1e-38, 1e-20])
def test_silence_stays_silence(small, rate, gain):
    """Digital silence, and what is next to it: no division goes wrong."""
    wav = gain * tone(5000)
    restored = restore_audio(small, wav, rate)
    assert (restored - wav).abs().max() <= 1e-9
    assert gain or torch.equal(restored, wav)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_stays_where_it_is(bad):
    model, wav = small_model(n_layers=1), tone(60000)
    wav[:, 100] = bad
    restored = restore_audio(model, wav, 44100)
    assert not torch.isfinite(restored[:, 100]).any() and torch.isfinite(restored[:, 30000:]).all()


def test_another_rate_is_the_resampled_change():
    model, wav = small_model(residual=True, band_gain=True), tone(20000)
    got = restore_audio(model, wav, 48000)
    source = resample(wav, 48000, 44100)
    change = at_one_level(model, source) - source
    expected = wav + resample(change, 44100, 48000, 20000)
    assert got.shape == wav.shape and snr(got, expected) > 90


def test_what_lies_above_the_models_range_stays():
    """A tone of 40 kHz in a file of 96 kHz, which the model at 44.1 kHz never sees."""
    t = torch.arange(96000).double() / 96000
    wav = (0.1 * torch.sin(2 * torch.pi * 40000 * t)).float()[None]
    got = restore_audio(small_model(residual=True, band_gain=True), wav, 96000)
    spectrum = torch.fft.rfft(got[0, 4800:-4800] * torch.hann_window(86400)).abs()
    level = 2 * spectrum[int(40000 * 0.9)] / torch.hann_window(86400).sum()
    assert abs(level - 0.1) < 1e-4


@pytest.mark.parametrize("rate, keep_below", [(44100, 5000.0), (44100, 300.0), (48000, 9000.0)])
def test_keep_below_leaves_the_low_band_alone(rate, keep_below):
    model, wav = small_model(), tone(rate)
    got = restore_audio(model, wav, rate, keep_below=keep_below)
    window = torch.hann_window(rate)
    changed, hertz = torch.fft.rfft((got - wav) * window).abs(), torch.fft.rfftfreq(rate, 1 / rate)
    free = torch.fft.rfft((restore_audio(model, wav, rate) - wav) * window).abs()
    low, high = hertz < keep_below - 5, hertz > keep_below + 205
    assert 10 * torch.log10(changed[:, low].square().sum() / free[:, low].square().sum()) < -80
    torch.testing.assert_close(changed[:, high], free[:, high], atol=1e-2, rtol=1e-2)


def test_keep_below_beyond_the_band_changes_nothing():
    wav = tone(5000)
    assert torch.equal(restore_audio(small_model(), wav, 44100, keep_below=22000.0), wav)


@pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
def test_mix_is_linear(mix):
    model, wav = small_model(), tone(9000)
    full = restore_audio(model, wav, 44100)
    assert snr(restore_audio(model, wav, 44100, mix=mix), wav + mix * (full - wav)) > 90


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44099, 48000, 192000])
@pytest.mark.parametrize("n_samples", [1, 500])
def test_odd_rates_and_lengths(rate, n_samples):
    wav = tone(n_samples, 3)
    got = restore_audio(small_model(n_layers=1), wav, rate, keep_below=1000.0, mix=0.5)
    assert got.shape == wav.shape and torch.isfinite(got).all()


@pytest.mark.parametrize("n_channels, n_blocks", [(1, 4), (2, 7)])
def test_a_signal_takes_as_few_steps_as_caches_allow(n_channels, n_blocks, small, monkeypatch):
    """Each step costs what it costs however short its block is."""
    steps, step = [], small.step
    monkeypatch.setattr(
        small, "step", lambda wav, *rest: steps.append(wav.shape) or step(wav, *rest)
    )
    # 20 frames of one channel, and a half.
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", round(20.5 * small.frame_bytes))
    hop = small.filterbank.stride
    small.restore(tone(70 * hop - 1, n_channels)[:, : 70 * hop - 1])
    n_frames = 20 // n_channels
    lengths = [n_frames * hop] * (n_blocks - 1) + [(70 - n_frames * (n_blocks - 1)) * hop - 1]
    assert steps == [(n_channels, length) for length in lengths]


def test_a_block_fills_the_cache_that_it_is_for(small):
    """Of the published model too a block is of several frames."""
    full = 4 * 80 * 256  # its features
    assert blocks._BLOCK_BYTES // full >= 8 and blocks._BLOCK_BYTES <= 64 << 20

"""The harm table: what is coded, what is measured of it, and the command."""

import csv
import math

import numpy as np
import pytest
import soundfile
import torch
from helpers import small_model, snr

from apollo_plugin import checkpoints
from apollo_plugin.restore import restore_audio


def noise(n_samples=66150, n_channels=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(n_channels, n_samples, generator=generator)


def pink():
    """Noise that falls by 3 dB an octave, for codecs."""
    spectrum = torch.fft.rfft(noise())
    return torch.fft.irfft(spectrum / torch.arange(1, spectrum.shape[-1] + 1).sqrt(), 66150) * 30


def energy_db(wav, low, high):
    power = torch.fft.rfft(wav.double()).abs().square().sum(0)
    hertz = torch.fft.rfftfreq(wav.shape[-1], 1 / 44100)
    return 10 * torch.log10(power[(hertz >= low) & (hertz < high)].mean()).item()


def test_kinds_are_what_they_say(recipe):
    from harm_kinds import KINDS

    wav = pink()
    sources = {name: kind(wav, 44100) for name, kind in KINDS.items()}
    for name, source in sources.items():
        assert source.wav.shape == source.original.shape == wav.shape, name
        # Aligned, and at the level of the original once the gain is back.
        assert snr(source.gain * source.wav, source.original) > 3, name
    assert torch.equal(sources["uncoded"].wav, wav)
    assert sources["quiet_uncoded"].wav.abs().max() < 10**-1.45 * wav.abs().max()
    low = sources["lowpass_16k"].wav
    assert energy_db(low, 15000, 15900) == pytest.approx(energy_db(wav, 15000, 15900), abs=0.01)
    assert energy_db(low, 16400, 22050) < energy_db(wav, 16400, 22050) - 60
    dark = sources["dark_uncoded"]
    assert torch.equal(dark.wav, dark.original)
    # Butterworth of the third order: 18 dB an octave.
    fall = energy_db(dark.wav, 4000, 4100) - energy_db(dark.wav, 8000, 8200)
    assert fall == pytest.approx(18 + 3, abs=1.5)
    rates = [snr(sources[f"mp3_{kbps}"].wav, wav) for kbps in (48, 96, 128, 192, 320)]
    assert rates == sorted(rates)


@pytest.mark.parametrize("peak", [1, 0.3, 0.1, 0.03])
def test_rounded_sources_are_16_bit_files_of_that_peak(recipe, peak):
    from harm_kinds import KINDS

    plain, dithered = (KINDS[f"rounded_{peak:g}{end}"](pink(), 44100) for end in ("", "_dither"))
    for source in (plain, dithered):
        steps = 32768 * source.wav.double()
        assert torch.equal(steps, steps.round())
        assert source.wav.abs().max().item() == pytest.approx(peak, abs=3 / 32768)
    error = 32768 * (plain.wav - plain.plain / plain.gain).double()
    assert error.abs().max() <= 1 and error.square().mean() == pytest.approx(1 / 12, rel=0.05)
    # Triangular dither of two steps adds 1/6 to rounding's 1/12.
    error = 32768 * (dithered.wav - dithered.plain / dithered.gain).double()
    assert error.square().mean() == pytest.approx(1 / 4, rel=0.05)


def test_a_gain_and_a_hole_that_was_filled(recipe):
    import harm
    from harm_kinds import KINDS, Source

    wav = noise()
    whole = KINDS["uncoded"](wav, 44100)
    same = harm.changes(whole, wav.clone(), 44100)
    assert same["below"] == 100 and same["excess"] == 0 and same["loudest"] == 0
    assert math.isnan(same["above"])
    louder = harm.changes(whole, 1.01 * wav, 44100)
    assert louder["loudest"] == pytest.approx(20 * math.log10(1.01), abs=1e-4)
    assert louder["below"] == pytest.approx(40, abs=1e-3)
    cut = KINDS["lowpass_16k"](wav, 44100)
    filled = harm.changes(cut, 0.5 * wav + 0.5 * cut.wav, 44100)
    assert filled["above"] == pytest.approx(-6, abs=0.2) and filled["before_above"] < -25
    assert abs(filled["loudest"]) < 0.01 and filled["below"] > 60
    dark = KINDS["dark_uncoded"](wav, 44100)
    assert harm.changes(dark, dark.wav + 0.1 * wav, 44100)["excess"] > 20
    # A bigger gain is measured too, and silence is no error.
    halved = Source(0.5 * wav, wav, 2.0)
    assert harm.changes(halved, 0.5 * wav, 44100)["loudest"] == pytest.approx(0, abs=1e-6)
    silent = Source(0 * wav, 0 * wav)
    assert math.isnan(harm.changes(silent, 0 * wav, 44100)["below"])


def test_energies_of_bands(recipe):
    from harm import band_energies

    seconds = torch.arange(44100) / 44100
    sine = torch.sin(2 * torch.pi * 1100 * seconds)[None]
    energies = band_energies(sine, 44100)
    assert len(energies) == 88 and energies.argmax() == 4
    assert energies[4] == pytest.approx(1, abs=0.05)
    assert band_energies(0 * sine, 44100) == pytest.approx(np.full(88, 1e-12))


def test_the_command(recipe, command, tmp_path):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for index in range(2):
        soundfile.write(sounds / f"{index}.flac", noise(150000, 1, index).T.numpy(), 44100)
    cut = torch.fft.irfft(torch.fft.rfft(noise(66150, 1))[:, :12000], 66150)
    soundfile.write(sounds / "cut.wav", cut.T.numpy(), 44100)
    model = small_model()
    checkpoints.save(model, tmp_path / "small.safetensors")
    options = (
        *("--checkpoint", tmp_path / "small.safetensors", "--kinds", "uncoded", "lowpass_16k"),
        *("--seconds", 1.5, "--n_each", 2, "--no_visqol", "--jobs", 1),
        *("--cache", tmp_path / "cache", "--rows", tmp_path / "rows.csv"),
    )
    printed = []
    for _ in range(2):  # the second time with what is kept
        done = command("harm.py", sounds, *options)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1] and "cut.wav' is left out: cut off at 8.0 kHz" in done.stderr
    lines = printed[0].splitlines()
    assert len(lines) == 4 and {line.count("|") for line in lines} == {lines[0].count("|")}
    assert lines[2].startswith("| lowpass_16k | 4 |") or lines[3].startswith("| lowpass_16k | 4 |")
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    row = next(row for row in rows if row["kind"] == "uncoded" and row["clip"] == "0+0.1")
    wav = soundfile.read(sounds / "0.flac", dtype="float32")[0][None, 4410 : 4410 + 66150]
    wav = torch.from_numpy(wav)
    with torch.no_grad():
        expected = snr(restore_audio(model.eval(), wav, 44100), wav)
    assert float(row["below"]) == pytest.approx(expected, abs=1e-2)
    assert float(row["before_si_sdr"]) == 100 and float(row["before_lsd"]) == 0
    done = command("harm.py", tmp_path / "cache", *options)
    assert done.returncode == 1 and "holds no WAV or FLAC files" in done.stderr
    assert len(done.stderr.splitlines()) == 1

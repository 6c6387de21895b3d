"""Full scale: headroom, dither, and what is told of clipping."""

import math
import re

import numpy as np
import pytest
import soundfile
import torch
from helpers import load, save, tone

from apollo_plugin import audio
from apollo_plugin.cli import main
from apollo_plugin.errors import SettingError
from apollo_plugin.settings import Settings


def between_samples(n_samples: int = 30000) -> torch.Tensor:
    """A tone whose samples end at 0.95 and whose peaks lie at 1.34."""
    time = torch.arange(n_samples)
    wav = 0.95 * 2**0.5 * torch.sin(torch.pi * time / 2 + torch.pi / 4)
    return (wav * torch.hann_window(n_samples))[None]


def test_the_headroom_that_is_named_is_enough_and_the_least(run, tmp_path):
    for name, gain in (("a", 8), ("b", 12), ("c", 1)):
        save(tmp_path / "in" / f"{name}.wav", gain * tone(20000))
    options = [tmp_path / "in", "-o", tmp_path / "out", "--format", "FLAC", "--overwrite"]
    status, _, err = run(*options)
    assert status == 0 and err.count("\n") == 1 and "2 of 3 result(s)" in err
    named = float(re.search(r"--headroom ([\d.]+)", err)[1])
    before = [load(tmp_path / "out" / f"{name}_restored.flac")[0] for name in "abc"]
    assert run(*options, "--headroom", named)[2] == ""
    assert f"--headroom {named:g} would" in run(*options, "--headroom", named - 0.1)[2]
    assert run(*options, "--headroom", named)[0] == 0
    # All by one constant: c never clipped.
    after = load(tmp_path / "out" / "c_restored.flac")[0]
    torch.testing.assert_close(after, before[2] * 10 ** (-named / 20), atol=3e-7, rtol=0)


def test_peaks_between_samples_count(run, tmp_path):
    save(tmp_path / "a.wav", between_samples())
    _, _, err = run(tmp_path / "a.wav", "--mix", 0, "--subtype", "PCM_16")
    assert "0 samples were clipped" in err
    assert float(re.search(r"--headroom ([\d.]+)", err)[1]) == pytest.approx(2.6, abs=0.1)
    assert run(tmp_path / "a.wav", "--mix", 0, "--overwrite")[2] == ""  # floats


def test_dither_makes_noise_that_knows_nothing_of_the_sound(run, tmp_path):
    """TPDF: whatever lies between two steps, its mean is kept, and the variance is (1/12 + 1/6)
    steps^2; without it a small value is rounded away."""
    values = torch.linspace(-0.4, 0.4, 5) / 32768
    save(tmp_path / "a.wav", values[:, None].repeat(1, 60000))
    options = (tmp_path / "a.wav", "--mix", 0, "--subtype", "PCM_16", "--overwrite")
    assert run(*options)[0] == 0
    assert not load(tmp_path / "a_restored.wav")[0].any()
    assert run(*options, "--dither")[0] == 0
    first = (tmp_path / "a_restored.wav").read_bytes()
    steps = load(tmp_path / "a_restored.wav")[0].double() * 32768
    np.testing.assert_allclose(steps.mean(1), values * 32768, atol=0.01)
    np.testing.assert_allclose(steps.var(1), 0.25, rtol=0.03)
    correlations = np.corrcoef(steps[:, :-1], steps[:, 1:])
    assert np.abs(correlations - np.eye(10)).max() < 0.02
    assert run(*options, "--dither")[0] == 0
    assert (tmp_path / "a_restored.wav").read_bytes() == first


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
def test_integers_are_rounded_to_the_nearest(subtype, tmp_path):
    n_bits = int(subtype.strip("PCM_U"))
    wav = torch.linspace(-0.99, 0.99, 999)[None]
    audio.write(tmp_path / "a.wav", wav, 44100, "WAV", subtype)
    got = soundfile.read(tmp_path / "a.wav")[0]
    error = (got - wav[0].double().numpy()) * 2 ** (n_bits - 1)
    assert np.abs(error).max() <= 0.5
    assert n_bits > 24 or abs(error.mean()) < 0.02  # float32 has 24


def test_dither_at_full_scale_does_not_wrap(tmp_path):
    wav = torch.ones(1, 5000)
    audio.write(tmp_path / "a.flac", wav, 44100, "FLAC", "PCM_16", dither=True)
    assert soundfile.read(tmp_path / "a.flac")[0].min() > 0.99


@pytest.mark.parametrize(
    "options, words",
    [
        (["--headroom", "3"], "FLOAT cannot clip"),
        (["--headroom", "-1", "--format", "FLAC"], "between 0 and 60"),
        (["--headroom", "nan", "--format", "FLAC"], "between 0 and 60"),
        (["--dither"], "PCM_16, and this is FLOAT"),
        (["--dither", "--format", "FLAC"], "PCM_16, and this is PCM_24"),
    ],
)
def test_what_cannot_be_meant(options, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["a.wav", *options])
    assert caught.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, values, refused, words",
    [
        ("keep_below", [1e-9, 1e9], [0, -1, math.inf, math.nan], "keep-below {} Hz has to be pos"),
        ("mix", [0, 1], [-1e-9, 1.001, math.nan], "mix {} has to lie between 0 and 1"),
        (
            "rate",
            [1000, 1_000_000],
            [999, 1_000_001],
            "rate {} Hz has to lie between 1000 and 1000",
        ),
        ("headroom", [0, 60], [-0.1, 60.1], "headroom {} dB has to lie between 0 and 60"),
        ("format", ["FLAC", "MP3"], ["M4A", "flac"], "unknown format {}; known: WAV, FLAC, "),
        ("subtype", ["PCM_16"], ["FLOAT"], "FLAC has no subtype {}; it has PCM_S8, PCM_16, PCM_24"),
    ],
)
def test_bounds_of_settings(name, values, refused, words):
    for value in values:
        assert getattr(Settings(**{"format": "FLAC", name: value}), name) == value
    for value in refused:
        with pytest.raises(SettingError, match=re.escape(words.format(value))):
            Settings(**{"format": "FLAC", name: value})


def test_settings_say_the_same():
    with pytest.raises(SettingError, match="cannot clip"):
        Settings(headroom=1.0)
    assert Settings(format="FLAC", headroom=1.0).clips

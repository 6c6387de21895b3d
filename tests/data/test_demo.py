"""The synthesiser makes the same song for the same seed, with something in every stem."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import limited_files, load, needs_limits

from apollo_plugin.data import demo_sets
from apollo_plugin.data.demo import STEMS, mixture, song
from apollo_plugin.data.demo_sets import write_demo_sets
from apollo_plugin.errors import AudioError


def test_a_song():
    stems = song(6.0, seed=3)
    assert tuple(stems) == STEMS
    for name, stem in stems.items():
        assert stem.shape == (2, 6 * 44100) and stem.dtype == np.float32
        assert np.isfinite(stem).all() and np.abs(stem).max() > 0.01, name
    total = sum(stems.values())
    assert np.abs(total).max() == pytest.approx(0.8, abs=1e-3)
    np.testing.assert_array_equal(mixture(6.0, seed=3), total)


def test_seeds():
    np.testing.assert_array_equal(mixture(2.0, seed=5), mixture(2.0, seed=5))
    assert np.abs(mixture(2.0, seed=5) - mixture(2.0, seed=6)).max() > 0.1


# Per stem, of seeds whose stems rest at different times: energy left and right, its centre in s.
SONGS = {
    (79, 3200): dict(
        drums=(99.39064722, 99.39064722, 1.527997234),
        bass=(266.3599381, 266.3599381, 4.435429917),
        guitar=(34.3257182, 17.31493082, 4.516184005),
        piano=(29.31599697, 22.21931001, 1.588602496),
        vocals=(86.16901731, 86.16901731, 3.84957693),
    ),
    (17, 8000): dict(
        drums=(541.7366091, 541.7366091, 4.291838896),
        bass=(643.5954107, 643.5954107, 4.478434059),
        guitar=(61.31576683, 58.7307485, 3.656423723),
        piano=(82.02430082, 122.949887, 3.782714864),
        vocals=(90.37477421, 90.37477421, 4.224506389),
    ),
}


@pytest.mark.parametrize("seed, rate", SONGS)
def test_a_seed_gives_the_song_that_it_always_gave(seed, rate):
    """Results in notes and cards name demo songs by their seeds."""
    for name, stem in song(9.0, seed, rate).items():
        power = np.square(stem.astype(float))
        centre = power[0] @ np.arange(power.shape[1]) / power[0].sum() / rate
        expected = SONGS[seed, rate][name]
        assert [*power.sum(1), centre] == pytest.approx(expected, rel=2e-8), name


def test_the_spectrum_falls_like_music_and_reaches_the_top():
    power = np.abs(np.fft.rfft(mixture(6.0, seed=1)[0] * np.hanning(6 * 44100))) ** 2
    octaves = [10 * np.log10(power[6 * lo : 6 * 2 * lo].mean()) for lo in (500, 2000, 10000)]
    assert octaves == sorted(octaves, reverse=True)
    assert 20 < octaves[0] - octaves[2] < 70


def test_stems_rest():
    """Over a minute some stem is silent for a second while the song goes on."""
    stems = song(60.0, seed=2)
    quiet = [
        np.abs(stem[:, : 59 * 44100].reshape(2, 59, -1)).max((0, 2)) < 1e-3
        for stem in stems.values()
    ]
    assert any(rest.any() for rest in quiet) and not np.all(quiet, axis=0).any()


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
@pytest.mark.parametrize("seconds", [0.0, 1e-5, 0.37])
def test_short_songs_and_other_rates(seconds, rate):
    wav = mixture(seconds, sample_rate=rate)
    assert wav.shape == (2, max(1, round(seconds * rate))) and np.isfinite(wav).all()


def test_demo_sets(tmp_path, monkeypatch):
    """Names go round, none comes twice; every stem is what the synthesiser gives for the seed."""
    monkeypatch.setattr(demo_sets, "_RATE", 8000)
    sizes = dict(n_train=28, n_test=1, n_moises=4, seconds=0.05, seed=7)
    with ThreadPoolExecutor(1) as pool:
        assert write_demo_sets(tmp_path, pool, **sizes) == 33
        assert write_demo_sets(tmp_path, pool, **sizes) == 0
    train = tmp_path / "musdb18hq" / "train"
    assert len(list(train.iterdir())) == 28
    for name in (
        "The Oscillators - Rising Edge 1",
        "Nyquist - Rising Edge 9",
        'The Oscillators - Duty "Cycle" 10',
        "Nyquist - Größer 27",
        "The Oscillators - Rising Edge 28",
    ):
        assert (train / name / "mixture.wav").is_file()
    near = dict(atol=1 / 2**15)
    stems = song(0.05, 7 + 1, 8000)
    four = {name: stems[name] for name in ("vocals", "drums", "bass")}
    four |= dict(other=stems["guitar"] + stems["piano"], mixture=sum(stems.values()))
    for name, wav in four.items():
        written = load(train / "Ella Formant - Rising Edge 2" / f"{name}.wav")[0]
        np.testing.assert_allclose(written, wav, **near)
    for index, title, names in (
        (29, "Señor Seno: Rising Edge 30", "percussion other_plucked other_keys vocals"),
        (30, "Karplus & Strong: Rising Edge 31", "drums bass guitar vocals"),
        (31, "O'Noise: Rising Edge 32", "drums bass other_plucked other_keys vocals"),
        (32, "Additive Anna: Rising Edge 33", "percussion bass guitar vocals"),
    ):
        folder = tmp_path / "moisesdb" / "moisesdb_v0.1" / f"{0xA9011000 + index:08x}-demo"
        about = json.loads((folder / "data.json").read_text())
        assert f"{about['artist']}: {about['song']}" == title and about["genre"] == "synthetic"
        assert " ".join(stem["stemName"] for stem in about["stems"]) == names
        whole, other = song(0.05, 7 + index, 8000), song(0.04, 1007 + index, 8000)
        for stem in about["stems"]:
            for part, track in enumerate(stem["tracks"]):
                kind = track["trackType"]
                number = STEMS.index(kind)
                assert stem["id"] == f"{number}-stem"
                assert track["id"] == f"{number}{part}{index:06d}-track"
                wav = load(folder / stem["stemName"] / f"{track['id']}.wav")[0]
                np.testing.assert_allclose(wav, 0.5 * other[kind] if part else whole[kind], **near)
            assert len(stem["tracks"]) == 1 + (kind in ("vocals", "guitar"))
            assert track["extension"] == "wav" and track["has_bleed"] is False


@needs_limits
@pytest.mark.parametrize("layout", ["n_train", "n_moises"])
def test_a_full_disk_ends_stage_0_in_one_line(tmp_path, layout):
    sizes = dict(n_train=0, n_test=0, n_moises=0, seconds=1.0) | {layout: 1}
    with (
        limited_files(10000),
        ThreadPoolExecutor(1) as pool,
        pytest.raises(AudioError) as caught,
    ):
        write_demo_sets(tmp_path, pool, **sizes)
    assert os.strerror(errno.EFBIG) in str(caught.value) and "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

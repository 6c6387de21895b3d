"""The synthesiser makes the same song for the same seed, with something in every stem."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import limited_files, needs_limits

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

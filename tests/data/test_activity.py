"""Source activity detection against signals made by hand and a slow textbook version."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from apollo_plugin.data import activity, tracks
from apollo_plugin.data.activity import Detector, detect_all, window_energies
from apollo_plugin.data.tracks import Song, Stem
from apollo_plugin.errors import DataError


def stem(path, wav, rate=44100):
    soundfile.write(path, np.atleast_2d(wav).T, rate, subtype="FLOAT")
    return Stem((str(path),), np.atleast_2d(wav).shape[1] / rate, rate)


def noise(seconds, level=0.1, rate=44100, n_channels=2, seed=0):
    random = np.random.default_rng(seed)
    return level * random.standard_normal((n_channels, round(seconds * rate)))


def textbook(wav, rate, segment=6.0, hop=3.0):
    """One window after the other; 44.1 kHz stereo, whole windows and segments only."""
    size = rate // 100
    energies = [np.sum(wav[:, i : i + size] ** 2) for i in range(0, wav.shape[1], size)]
    threshold = max(np.quantile(energies, 0.15), 1e-3)
    active = [energy > threshold for energy in energies]
    starts, n = [], round(100 * segment)
    for first in range(0, len(active) - n + 1, round(100 * hop)):
        if sum(active[first : first + n]) > n / 2:
            starts.append(first / 100)
    return energies, starts


def test_against_the_textbook(tmp_path):
    parts = [noise(4), 0 * noise(7), noise(9, 0.01), 0 * noise(3), noise(1), 0 * noise(9)]
    parts += [noise(6, 0.001), noise(6, 0.5)]
    wav = np.concatenate(parts, 1)
    assert wav.shape[1] % (3 * 44100) == 0
    energies, starts = textbook(wav.astype(np.float32), 44100)
    found = stem(tmp_path / "a.wav", wav)
    np.testing.assert_allclose(window_energies(found), energies, rtol=1e-4, atol=1e-9)
    assert Detector()(found) == starts and 3 <= len(starts) < 14


def test_sound_between_silences(tmp_path):
    wav = np.concatenate([0 * noise(9), noise(6), 0 * noise(9)], 1)
    # More than half of a segment has to sound: half of it is not enough.
    assert Detector()(stem(tmp_path / "a.wav", wav)) == [9.0]


def test_blocks_are_whole_windows_and_half_of_a_segment_is_too_little():
    detector = Detector(segment=1.0, hop=0.5)
    energies = np.repeat([1.0, 0.0, 1.0], [50, 100, 51])
    assert detector.starts(energies, 2.01) == [pytest.approx(1.01)]
    energies[50] = 1.0
    assert detector.starts(energies, 2.01) == [0.0, pytest.approx(1.01)]
    # The floor itself is no sound, nor is what lies below the song's own quantile.
    assert detector.starts(np.full(100, 1e-3), 1.0) == []
    assert detector.starts(np.full(100, 1.001e-3), 1.0) == [0.0]


def test_the_end_counts(tmp_path):
    found = Detector()(stem(tmp_path / "a.wav", noise(10.5)))
    assert found == [0.0, 3.0, 4.5]


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_any_rate_and_mono(tmp_path, rate, n_channels):
    parts = [noise(6, rate=rate), 0 * noise(12, rate=rate), noise(12, 0.003, rate=rate)]
    wav = np.concatenate(parts, 1)[:n_channels]
    assert Detector()(stem(tmp_path / "a.wav", wav, rate)) == [0.0, 18.0, 21.0, 24.0]


def test_the_floor_is_59_db_below_full_scale(tmp_path):
    for decibel, expected in ((-58, [0.0]), (-60, [])):
        level = 10 ** (decibel / 20)
        wav = np.tile([level, -level], 6 * 22050)[None].repeat(2, 0)
        assert Detector()(stem(tmp_path / "a.wav", wav)) == expected


def test_a_steady_tone_is_active(tmp_path):
    wav = 0.3 * np.sin(2 * np.pi * 100 * np.arange(9 * 44100) / 44100)
    assert Detector()(stem(tmp_path / "a.wav", wav)) == [0.0, 3.0]


def test_short_and_silent_stems(tmp_path):
    assert Detector()(stem(tmp_path / "a.wav", noise(2))) == [0.0]
    assert Detector()(stem(tmp_path / "b.wav", 0 * noise(20))) == []
    # A file of one sample has one window.
    assert len(window_energies(stem(tmp_path / "c.wav", np.ones((1, 1))))) == 1
    assert Detector()(stem(tmp_path / "c.wav", np.ones((1, 1)))) == [0.0]


def test_energies_do_not_depend_on_blocks(tmp_path, monkeypatch):
    found = stem(tmp_path / "a.wav", noise(23.456, rate=22050), 22050)
    expected = window_energies(found)
    assert len(expected) == 2346
    monkeypatch.setattr(activity, "_BLOCK", 1)
    np.testing.assert_allclose(window_energies(found), expected, rtol=1e-6, atol=1e-12)


# ------------------------------------------------------------------------------------------- stage


@pytest.fixture
def split(tmp_path):
    songs = []
    for i in range(3):
        path = tmp_path / f"song {i}.wav"
        stems = {"drums": stem(path, noise(7, seed=i))}
        songs.append(Song(f"moisesdb/{i}", "A", "T", stems))
    songs[1].stems["bass"] = stem(tmp_path / "silent.wav", 0 * noise(7))
    tracks.save(songs, tmp_path / "tracks.json")
    return tmp_path


def detect(root, **options):
    with ThreadPoolExecutor(2) as pool:
        return detect_all(root, Detector(**options), pool)


def starts(root):
    return json.loads((root / "segments.json").read_text())["starts"]


def test_second_run_searches_nothing_and_finds_the_same(split):
    assert detect(split) == (6, 3, 0, ["'moisesdb/1': bass is silent"])
    first = (split / "segments.json").read_bytes()
    assert detect(split) == (6, 0, 0, ["'moisesdb/1': bass is silent"])
    assert (split / "segments.json").read_bytes() == first
    assert starts(split)["moisesdb/1"] == {"drums": [0.0, 1.0], "bass": []}


def test_killed_and_run_again(split, monkeypatch):
    real, calls = activity._detect_song, []

    def killed(song, **kwargs):
        calls.append(song.id)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(song, **kwargs)

    monkeypatch.setattr(activity, "_detect_song", killed)
    with pytest.raises(KeyboardInterrupt), ThreadPoolExecutor(1) as pool:
        detect_all(split, Detector(), pool)
    assert not (split / "segments.json").exists()
    monkeypatch.undo()
    n_segments, n_new, *_ = detect(split)
    assert n_segments == 6 and 1 <= n_new <= 2


def test_a_changed_file_or_setting_is_searched_again(split):
    detect(split)
    stem(split / "song 0.wav", 0 * noise(8))
    n_segments, n_new, *_ = detect(split)
    assert (n_segments, n_new) == (4, 1)
    assert detect(split, hop=0.5)[1] == 3


def test_a_broken_song_is_left_out_and_named(split):
    (split / "song 2.wav").write_bytes(b"RIFF")
    n_segments, _, n_left_out, notes = detect(split)
    assert (
        n_segments == 4 and n_left_out == 1 and set(starts(split)) == {"moisesdb/0", "moisesdb/1"}
    )
    assert any("song 2.wav" in n and "'moisesdb/2' left out" in n for n in notes)
    os.remove(split / "song 2.wav")
    assert any("No such file" in n and "song 2.wav" in n for n in detect(split)[3])


def test_damaged_cache_is_made_again(split):
    detect(split)
    for path, damage in zip(sorted((split / "activity").iterdir()), ('{"key": "', "[]", "{}")):
        path.write_text(damage)
    assert detect(split)[:2] == (6, 3)


def test_a_defect_is_no_song_that_is_left_out(split, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(activity, "_detect_song", broken)
    with pytest.raises(ZeroDivisionError):
        detect(split)


def test_stage_1_has_not_run(tmp_path):
    with pytest.raises(DataError, match="run stage 1 first"):
        detect(tmp_path)


def test_a_full_disk_stops_the_stage(split, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(activity, "write_json", full)
    with pytest.raises(DataError, match=r"song 'moisesdb/\d': No space"):
        detect(split)


def test_from_another_folder(split, monkeypatch):
    """A cluster's workers stand elsewhere: what they are given is absolute."""
    given = []
    real = activity._detect_song
    monkeypatch.setattr(
        activity,
        "_detect_song",
        lambda song, root, **k: given.append(root) or real(song, root, **k),
    )
    monkeypatch.chdir(split)
    detect(".")
    assert given and all(root.is_absolute() for root in given)

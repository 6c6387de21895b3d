"""Mixes: what is drawn, and how it sounds, against sums done by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from helpers import snr

from apollo_plugin.audio import AudioError
from apollo_plugin.data import tracks
from apollo_plugin.data.codecs import mp3
from apollo_plugin.data.mixing import KINDS, Library, Mix, Part, coded_pair, draw_stems, tilted
from apollo_plugin.errors import DataError


@pytest.fixture
def library(prepared):
    return Library(prepared / "train")


def render(library, mix, sample_rate):
    """The coded mix and the original."""
    return coded_pair(library, library.sum(mix, sample_rate), mix, sample_rate)


def draws(n, *args, **kwargs):
    return [draw_stems(np.random.default_rng(i), *args, **kwargs) for i in range(n)]


def test_kinds_of_table_ii():
    stems = tracks.STEMS
    assert {tuple(d) for d in draws(20, stems, "vocals")} == {("vocals",)}
    single = draws(300, stems, "single_stem")
    assert {len(d) for d in single} == {1}
    assert {d[0] for d in single} == set(stems) - {"vocals"}
    several = draws(300, stems, "multi_stems")
    assert {len(d) for d in several} == set(range(2, 9)) and not any("vocals" in d for d in several)
    both = draws(300, stems, "multi_stems_vocals")
    assert {len(d) for d in both} == set(range(2, 9)) and all("vocals" in d for d in both)
    free = draws(600, stems, None)
    assert {len(d) for d in free} == set(range(1, 9))
    assert all(len(set(d)) == len(d) for d in single + several + both + free)
    # Every stem has an equal chance.
    counts = [sum(name in d for d in free) for name in stems]
    assert max(counts) < 1.4 * min(counts)


@pytest.mark.parametrize(
    "present, kind, possible",
    [
        (["vocals"], "vocals", True),
        (["vocals"], "single_stem", False),
        (["drums"], "multi_stems", False),
        (["drums"], "vocals", False),
        (["drums"], "multi_stems_vocals", False),
        (["drums", "vocals"], "multi_stems_vocals", True),
        ([], None, False),
        (["bass"], None, True),
    ],
)
def test_what_a_split_has_no_stems_for(present, kind, possible):
    assert bool(draw_stems(np.random.default_rng(0), present, kind)) == possible


def test_unknown_kind():
    with pytest.raises(ValueError, match="unknown kind 'choir'; known: vocals"):
        draw_stems(np.random.default_rng(0), ["vocals"], "choir")


def test_stems_come_from_different_songs_and_active_segments(library):
    for seed in range(50):
        random = np.random.default_rng(seed)
        mix = library.draw(random, library.stems[:3], 3.0, 64)
        assert len({part.song for part in mix.parts}) == len(mix.parts)
        for part in mix.parts:
            starts = library.starts[part.stem][part.song]
            assert any(start <= part.start <= start + 3 for start in starts)
            assert -10 <= part.gain_db <= 10


def test_parts_begin_anywhere_in_a_segment(library):
    """As long as they end in it, or with the stem; gains are anywhere in their range."""
    song = next(song for song in library.songs if "drums" in library.songs[song].stems)
    library.starts["drums"] = {song: [1.5]}
    library.segment = 4.0  # of 7 s
    for start, end in ((1.5, 5.5), (4.0, 7.0)):
        library.starts["drums"][song] = [start]
        found = [library.draw(np.random.default_rng(i), ["drums"], 2.5, 64) for i in range(100)]
        firsts, gains = zip(*((m.parts[0].start, m.parts[0].gain_db) for m in found))
        room = end - 2.5 - start
        assert start <= min(firsts) < start + 0.1 * room
        assert end - 2.5 - 0.1 * room < max(firsts) <= end - 2.5
        assert -10 <= min(gains) < -9 and 9 < max(gains) <= 10
    late = library.draw(np.random.default_rng(0), ["drums"], 3.0, 64)
    assert late.parts[0].start == 4.0 and (late.seconds, late.kbps, late.codec) == (3.0, 64, "mp3")


def test_amounts_are_the_segments_of_the_stem_that_has_most(library):
    first, second = list(library.songs)[:2]
    library.stems = ["drums", "bass"]
    library.starts["drums"] = {first: [0.0, 1.0, 2.0]}
    library.starts["bass"] = {first: [0.0], second: [0.0, 3.0]}
    library.starts["song"] = {second: [0.0, 1.0, 2.0, 3.0]}
    assert (library._amount("stems"), library._amount("song")) == (3 + 2, 4)


def test_more_stems_than_songs_take_songs_twice(library):
    mix = library.draw(np.random.default_rng(0), library.stems, 3.0, 64)
    assert [part.stem for part in mix.parts] == library.stems
    used = [part.song for part in mix.parts]
    assert len(used) > len(set(used)) > 1


def test_stems_shorter_than_a_segment_are_heard(library, tmp_path):
    soundfile.write(tmp_path / "short.wav", np.full((8820, 2), 0.5), 44100)
    name = next(iter(library.songs))
    short = tracks.Stem((str(tmp_path / "short.wav"),), 0.2, 44100)
    library.songs[name] = replace(library.songs[name], stems={"wind": short})
    library.starts["wind"] = {name: [0.0]}
    for seed in range(20):
        mix = library.draw(np.random.default_rng(seed), ["wind"], 3.0, 64)
        assert render(library, mix, 44100)[1].abs().max() > 0.5


def test_a_song_as_it_is(library):
    mix = library.draw_song(np.random.default_rng(3), 2.0, 48)
    song = library.songs[mix.parts[0].song]
    assert {p.stem for p in mix.parts} == set(song.stems) and len({p.start for p in mix.parts}) == 1
    assert {p.gain_db for p in mix.parts} == {0.0}
    _, original = render(library, mix, 44100)
    expected = sum(stem.read(mix.parts[0].start, 2.0) for stem in song.stems.values())
    expected /= max(1, np.abs(expected).max())
    scale = (original.numpy() * expected).sum() / (expected**2).sum()
    np.testing.assert_allclose(original.numpy(), scale * expected, atol=1e-5)


def test_rendering_is_the_sum_coded_then_scaled(library):
    name, other = list(library.songs)[:2]
    parts = (Part(name, "drums", 0.5, -6.0), Part(other, "bass", 1.0, 3.0))
    mix = Mix(tuple(p for p in parts if p.stem in library.songs[p.song].stems), 32, 1.0)
    coded, original = render(library, mix, 44100)
    expected = sum(
        10 ** (p.gain_db / 20)
        * torch.from_numpy(library.songs[p.song].stems[p.stem].read(p.start, 1.0))
        for p in mix.parts
    )
    expected = expected / max(1, expected.abs().max())
    by_hand = mp3(expected, 44100, 32)
    peak = max(expected.abs().max(), by_hand.abs().max())
    assert snr(original, expected / peak) > 100 and snr(coded, by_hand / peak) > 100
    assert max(original.abs().max(), coded.abs().max()) == pytest.approx(1)


@pytest.mark.parametrize("tilt_db", [-3.0, 2.0])
def test_tilt_is_in_db_an_octave(library, tilt_db):
    time = np.arange(44100) / 44100
    for hertz, octaves in ((50, 0), (100, 0), (400, 2), (3200, 5), (12800, 7)):
        tone = np.sin(2 * np.pi * hertz * time)[None].astype(np.float32)
        got = tilted(tone, tilt_db, 44100)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, 10 ** (tilt_db * octaves / 20) * tone, atol=1e-4)
    mix = library.draw(np.random.default_rng(3), library.stems, 1.0, 128)
    _, plain = render(library, mix, 44100)
    _, coloured = render(library, replace(mix, tilt_db=tilt_db), 44100)
    expected = tilted(plain.numpy(), tilt_db, 44100)
    expected = torch.from_numpy(expected / np.abs(expected).max())
    assert snr(coloured / coloured.abs().max(), expected) > 60


@pytest.mark.parametrize("n_samples", [1, 2, 7])
def test_tilt_of_next_to_nothing(n_samples):
    wav = np.zeros((2, n_samples), np.float32)
    assert not tilted(wav, 3.0, 44100).any() and tilted(wav, 3.0, 44100).shape == wav.shape


def test_loud_sums_do_not_clip(library):
    name = next(iter(library.songs))
    stem = next(iter(library.songs[name].stems))
    loud = Mix((Part(name, stem, 0.0, 60.0),), 128, 1.0)
    coded, original = render(library, loud, 44100)
    wav = torch.from_numpy(library.songs[name].stems[stem].read(0.0, 1.0))
    assert snr(original, wav / wav.abs().max() * original.abs().max()) > 90
    assert snr(coded, original) > 10


def test_full_scale_and_less_keep_their_level(library, monkeypatch):
    """Only what exceeds it is divided."""
    name = next(iter(library.songs))
    part = Part(name, next(iter(library.songs[name].stems)), 0.0, 0.0)
    for peak, wanted in ((0.5, 0.5), (1.5, 1.0)):
        wav = np.zeros((2, 4410), np.float32)
        wav[1, 100] = -peak
        monkeypatch.setattr(tracks.Stem, "read", lambda *_, wav=wav: wav)
        assert np.abs(library.sum(Mix((part,), 64, 0.1), 44100)).max() == wanted
        # Pairs stay what they are.
        pair = Mix((part,), 0, 0.1, "as coded")
        assert np.abs(library.sum(pair, 44100)).max() == peak


def test_silence_stays_silence(library, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros((44100, 2)), 44100)
    name = next(iter(library.songs))
    silent = tracks.Stem((str(tmp_path / "silent.wav"),), 1.0, 44100)
    library.songs[name] = replace(library.songs[name], stems={"drums": silent})
    coded, original = render(library, Mix((Part(name, "drums", 0.0, 0.0),), 24, 0.5), 44100)
    assert not original.any() and torch.isfinite(coded).all() and coded.abs().max() < 1e-4


# --------------------------------------------------------------------------------------- bad input


def test_stages_that_have_not_run(prepared, tmp_path):
    with pytest.raises(DataError, match="run stage 1 first"):
        Library(tmp_path)
    (tmp_path / "tracks.json").write_bytes((prepared / "train" / "tracks.json").read_bytes())
    with pytest.raises(DataError, match="run stage 2 first"):
        Library(tmp_path)


@pytest.mark.parametrize(
    "starts, error, reason",
    [
        ({}, AudioError, "lists no active segments"),
        (
            {"moisesdb/other": {"drums": [0.0]}},
            DataError,
            "json' is damaged: song 'moisesdb/other' is not in tracks.json; run stage 2 again",
        ),
        (None, DataError, "segments.json' is damaged: .*run stage 2 again"),
    ],
)
def test_segments_that_are_empty_or_of_other_songs(prepared, tmp_path, starts, error, reason):
    (tmp_path / "tracks.json").write_bytes((prepared / "train" / "tracks.json").read_bytes())
    (tmp_path / "segments.json").write_text(
        json.dumps({"segment": 6.0, "starts": starts, "keys": {}})
    )
    with pytest.raises(error, match=reason):
        Library(tmp_path)


def test_all_stems_silent(prepared, tmp_path):
    (tmp_path / "tracks.json").write_bytes((prepared / "train" / "tracks.json").read_bytes())
    found = json.loads((prepared / "train" / "segments.json").read_text())
    found["starts"] = {
        song: {stem: [] for stem in stems} for song, stems in found["starts"].items()
    }
    (tmp_path / "segments.json").write_text(json.dumps(found))
    with pytest.raises(AudioError, match="all of them silent"):
        Library(tmp_path)


def test_the_four_kinds_are_the_paper_s():
    assert len(KINDS) == 4

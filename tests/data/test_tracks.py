"""Layouts of both data sets, reading of stems, splits, and what is wrong with a data set."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from helpers import tone

from apollo_plugin.audio import AudioError, resample
from apollo_plugin.data import tracks
from apollo_plugin.data.dataset import PairDataset
from apollo_plugin.data.mixing import Library
from apollo_plugin.data.splits import MUSDB_VALIDATION, SPLITS, save_splits, split
from apollo_plugin.data.tracks import Song, Stem, moisesdb, musdb18hq
from apollo_plugin.errors import DataError


def write(path, wav, rate=44100, subtype="FLOAT"):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.asarray(wav).T, rate, subtype=subtype)
    return path


def moises_song(root, name, stems, artist="Somebody"):
    """``stems``: name -> list of arrays."""
    folder = root / "moisesdb_v0.1" / name
    listed = []
    for stem, sources in stems.items():
        for i, wav in enumerate(sources):
            write(folder / stem / f"{stem}{i}.wav", wav)
        listed.append(
            {
                "stemName": stem,
                "tracks": [{"id": f"{stem}{i}", "extension": "wav"} for i in range(len(sources))],
            }
        )
    (folder / "data.json").write_text(
        json.dumps({"song": name, "artist": artist, "genre": "x", "stems": listed})
    )
    return folder


# ----------------------------------------------------------------------------------------- layouts


def test_both_layouts(demo_sets):
    problems = []
    songs = musdb18hq(demo_sets / "musdb18hq", problems)
    assert [song.id.split("/")[1] for song in songs] == ["train"] * 3 + ["test"] * 2
    assert all(set(song.stems) == {"vocals", "drums", "bass", "other"} for song in songs)
    moises = moisesdb(demo_sets / "moisesdb", problems)
    assert len(moises) == 5 and not problems
    assert all(set(song.stems) <= set(tracks.STEMS) for song in moises)
    assert moisesdb(demo_sets / "moisesdb" / "moisesdb_v0.1", problems) == moises
    # The third song's artist and title hold quotes and letters beyond ASCII.
    assert any("ñ" in song.artist for song in songs)


def test_the_eleven_stems_of_the_paper():
    assert len(tracks.STEMS) == 11 == len(set(tracks.STEMS))


def test_a_stem_is_the_sum_of_its_sources(tmp_path):
    a, b = tone(44100).numpy(), tone(30000).numpy()
    moises_song(tmp_path, "one", {"guitar": [a, b]})
    (song,) = moisesdb(tmp_path, [])
    expected = a.copy()
    expected[:, :30000] += b
    stem = song.stems["guitar"]
    assert stem.seconds == 1.0 and len(stem.files) == 2
    np.testing.assert_allclose(stem.read(0, 1), expected, atol=1e-7)
    np.testing.assert_allclose(stem.read(0.5, 0.25), expected[:, 22050:33075], atol=1e-7)
    # Beyond the end there is silence.
    beyond = stem.read(0.9, 0.3)
    assert beyond.shape == (2, 13230)
    np.testing.assert_allclose(beyond[:, :4410], expected[:, 39690:], atol=1e-7)
    assert not beyond[:, 4410:].any() and not stem.read(5, 1).any()


def test_sources_of_another_rate_and_mono(tmp_path):
    wav = tone(48000, 1, 48000)
    path = write(tmp_path / "a.wav", wav.numpy(), 48000)
    stem = Stem((str(path),), 1.0, 48000)
    whole = resample(wav, 48000, 44100)
    part = stem.read(0.25, 0.5)
    assert part.shape == (2, 22050)
    np.testing.assert_array_equal(part[0], part[1])
    # Resampled with what is around it, as if the whole file had been.
    np.testing.assert_allclose(part[:1], whole[:, 11025:33075], atol=2e-5)
    assert np.abs(stem.read(0, 1)[:1] - whole).max() < 2e-5


def test_tracks_json_keeps_everything(demo_sets, tmp_path):
    songs = musdb18hq(demo_sets / "musdb18hq", [])
    tracks.save(songs, tmp_path / "deep" / "tracks.json")
    assert tracks.load(tmp_path / "deep" / "tracks.json") == songs


@pytest.mark.needs("ffmpeg", "ffprobe")
def test_musdb_objects_are_taken(demo_sets):
    import musdb

    db = musdb.DB(str(demo_sets / "musdb18hq"), is_wav=True)
    by_id = lambda songs: {song.id: song for song in songs}  # noqa: E731
    assert by_id(musdb18hq(db, [])) == by_id(musdb18hq(demo_sets / "musdb18hq", []))
    db.is_wav = False
    with pytest.raises(AudioError, match="is_wav=True"):
        musdb18hq(db, [])


# ------------------------------------------------------------------------------------------ splits


def song(id, artist="A"):
    return Song(id, artist, "T", {"drums": Stem(("x.wav",), 1.0, 44100)})


def test_splits_of_both_sets():
    musdb = [song(f"musdb18hq/train/M{i} - T", f"M{i}") for i in range(86)]
    musdb += [song(f"musdb18hq/train/{name}", name.split(" - ")[0]) for name in LISTED]
    musdb += [song(f"musdb18hq/test/T{i} - T", f"T{i}") for i in range(50)]
    moises = [song(f"moisesdb/{i:03d}", f"B{i // 3}") for i in range(240)]
    # These artists are in MUSDB18-HQ too: of its test, validation and training songs.
    moises[0] = replace(moises[0], artist="t7")
    moises[3] = replace(moises[3], artist="  Leaf ")
    moises[6] = replace(moises[6], artist="M5")
    splits = split(musdb + moises)
    names = {key: {s.id for s in members} for key, members in splits.items()}
    assert sum(map(len, splits.values())) == 390 == len(set.union(*names.values()))
    for key, expected in (("train", 86), ("valid", 14), ("test", 50)):
        assert sum(n.startswith("musdb18hq/") for n in names[key]) == expected
    assert not any(n.startswith("musdb18hq/test/") for n in names["train"] | names["valid"])
    assert {f"musdb18hq/train/{name}" for name in LISTED} <= names["valid"]
    artists = {
        key: {" ".join(s.artist.casefold().split()) for s in members if "moises" in s.id}
        for key, members in splits.items()
    }
    assert not artists["train"] & artists["test"] and not artists["train"] & artists["valid"]
    assert not artists["valid"] & artists["test"]
    assert moises[0].id in names["test"] and moises[3].id in names["valid"]
    assert moises[6].id in names["train"]
    assert 24 <= sum("moises" in n for n in names["valid"]) <= 30
    assert 36 <= sum("moises" in n for n in names["test"]) <= 42


LISTED = MUSDB_VALIDATION


def test_the_validation_songs_are_those_of_musdb():
    """The list is compared with the text of musdb's own, without importing what needs ffmpeg."""
    from importlib.util import find_spec

    folder = find_spec("musdb").submodule_search_locations[0]
    with open(os.path.join(folder, "configs", "mus.yaml")) as file:
        listed = re.findall(r"^- '(.*)'$", file.read().split("validation_tracks:")[1], re.M)
    assert sorted(listed) == sorted(LISTED)


def test_splits_do_not_depend_on_order_but_on_the_seed():
    songs = [song(f"moisesdb/{i:03d}", f"B{i}") for i in range(40)]
    assert split(songs) == split(songs[::-1])
    assert split(songs, seed=1) != split(songs, seed=2)


@pytest.mark.parametrize("n_songs", [0, 1, 2, 3])
def test_few_songs(n_songs):
    splits = split([song(f"moisesdb/{i}", f"B{i}") for i in range(n_songs)])
    assert len(splits["train"]) == min(1, n_songs) + (n_songs == 3) * (len(splits["test"]) == 0)
    assert len(splits["valid"]) == (n_songs > 1)


@pytest.mark.parametrize(
    "dataset, n_songs, sizes",
    [
        # 15 % for test, 10 % for validation, rounded, at least one of each where there are three.
        ("moisesdb", 40, (30, 4, 6)),
        ("songs", 10, (7, 1, 2)),
        ("pairs", 3, (1, 1, 1)),
        ("pairs", 2, (1, 1, 0)),
        ("songs", 16, (12, 2, 2)),
        # Test songs are its own.
        ("musdb18hq/train", 20, (18, 2, 0)),
        ("musdb18hq/train", 1, (1, 0, 0)),
    ],
)
def test_sizes_of_splits(dataset, n_songs, sizes):
    songs = [song(f"{dataset}/{i} - T", f"B{i}") for i in range(n_songs)]
    assert tuple(map(len, split(songs).values())) == sizes
    # Four songs of an artist stay together: one artist less for each split.
    fours = [song(f"{dataset}/{i:02d}", f"B{i // 4}") for i in range(4 * n_songs)]
    for members in split(fours).values():
        assert len(members) % 4 == 0
    if dataset == "moisesdb":
        assert tuple(map(len, split(fours).values())) == (160 - 24 - 16, 16, 24)


def test_lists_of_old_and_new_splits_are_never_there_together(tmp_path, monkeypatch):
    songs = [song(f"moisesdb/{i:03d}", f"B{i}") for i in range(20)]
    first, second = split(songs, seed=1), split(songs, seed=2)
    save_splits(first, tmp_path)
    for name in SPLITS:
        (tmp_path / name / "pairs.json").touch()
    save_splits(first, tmp_path)
    assert (tmp_path / "test" / "pairs.json").exists()

    real = tracks.write_json

    def killed(path, value):
        if "valid" in str(path):
            raise KeyboardInterrupt
        real(path, value)

    monkeypatch.setattr(tracks, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        save_splits(second, tmp_path)
    assert [p.parent.name for p in tmp_path.rglob("*.json")] == ["train"]


# --------------------------------------------------------------------------------------- bad input


@pytest.fixture
def musdb(tmp_path):
    root = tmp_path / "mus db"
    for subset, name in (("train", "A - 'One' \"x\""), ("train", "Ü - Zwei"), ("test", "C - 3")):
        for stem in ("vocals", "drums", "bass", "other"):
            write(root / subset / name / f"{stem}.wav", tone(1000))
    return root


def test_names_with_quotes_and_letters(musdb):
    problems = []
    songs = musdb18hq(musdb, problems)
    assert not problems and {s.artist for s in songs} == {"A", "Ü", "C"}
    assert all(s.stems["bass"].read(0, 0.01).any() for s in songs)


def test_8_khz_are_enough(musdb):
    write(musdb / "test" / "C - 3" / "bass.wav", np.zeros((2, 100)), 8000)
    problems = []
    assert len(musdb18hq(musdb, problems)) == 3 and not problems


def test_a_name_that_is_no_text(musdb):
    os.rename(musdb / "test" / "C - 3", os.fsencode(musdb / "test") + b"/\xff - 3")
    songs = musdb18hq(musdb, [])
    tracks.save(songs, musdb / "tracks.json")
    (loaded,) = [s for s in tracks.load(musdb / "tracks.json") if "test" in s.id]
    assert loaded.stems["bass"].read(0, 0.01).any()


def remove(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:-2000])


def text(path):
    path.write_text("this is no sound " * 9)


def no_samples(path):
    write(path, np.zeros((2, 0)))


def six_channels(path):
    write(path, np.zeros((6, 100)))


def three_channels(path):
    write(path, np.zeros((3, 100)))


def slow(path):
    write(path, np.zeros((2, 100)), 7999)


def folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "harm, reason",
    [
        (remove, "No such file"),
        (empty, "is empty"),
        (cut, "truncated"),
        (text, "is no audio file"),
        (no_samples, "no samples"),
        (six_channels, "has 6 channels, not one or two; song left out"),
        (three_channels, "has 3 channels"),
        (slow, "has a sample rate of 7999 Hz, less than 8000; song left out"),
        (folder, "directory"),
    ],
)
def test_one_broken_song_is_named_and_left_out(musdb, harm, reason):
    path = musdb / "train" / "Ü - Zwei" / "bass.wav"
    harm(path)
    problems = []
    songs = musdb18hq(musdb, problems)
    assert len(songs) == 2
    (line,) = problems
    assert str(path) in line and reason in line and line.endswith("song left out")


@pytest.mark.parametrize("reader", [musdb18hq, moisesdb])
def test_a_folder_that_is_no_data_set(tmp_path, reader):
    for root in (tmp_path, tmp_path / "misspelt"):
        with pytest.raises(AudioError, match=re.escape(f"'{root}' holds no ")):
            reader(root, [])


@pytest.mark.parametrize(
    "about, reason",
    [
        ("{", "Expecting"),
        ("[]", "indices"),
        ('{"song": "a", "artist": "b"}', "no 'stems'"),
        ('{"song": "a", "artist": "b", "stems": [{"stemName": "kazoo"}]}', "unknown stem 'kazoo'"),
        ('{"song": "a", "artist": "b", "stems": [{"stemName": "bass"}]}', "no 'tracks'"),
        ('{"song": "a", "artist": "b", "stems": []}', "has no stems"),
        ("[" * 100000, "recursion"),
        (
            '{"song": "a", "artist": "b", "stems": [{"stemName": "bass", "tracks": '
            '[{"id": "../../x", "extension": "wav"}]}]}',
            "is not a file name",
        ),
        (
            '{"song": "a", "artist": "b", "stems": [{"stemName": "bass", "tracks": '
            '[{"id": "\\u0000", "extension": "wav"}]}]}',
            "is not a file name",
        ),
        (
            '{"song": "a", "artist": "b", "stems": [{"stemName": "bass", "tracks": '
            '[{"id": "gone", "extension": "wav"}]}]}',
            "bass/gone.wav' cannot be read: No such file",
        ),
    ],
)
def test_data_json_that_is_wrong(tmp_path, about, reason):
    moises_song(tmp_path, "good", {"bass": [tone(500)]})
    bad = moises_song(tmp_path, "bad", {"bass": [tone(500)]})
    (bad / "data.json").write_text(about)
    problems = []
    assert [s.id for s in moisesdb(tmp_path, problems)] == ["moisesdb/good"]
    (line,) = problems
    assert reason in line and "bad" in line and line.endswith("song left out")


def test_stage_files_that_are_missing_or_damaged(tmp_path):
    with pytest.raises(DataError, match=r"tracks.json'.*run stage 1 first"):
        tracks.load(tmp_path / "tracks.json")
    (tmp_path / "tracks.json").write_text('[{"id":')
    with pytest.raises(DataError, match="damaged.*run stage 1 again"):
        tracks.load(tmp_path / "tracks.json")


@pytest.mark.parametrize(
    "name, text",
    [
        *(("tracks", text) for text in ("5", "null", "[{}]", '["song"]', "[[]]")),
        ("tracks", '[{"id": "a", "artist": "b", "title": "c", "stems": {"song": {"files": 5}}}]'),
        *(("pairs", text) for text in ("5", '["a"]', '["a/vocals/0"]', "[1]")),
        *(("segments", text) for text in ("5", "{}", '{"segment": "long"}', "[]")),
        ("segments", '{"segment": 6, "keys": {"a": ""}, "starts": {"b": {"song": [0]}}}'),
        ("segments", '{"segment": 6, "keys": {"a": ""}, "starts": {"a": {"bass": [0]}}}'),
        ("segments", '{"segment": 6, "keys": {"a": ""}, "starts": {"a": {"song": ["x"]}}}'),
        ("segments", '{"segment": 6, "keys": {"a": ""}, "starts": {"a": {"song": 5}}}'),
    ],
)
def test_stage_files_in_another_layout(tmp_path, name, text):
    """As an editor or another version leaves them."""
    tracks.save([Song("a", "b", "c", {"song": Stem(("x",), 9.0, 8000)})], tmp_path / "tracks.json")
    (tmp_path / f"{name}.json").write_text(text)
    loaders = dict(tracks=tracks.load, pairs=lambda _: PairDataset(tmp_path))
    stage = dict(tracks=1, segments=2, pairs=3)[name]
    with pytest.raises(DataError, match=rf"{name}.json' is damaged: .+; run stage {stage} again"):
        loaders.get(name, lambda _: Library(tmp_path))(tmp_path / f"{name}.json")


def test_a_file_that_goes_after_indexing(tmp_path):
    moises_song(tmp_path, "one", {"bass": [tone(500)]})
    (found,) = moisesdb(tmp_path, [])
    file = found.stems["bass"].files[0]
    write(tmp_path / "nan.wav", np.full((1, 100), np.nan))
    with pytest.raises(AudioError, match="NaN"):
        Stem((str(tmp_path / "nan.wav"),), 1.0, 44100).read(0, 1)
    os.remove(file)
    with pytest.raises(AudioError, match=re.escape(f"'{file}' cannot be read")):
        found.stems["bass"].read(0, 1)

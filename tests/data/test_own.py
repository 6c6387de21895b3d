"""One's own songs and pairs: found, compared, divided, drawn; what does not fit gets a line."""

import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch
from helpers import chirps, encoded, load, resample, save, snr

from apollo_plugin import restore_file
from apollo_plugin.data import activity, own, tracks
from apollo_plugin.data.codecs import mp3
from apollo_plugin.data.dataset import OWN_LICENSE, MixtureDataset, PairDataset
from apollo_plugin.data.mixing import Library, coded_pair
from apollo_plugin.data.pairs import make_pairs
from apollo_plugin.data.splits import split
from apollo_plugin.errors import AudioError


def prepare(songs, root):
    """Stages 1 and 2 of one split."""
    tracks.save(songs, root / "tracks.json")
    with ThreadPoolExecutor(1) as pool:
        activity.detect_all(root, activity.Detector(), pool)
    return root


@pytest.fixture(scope="module")
def found(own_dirs):
    problems: list[str] = []
    songs, pairs = own.songs(own_dirs[0], problems), own.pairs(own_dirs[1], problems)
    assert not problems
    return songs, pairs


@pytest.fixture(scope="module")
def both(found, tmp_path_factory):
    return prepare(found[0] + found[1], tmp_path_factory.mktemp("both"))


def test_what_is_found(found, own_dirs):
    songs, pairs = found
    assert [song.id for song in songs] == [f"songs/song {i}.wav" for i in range(4)]
    assert [pair.id for pair in pairs] == [f"pairs/{i}" for i in range(4)]
    assert all(set(song.stems) == {"song"} for song in songs)
    for pair in pairs:
        assert set(pair.stems) == {"original", "coded"}
        assert {stem.seconds for stem in pair.stems.values()} == {3.5}


@pytest.mark.parametrize("format", ["WAV", "FLAC", "RF64"])
def test_restorations_are_no_originals(own_dirs, tmp_path, tiny_checkpoint, format):
    """As apollo-restore leaves them beside songs, which are cut off and left out themselves."""
    root = tmp_path / "songs"
    root.mkdir()
    shutil.copy(own_dirs[0] / "song 0.wav", root / "song.wav")
    name = f"song_restored.{format.lower()}"
    restore_file(root / "song.wav", root / name, checkpoint=str(tiny_checkpoint), device="cpu")
    problems: list[str] = []
    assert [song.id for song in own.songs(root, problems, lossy=[])] == ["songs/song.wav"]
    (line,) = problems
    assert name in line and "is no original but a restoration (apollo-plugin" in line
    # In a pair it may be what is to be compared, but not the original.
    for folder, number in (("original", 0), ("coded", 1)):
        pair = tmp_path / f"pairs {number}"
        for side in ("original", "coded"):
            (pair / side).mkdir(parents=True)
            source = root / (name if side == folder else "song.wav")
            shutil.copy(source, pair / side / f"a{source.suffix}")
        problems.clear()
        assert len(own.pairs(pair, problems)) == number, problems
        assert number or "is no original but a restoration" in problems[0]


def test_hidden_files_and_other_things_are_left_out(own_dirs, tmp_path):
    root = shutil.copytree(own_dirs[0], tmp_path / "songs")
    (root / ".trash").mkdir()
    for name in (".trash/x.wav", "._song 1.wav", "cover.jpg", "notes.txt"):
        (root / name).write_bytes(b"RIFF")
    (root / "broken.flac").write_bytes(b"fLaC")
    (root / "folder.wav").mkdir()
    problems: list[str] = []
    assert len(own.songs(root, problems)) == 4
    assert len(problems) == 1 and "broken.flac" in problems[0]


def test_artists_stay_together(own_dirs, tmp_path):
    names = [f"{artist}/{disc}/{n}" for artist in "ABC" for disc in "12" for n in "xyz"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(own_dirs[0] / "song 0.wav", tmp_path / f"{name}.wav")
    parts = split(own.songs(tmp_path, []))
    homes = {name: {song.id.split("/")[1] for song in songs} for name, songs in parts.items()}
    assert sum(map(len, homes.values())) == 3 and all(homes.values())


@pytest.mark.parametrize("n_songs, splits", [(1, (1, 0, 0)), (2, (1, 1, 0)), (4, (2, 1, 1))])
def test_splits_of_few_songs(found, n_songs, splits):
    assert tuple(map(len, split(found[0][:n_songs]).values())) == splits


def test_a_pair_is_its_two_files(both, own_dirs):
    library = Library(both)
    for seed in range(5):
        mix = library.draw_song(np.random.default_rng(seed), 1.0, 64, source=tracks.ORIGINAL)
        coded, original = coded_pair(library, library.sum(mix, 44100), mix, 44100)
        name, begin = mix.parts[0].song.split("/")[1], round(44100 * mix.parts[0].start)
        wanted = [
            load(own_dirs[1] / file)[0][:, begin : begin + 44100]
            for file in (f"coded/{name}.flac", f"original/{name}.wav")
        ]
        peak = max(wav.abs().max() for wav in wanted)
        assert snr(coded, wanted[0] / peak) > 100 and snr(original, wanted[1] / peak) > 100


def test_items_come_as_often_as_their_sources_last(both, found, tmp_path):
    data = MixtureDataset(both, n_items=2, segment=0.5)
    codecs = Counter(data.draw(np.random.default_rng(i)).codec for i in range(400))
    assert 150 < codecs["as coded"] < 250 and codecs.total() == 400
    for coded, original in (data[0], data[1]):
        assert coded.shape == original.shape == (2, 22050)
        assert max(coded.abs().max(), original.abs().max()) == pytest.approx(1)
        assert 3 < snr(coded, original) < 60
    assert data.get_infos() == {
        "dataset": "songs of one's own and pairs of one's own",
        "task": "restoration",
        "licenses": [OWN_LICENSE],
    }
    # Beside songs with stems.
    stems = [
        replace(song, id=f"moisesdb/{i}", stems={"drums": song.stems["song"]})
        for i, song in enumerate(found[0][:2])
    ]
    mixed = MixtureDataset(prepare(stems + found[1], tmp_path), n_items=1, segment=0.5)
    sources = Counter(mixed.library.draw_source(np.random.default_rng(i)) for i in range(400))
    assert set(sources) == {"stems", "original"} and 230 < sources["original"] < 300


def test_fixed_pairs(both):
    with ThreadPoolExecutor(1) as pool:
        assert make_pairs(both, 2, pool, bit_rates=(32, 64), seconds=0.5) == (8, [])
        assert make_pairs(both, 2, pool, bit_rates=(32, 64), seconds=0.5) == (0, [])
    pairs = PairDataset(both).pairs
    assert sorted((pair.kbps, pair.kind) for pair in pairs) == (
        4 * [(0, "pair")] + 2 * [(32, "song")] + 2 * [(64, "song")]
    )
    own_pair = next(pair for pair in pairs if pair.kind == "pair")
    assert own_pair.folder.parts[-3] == "unknown"
    coded, original, _ = own_pair.read()
    about = json.loads((own_pair.folder / "mix.json").read_text())
    assert about["codec"] == "as coded" and 3 < snr(coded, original) < 60


# ---------------------------------------------------------------------------- pairs that are none


def late(wav):
    return torch.nn.functional.pad(wav, (1105, 0))[:, : wav.shape[-1]]


def early(wav):
    return torch.nn.functional.pad(wav[:, 40:], (0, 40))


def drifting(wav):
    """One sample more for each thousand, from the middle on."""
    half = wav.shape[-1] // 2
    longer = torch.nn.functional.interpolate(wav[None, :, half:], scale_factor=1.001)[0]
    return torch.cat((wav[:, :half], longer), -1)


@pytest.mark.parametrize(
    "spoilt, reason",
    [
        (late, "not aligned: at 0.0 s the coded one comes 1105 samples at 44100 Hz too late"),
        (early, "comes 40 samples at 44100 Hz too early"),
        (lambda wav: wav[:, :-22050], "are 3.00 s and 3.50 s long"),
        (lambda wav: chirps(99), "hold different music at 0.0 s"),
        (drifting, "hold different music|not aligned"),
        (lambda wav: -wav, "hold different music"),
        (lambda wav: 0 * wav, "hold different music"),
        (lambda wav: wav[:1], "have 1 and 2 channels"),
    ],
)
def test_pairs_that_do_not_fit(tmp_path, spoilt, reason):
    wav = chirps(0)
    save(tmp_path / "original" / "a.wav", wav)
    save(tmp_path / "coded" / "a.wav", spoilt(mp3(wav, 44100, 64)))
    problems: list[str] = []
    assert own.pairs(tmp_path, problems) == []
    (line,) = problems
    assert str(tmp_path / "coded" / "a.wav") in line and line.endswith("; pair left out")
    assert any(part in line for part in reason.split("|")), line


def test_pairs_of_other_rates_levels_and_phases_fit(tmp_path):
    wav = chirps(0)
    sides = torch.stack((wav[0], -wav[0]))
    for name, original, coded, rate in (
        ("rate", wav, resample(wav, 44100, 22050), 22050),
        ("quiet", wav, 0.05 * mp3(wav, 44100, 32), 44100),
        ("antiphase", sides, mp3(sides, 44100, 32), 44100),
        ("padded", wav, torch.nn.functional.pad(wav, (0, 1500)), 44100),
        ("mono", wav[:1], mp3(wav[:1], 44100, 32), 44100),
        ("short", wav[:, :20], wav[:, :20], 44100),
    ):
        save(tmp_path / "original" / f"{name}.wav", original)
        save(tmp_path / "coded" / f"{name}.wav", coded, rate)
    problems: list[str] = []
    assert len(own.pairs(tmp_path, problems)) == 6 and not problems


def noise(n_samples, seed=0):
    return np.random.default_rng(seed).standard_normal((1, n_samples))


@pytest.mark.parametrize(
    "lag, words",
    [
        (0, None),
        (4, None),
        (-4, None),
        (5, "the coded one comes 5 samples at 100 Hz too late"),
        (-5, "the coded one comes 5 samples at 100 Hz too early"),
        (50, "the coded one comes 50 samples at 100 Hz too late"),
        (-50, "the coded one comes 50 samples at 100 Hz too early"),
        (51, "hold different music at 3.0 s, or differ in speed"),
        (-51, "hold different music at 3.0 s"),
    ],
)
def test_four_samples_are_in_line_and_lags_are_told_up_to_half_a_second(lag, words):
    long = noise(1200)
    coded, original = long[:, 100 - lag : 1100 - lag], long[:, 100:1100]
    if words is None:
        own._check_alignment(coded, original, 100, "at 3.0 s", "'a' and 'b'")
        return
    with pytest.raises(AudioError, match=f"^'a' and 'b' .*{words}"):
        own._check_alignment(coded, original, 100, "at 3.0 s", "'a' and 'b'")


def test_music_is_alike_from_a_correlation_of_a_half_on():
    wav, other = noise(10000), noise(10000, 1)
    other -= wav * (wav @ other.T) / (wav @ wav.T)
    other *= np.sqrt(np.square(wav).sum() / np.square(other).sum())
    for share, fits in ((0.52, True), (0.48, False)):
        coded = share * wav + np.sqrt(1 - share**2) * other
        assert own._correlation(coded, wav, 3)[3] == pytest.approx(share, abs=1e-6)
        if fits:
            own._check_alignment(coded, wav, 100, "", "")
        else:
            with pytest.raises(AudioError, match="hold different music"):
                own._check_alignment(coded, wav, 100, "", "")


def test_correlation_is_the_textbook_s():
    a, b = np.random.default_rng(2).standard_normal((2, 2, 30))
    expected = [
        sum(a[:, i] @ b[:, i - lag] for i in range(30) if 0 <= i - lag < 30) for lag in range(-7, 8)
    ]
    expected /= np.sqrt(np.square(a).sum() * np.square(b).sum())
    np.testing.assert_allclose(own._correlation(a, b, 7), expected, atol=1e-9)
    assert not own._correlation(0 * a, b, 7).any()


@pytest.mark.parametrize(
    "seconds, stretches",
    [(20.0, [(0.0, 6.0), (7.0, 6.0), (14.0, 6.0)]), (6.0, [(0.0, 6.0)]), (2.5, [(0.0, 2.5)])],
)
def test_a_pair_is_heard_at_its_begin_middle_and_end(seconds, stretches, monkeypatch):
    heard = []

    def read_part(file, start, part, rate):
        heard.append((file, start, part, rate))
        # The first stretch of a longer pair is silent, as far as 16 bits go.
        quiet = len(stretches) > 1 and start == 0
        return (1e-4 if quiet else 0.1) * noise(600)

    monkeypatch.setattr(own.audio, "read_part", read_part)
    stems = {
        "original": tracks.Stem(("o.wav",), seconds + 0.09, 100),
        "coded": tracks.Stem(("c.mp3",), seconds, 200),
    }
    song = tracks.Song("pairs/a", "A", "T", stems)
    trimmed = own._trim_pair(song)
    assert {stem.seconds for stem in trimmed.stems.values()} == {seconds}
    assert heard == [(name, *at, 100) for at in stretches for name in ("c.mp3", "o.wav")]
    longer = replace(stems["original"], seconds=seconds + 0.11)
    with pytest.raises(AudioError, match=f"are {seconds:.2f} s and {seconds + 0.11:.2f} s long"):
        own._trim_pair(replace(song, stems=stems | dict(original=longer)))
    monkeypatch.setattr(own.audio, "read_part", lambda *_: 0.9e-3 * noise(600))
    with pytest.raises(AudioError, match="^'c.mp3' and 'o.wav' are silent$"):
        own._trim_pair(song)


def test_a_song_s_end_is_looked_for_in_three_stretches(monkeypatch):
    """A quarter, a half and three quarters on the way to the last six seconds."""
    heard = []

    def read_part(file, start, part, rate):
        heard.append((start, part))
        return noise(round(part * rate))

    monkeypatch.setattr(own.audio, "read_part", read_part)
    assert own._cut_off(tracks.Stem(("a.wav",), 26.0, 44100)) == ""
    assert heard == [(5.0, 6.0), (10.0, 6.0), (15.0, 6.0)]
    heard.clear()
    own._cut_off(tracks.Stem(("a.wav",), 2.0, 44100))
    assert heard == 3 * [(0.0, 2.0)]
    for rate, words in ((37999, "37999 Hz and so ends at 18.9995 kHz"), (38000, None)):
        found = own._cut_off(tracks.Stem(("a.wav",), 2.0, rate))
        assert found == (f"has a sample rate of {words}" if words else "")


@pytest.mark.parametrize(
    "names, artists",
    [
        # Folders are artists from three on.
        (["A/x.wav", "B/1/Y - y.wav", "C/z.wav", "D - d.wav"], ["A", "B", "C", "D"]),
        (["A/x.wav", "B/Y - y - z.wav"], ["A/x", "Y"]),
        (["x.wav", "y.w.wav", "Z- z.wav"], ["x", "y.w", "Z- z"]),
    ],
)
def test_artists_by_folder_or_by_name(names, artists):
    assert own._artists([Path(name) for name in names]) == artists


def test_silent_pairs_and_files_without_a_partner(tmp_path):
    silence = torch.zeros(2, 30000)
    for name in ("original/silent.wav", "coded/silent.wav", "original/alone.wav", "coded/b.wav"):
        save(tmp_path / name, silence)
    for name in ("original/twice.wav", "coded/twice.wav", "coded/twice.w64"):
        save(tmp_path / name, silence)
    problems: list[str] = []
    assert own.pairs(tmp_path, problems) == []
    text = "\n".join(sorted(problems))
    assert len(problems) == 4 and "silent.wav' are silent" in text
    assert (
        "alone.wav': no file of the same name in" in text
        and "b.wav': no file of the same name" in text
    )
    assert (
        f"'{tmp_path / 'coded' / 'twice.wav'}': 'twice.w64' has the same name; left out" in problems
    )


@pytest.mark.parametrize(
    "names, reason", [((), "is not a folder"), (("original",), "is not a folder")]
)
def test_folders_that_are_none(tmp_path, names, reason):
    for name in names:
        save(tmp_path / name / "a.wav", torch.zeros(2, 9))
    with pytest.raises(AudioError, match=reason):
        own.pairs(tmp_path, [])
    with pytest.raises(AudioError, match="is not a folder"):
        own.songs(tmp_path / "nowhere", [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="holds no sound files"):
        own.songs(tmp_path / "empty", [])


def full_band(seed=0, seconds=8.0):
    """Pink-ish noise to half of the sample rate, ``(2, time)``."""
    noise = np.random.default_rng(seed).standard_normal((2, round(44100 * seconds)))
    spectrum = np.fft.rfft(noise)
    spectrum /= np.sqrt(1 + np.arange(spectrum.shape[-1]) / 8000)
    wav = np.fft.irfft(spectrum, noise.shape[-1])
    return torch.from_numpy(0.1 * wav / wav.std()).float()


def test_songs_that_are_cut_off_themselves_are_named_and_left_out(tmp_path):
    """Coded at 128 kbit/s, of half the rate, and upsampled from it; 320 kbit/s are an original."""
    wav = full_band()
    low = soxr.resample(wav.T.numpy(), 44100, 22050, "VHQ")
    save(tmp_path / "whole.wav", wav)
    encoded(tmp_path / "best.mp3", wav, "libmp3lame", kbps=320)
    encoded(tmp_path / "worse.mp3", wav, "libmp3lame", kbps=128)
    save(tmp_path / "low.wav", torch.from_numpy(low.T), 22050)
    save(
        tmp_path / "up.flac",
        torch.from_numpy(soxr.resample(low, 22050, 44100, "VHQ").T),
        44100,
        "PCM_24",
    )
    save(tmp_path / "silent.wav", torch.zeros(2, 44100))
    problems: list[str] = []
    found = [song.title for song in own.songs(tmp_path, problems)]
    assert found == ["best", "silent", "whole"]
    reasons = {Path(line.split("'")[1]).name: line for line in problems}
    assert set(reasons) == {"worse.mp3", "low.wav", "up.flac"}
    assert all(line.endswith("so it cannot teach highs; song left out") for line in problems)
    assert "so ends at 11.025 kHz" in reasons["low.wav"]
    for name, least, most in (("worse.mp3", 15.5, 17.5), ("up.flac", 9.5, 11.5)):
        cutoff = float(reasons[name].split("cut off at ")[1].split(" kHz")[0])
        assert least < cutoff < most
    lossy: list[str] = []
    problems.clear()
    taken = own.songs(tmp_path, problems, lossy)
    assert len(taken) == 6 and not problems and len(lossy) == 3
    assert all(line.endswith("; included all the same") for line in lossy)

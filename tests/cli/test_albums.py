"""An album in, an album out: tags, covers, loudness, and the join of two tracks."""

import io
import json
import os
import subprocess
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import av
import lameenc
import numpy as np
import pytest
import soundfile
import torch
from helpers import encoded, load, read, save, tone
from mutagen.flac import FLAC
from mutagen.id3 import APIC, ID3, PRIV, TALB, TDRC, TIT2, TPE1, TRCK, TXXX
from PIL import Image

from apollo_plugin import Apollo, audio, tags
from apollo_plugin.audio import Meter, album_loudness
from apollo_plugin.batch import albums, stems
from apollo_plugin.batch.stems import restore_stems
from apollo_plugin.batch.work import Result
from apollo_plugin.data.demo import mixture
from apollo_plugin.diagnose import Diagnosis
from apollo_plugin.errors import AudioError, TagError, Uncoded
from apollo_plugin.restore import Restored, restore_file
from apollo_plugin.settings import Job, Settings

N_SAMPLES = 30000
SONG = tone(2 * N_SAMPLES)


def cover() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "blue").save(file, "PNG")
    return file.getvalue()


COVER = cover()
# Of two halves: a multiple of the model's hop, so that its frames lie alike in both.
JOIN = 120 * 441


def lame(wav: torch.Tensor, vbr: bool) -> bytes:
    encoder = lameenc.Encoder()
    encoder.silence()
    encoder.set_channels(2)
    encoder.set_in_sample_rate(44100)
    encoder.set_out_sample_rate(44100)
    encoder.set_quality(3)
    if vbr:
        encoder.set_vbr(4)
        encoder.set_vbr_quality(4)
    else:
        encoder.set_bit_rate(96)
    pcm = (wav.T.numpy() * 32767).astype(np.int16).tobytes()
    return bytes(encoder.encode(pcm)) + bytes(encoder.flush())


@pytest.fixture(scope="module")
def album(tmp_path_factory) -> Path:
    """Four MP3s: one of a variable rate, two that were one recording, one with ReplayGain."""
    folder = tmp_path_factory.mktemp("library") / "The album"
    folder.mkdir()
    (folder / "1 vbr.mp3").write_bytes(lame(SONG[:, :N_SAMPLES], vbr=True))
    for number, half in enumerate(SONG.split(N_SAMPLES, -1), 2):
        encoded(folder / f"{number} half.mp3", half, "libmp3lame")
    (folder / "4 gain.mp3").write_bytes(lame(0.3 * SONG[:, :N_SAMPLES], vbr=False))
    for number, path in enumerate(sorted(folder.iterdir()), 1):
        tag = ID3()
        texts = {TIT2: f"Søng {number}", TPE1: "Sömeone", TALB: "The album", TDRC: "2001"}
        for kind, text in texts.items():
            tag.add(kind(encoding=3, text=[text]))
        tag.add(TRCK(encoding=3, text=[f"{number}/4"]))
        tag.add(APIC(encoding=3, mime="image/png", type=3, desc="", data=COVER))
        tag.add(PRIV(owner="shop", data=b"\1"))
        if number > 3:
            for name in ("TRACK_GAIN", "TRACK_PEAK", "ALBUM_GAIN", "ALBUM_PEAK"):
                tag.add(TXXX(encoding=3, desc=f"REPLAYGAIN_{name}", text=["-99 dB"]))
        tag.save(path)
    return folder


def seen_by_ffmpeg(path: Path) -> tuple[dict[str, str], int]:
    """Tags and the number of pictures."""
    with av.open(str(path)) as file:
        return {k.lower(): v for k, v in file.metadata.items()}, len(file.streams.video)


def test_four_mp3s_become_flac_with_all_they_had(run, album, tmp_path):
    before = {path.name: path.read_bytes() for path in album.iterdir()}
    status, out, err = run(album, "-o", tmp_path, "--format", "FLAC")
    assert status == 0 and out.count("->") == 4
    lines = err.splitlines()
    assert [line for line in lines if "PRIV" in line] == [
        f"apollo-restore: '{album}/1 vbr.mp3' and 3 more: FLAC cannot hold PRIV; left out"
    ]
    for number, source in enumerate(sorted(album.iterdir()), 1):
        path = tmp_path / f"{source.stem}_restored.flac"
        file = FLAC(path)
        said = {key: file.tags[key] for key in ("title", "artist", "album", "date", "tracknumber")}
        assert said == {
            "title": [f"Søng {number}"],
            "artist": ["Sömeone"],
            "album": ["The album"],
            "date": ["2001"],
            "tracknumber": [str(number)],
        }
        assert file.tags["tracktotal"] == ["4"]
        assert [(each.type, each.mime, each.data) for each in file.pictures] == [
            (3, "image/png", COVER)
        ]
        seen, n_pictures = seen_by_ffmpeg(path)
        assert (seen["title"], seen["track"], n_pictures) == (f"Søng {number}", str(number), 1)
        gains = [key for key in file.tags.as_dict() if key.startswith("replaygain")]
        assert len(gains) == (4 if number == 4 else 0)
        assert audio.probe(path)[0] == audio.probe(source)[0]
    assert {path.name: path.read_bytes() for path in album.iterdir()} == before


@pytest.mark.needs("ffprobe")
def test_ffprobe_sees_title_and_cover(run, album, tmp_path):
    path = tmp_path / "a.flac"
    assert run(album / "4 gain.mp3", "-o", path)[0] == 0
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams"]
    shown = json.loads(subprocess.check_output([*command, path]))
    assert shown["format"]["tags"]["TITLE"] == "Søng 4"
    assert shown["streams"][1]["disposition"]["attached_pic"] == 1


def test_no_tags(run, album, tmp_path):
    assert run(album / "4 gain.mp3", "-o", tmp_path / "a.flac", "--no-tags")[2] == ""
    assert FLAC(tmp_path / "a.flac").tags.keys() == ["apollo_restored"]
    assert not FLAC(tmp_path / "a.flac").pictures


def gains(path: Path) -> tuple[float, float, float]:
    """Of track and album in dB, and the album's peak."""
    said = FLAC(path).tags
    track, of_album = (said[f"replaygain_{each}_gain"][0].split()[0] for each in ("track", "album"))
    return float(track), float(of_album), float(said["replaygain_album_peak"][0])


def test_an_albums_loudness_is_measured_over_all_its_tracks(run, tmp_path):
    """Also over those of a run that was interrupted, and without one that is broken."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number, gain in enumerate((1.0, 0.3, 2.0)):
        path = source / f"{number}.flac"
        soundfile.write(path, gain * SONG.T.numpy(), 44100, "PCM_24")
        file = FLAC(path)
        file["album"], file["replaygain_album_gain"] = "A", "1 dB"
        file.save()
    (source / "3.flac").write_bytes((source / "1.flac").read_bytes()[:9000])
    other = source / "other.flac"  # of another album, in the same folder
    soundfile.write(other, 0.1 * SONG.T.numpy(), 44100, "PCM_24")
    file = FLAC(other)
    file["album"], file["replaygain_album_gain"] = "B", "1 dB"
    file.save()
    assert run(source / "0.flac", source / "1.flac", "-o", out, "--format", "FLAC")[0] == 0
    first = gains(out / "0_restored.flac")
    status, _, err = run(source, "-o", out, "--format", "FLAC")
    assert status == 1 and "3.flac" in err
    results = [out / f"{number}_restored.flac" for number in range(3)]
    levels = []
    for path in results:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        meter = Meter(rate, 2)
        meter.add(samples)
        levels.append(meter.level())
    for path, level in zip(results, levels):
        track, of_album, peak = gains(path)
        assert track == pytest.approx(-18 - level.loudness, abs=0.01)
        assert of_album == pytest.approx(-18 - album_loudness(levels), abs=0.01)
        assert peak == pytest.approx(max(each.true_peak for each in levels), rel=1e-3)
        assert len(FLAC(path)["replaygain_album_gain"]) == 1
    assert gains(results[0])[1] < first[1]
    track, of_album, _ = gains(out / "other_restored.flac")
    assert track == of_album


def test_discs_of_one_album_have_one_gain(run, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    places = {"CD1": "A", "cd_2": "A", "Disc 3 (live)": "A", "CD4": "B", "CDs": "A", "more": "A"}
    for gain, (folder, album) in zip((1.0, 0.3, 0.1, 0.5, 0.2, 0.7), places.items()):
        (source / folder).mkdir(parents=True)
        path = source / folder / "1.flac"
        soundfile.write(path, gain * SONG.T.numpy(), 44100, "PCM_24")
        file = FLAC(path)
        file["album"], file["replaygain_album_gain"] = album, "1 dB"
        file.save()
    assert run(source / "CD1", "-o", out / "CD1", "--format", "FLAC", "--suffix", "")[0] == 0
    assert run(source, "-o", out, "--format", "FLAC", "--suffix", "")[0] == 0
    got = {folder: gains(out / folder / "1.flac") for folder in places}
    discs = [folder for folder in places if got[folder][1] == got["CD1"][1]]
    assert discs == ["CD1", "cd_2", "Disc 3 (live)"]
    assert all(got[folder][1] == got[folder][0] for folder in places if folder not in discs)


def test_which_files_make_an_album(tmp_path, monkeypatch):
    """Restored ones, and those kept or left as they are whose tags have an album's gain and whose
    sound can be measured; of one folder and title. Only results are written to."""
    written, warned = [], "'c' cannot hold tags"

    def job(name, folder="in"):
        return Job(tmp_path / folder / name, tmp_path / f"{name}_new")

    def done(name, album="A", folder="in"):
        track = tags.Track(album, frozenset({name}), f"level of {name}")
        return Result(job(name, folder), Restored(of_album=track))

    def measure(path):
        if path.name.startswith("broken"):
            raise AudioError("broken")
        return f"level of {path.name}"

    def add(path, format, kinds, levels):
        written.append((path.name, format, *kinds, levels))
        if path.name == "c_new":
            raise TagError(warned)

    monkeypatch.setattr(albums.audio, "measure", measure)
    monkeypatch.setattr(albums.tags, "add_album_gain", add)
    monkeypatch.setattr(
        albums.tags,
        "read",
        lambda path: SimpleNamespace(
            has_album_gain="without" not in path.name,
            album="B" if "other" in path.name else "A",
            loudness={path.name: 1},
        ),
    )
    os.mkfifo(tmp_path / "pipe_new")
    left = [Result(job(name), error=Uncoded("it is")) for name in ("left", "left without")]
    results = [
        *(done("a"), done("c"), done("pipe"), done("far", folder="CD1")),
        *(done("b", "B"), Result(job("none"), Restored()), Result(job("x"), error=KeyError("x"))),
        *left,
    ]
    names = ("kept", "kept other", "broken", "kept without")
    kept = [*map(job, names), job("kept elsewhere", "deep/in")]
    with pytest.warns(UserWarning, match=warned):
        albums.add_gains(results, kept, Settings(format="FLAC"))
    first = [f"level of {n}" for n in ("a", "c", "pipe", "kept_new", "left")]
    second = ["level of b", "level of kept other_new"]
    assert written == [
        ("a_new", "FLAC", "a", first),
        ("c_new", "FLAC", "c", first),
        ("kept_new", "FLAC", "kept", first),
        ("far_new", "FLAC", "far", ["level of far"]),
        ("b_new", "FLAC", "b", second),
        ("kept other_new", "FLAC", "kept other", second),
    ]


class Halves:
    """Separates a song into two halves of itself."""

    sources = ("one", "other")
    engines = MappingProxyType({"one": SimpleNamespace(origin="halves")})

    def restore(self, wav, sample_rate, progress):
        return torch.stack((wav / 2, wav / 2))


def test_stems_have_their_songs_tags(album, tmp_path):
    job = Job(album / "4 gain.mp3", tmp_path / "remix.flac")
    told = restore_stems(Halves(), job, Settings(format="FLAC"))
    assert told.notes == ("FLAC cannot hold PRIV; left out",) and told.of_album is None
    levels = []
    for name in ("one", "other", "remix"):
        file = FLAC(tmp_path / f"{name}.flac")
        assert file["title"] == ["Søng 4"] and file.pictures[0].data == COVER
        assert "replaygain_album_gain" not in file
        levels.append(float(file["replaygain_track_gain"][0].split()[0]))
    assert levels[0] == levels[1] == pytest.approx(levels[2] + 20 * np.log10(2), abs=0.02)


@pytest.mark.parametrize("sources, n_results", [(("one", "a/b"), 3), (None, 5)])
def test_what_is_told_of_stems(tmp_path, monkeypatch, sources, n_results):
    """Room is asked for all of them, which are four unless it is known; the remix comes last."""
    job, written, asked = Job(tmp_path / "a.wav", tmp_path / "remix.flac"), [], []

    def read_source(job, settings, n):
        asked.append(n)
        return SONG.numpy(), 44100, "stereo", Diagnosis(9000.0, 40.0, 44100)

    def write_result(place, wav, rate, settings, carried, layout, made):
        written.append((place.name, wav.sum(), rate, layout, bool(made)))
        n = len(written)
        return Restored(n, 2 - abs(n - 2), ("of all", f"of {n}"))

    pipeline = Halves()
    pipeline.sources = sources
    monkeypatch.setattr(stems, "read_tags", lambda *_: (tags.Tags(), ""))
    monkeypatch.setattr(stems, "read_source", read_source)
    monkeypatch.setattr(stems, "write_result", write_result)
    told = restore_stems(pipeline, job, Settings(format="FLAC", diagnose=True))
    total, names = SONG.numpy().sum(), ["one.flac", "a_b.flac"] if sources else []
    expected = [(name, pytest.approx(total / 2, rel=1e-3)) for name in names]
    expected.append(("remix.flac", pytest.approx(total, rel=1e-3)))
    assert written == [(*each, 44100, "stereo", True) for each in expected] and asked == [n_results]
    n = len(written)
    assert (told.n_clipped, told.true_peak) == (n * (n + 1) // 2, min(n, 2))
    assert told.notes == ("of all", *(f"of {k + 1}" for k in range(n)))
    assert told.diagnosis.cutoff == 9000 and told.of_album is None
    assert restore_stems(pipeline, job, Settings(format="FLAC")).diagnosis is None
    assert [stems._safe(name) for name in ("a/b c-d_é.", "")] == ["a_b c-d_é_", "_"]


def at_the_join(wav: torch.Tensor, join: int) -> float:
    """Highs in 1.5 ms at a place by the loudest such time within 60 ms of it, in dB."""
    highs = torch.diff(torch.diff(wav.double()))
    powers = [
        highs[:, join + k - 33 : join + k + 31].square().mean() for k in range(-2640, 2641, 66)
    ]
    around = torch.stack(powers[:39] + powers[42:])
    return float(10 * torch.log10(powers[40] / around.max()))


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> Path:
    """A song in two MP3s that were coded apart, and what both hold as one file."""
    folder = tmp_path_factory.mktemp("halves")
    song = torch.from_numpy(mixture(2.4, seed=1000))
    parts = []
    for name, part in zip(("1.mp3", "2.mp3"), song.split(JOIN, -1)):
        parts.append(read(encoded(folder / name, part, "libmp3lame", kbps=64))[0])
    save(folder / "whole.wav", torch.cat(parts, -1))
    return folder


def test_two_tracks_that_were_one_join_without_a_click(halves, tmp_path):
    """Alone each lacks the other's half a second: beyond that next to nothing differs (the level
    is each file's own), and at the join are no more highs than the music around it has."""
    model = Apollo.from_pretrained("apollo-small")
    for source in halves.iterdir():
        restore_file(model, Job(source, tmp_path / f"{source.stem}_restored.wav"), Settings())
    first, second, whole = (load(tmp_path / f"{n}_restored.wav")[0] for n in ("1", "2", "whole"))
    joined = torch.cat((first, second), -1)
    assert joined.shape == whole.shape and first.shape[1] == JOIN
    source = load(halves / "whole.wav")[0]
    reach = round(0.6 * 44100)
    # The noise in the highs begins anew with each file: the second track has another part of it, so
    # there the lows are compared.
    for away, hertz, most in (
        (slice(0, JOIN - reach), 22050, 1e-3),
        (slice(JOIN + reach, None), 4000, 1e-2),
    ):
        change, error = (torch.fft.rfft(wav[:, away]) for wav in (whole - source, joined - whole))
        n_bins = int(change.shape[1] * hertz / 22050)
        error, change = (x[:, :n_bins].abs().square().sum() for x in (error, change))
        assert error < most * change
    assert at_the_join(joined, JOIN) < at_the_join(whole, JOIN) + 3
    # What a click is.
    step = torch.cat((first, second + 0.3), -1)
    assert at_the_join(step, JOIN) > at_the_join(whole, JOIN) + 6

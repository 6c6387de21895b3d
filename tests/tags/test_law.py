"""One law: what was read is written or named, and players find it (ffprobe; here, mutagen's eyes
and soundfile's too)."""

import re
import struct
import subprocess
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile
import torch
from helpers import encoded, save, tone
from mutagen.apev2 import APEv2, APEValue
from mutagen.asf import ASF
from mutagen.flac import FLAC, CueSheet, CueSheetTrack, CueSheetTrackIndex
from mutagen.id3 import ID3, Frames
from mutagen.wave import WAVE
from tag_files import COVER, FORMATS, SOURCES, WAV, carried, chunk, ffprobe, picture, with_id3

from apollo_plugin import audio, tags
from apollo_plugin.restore import write_result
from apollo_plugin.settings import Settings
from apollo_plugin.tags import riff, timed

# A field for each name that FFmpeg knows, with what it calls it.
SEEN = {
    "title": "title",
    "artist": "artist",
    "album": "album",
    "albumartist": "album_artist",
    "composer": "composer",
    "genre": "genre",
    "date": "date",
    "tracknumber": "track",
    "discnumber": "disc",
    "musicbrainz_albumid": "musicbrainz album id",
    "musicbrainz_artistid": "musicbrainz artist id",
    "replaygain_track_gain": "replaygain_track_gain",
    "replaygain_album_gain": None,
}


def full(path: Path) -> Path:
    """A FLAC with a field of each kind that players show."""
    save(path, WAV, 48000, "PCM_24")
    file = FLAC(path)
    for key in SEEN:
        file[key] = f"a {key}"
    file["date"], file["tracknumber"], file["discnumber"] = "1999-05-04", "3", "1"
    file["replaygain_track_gain"] = "-3 dB"
    del file["replaygain_album_gain"]
    file.save()
    return path


@pytest.mark.needs("ffprobe")
@pytest.mark.parametrize("format", FORMATS)
def test_players_find_all_of_it(format, tmp_path):
    """FFmpeg, and with it mpv and MPD, leaves out a WAV's ID3 beside LIST INFO."""
    target = tmp_path / f"b.{format.lower()}"
    assert carried(full(tmp_path / "a.flac"), target).notes == ()
    shown = ffprobe(target)
    for key, name in SEEN.items():
        if name is None:
            continue
        name = name.replace("_", " ") if key != name or format != "OGG" else key
        names = {name, key.replace("_", " "), key, name.replace("albumartist", "album artist")}
        found = [shown[each] for each in names if each in shown]
        assert found, (key, shown)
        if key.startswith("replaygain"):
            assert found[0].endswith(" dB") and found[0] != "-3 dB"
        elif key == "date":
            assert found[0] == "1999-05-04"
        elif "number" not in key:
            assert found[0] == f"a {key}"


@pytest.mark.parametrize("name", [*SOURCES, "full.flac"])
@pytest.mark.parametrize("format", FORMATS)
def test_what_was_read_is_written_or_named(name, format, tmp_path):
    make = {**SOURCES, "full.flac": full}[name]
    source = make(tmp_path / name)
    before = tags.read(source)
    told = carried(source, tmp_path / f"b.{format.lower()}")
    after = tags.read(tmp_path / f"b.{format.lower()}")
    named = " ".join(told.notes)
    assert before.text.keys() - after.text.keys() <= set(re.findall(r"[\w:]+", named.lower()))
    assert {key: after.text[key] for key in before.text if key in after.text} == {
        key: value for key, value in before.text.items() if key in after.text
    }
    assert len(after.pictures) == len(before.pictures) or "picture" in named


# ------------------------------------------------------------------------------------ ID3


def test_id3_keeps_the_version_that_it_came_in(tmp_path):
    source = with_id3(
        tmp_path / "a.mp3",
        TIPL=(3, [["producer", "P"]]),
        TMCL=(3, [["drums", "D"]]),
        TDOR=(3, ["1970"]),
        TSOP=(3, ["One, The"]),
    )
    tag = ID3(source)
    tag["TDRC"] = Frames["TDRC"](3, ["1999-05-04"])
    sorted_by = tag["TSOP"]
    tag.update_to_v23()
    tag.add(sorted_by)
    tag.save(source, v2_version=3, v23_sep=None)
    for suffix in ("mp3", "aiff", "wav"):
        carried(source, tmp_path / f"b.{suffix}")
        data = (tmp_path / f"b.{suffix}").read_bytes()
        assert re.findall(rb"ID3([\2-\4])\0", data)[0] == b"\3"
        names = set(re.findall(rb"(?:TYER|TDAT|TDRC|IPLS|TIPL|TMCL|TORY|TDOR|TSOP)", data))
        assert names == {b"TYER", b"TDAT", b"IPLS", b"TORY", b"TSOP"}
        again = tags.read(tmp_path / f"b.{suffix}").text
        assert again["date"] == ["1999-05-04"] and again["originaldate"] == ["1970"]
        assert again["producer"] == ["P"] and again["artistsort"] == ["One, The"]
    carried(with_id3(tmp_path / "c.mp3"), tmp_path / "d.mp3")
    assert (tmp_path / "d.mp3").read_bytes()[3] == 4


def test_an_album_gain_leaves_the_version(tmp_path):
    source = with_id3(tmp_path / "a.mp3", TXXX=(3, "replaygain_album_gain", ["-1 dB"]))
    tag = ID3(source)
    tag.update_to_v23()
    tag.save(source, v2_version=3)
    told = carried(source, tmp_path / "b.mp3")
    tags.add_album_gain(tmp_path / "b.mp3", "MP3", told.of_album.kinds, [told.of_album.level])
    assert (tmp_path / "b.mp3").read_bytes()[3] == 3
    tag = ID3(tmp_path / "b.mp3")
    assert "TXXX:REPLAYGAIN_ALBUM_GAIN" in tag and str(tag["TDRC"]) == "1999"


def test_frames_that_picard_names(tmp_path):
    more = dict(
        TDRL=(3, ["2001"]), GRP1=(3, ["a group"]), WCOP=("http://licence",), POPM=("me", 196)
    )
    tag = ID3(with_id3(tmp_path / "a.mp3", **more))
    tag["POPM:me"].count = 7
    tag.save()
    carried(tmp_path / "a.mp3", tmp_path / "b.flac")
    got = FLAC(tmp_path / "b.flac")
    assert got["releasedate"] == ["2001"] and got["grouping"] == ["a group"]
    assert got["license"] == ["http://licence"]
    assert got["rating"] == ["80"] and got["playcount"] == ["7"]
    carried(tmp_path / "b.flac", tmp_path / "c.mp3")
    tag = ID3(tmp_path / "c.mp3")
    assert str(tag["TDRL"]) == "2001" and tag["WCOP"].url == "http://licence"
    assert tag["POPM:"].rating == 196


@pytest.mark.parametrize(
    "number, stars", [(0, None), (1, 20), (31, 20), (64, 40), (128, 60), (200, 80), (255, 100)]
)
def test_ratings_there(number, stars):
    assert timed.rating(number) == (stars and str(stars))


@pytest.mark.parametrize(
    "text, number", [("5", 255), ("1", 1), ("20", 1), ("60", 128), ("100", 255), ("ok", None)]
)
def test_ratings_back(text, number):
    frame = timed.rating_frame(text)
    assert (frame and frame.rating) == number


def test_timed_lyrics_become_lrc_and_back(tmp_path):
    lines = [("la la", 1500), ("\nli", 61_020), ("lo", 3_600_000)]
    carried(with_id3(tmp_path / "a.mp3", SYLT=(3, "eng", 2, 1, "", lines)), tmp_path / "b.flac")
    text = FLAC(tmp_path / "b.flac")["syncedlyrics"][0]
    assert text == "[00:01.50]la la\n[01:01.02]li\n[60:00.00]lo"
    assert carried(tmp_path / "b.flac", tmp_path / "c.mp3").notes == ()
    (frame,) = ID3(tmp_path / "c.mp3").getall("SYLT")
    assert frame.text == [("la la", 1500), ("li", 61_020), ("lo", 3_600_000)]
    # In MPEG frames, nobody knows of which length.
    source = with_id3(tmp_path / "d.mp3", SYLT=(3, "eng", 1, 1, "", lines))
    assert "SYLT" in carried(source, tmp_path / "e.flac").notes[0]
    assert timed.lyrics_frame("no times") is None and timed.lyrics_frame("") is None


# ------------------------------------------------------------------------------------ covers


def test_both_covers_of_ape_and_new_kinds_of_picture(tmp_path):
    path = encoded(tmp_path / "a.wv", WAV, "wavpack")
    tag, back = APEv2(), picture("PNG")
    tag["Cover Art (Front)"] = APEValue(b"front.jpg\0" + COVER, 1)
    tag["Cover Art (Back)"] = APEValue(b"back.png\0" + back, 1)
    tag.save(path)
    assert carried(path, tmp_path / "b.flac").notes == ()
    pictures = {p.type: p.data for p in FLAC(tmp_path / "b.flac").pictures}
    assert pictures == {3: COVER, 4: back}


@pytest.mark.parametrize(
    "data, mime",
    [
        (b"\xff\x0a" + bytes(50), "image/jxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "image/jxl"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "image/heic"),
        (b"\0\0\0\x18ftypmif1" + bytes(50), "image/heic"),
        (b"\0\0\0\x18ftypavif" + bytes(50), "image/avif"),
    ],
    ids=["jxl", "jxl in boxes", "heic", "heif", "avif"],
)
def test_pictures_are_named_by_their_bytes(data, mime, tmp_path):
    source = with_id3(tmp_path / "a.mp3", APIC=(3, "image/jpeg", 4, "back", data))
    assert carried(source, tmp_path / "b.flac").notes == ()
    back = next(x for x in FLAC(tmp_path / "b.flac").pictures if x.type == 4)
    assert back.mime == mime


# ------------------------------------------------------------------------------------ Windows Media


def test_names_and_ratings_of_windows_media(tmp_path):
    file = ASF(encoded(tmp_path / "a.wma", WAV, "wmav2", kbps=96))
    file["MusicBrainz/Track Id"], file["MusicBrainz/Album Artist Id"] = ["t"], ["aa"]
    file["WM/SharedUserRating"], file["Acoustid/Id"] = [75], ["x"]
    file.save()
    carried(tmp_path / "a.wma", tmp_path / "b.flac")
    got = FLAC(tmp_path / "b.flac")
    assert got["musicbrainz_trackid"] == ["t"] and got["musicbrainz_albumartistid"] == ["aa"]
    assert got["rating"] == ["80"] and got["acoustid_id"] == ["x"]


# ------------------------------------------------------------------------------------ chunks of WAV


def marked(path: Path) -> Path:
    """A WAV with two markers, their labels, a loop and iXML."""
    save(path, WAV, 48000, "PCM_16")
    points = [struct.pack("<II4sIII", n, 4800 * n, b"data", 0, 0, 4800 * n) for n in (1, 2)]
    cue = struct.pack("<I", 2) + b"".join(points)
    ltxt = struct.pack("<II4sHHHH", 1, 2400, b"rgn ", 0, 0, 0, 0)
    adtl = b"adtl" + chunk(b"labl", struct.pack("<I", 1) + b"verse\0") + chunk(b"ltxt", ltxt)
    smpl = struct.pack("<9I", 0, 0, 20833, 60, 0, 0, 0, 1, 0)
    smpl += struct.pack("<6I", 1, 0, 1200, 3600, 0, 0)
    chunks = chunk(b"cue ", cue) + chunk(b"LIST", adtl) + chunk(b"smpl", smpl)
    chunks += chunk(b"iXML", b"<BWFXML/>")
    data = path.read_bytes() + chunks
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    return path


def test_markers_labels_and_loops_stay_in_wav(tmp_path):
    source = marked(tmp_path / "a.wav")
    assert carried(source, tmp_path / "b.wav").notes == ()
    before, after = (dict(riff.read(tmp_path / f"{name}.wav").carried) for name in "ab")
    assert before == after and len(before) == 4
    assert audio.probe(tmp_path / "b.wav") == (24000, 48000, 2)
    data = (tmp_path / "b.wav").read_bytes()
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    (note,) = carried(source, tmp_path / "b.flac").notes
    assert all(name in note for name in ("cue", "adtl", "smpl", "iXML"))


def test_places_go_with_the_rate(tmp_path):
    source = marked(tmp_path / "a.wav")
    found = tags.read(source)
    (note,) = write_result(tmp_path / "b.wav", WAV, 96000, Settings(), found).notes
    assert "iXML" in note
    after = dict(riff.read(tmp_path / "b.wav").carried)
    assert struct.unpack_from("<6I", after[b"cue "], 4)[1::4] == (9600, 9600)
    assert struct.unpack_from("<6I", after[b"smpl"], 36)[2:4] == (2400, 7200)
    assert struct.unpack_from("<I", after[b"smpl"], 8)[0] in (10416, 10417)
    place = after[b"adtl"].find(b"ltxt") + 12
    assert struct.unpack_from("<I", after[b"adtl"], place)[0] == 4800


@pytest.mark.parametrize("cut", range(0, 700, 23))
def test_chunks_that_are_cut_or_lie(cut, tmp_path):
    data = marked(tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[: len(data) - cut])
    found = tags.read(tmp_path / "a.wav")
    write_result(tmp_path / "b.wav", WAV, 96000, Settings(), found)
    assert audio.probe(tmp_path / "b.wav") == (24000, 96000, 2)


@pytest.mark.needs("ffprobe")
def test_players_find_tags_beside_chunks(tmp_path):
    """But for bext, which takes the place of ID3: its texts go into that, and it is named."""
    source = marked(tmp_path / "a.wav")
    data = source.read_bytes() + chunk(b"bext", b"a story" + bytes(595))
    source.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    file = WAVE(source)
    file.add_tags()
    file.tags.add(Frames["TPE2"](3, ["somebody"]))
    file.save()
    assert "bext" in carried(source, tmp_path / "b.wav").notes[0]
    shown = ffprobe(tmp_path / "b.wav")
    assert shown["album artist"] == "somebody" and shown["comment"] == "a story"


# ------------------------------------------------------------------------------------ times


def test_a_cue_sheet_goes_with_the_rate(tmp_path):
    source = save(tmp_path / "a.flac", WAV, 44100, "PCM_24")
    file, sheet = FLAC(source), CueSheet(None)
    for number, start in ((1, 0), (2, 11760), (170, 24000)):
        track = CueSheetTrack(number, start)
        track.indexes = [CueSheetTrackIndex(1, 588)] if number < 170 else []
        sheet.tracks.append(track)
    file.metadata_blocks.append(sheet)
    file.save()
    for rate, start, index in ((44100, 11760, 588), (88200, 23520, 1176), (48000, 12800, 640)):
        write_result(tmp_path / "b.flac", WAV, rate, Settings(format="FLAC"), tags.read(source))
        got = FLAC(tmp_path / "b.flac").cuesheet
        assert got.tracks[1].start_offset == start
        assert got.tracks[1].indexes[0].index_offset == index
        assert got.compact_disc == (rate == 44100)


def test_times_of_the_whole_do_not_survive_a_part(tmp_path):
    source = save(tmp_path / "a.flac", WAV, 44100, "PCM_24")
    file = FLAC(source)
    file["cuesheet"], file["chapter001"], file["chapter001name"] = "FILE x", "00:00:01", "one"
    file["syncedlyrics"], file["lyrics"], file["title"] = "[00:01.00]la", "[00:01.00]la", "T"
    file["chapter"] = "a book's"
    file.save()
    (note,) = carried(source, tmp_path / "b.flac", whole=False).notes
    assert set(FLAC(tmp_path / "b.flac").tags.as_dict()) == {"title", "chapter"}
    assert all(name in note for name in ("CUESHEET", "CHAPTER001NAME", "SYNCEDLYRICS", "LYRICS"))
    lines = [("la", 10)]
    source = with_id3(
        tmp_path / "c.mp3",
        SYLT=(3, "eng", 2, 1, "", lines),
        USLT=(3, "eng", "", "[00:01.00]la"),
        TXXX=(3, "CUESHEET", ["FILE x"]),
        CHAP=("c", 0, 100),
    )
    (note,) = carried(source, tmp_path / "d.mp3", whole=False).notes
    tag = ID3(tmp_path / "d.mp3")
    assert not [key for key in tag if key[:4] in ("SYLT", "USLT", "CHAP")] and str(tag["TIT2"])
    assert "TXXX:CUESHEET" not in tag and "CHAP" in note
    (note,) = carried(marked(tmp_path / "e.wav"), tmp_path / "f.wav", whole=False).notes
    assert riff.read(tmp_path / "f.wav").carried == [] and "cue" in note and "smpl" in note


# ------------------------------------------------------------------------------------ loudness, MD5


@pytest.mark.parametrize("format", ["OGG", "MP3"])
def test_the_true_peak_that_is_told_is_that_of_what_was_coded(format, tmp_path):
    source = save(tmp_path / "a.flac", WAV, 48000, "PCM_24")
    file = FLAC(source)
    file["replaygain_track_gain"] = "-3 dB"
    file.save()
    target = tmp_path / f"b.{format.lower()}"
    wav = 0.9 * torch.sign(torch.sin(torch.arange(48000) / 20)).repeat(2, 1)
    write_result(target, wav, 48000, Settings(format=format), tags.read(source))
    found = ID3(target) if format == "MP3" else mutagen.File(target).tags
    key = "TXXX:REPLAYGAIN_TRACK_PEAK" if format == "MP3" else "replaygain_track_peak"
    told = float(str(found[key][0] if format == "OGG" else found[key]))
    heard = audio.measure(target).true_peak
    assert told == pytest.approx(heard, rel=1e-4)
    samples, _ = soundfile.read(target)
    assert told >= np.abs(samples).max() - 1e-6


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("n_channels", [1, 2, 5])
def test_the_md5_of_flac_is_checked(subtype, n_channels, tmp_path):
    path = save(tmp_path / "a.flac", tone(30000, n_channels), 44100, subtype)
    assert audio.read_all(path).notes == ()
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    (note,) = audio.read_all(path).notes
    assert "MD5" in note
    assert audio.read_all(path, duration=0.1).notes == ()
    data[26:42] = bytes(16)  # not told
    path.write_bytes(data)
    assert audio.read_all(path).notes == ()


def test_what_is_no_file_has_no_chunks(tmp_path):
    (tmp_path / "a").write_bytes(b"RIFF\0\0\0\0WAVELIST\xff\xff\xff\xff\1\2")
    assert riff.read(tmp_path / "a") == riff.Chunks()
    (tmp_path / "b").write_bytes(b"")
    assert riff.read(tmp_path / "b") == riff.Chunks()


@pytest.mark.parametrize("size", [0, 2**32 - 1])
def test_samples_of_unknown_number_are_no_chunks(size, tmp_path):
    path = tmp_path / "a.wav"
    save(path, WAV, 48000)
    data = bytearray(path.read_bytes())
    place = data.index(b"data")
    data[place + 4 : place + 8] = struct.pack("<I", size)
    data[place + 8 : place + 20] = b"LISTxxxxzzzz"
    path.write_bytes(data)
    assert riff.read(path) == riff.Chunks(rate=48000)


@pytest.mark.needs("ffmpeg")
def test_chapters_are_named(tmp_path):
    save(tmp_path / "a.wav", WAV, 48000)
    text = ";FFMETADATA1\ntitle=T\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=200\ntitle=one\n"
    (tmp_path / "meta").write_text(text)
    given = ["-i", tmp_path / "a.wav", "-i", tmp_path / "meta", "-map_metadata", "1"]
    for suffix, codec in (("mka", "flac"), ("m4a", "aac")):
        path = tmp_path / f"a.{suffix}"
        subprocess.run(["ffmpeg", "-v", "error", *given, "-c:a", codec, path], check=True)
        assert any("chapters" in note for note in carried(path, tmp_path / "b.flac").notes)
        got = FLAC(tmp_path / "b.flac").tags.as_dict()
        assert got["title"] == ["T"] and "duration" not in got, got


def test_markers_of_aiff_are_named(tmp_path):
    path = save(tmp_path / "a.aiff", WAV, 48000, "PCM_16")
    data = path.read_bytes() + b"MARK" + struct.pack(">IHHI", 10, 1, 1, 5) + b"\1x"
    path.write_bytes(data[:4] + struct.pack(">I", len(data) - 8) + data[8:])
    assert "MARK" in carried(path, tmp_path / "b.flac").notes[0]

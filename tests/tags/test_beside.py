"""Tags that stand beside others, or in places that only one kind of file has."""

import random
import struct
import subprocess

import pytest
import soundfile
from helpers import encoded, save
from mutagen.apev2 import APEv2, APEValue
from mutagen.asf import ASF
from mutagen.flac import FLAC
from mutagen.id3 import ID3, Frames
from mutagen.mp4 import MP4
from mutagen.wave import WAVE
from tag_files import (
    COVER,
    WAV,
    atoms,
    carried,
    chunk,
    element,
    ffprobe,
    frames,
    picture,
    simple,
    tag,
    with_comments,
    with_id3,
)

from apollo_plugin import tags
from apollo_plugin.tags import matroska, riff

BACK = picture("PNG")


def id3(path, *more):
    tag = ID3()
    for frame in (*frames(), *more):
        tag.add(frame)
    tag.save(path)
    return path


# ---------------------------------------------------------------------------------- second tags


@pytest.mark.parametrize("room", [b"", bytes(64), b"nonsense", b"ID3\5\0\0\0\0\0\x20" + bytes(32)])
def test_an_id3_chunk_without_a_tag_hides_no_other(room, tmp_path):
    """Room for a tag is nothing; a tag that cannot be read is told."""
    path = tmp_path / "a.wav"
    soundfile.write(path, WAV.T.numpy(), 48000)
    texts = b"INFOINAM\6\0\0\0Title\0"
    chunks = ((b"LIST", texts), (b"id3 ", room), (b"iXML", b"<BWFXML/>"))
    data = path.read_bytes() + b"".join(
        name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
        for name, body in chunks
    )
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    told = carried(path, tmp_path / "b.wav")
    assert b"<BWFXML/>" in (tmp_path / "b.wav").read_bytes()
    assert str(WAVE(tmp_path / "b.wav").tags["TIT2"]) == "Title"
    assert any("ID3 tag that cannot be read" in note for note in told.notes) == room.startswith(
        b"ID3"
    )


@pytest.mark.parametrize("suffix, codec", [("flac", "flac"), ("aac", "aac"), ("tta", "tta")])
def test_id3_before_any_file(suffix, codec, tmp_path):
    path = encoded(tmp_path / f"a.{suffix}", WAV, codec, 48000)
    if suffix == "flac":
        file = FLAC(path)
        file.delete()
    id3(path, Frames["TCOM"](3, ["C"]))
    told = carried(path, tmp_path / "b.flac")
    got = FLAC(tmp_path / "b.flac")
    assert got["title"] == ["Tïtle"] and got["composer"] == ["C"] and told.notes == ()
    assert [each.data for each in got.pictures] == [COVER]


@pytest.mark.parametrize("suffix, codec", [("mp3", "libmp3lame"), ("aac", "aac"), ("tta", "tta")])
def test_ape_after_any_file(suffix, codec, tmp_path):
    path = encoded(tmp_path / f"a.{suffix}", WAV, codec, 48000)
    tag = APEv2()
    tag["Title"], tag["Composer"] = "T", "C"
    tag["Cover Art (Back)"] = APEValue(b"b.png\0" + BACK, 1)
    tag["Cover Art (Media)"] = APEValue(b"m.jpg\0" + COVER, 1)
    tag.save(path)
    assert carried(path, tmp_path / "b.flac").notes == ()
    got = FLAC(tmp_path / "b.flac")
    assert got["title"] == ["T"] and got["composer"] == ["C"]
    assert {each.type: each.data for each in got.pictures} == {4: BACK, 6: COVER}


def test_two_tags_are_joined_and_where_they_differ_is_told(tmp_path):
    path = with_id3(tmp_path / "a.mp3")
    tag = APEv2()
    tag["Title"], tag["Album"], tag["Composer"], tag["Year"] = "Other", "The album", "C", "1999"
    tag["Artist"] = ["One", "Two"]
    tag["Cover Art (Front)"] = APEValue(b"f.jpg\0" + COVER, 1)
    tag["Cover Art (Back)"] = APEValue(b"b.png\0" + BACK, 1)
    tag.save(path)
    for suffix in ("mp3", "flac", "wav"):
        (note,) = carried(path, tmp_path / f"b.{suffix}").notes
        assert note == "its APEv2 tag differs in title, artist; that was left out"
        found = tags.read(tmp_path / f"b.{suffix}")
        assert found.text["title"] == ["Tïtle"] and found.text["composer"] == ["C"]
        # The second cover too, beside ID3's own frames.
        assert {each.type: each.data for each in found.pictures} == {3: COVER, 4: BACK}


def test_comments_and_id3_of_a_flac(tmp_path):
    path = with_comments(tmp_path / "a.flac")
    id3(path, Frames["TCOM"](3, ["C"]), Frames["TPE2"](3, ["AA"]), Frames["PRIV"]("me", b"x"))
    (note,) = carried(path, tmp_path / "b.flac").notes
    got = FLAC(tmp_path / "b.flac")
    assert got["composer"] == ["C"] and got["albumartist"] == ["AA"] and "PRIV" in note
    assert got["title"] == ["Tïtle"] and len(got.pictures) == 1


# ---------------------------------------------------------------------------------- ID3


@pytest.mark.needs("ffprobe")
def test_a_private_frame_hides_nothing_in_a_wav(tmp_path):
    """FFmpeg takes it for a tag of the WAV's own, and drops all others beside it."""
    source = with_id3(tmp_path / "a.mp3", PRIV=("www.amazon.com", b"x"), TPE2=(3, ["AA"]))
    assert carried(source, tmp_path / "b.wav").notes == ("WAV cannot hold PRIV; left out",)
    shown = ffprobe(tmp_path / "b.wav")
    assert shown["title"] == "Tïtle" and shown["album artist"] == "AA"
    for suffix in ("mp3", "aiff"):
        assert carried(source, tmp_path / f"b.{suffix}").notes == ()
        assert ffprobe(tmp_path / f"b.{suffix}")["title"] == "Tïtle"


def test_places_in_the_coded_file_are_not_carried(tmp_path):
    lines = [("la", 1), ("li", 9)]
    source = with_id3(
        tmp_path / "a.mp3", CHAP=("c", 0, 500, 1000, 9000), SYLT=(3, "eng", 1, 1, "", lines)
    )
    for suffix in ("mp3", "aiff"):
        (note,) = carried(source, tmp_path / f"b.{suffix}").notes
        assert "SYLT" in note  # in MPEG frames
    chapter = ID3(tmp_path / "b.mp3")["CHAP:c"]
    assert (chapter.start_time, chapter.end_time) == (0, 500)
    assert chapter.start_offset == chapter.end_offset == 2**32 - 1
    assert not ID3(tmp_path / "b.mp3").getall("SYLT")


# ---------------------------------------------------------------------------------- MP4


@pytest.mark.needs("ffprobe")
def test_a_date_with_a_time_is_a_date(tmp_path):
    file = MP4(atoms(tmp_path / "a.m4a"))
    file["©day"] = ["1999-05-04T07:00:00Z"]
    file.save()
    for suffix in ("mp3", "wav"):
        assert carried(tmp_path / "a.m4a", tmp_path / f"b.{suffix}").notes == ()
        assert ffprobe(tmp_path / f"b.{suffix}")["date"][:10] == "1999-05-04"
    assert ID3(tmp_path / "b.mp3")["TDRC"].text[0].text == "1999-05-04 07:00:00"


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize("name, more", [("a.mov", []), ("a.mp4", ["use_metadata_tags"])])
def test_tags_of_quicktime(name, more, tmp_path):
    save(tmp_path / "a.wav", WAV, 48000)
    flags = ["-movflags", *more] if more else []
    said = ["-metadata", "title=T", "-metadata", "artist=A"]
    command = ["ffmpeg", "-v", "error", "-i", "a.wav", "-c:a", "aac", *said, *flags, name]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert carried(tmp_path / name, tmp_path / "b.flac").notes == ()
    got = FLAC(tmp_path / "b.flac").tags.as_dict()
    assert got["title"] == ["T"] and got["artist"] == ["A"] and "language" not in got


def test_a_field_of_bytes_is_named(tmp_path):
    file = MP4(atoms(tmp_path / "a.m4a"))
    file["----:org.me:Thing"] = [b"\xff\xfe\0"]
    file.save()
    assert carried(tmp_path / "a.m4a", tmp_path / "b.mp3").notes == (
        "MP3 cannot hold Thing; left out",
    )


# ---------------------------------------------------------------------------------- Windows Media


def test_attributes_of_windows_media(tmp_path):
    path = encoded(tmp_path / "a.wma", WAV, "wmav2", kbps=96)
    file = ASF(path)
    file["WM/Track"], file["IsVBR"], file["WM/IsCompilation"] = [2], [False], [True]
    file["WM/CatalogNo"], file["WM/OriginalReleaseYear"], file["Rating"] = ["c"], ["1970"], ["PG"]
    file["WM/SharedUserRating"] = [99]
    file.save()
    assert carried(path, tmp_path / "b.flac").notes == ()
    got = FLAC(tmp_path / "b.flac").tags.as_dict()
    assert got["tracknumber"] == ["3"] and got["compilation"] == ["1"]  # counted from 0
    assert got["catalognumber"] == ["c"] and got["originalyear"] == ["1970"]
    assert got["contentrating"] == ["PG"] and got["rating"] == ["100"]
    assert not {"isvbr", "encodingsettings"} & set(got)
    file["WM/TrackNumber"] = ["3"]
    file.save()
    assert tags.read(path).text["tracknumber"] == ["3"]


# ---------------------------------------------------------------------------------- RIFF and AIFF


def with_chunks(path, *chunks, rf64=False):
    soundfile.write(path, WAV.T.numpy(), 48000, "PCM_16", format="RF64" if rf64 else "WAV")
    data = path.read_bytes() + b"".join(chunks)
    size = 2**32 - 1 if rf64 else len(data) - 8
    path.write_bytes(data[:4] + struct.pack("<I", size) + data[8:])
    return path


INFO = b"INFO" + b"".join(
    chunk(name, text + b"\0")
    for name, text in (
        (b"INAM", b"T"),
        (b"IPRT", b"1"),
        (b"ITRK", b"3"),
        (b"IENG", b"E\xfc"),
        (b"ICMT", b"one"),
        (b"ICMT", b"two"),
        (b"ISRC", b"a record"),
        (b"IXYZ", b"x"),
        (b"ISFT", b"a program"),
    )
)


# mutagen does not write ID3 to RF64.
@pytest.mark.parametrize("rf64, beside", [(False, False), (True, False), (False, True)])
def test_all_texts_of_a_wav(rf64, beside, tmp_path):
    bext = b"a story".ljust(256, b"\0") + b"me".ljust(346, b"\0") + b"A=PCM\r\n"
    path = with_chunks(
        tmp_path / "a.wav",
        chunk(b"LIST", INFO),
        chunk(b"bext", bext),
        chunk(b"_PMX", b"<x/>"),
        rf64=rf64,
    )
    if beside:
        file = WAVE(path)
        file.add_tags()
        file.tags.add(Frames["TIT2"](3, ["Other"]))
        file.save()
    notes = carried(path, tmp_path / "b.flac").notes
    assert "bext, _PMX" in notes[-1]
    assert ("its RIFF or AIFF text differs in title; that was left out" in notes) == beside
    got = FLAC(tmp_path / "b.flac").tags.as_dict()
    assert got["title"] == ["Other" if beside else "T"]
    assert got["tracknumber"] == ["3"] and got["iprt"] == ["1"] and got["engineer"] == ["Eü"]
    assert got["comment"] == ["one", "two", "a story"] and got["encodedby"] == ["me"]
    assert got["source"] == ["a record"] and got["ixyz"] == ["x"] and "isrc" not in got
    assert got["coding_history"] == ["A=PCM"] and not {"isft", "encoder"} & set(got)


def test_markers_of_an_rf64(tmp_path):
    cue = struct.pack("<III4sIII", 1, 1, 4800, b"data", 0, 0, 4800)
    path = with_chunks(tmp_path / "a.wav", chunk(b"cue ", cue), rf64=True)
    assert carried(path, tmp_path / "b.wav").notes == ()
    assert riff.read(tmp_path / "b.wav").carried == [(b"cue ", cue)]
    assert riff.read(path).rate == 48000


def test_texts_of_an_aiff(tmp_path):
    path = save(tmp_path / "a.aiff", WAV, 48000, "PCM_16")
    data = path.read_bytes()
    for name, text in ((b"NAME", b"T"), (b"AUTH", b"A"), (b"ANNO", b"one"), (b"ANNO", b"two!")):
        data += name + struct.pack(">I", len(text)) + text + b"\0" * (len(text) & 1)
    path.write_bytes(data[:4] + struct.pack(">I", len(data) - 8) + data[8:])
    assert carried(path, tmp_path / "b.flac").notes == ()
    got = FLAC(tmp_path / "b.flac").tags.as_dict()
    assert got == {"title": ["T"], "artist": ["A"], "comment": ["one", "two!"]}


# ---------------------------------------------------------------------------------- Matroska


def sound(uid: int, name: str = "") -> bytes:
    return element(
        0xAE, element(0x73C5, bytes([uid])), element(0x83, b"\2"), element(0x536E, name.encode())
    )


def attachment(name: str, kind: str, data: bytes) -> bytes:
    texts = element(0x466E, name.encode()), element(0x4660, kind.encode())
    return element(0x61A7, *texts, element(0x465C, data))


def container(path, *parts: bytes):
    path.write_bytes(element(0x1A45DFA3, b"") + element(0x18538067, *parts))
    return path


def test_tags_of_matroska(tmp_path):
    album = tag(
        None,
        simple("TITLE", "L", simple("SORT_WITH", "l")),
        simple("ARTIST", "AA"),
        simple("TOTAL_PARTS", "12"),
        simple("REPLAYGAIN_GAIN", "-5 dB"),
        simple("GENRE", "Jazz"),
    )
    box = tag(60, simple("TOTAL_PARTS", "2"))
    song = tag(
        30,
        simple("TITLE", "T"),
        simple("ARTIST", "A"),
        simple("ARTIST", "B", simple("URL", "http://b")),
        simple("PART_NUMBER", "3"),
        simple("DATE_RELEASED", "1999"),
    )
    path = container(
        tmp_path / "a.mka",
        element(0x1549A966, element(0x7BA9, b"T")),
        element(0x1654AE6B, sound(1), sound(2)),
        element(0x1F43B675, bytes(5000)),
        element(0x1254C367, album, box, song, tag(30, simple("MOOD", "sad"), track=1)),
        element(0x1254C367, tag(30, simple("MOOD", "gay"), track=2)),
        element(
            0x1941A469,
            attachment("cover.jpg", "image/jpeg", COVER),
            attachment("back.png", "image/png", BACK),
            attachment("a.pdf", "application/pdf", b"x"),
            attachment("no.jpg", "image/jpeg", b"x"),
        ),
        element(0x1043A770, element(0x45B9, element(0xB6, b""))),
    )
    told = carried(path, tmp_path / "b.flac")
    assert all(name in told.notes[-1] for name in ("chapters", "a.pdf", "no.jpg"))
    got = FLAC(tmp_path / "b.flac")
    expected = {
        "title": ["T"],
        "artist": ["A", "B"],
        "artist/url": ["http://b"],
        "album": ["L"],
        "albumsort": ["l"],
        "albumartist": ["AA"],
        "tracknumber": ["3"],
        "tracktotal": ["12"],
        "disctotal": ["2"],
        "date": ["1999"],
        "genre": ["Jazz"],
        "mood": ["sad"],
    }
    assert {key: got[key] for key in expected} == expected
    assert "replaygain_track_gain" in got and len(got.tags.as_dict()) == len(expected) + 2
    assert {each.type: each.data for each in got.pictures} == {3: COVER, 4: BACK}
    assert tags.read(path, track=2).text["mood"] == ["gay"]


def test_matroska_without_levels_means_the_song(tmp_path):
    path = container(
        tmp_path / "a.mka",
        element(0x1549A966, element(0x7BA9, b"T")),
        element(0x1654AE6B, sound(1, "another")),
        element(0x1254C367, tag(None, simple("ARTIST", "A"), simple("ALBUM", "L"))),
    )
    found = tags.read(path)
    assert found.text == {"artist": ["A"], "album": ["L"], "title": ["T"]}
    assert found.notes == ["the container's title differs in title; that was left out"]


@pytest.mark.needs("ffmpeg")
def test_covers_that_ffmpeg_attaches(tmp_path):
    save(tmp_path / "a.wav", WAV, 48000)
    (tmp_path / "cover.jpg").write_bytes(COVER)
    said = ["-metadata", "title=T", "-metadata", "composer=C", "-attach", "cover.jpg"]
    said += ["-metadata:s:t", "mimetype=image/jpeg"]
    command = ["ffmpeg", "-v", "error", "-i", "a.wav", "-c:a", "flac", *said, "a.mka"]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert carried(tmp_path / "a.mka", tmp_path / "b.flac").notes == ()
    got = FLAC(tmp_path / "b.flac")
    assert got["title"] == ["T"] and got["composer"] == ["C"] and len(got.tags.as_dict()) == 2
    assert [each.data for each in got.pictures] == [COVER]


@pytest.mark.parametrize("seed", range(40))
def test_broken_matroska(seed, tmp_path):
    """Cut, with sizes that lie, nested without end: an answer, and none of it is believed."""
    deep = b""
    for _ in range(3000):
        deep = element(0x67C8, element(0x45A3, b"A"), deep)
    path = container(
        tmp_path / "a.mka",
        element(0x1254C367, tag(30, simple("TITLE", "T")), element(0x7373, deep)),
        element(0x1941A469, attachment("c.jpg", "image/jpeg", COVER)),
    )
    data, chance = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(seed):
        data[chance.randrange(40, 2000)] = chance.randrange(256)
    path.write_bytes(bytes(data) if seed % 2 else bytes(data[: chance.randrange(len(data))]))
    found = tags.read(path)
    assert len(found.other) < 100 and len(path.read_bytes()) < 1e6
    (tmp_path / "b").write_bytes(matroska.MAGIC)
    assert tags.read(tmp_path / "b").text == {}

"""Chunks, items and numbers of tags, one by one: against what their formats lay down."""

import base64
import io
import struct
import zlib
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
from mutagen._vorbis import VCommentDict
from mutagen.apev2 import BINARY, TEXT, APEValue
from mutagen.flac import CueSheet, CueSheetTrack, CueSheetTrackIndex, Picture
from mutagen.id3 import ID3, SYLT, TXXX
from tag_files import chunk, ebml_number, element, simple, tag

from apollo_plugin import __version__
from apollo_plugin.audio.loudness import Level
from apollo_plugin.tags import files, gain, id3, mark, matroska, others, riff, timed, vorbis
from apollo_plugin.tags.model import Tags, numbered


def cue(*places: int) -> bytes:
    points = [
        struct.pack("<II4sIII", n, place, b"data", 7, 8, place) for n, place in enumerate(places)
    ]
    return struct.pack("<I", len(places)) + b"".join(points)


def sampler(period: int, *loops: tuple[int, int]) -> bytes:
    body = struct.pack("<9I", 1, 2, period, 4, 5, 6, 7, len(loops), 9)
    return body + b"".join(struct.pack("<6I", 1, 2, *loop, 5, 6) for loop in loops)


def labels(*lengths: int) -> bytes:
    """Regions of such lengths, each behind a label of an odd one."""
    label = chunk(b"labl", struct.pack("<I", 5000) + b"odd")
    return b"".join(
        label + chunk(b"ltxt", struct.pack("<IIII", 6000, n, 7000, 8000)) for n in lengths
    )


@pytest.mark.parametrize("ratio", [0.5, 1, 2, 1.5])
def test_positions_are_scaled_and_nothing_else(ratio):
    def of(n):
        return round(n * ratio)

    places, loops, lengths = (100, 4801, 0), ((11, 22), (300, 4000)), (7, 30000, 1)
    for name, before, after in (
        (b"cue ", cue(*places), cue(*map(of, places))),
        (
            b"smpl",
            sampler(20833, *loops),
            sampler(round(20833 / ratio), *(tuple(map(of, loop)) for loop in loops)),
        ),
        (b"adtl", labels(*lengths), labels(*map(of, lengths))),
        (b"acid", cue(*places), cue(*places)),
    ):
        assert riff._scale_positions(name, before, ratio) == after
        # What is cut is scaled as far as its numbers are whole.
        for n in range(len(before)):
            cut = riff._scale_positions(name, before[:n], ratio)
            assert len(cut) == n
            if ratio == 1:
                assert cut == before[:n]
    assert riff._scale_positions(b"cue ", cue(2**31), 4) == cue(2**32 - 1)


def test_the_last_position_counts_if_it_is_whole():
    for name, body, step in (
        (b"cue ", cue(10, 20), 24),
        (b"smpl", sampler(8, (10, 20), (30, 40)), 24),
    ):
        scaled = riff._scale_positions(name, body, 2)
        cut = riff._scale_positions(name, body[:-1], 2)
        assert cut[: len(body) - step] == scaled[: len(body) - step]
        assert cut[len(body) - step :] == body[len(body) - step : -1]
        assert riff._scale_positions(name, body + b"x", 2) == scaled + b"x"


def wav(*chunks: bytes, head: bytes = b"RIFF\0\0\0\0WAVE") -> bytes:
    return head + b"".join(chunks)


FMT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 2, 48000, 4, 4, 16))
LIST = chunk(b"LIST", b"adtl" + labels(3))


@pytest.mark.parametrize(
    "data, carried, left, rate",
    [
        (wav(FMT, chunk(b"cue ", cue(1))), [(b"cue ", cue(1))], [], 48000),
        (wav(chunk(b"acid", b"odd"), LIST), [(b"acid", b"odd"), (b"adtl", labels(3))], [], 0),
        (wav(chunk(b"_PMX", b"x"), chunk(b"LIST", b"abcd")), [], ["_PMX", "abcd"], 0),
        (wav(chunk(b"PAD ", b"xyz"), chunk(b"inst", b"")), [(b"inst", b"")], [], 0),
        # Samples up to the end, and as many as RF64 says.
        (wav(chunk(b"data", b"", 0), chunk(b"cue ", cue(1))), [], [], 0),
        (wav(chunk(b"data", b"", 2**32 - 1), chunk(b"acid", b"x")), [], [], 0),
        (
            wav(
                chunk(b"ds64", struct.pack("<QQQ", 1, 6, 3)),
                chunk(b"data", b"samples"[:6], 2**32 - 1),
                chunk(b"acid", b"x"),
                head=b"RF64\0\0\0\0WAVE",
            ),
            [(b"acid", b"x")],
            [],
            0,
        ),
        (wav(b"acid" + struct.pack("<I", 4) + b"ab"), [(b"acid", b"ab")], [], 0),
        (wav(b"acid\0\0\0"), [], [], 0),
        (wav(b"aci\x1f" + bytes(4), chunk(b"acid", b"x")), [], [], 0),
        (wav(b"aci~" + bytes(4), chunk(b"acid", b"x")), [(b"acid", b"x")], ["aci~"], 0),
        (wav(chunk(b"acid", b"x"), head=b"BW64\0\0\0\0WAVE"), [(b"acid", b"x")], [], 0),
        (wav(chunk(b"acid", b"x"), head=b"RIFF\0\0\0\0WAVX"), [], [], 0),
        (wav(chunk(b"acid", b"x"), head=b"RIFX\0\0\0\0WAVE"), [], [], 0),
        (wav(*999 * [chunk(b"PAD ", b"")], chunk(b"acid", b"x")), [(b"acid", b"x")], [], 0),
        (wav(*1000 * [chunk(b"PAD ", b"")], chunk(b"acid", b"x")), [], [], 0),
        (wav(chunk(b"fmt ", b"ab")), [], [], 0),
    ],
)
def test_chunks_that_are_carried(data, carried, left, rate, tmp_path):
    (tmp_path / "a.wav").write_bytes(data)
    found = riff.read(tmp_path / "a.wav")
    assert (found.carried, found.left, found.rate) == (carried, left, rate)


def test_a_chunk_of_the_most_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(riff, "_MOST_BYTES", 10)
    for n, body in ((10, b"x" * 10), (11, b"")):
        (tmp_path / "a.wav").write_bytes(wav(chunk(b"acid", b"x" * n), chunk(b"inst", b"i")))
        assert riff.read(tmp_path / "a.wav").carried == [(b"acid", body), (b"inst", b"i")]


@pytest.mark.parametrize("n", [30, 31])
@pytest.mark.parametrize("ratio", [1, 2])
def test_chunks_are_appended_at_even_places(n, ratio, tmp_path):
    path = tmp_path / "a.wav"
    before = b"RIFF" + bytes(4) + b"WAVE" + b"x" * (n - 12)
    path.write_bytes(before)
    chunks = [(b"iXML", b"<x/>"), (b"acid", b"odd"), (b"adtl", labels(4)), (b"cue ", cue(5))]
    left = riff.append(path, chunks, ratio)
    assert left == ([] if ratio == 1 else ["iXML"])
    expected = b"\0" * (n % 2) + (chunk(b"iXML", b"<x/>") if ratio == 1 else b"")
    expected += chunk(b"acid", b"odd") + chunk(b"LIST", b"adtl" + labels(4 * ratio))
    expected += chunk(b"cue ", cue(5 * ratio))
    data = path.read_bytes()
    assert data == b"RIFF" + struct.pack("<I", len(data) - 8) + before[8:] + expected


@pytest.mark.parametrize("more, fits", [(0, True), (1, False)])
def test_a_wav_of_the_most_bytes(more, fits, tmp_path, monkeypatch):
    path, chunks = tmp_path / "a.wav", [(b"acid", b"abcd")]
    path.write_bytes(bytes(100))
    monkeypatch.setattr(riff, "_LIMIT", 100 + 12 - 8 - more)
    if fits:
        assert riff.append(path, chunks, 1) == [] and path.stat().st_size == 112
    else:
        with pytest.raises(ValueError, match="^WAV holds 4 GiB at most$"):
            riff.append(path, chunks, 1)
        assert path.read_bytes() == bytes(100)


# ------------------------------------------------------------------------------------- loudness


@pytest.mark.parametrize(
    "loudness, peak, volumes, told_peak",
    [
        # Volumes are powers, in 1/1000 and 1/2500 W: 10 dB less is a tenth.
        (-18.0, 0.5, (1000, 2500), 16384),
        (-28.0, 0.25, (100, 250), 8192),
        (-8.0, 1.0, (10000, 25000), 32768),
        (-18.0 + 10 * 1.4, 1.5, (25119, 62797), 49152),
        (0.0, 2.0, (63096, 65534), 65535),
        (2.0, 9.0, (65534, 65534), 65535),
    ],
)
def test_numbers_of_sound_check(loudness, peak, volumes, told_peak):
    found = gain.fields({"soundcheck"}, "track", loudness, peak)["itunnorm"]
    numbers = [int(number, 16) for number in found.split(" ")[1:]]
    assert numbers == [volumes[0]] * 2 + [volumes[1]] * 2 + [0, 0] + [told_peak] * 2 + [0, 0]
    assert found == "".join(f" {number:08X}" for number in numbers)


@pytest.mark.parametrize(
    "loudness, told, steps",
    [
        (-23.0, "5.00 dB", 0),
        (-24.0, "6.00 dB", 256),
        (-13.006, "-4.99 dB", -2558),
        (-151.0, "133.00 dB", 32767),
        (-150.999, "133.00 dB", 32767),
        (-150.99, "132.99 dB", 32765),
        (105.0, "-123.00 dB", -32768),
        (106.0, "-124.00 dB", -32768),
    ],
)
def test_gains(loudness, told, steps):
    """ReplayGain 2.0 brings to -18 LUFS, R128 to -23, in 256ths of a dB in 16 bits."""
    found = gain.fields({"r128", "soundcheck"}, "album", loudness, 0.1234567)
    replaygain = {"replaygain_album_gain": told, "replaygain_album_peak": "0.123457"}
    assert found == {**replaygain, "r128_album_gain": str(steps)}
    assert gain.fields({"replaygain"}, "album", loudness, 0.1234567) == replaygain
    opus = gain.fields({"replaygain"}, "track", loudness, 0.5, opus=True)
    assert opus == {"r128_track_gain": str(steps)}
    assert gain.fields({"r128"}, "track", None, 0.5) == {} == gain.fields((), "track", -9.0, 0.5)


# ------------------------------------------------------------------------ APE, ASF, MP4, lyrics


@pytest.mark.parametrize(
    "attributes, expected",
    [
        ([("WM/SharedUserRating", number)], {"rating": [stars]} if stars else {})
        for number, stars in ((0, ""), (1, "20"), (25, "40"), (50, "60"), (75, "80"), (99, "100"))
    ]
    + [
        ([("WM/Track", 0)], {"tracknumber": ["1"]}),
        ([("WM/Track", "7")], None),
        ([("WM/Track", 4), ("WM/TrackNumber", 6)], {"tracknumber": ["6"]}),
        ([("Rating", "explicit")], {"contentrating": ["explicit"]}),
        ([("WM/IsCompilation", True)], {"compilation": ["1"]}),
        ([("WM/IsCompilation", False)], {}),
        ([("IsVBR", True), ("PeakValue", 5)], {}),
        ([("WM/Mood", "glad"), ("Own", "x")], {"mood": ["glad"], "own": ["x"]}),
    ],
)
def test_attributes_of_windows_media(attributes, expected):
    tags = Tags()
    others.read_asf(tags, [(name, SimpleNamespace(value=value)) for name, value in attributes])
    if expected is not None:
        assert tags.text == expected
    assert tags.other == []


def test_bytes_of_windows_media_are_named():
    tags = Tags()
    others.read_asf(tags, [("WM/Bytes", SimpleNamespace(value=b"abc"))])
    assert tags.text == {} and tags.other == ["WM/Bytes"]


PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 30
# The kinds of ID3, by their numbers, as APE names them.
KINDS = {0: "Other", 1: "PNG Icon", 3: "Front", 4: "Back", 8: "Artist", 17: "Colored Fish"}
KINDS |= {2: "Other Icon", 7: "Lead", 10: "Band", 13: "Studio", 20: "Publisher Logotype"}


@pytest.mark.parametrize("number", sorted(KINDS))
def test_kinds_of_ape_covers(number):
    tags = Tags()
    cover = APEValue(b"a.png\0" + PNG, BINARY)
    ape = {f"Cover Art ({KINDS[number]})": cover, "Blob": APEValue(b"xy", BINARY)}
    ape |= {"Artist": APEValue("a\0b", TEXT)}
    others.read_ape(tags, ape)
    (picture,) = tags.pictures
    assert (picture.type, picture.data, picture.mime) == (number, PNG, "image/png")
    assert tags.other == ["Blob"] and tags.text == {"artist": ["a", "b"]}


def test_lyrics_with_times():
    lines = [("one", 0), ("two\n words", 59_994), ("three", 60_000), ("four", 3_725_250)]
    frame = SYLT(encoding=3, lang="eng", format=2, type=1, desc="", text=lines)
    text = timed.lrc(frame)
    expected = ["[00:00.00]one", "[00:59.99]two words", "[01:00.00]three", "[62:05.25]four"]
    assert text.split("\n") == expected
    times = [ms for _, ms in timed.lyrics_frame(text).text]
    assert times == [0, 59_990, 60_000, 3_725_250]
    assert timed.lyrics_frame("[1:02]a\n\n[00:03.5] b").text == [("a", 62_000), ("b", 3500)]
    for other in ("", "\n", "[00:01]a\nno time", "[00:1]a", "[00:01.]a"):
        assert timed.lyrics_frame(other) is None
    for change in (dict(format=1), dict(type=0), dict(type=2)):
        assert (
            timed.lrc(SYLT(**{**dict(encoding=3, format=2, type=1, text=lines), **change})) is None
        )


def test_fields_that_hold_times():
    for key in ("cuesheet", "syncedlyrics", "chapter001", "chapter1name", "chapter12url"):
        assert timed.is_timed(key, ["x"])
    for key in ("chapter", "chapters", "cuesheets", "mycuesheet", "chapter1a2"):
        assert not timed.is_timed(key, ["[00:01]x"])
    assert timed.is_timed("lyrics", ["a", "b\n[12:34.5]c"]) and timed.is_timed(
        "lyrics:eng", ["[0:00]"]
    )
    assert not timed.is_timed("lyrics", ["a [00:01]", "[0:0]", "[:00]"])
    assert not timed.is_timed("title", ["[00:01]x"]) and not timed.is_timed("lyrics", [])


# Windows Media Player's numbers of 1 to 5 stars, and the middles between them.
STARS = {0: 0, 1: 1, 32: 1, 33: 2, 64: 2, 96: 2, 97: 3, 128: 3, 162: 3, 163: 4, 196: 4, 225: 4}
STARS |= {226: 5, 255: 5}
TEXTS = {"0": 0, "-1": 0, "0.01": 1, "1": 1, "1.4": 1, "2": 2, "5": 5, "5.1": 1, "20": 1, "29": 1}
TEXTS |= {"31": 2, "60": 3, "89": 4, "91": 5, "100": 5, "100.1": 0, "nan": 0, "x": 0, "": 0}


def test_ratings_of_id3_and_to_it():
    for number, stars in STARS.items():
        assert timed.rating(number) == (str(20 * stars) if stars else None)
    for text, stars in TEXTS.items():
        frame = timed.rating_frame(text)
        assert frame is None if not stars else frame.rating == (1, 64, 128, 196, 255)[stars - 1]
        assert frame is None or (frame.count, frame.email) == (0, "")


# ------------------------------------------------------------------------------------- Matroska


@pytest.mark.parametrize("width", range(1, 9))
def test_numbers_of_ebml(width):
    most = (1 << 7 * width) - 1
    for value in (0, 1, most // 3, most - 1, most):
        coded = ebml_number(value, width)
        told = -1 if value == most else value
        assert matroska._number(io.BytesIO(coded + b"\xff")) == told
        whole = int.from_bytes(coded, "big")
        assert matroska._number(io.BytesIO(coded), keep_length=True) == whole
        assert matroska._number(io.BytesIO(coded[:-1])) is None
    assert matroska._number(io.BytesIO(b"\0" + bytes(9))) is None


SEGMENT, TAGS, TAG = 0x18538067, 0x1254C367, 0x7373
SIMPLE, NAME, TEXT_OF = 0x67C8, 0x45A3, 0x4487


def track(uid: int, kind: int = 2, *more: bytes) -> bytes:
    return element(0xAE, element(0x73C5, bytes([uid])), element(0x83, bytes([kind])), *more)


def read_matroska(tmp_path, *parts: bytes, number: int = 1, size: bytes | None = None) -> Tags:
    path, found = tmp_path / "a.mka", Tags()
    path.write_bytes(element(0x1A45DFA3) + element(SEGMENT, *parts, size=size))
    matroska.read(found, path, "chapters", number)
    return found


def test_targets_of_matroska(tmp_path):
    """Of video tracks, chapters and attachments no tag is read."""
    tracks = element(0x1654AE6B, track(9, 1), track(1), track(2))
    tags = [
        tag(30, simple(f"K{index}", "x"), **of)
        for index, of in enumerate(
            [
                {},
                dict(track=0),
                dict(track=1),
                dict(track=2),
                dict(track=9),
                dict(chapter=1),
                dict(edition=1),
                dict(attachment=1),
                dict(chapter=0, edition=0),
            ]
        )
    ]
    for number, keys in ((1, "k0 k1 k2 k8"), (2, "k0 k1 k3 k8"), (3, "k0 k1 k8")):
        found = read_matroska(tmp_path, tracks, element(TAGS, *tags), number=number)
        assert sorted(found.text) == keys.split()


@pytest.mark.parametrize(
    "levels, title",
    [
        # Without a level: of the song, unless another level is stated beside the album's.
        ((0,), {"title": ["0"]}),
        ((50,), {"album": ["50"]}),
        ((0, 50), {"title": ["0"], "album": ["50"]}),
        ((0, 30), {"title": ["30"], "album": ["0"]}),
        ((0, 60), {"album": ["0"], "boxtitle": ["60"]}),
        ((30, 50, 70), {"title": ["30"], "album": ["50"], "boxtitle": ["70"]}),
        ((20, 30), {"title": ["20"]}),
    ],
)
def test_levels_of_matroska(levels, title, tmp_path):
    tags = element(TAGS, *(tag(level, simple("TITLE", str(level))) for level in levels))
    assert read_matroska(tmp_path, tags).text == title


def test_names_of_matroska(tmp_path):
    inner = simple("SORT_WITH", "s", simple("URL", "u"))
    tags = tag(
        30,
        simple("ARTIST", "a", inner, simple("Address", "b")),
        *(simple("BLOB", b"xy"), simple("PART_NUMBER", "3"), simple("CATALOG_NUMBER", "7")),
    )
    found = read_matroska(tmp_path, element(TAGS, tags))
    expected = {"artist": ["a"], "artistsort": ["s"], "artistsort/url": ["u"]}
    expected |= {"artist/address": ["b"], "tracknumber": ["3"], "catalognumber": ["7"]}
    assert found.text == expected and found.other == ["BLOB"]
    album = tag(50, simple("ARTIST", "aa"), simple("PART_NUMBER", "2"))
    found = read_matroska(tmp_path, element(TAGS, album))
    assert found.text == {"albumartist": ["aa"], "discnumber": ["2"], "artist": ["aa"]}


def test_titles_languages_and_attachments_of_matroska(tmp_path):
    def named(name, language):
        return element(0x536E, name), element(0x22B59C, language)

    tracks = element(
        0x1654AE6B, track(1, 2, *named(b"one", b"und")), track(2, 2, *named(b"two\0", b"fre"))
    )
    info = element(0x1549A966, element(0x7BA9, b""))
    assert read_matroska(tmp_path, info, tracks).text == {"title": ["one"]}
    found = read_matroska(tmp_path, tracks, number=2)
    assert found.text == {"title": ["two"], "language": ["fre"]}
    language = element(TAGS, tag(None, simple("LANGUAGE", "ger")))
    assert read_matroska(tmp_path, tracks, language, number=2).text["language"] == ["ger"]
    files = [
        element(0x61A7, element(0x466E, name), element(0x4660, kind), element(0x465C, data))
        for name, kind, data in (
            (b"Feedback.png", b"image/png", PNG + b"1"),
            (b"c.png", b"image/png", PNG + b"2"),
            (b"d.png", b"application/png", PNG + b"3"),
        )
    ]
    chapters = element(0x1043A770, element(0x45B9, element(0xB6)))
    found = read_matroska(tmp_path, element(0x1941A469, *files), chapters)
    assert [(each.type, each.data[-1:]) for each in found.pictures] == [(4, b"1"), (3, b"2")]
    assert found.other == ["the attachment d.png", "chapters"]
    empty = element(0x1043A770, element(0x45B9))
    assert read_matroska(tmp_path, empty).other == []


def test_sizes_that_are_not_stated(tmp_path):
    """That of the segment is the file's; others cannot be known."""
    tags = element(TAGS, tag(None, simple("A", "x")))
    for size in (b"\xff", b"\x01" + b"\xff" * 7):
        assert read_matroska(tmp_path, tags, size=size).text == {"a": ["x"]}
    unknown = element(0x1F43B675, b"", size=b"\xff")
    assert read_matroska(tmp_path, unknown, tags).text == {}
    assert read_matroska(tmp_path, tags, unknown).text == {"a": ["x"]}


def test_elements_beyond_what_holds_them(tmp_path, monkeypatch):
    # A text that ends with its tag, whatever its size says.
    text = element(TEXT_OF, b"abc", size=ebml_number(900, 2))
    long = element(TAGS, element(TAG, element(SIMPLE, element(NAME, b"A"), text)))
    behind = element(TAGS, tag(None, simple("B", "y")))
    assert read_matroska(tmp_path, long, behind).text == {"a": ["abc"], "b": ["y"]}
    # So many levels, elements and bytes, and no more.
    deep = simple("A7", "x")
    for n in range(6, -1, -1):
        deep = simple(f"A{n}", "x", deep)
    parts = element(TAGS, tag(None, deep))
    monkeypatch.setattr(matroska, "_MOST_LEVELS", 8)
    found = read_matroska(tmp_path, parts).text
    assert [key.split("/")[-1] for key in found] == ["a0", "a1", "a2", "a3", "a4"]
    monkeypatch.undo()
    parts = element(TAGS, tag(None, simple("A", "x")), tag(None, simple("B", "y")))
    for most, keys in ((13, ["a", "b"]), (12, ["a"]), (8, ["a"]), (7, [])):
        monkeypatch.setattr(matroska, "_MOST_ELEMENTS", most)
        assert list(read_matroska(tmp_path, parts).text) == keys, most
    monkeypatch.undo()
    monkeypatch.setattr(matroska, "_MOST_BYTES", 5)
    parts = element(TAGS, tag(None, simple("A", "12345")), tag(None, simple("B", "123456")))
    assert read_matroska(tmp_path, parts).text == {"a": ["12345"]}


# ---------------------------------------------------------------- tags of no format in particular


def test_values_are_added_once_and_numbers_split():
    tags = Tags()
    tags.add("artist", ["a\0b", "a", " ", "", 5])
    tags.add("artist", ["b", "c"])
    tags.add("tracknumber", ["3/12"])
    tags.add("discnumber", ["/2"])
    tags.add("comment", ["\ud800x"])
    assert tags.text == {
        **{"artist": ["a", "b", "5", "c"], "tracknumber": ["3"], "tracktotal": ["12"]},
        **{"disctotal": ["2"], "comment": ["?x"]},
    }
    assert numbered(tags.text, "tracknumber") == "3/12"
    assert numbered({"tracknumber": ["4"]}, "tracknumber") == "4"
    for key, kind in (
        *(("replaygain_track_gain", "replaygain"), ("mp3gain_undo", "replaygain")),
        *(("r128_track_gain", "r128"), ("itunnorm", "soundcheck")),
    ):
        tags = Tags()
        tags.add(key, ["1"])
        assert (tags.text, tags.loudness, tags.has_album_gain) == ({}, {kind}, False)
        tags.add(key.replace("track", "album"), ["1"])
        assert tags.has_album_gain == ("track" in key)
    assert Tags().is_stale("encoder") and not Tags().is_stale("encodedby")
    assert Tags(text={"album": ["a", "b"], "albumartist": ["c"]}).album == "a\0b\0c"


def test_two_tags_are_merged():
    one = Tags(
        text={"title": ["A longer title"], "artist": ["a", "b"]}, notes=["n"], loudness={"r128"}
    )
    two = Tags(text={"title": ["A long"], "artist": ["b", "c"], "genre": ["g"]}, notes=["n", "m"])
    two.other, two.loudness, two.has_album_gain = ["X"], {"soundcheck"}, True
    for tags, datas in ((one, (b"1", b"2")), (two, (b"2", b"3"))):
        for data in datas:
            assert tags.add_picture(PNG + data, 3, "")
    one.merge(two, "its other tag")
    assert one.text == {"title": ["A longer title"], "artist": ["a", "b"], "genre": ["g"]}
    assert one.notes == ["n", "m", "its other tag differs in artist; that was left out"]
    assert [each.data[-1:] for each in one.pictures] == [b"1", b"2", b"3"]
    assert one.other == ["X"] and one.loudness == {"r128", "soundcheck"} and one.has_album_gain
    one.text["genre"].append("more")
    assert two.text["genre"] == ["g"]


def test_pictures_that_are_added():
    tags = Tags()
    for kind, told in ((0, 0), (20, 20), (21, 0), (-1, 0), (3, 3)):
        assert tags.add_picture(PNG, kind, "a\0b") and tags.pictures[-1].type == told
        assert tags.pictures[-1].desc == "ab"
    assert len(tags.pictures) == 5 and tags.add_picture(PNG, 3, "") and len(tags.pictures) == 5
    assert not tags.add_picture(b"abc", 3, "", "image/png")
    assert tags.notes == ["a cover that is no picture (3 bytes) was left out"]
    assert tags.add_picture(b"http://a", 3, "", "-->") and tags.pictures[-1].mime == "-->"


@pytest.mark.parametrize(
    "value, person",
    [
        ("a (b)", ["b", "a"]),
        ("a (b) (c)", ["c", "a (b)"]),
        ("a", ["", "a"]),
        ("(b)", ["", "(b)"]),
        ("a (b", ["", "a (b"]),
        ("a(b)", ["", "a(b)"]),
        (" (b)", ["", " (b)"]),
    ],
)
def test_performers_and_their_roles(value, person):
    assert id3._player(value) == person


def frames_of(text: dict[str, list[str]]) -> list[str]:
    return sorted(f"{frame.HashKey}={frame}" for frame in id3._frames(text))


@pytest.mark.parametrize(
    "text, frames",
    [
        ({"tracknumber": ["3"], "tracktotal": ["9"]}, ["TRCK=3/9"]),
        ({"tracktotal": ["9"]}, ["TXXX:TRACKTOTAL=9"]),
        ({"discnumber": ["1", "2"]}, ["TPOS=1"]),
        ({"date": ["2001-02-03T04:05:06Z"]}, ["TDRC=2001-02-03 04:05:06"]),
        ({"date": ["spring"]}, ["TXXX:DATE=spring"]),
        ({"website": ["http://a"]}, ["WOAR:http://a=http://a"]),
        ({"website": ["a"]}, ["TXXX:WEBSITE=a"]),
        ({"website": ["http://a", "http://b"]}, ["TXXX:WEBSITE=http://a\0http://b"]),
        ({"rating": ["60"]}, None),
        ({"rating": ["good"]}, ["TXXX:RATING=good"]),
        ({"comment": ["a"], "comment:x": ["b"]}, ["COMM::XXX=a", "COMM:x:XXX=b"]),
        ({"lyrics": ["a", "b"]}, ["USLT::XXX=a\nb"]),
        ({"syncedlyrics": ["no times"]}, ["TXXX:SYNCEDLYRICS=no times"]),
        ({"musicbrainz_trackid": ["a"]}, None),
        ({"musicbrainz_trackid": ["a", "b"]}, ["TXXX:MusicBrainz Track Id=a\0b"]),
        ({"releasetype": ["album"]}, ["TXXX:MusicBrainz Album Type=album"]),
        ({"bpm": ["120"], "title": ["a", "b"]}, ["TBPM=120", "TIT2=a\0b"]),
    ],
)
def test_frames_of_fields(text, frames):
    made = [each.replace("\x00", "\0") for each in frames_of(text)]
    if frames is not None:
        assert made == frames
    elif "rating" in text:
        assert made[0].startswith("POPM:") and id3._frames(text)[0].rating == 128
    else:
        (frame,) = id3._frames(text)
        assert (frame.FrameID, frame.owner, frame.data) == ("UFID", "http://musicbrainz.org", b"a")


def test_people_of_fields():
    made = {frame.FrameID: frame.people for frame in id3._frames(
        {"performer": ["a (drums)", "b"], "producer": ["p", "q"], "mixer": ["m"]}
    )}  # fmt: skip
    assert made["TMCL"] == [["drums", "a"], ["", "b"]]
    assert made["TIPL"] == [["producer", "p"], ["producer", "q"], ["mix", "m"]]


@pytest.mark.parametrize(
    "n, most, fits", [(1000, 100, False), (1000, 1000, True), (999, 1000, True)]
)
def test_a_frame_unpacks_to_so_much(n, most, fits):
    """A hundred times its size, and what is left for all frames of the file."""
    packed = zlib.compress(bytes(n))
    bounded = id3._BoundedZlib()
    bounded.left = most
    if fits:
        assert bounded.decompress(packed) == bytes(n)
        assert bounded.left == most - n and not bounded.too_much
    else:
        with pytest.raises(zlib.error, match="^cut short, or unpacks to too much$"):
            bounded.decompress(packed)
        assert bounded.too_much
    # What is cut short is not too much.
    bounded = id3._BoundedZlib()
    for data, told in (
        (zlib.compress(bytes(20_000), 0)[:40], False),
        (zlib.compress(bytes(10**6)), True),
    ):
        with pytest.raises(zlib.error):
            bounded.decompress(data)
        assert bounded.too_much == told
    assert bounded.left == id3._MOST_BYTES - (40 - 7) - 100 * len(data)


# ------------------------------------------------------------------------- Vorbis, marks, and files


def comments(*pairs: tuple[str, str]):
    """A file of comments that keeps what is set, as mutagen's does."""
    file = SimpleNamespace(tags=None)

    def add_tags():
        file.tags = VCommentDict()

    file.add_tags = add_tags
    if pairs:
        add_tags()
        file.tags.extend(pairs)
    return file


def test_pictures_and_fields_of_vorbis_comments():
    picture = Picture()
    picture.data, picture.type, picture.desc, picture.mime = PNG, 4, "d", "image/png"
    coded = base64.b64encode(picture.write()).decode()
    old, none = base64.b64encode(PNG + b"2").decode(), base64.b64encode(b"no picture").decode()
    tags = Tags()
    file = comments(
        *(("Title", "T"), ("COVERART", old), ("COVERARTMIME", "x"), ("ENCODER", "e")),
        *(("METADATA_BLOCK_PICTURE", coded), ("METADATA_BLOCK_PICTURE", none), ("coverart", "?")),
    )
    vorbis.read(tags, file)
    assert tags.text == {"title": ["T"]} and tags.comments == [("Title", "T")]
    assert [(each.type, each.desc) for each in tags.pictures] == [(3, ""), (4, "d")]
    assert tags.notes == [
        "a cover that is no picture was left out",
        "a cover that is no picture (0 bytes) was left out",
    ]
    target = comments()
    tags.text["genre"], tags.other = ["g", "h"], ["X"]
    tags.comments += [("a=b", "1"), ("", "2"), ("a~", "3"), (" }", "4")]
    left = vorbis.fill(target, tags, {"more": "m"})
    assert left == ["a=b", "", "a~", "X"]
    assert target.tags[:5] == [
        *(("Title", "T"), (" }", "4"), ("GENRE", "g"), ("GENRE", "h")),
        ("MORE", "m"),
    ]
    assert [name for name, _ in target.tags[5:]] == ["METADATA_BLOCK_PICTURE"] * 2


@pytest.mark.parametrize("more, n_left", [(0, 0), (1, 1)])
def test_comments_that_a_block_holds(more, n_left, monkeypatch):
    """The longest is left out first, until each with 64 bytes beside it fits, and 64 at all."""
    monkeypatch.setattr(vorbis, "_BLOCK_BYTES", 64 + 3 * 64 + 3 + 10 + 20 + 30)
    given = [("a", "x" * 10), ("b", "\u00e4" * 10), ("c", "z" * (30 + more))]
    kept, left = vorbis._limit_size(given)
    assert kept == given[: 3 - n_left] and left == n_left * ["c of 0 MB"]
    monkeypatch.setattr(vorbis, "_BLOCK_BYTES", 100)
    big = ("metadata_block_PICTURE", "x" * 2_600_000)
    kept, left = vorbis._limit_size([given[0], big, ("d", "y" * 1_400_000)])
    assert left == ["a picture of 3 MB", "d of 1 MB", "a of 0 MB"] and kept == []


@pytest.mark.parametrize("ratio, moved", [(1, 1), (0.5, 0.5), (2, 2)])
def test_cue_sheets_are_copied_with_their_places(ratio, moved):
    sheet = CueSheet(None)
    sheet.compact_disc, sheet.lead_in_samples = True, 88200
    for n, start in ((1, 0), (2, 588 * 75)):
        track = CueSheetTrack(n, start)
        track.indexes = [CueSheetTrackIndex(0, 0), CueSheetTrackIndex(1, 588 * 10)]
        sheet.tracks.append(track)
    copy = vorbis._copy_block(sheet, ratio)
    got = CueSheet(copy.write())
    assert copy.code == 5 and got.compact_disc == (ratio == 1)
    assert got.lead_in_samples == (88200 if ratio == 1 else 0)
    assert [track.start_offset for track in got.tracks] == [0, 588 * 75 * moved]
    assert [
        [(i.index_number, i.index_offset) for i in track.indexes] for track in got.tracks
    ] == 2 * [[(0, 0), (1, 588 * 10 * moved)]]


def test_marks_word_for_word(tmp_path):
    source = tmp_path / "a.xyz"
    source.write_bytes(b"nonsense")
    start = f"apollo-plugin {__version__}; model "
    assert mark.make("m", source, 16049.0) == f"{start}m; source XYZ, cut off at 16.0 kHz"
    assert mark.make("", source, None, "x") == (
        f"{start}unnamed; source XYZ, no cut-off found; again, after: x"
    )
    tags = Tags(text={"apollo_restored": ["x", "y"], "title": ["t"]})
    tags.comments = [("Apollo_Restored", "x"), ("title", "t")]
    tags.id3 = ID3()
    for name in ("APOLLO_RESTORED", "OTHER"):
        tags.id3.add(TXXX(3, name, ["x"]))
    assert mark.find(source, tags) == "x"
    mark.strip(tags)
    assert tags.text == {"title": ["t"]} and tags.comments == [("title", "t")]
    assert list(tags.id3) == ["TXXX:OTHER"] and mark.find(source, tags) == ""


def test_times_of_the_whole_are_named(tmp_path):
    tags = Tags(text={"cuesheet": ["x"], "title": ["t"], "lyrics": ["[00:01]a"]})
    tags.comments = [("CUESHEET", "x"), ("Title", "t"), ("UNSYNCEDLYRICS", "[00:01]a")]
    tags.id3 = ID3()
    for frame in (
        TXXX(3, "CUESHEET", ["x"]),
        TXXX(3, "x", ["y"]),
        SYLT(3, format=2, text=[("a", 1)]),
    ):
        tags.id3.add(frame)
    tags.other = ["CHAP", "chapters", "PRIV", "CUESHEET"]
    tags.blocks = [SimpleNamespace(code=5), SimpleNamespace(code=2)]
    tags.chunks = [(b"cue ", b""), (b"iXML", b""), (b"acid", b"")]
    files.drop_times(tags)
    assert tags.text == {"title": ["t"]} and tags.comments == [("Title", "t")]
    assert list(tags.id3) == ["TXXX:x"] and tags.other == ["PRIV"]
    assert [each.code for each in tags.blocks] == [2] and tags.chunks == [(b"acid", b"")]
    names = "CUESHEET, LYRICS, CHAP, chapters, cue, iXML"
    assert tags.notes == [f"times of the whole do not fit a part: {names} left out"]
    files.drop_times(plain := Tags(text={"title": ["t"]}))
    assert plain.notes == []


def test_tags_that_are_left_are_counted(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros((100, 2)), 44100)
    tags = Tags(text={"title": ["t"]}, other=["X", "Y", "X"], loudness={"replaygain"})
    told = "FLAC cannot hold X (2), Y, the loudness of silence; left out"
    assert files.write(path, tags, "FLAC", Level(0.0, np.empty(0))) == [told]
    assert files.write(path, Tags(), "FLAC", None) == []
    assert files.write(path, Tags(), "AU", None, made="m") == []
    assert files.write(path, tags, "AU", None) == ["AU holds no tags; they were left out"]
    assert files.write(path, Tags(text={"title": ["t"]}), "FLAC", None) == []


def test_ffmpegs_fields(tmp_path):
    """Of the chosen track and the container, whose own say more."""
    path = tmp_path / "a.nut"
    with av.open(str(path), "w", format="nut") as container:
        container.metadata.update({"title": "T", "software": "s", "author": "A"})
        streams = [container.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in "12"]
        for stream, mood, language in zip(streams, ("m1", "m2"), ("und", "fre")):
            stream.metadata.update({"mood": mood, "language": language})
        streams[0].metadata["composer"] = "C"
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 80), np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = 8000, 0
            container.mux([*stream.encode(frame), *stream.encode(None)])
    for number, expected in ((1, {"mood": ["m1"]}), (2, {"mood": ["m2"], "language": ["fre"]})):
        tags = Tags()
        others.read_by_ffmpeg(tags, path, number)
        assert {key: tags.text[key] for key in expected} == expected
        assert ("composer" in tags.text) == (number == 1)
        assert tags.text["title"] == ["T"] and tags.text["artist"] == ["A"]
        assert "software" not in tags.text and tags.other == []


def test_items_of_a_list_lie_at_even_places():
    items = b"INAM\x03\0\0\0abc\0" + b"IART\x01\0\0\0x\0" + b"ICMT\x09\0\0\0cut"
    assert [*riff._chunks(items)] == [(b"INAM", b"abc"), (b"IART", b"x"), (b"ICMT", b"cut")]

"""Tags and covers from each format to each, read back by mutagen and FFmpeg; and broken ones."""

import base64
import random
import struct
import tracemalloc
import zlib
from pathlib import Path

import av
import mutagen
import numpy as np
import pytest
import soundfile
import torch
from helpers import limited_files, needs_limits, read, save, tone
from mutagen.flac import FLAC, CueSheet, Picture
from mutagen.id3 import ID3, Frames
from mutagen.oggopus import OggOpus
from tag_files import (
    COVER,
    FORMATS,
    SAID,
    SOURCES,
    WAV,
    carried,
    riff_info,
    with_comments,
    with_id3,
)

from apollo_plugin import audio, tags
from apollo_plugin.audio import Meter
from apollo_plugin.data.codecs import encode_mp3
from apollo_plugin.errors import TagError
from apollo_plugin.restore import write_result
from apollo_plugin.settings import Settings


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return {name: make(folder / name) for name, make in SOURCES.items()}


def fields(path: Path) -> dict[str, list[str]]:
    """The fields that mutagen reads, by the names of SAID."""
    file = mutagen.File(path, easy=True)
    if isinstance(file.tags, ID3):
        tag = file.tags
        named = dict(title="TIT2", artist="TPE1", album="TALB", date="TDRC", genre="TCON")
        found = {key: [str(text) for text in tag[name].text] for key, name in named.items()}
        number, total = str(tag["TRCK"]).split("/")
        found |= {"tracknumber": [number], "tracktotal": [total]}
        return found | {"comment": [str(f.text[0]) for f in tag.getall("COMM")][:1]}
    if path.suffix == ".mp3":
        found = {key: list(file.tags[key]) for key in SAID if key in file.tags}
        number, total = found["tracknumber"][0].split("/")
        comment = [str(f.text[0]) for f in ID3(path).getall("COMM")]
        return found | {"tracknumber": [number], "tracktotal": [total], "comment": comment}
    return {key: file.tags[key] for key in SAID}


def covers(path: Path) -> list[bytes]:
    file = mutagen.File(path)
    if isinstance(file, FLAC):
        return [each.data for each in file.pictures]
    if isinstance(file.tags, ID3):
        return [each.data for each in file.tags.getall("APIC")]
    blocks = file.tags.get("metadata_block_picture", [])
    return [Picture(base64.b64decode(block)).data for block in blocks]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", SOURCES)
def test_from_any_format_to_any(name, format, sources, tmp_path):
    target = tmp_path / f"a.{format.lower()}"
    told = carried(sources[name], target)
    assert told.notes == ()
    assert fields(target) == SAID and covers(target) == [COVER]
    with av.open(str(target)) as file:
        seen = dict(file.streams.audio[0].metadata) | dict(file.metadata)
    seen = {key.lower(): value for key, value in seen.items()}
    assert [seen[key] for key in ("title", "artist", "album")] == ["Tïtle", "One", "The album"]
    # The sound is what it is without tags.
    audio.write(tmp_path / f"b.{format.lower()}", WAV, 48000, format)
    got, plain = (read(tmp_path / f"{x}.{format.lower()}")[0] for x in "ab")
    assert torch.equal(got, plain)


def test_riff_info_is_read_and_not_written(tmp_path):
    """Beside it, FFmpeg does not show what only ID3 can say."""
    carried(with_id3(tmp_path / "a.mp3"), tmp_path / "b.wav")
    data = (tmp_path / "b.wav").read_bytes()
    assert len(data) == struct.unpack("<I", data[4:8])[0] + 8 and b"LIST" not in data
    for encoding in ("utf-8", "cp1252"):
        found = tags.read(riff_info(tmp_path / "c.wav", encoding))
        assert found.text["title"] == ["Tïtle"] and found.notes == []


def test_several_values_and_fields_of_all_kinds(tmp_path):
    """There and back, through three families of tags."""
    said = {
        "artist": ["A", "B"],
        "discnumber": ["1"],
        "disctotal": ["2"],
        "performer": ["C (drums)", "D"],
        "producer": ["P"],
        "musicbrainz_trackid": ["rec"],
        "musicbrainz_albumartistid": ["id 1", "id 2"],
        "acoustid_id": ["a"],
        "lyrics": ["la\nla"],
        "comment:note": ["n"],
        "website": ["http://a"],
        "bpm": ["120"],
        "date": ["1999-05-04"],
        "originaldate": ["in spring"],  # no date of ID3's
        "tofn": ["old.mp3"],
        "my field": ["x", "y"],
        "url:shop": ["http://b"],
    }
    path = save(tmp_path / "a.flac", WAV, 48000, "PCM_24")
    file = FLAC(path)
    file.tags[:] = [(key.upper(), value) for key, values in said.items() for value in values]
    file.save()
    for index, suffix in enumerate(("mp3", "ogg", "wav", "flac", "aiff", "flac")):
        told = carried(path, tmp_path / f"{index}.{suffix}")
        path = tmp_path / f"{index}.{suffix}"
        assert told.notes == ()
        assert tags.read(path).text == said, suffix
    tag = ID3(tmp_path / "0.mp3")
    assert tag["TXXX:MusicBrainz Album Artist Id"].text == ["id 1", "id 2"]
    assert tag["UFID:http://musicbrainz.org"].data == b"rec"
    assert tag["TIPL"].people == [["producer", "P"]]
    assert ["drums", "C"] in tag["TMCL"].people and tag["TOFN"].text == ["old.mp3"]


BINARY = dict(PRIV=("me", b"x"), POPM=("me", 200, 3), CHAP=("c", 0, 100))


def test_unknown_frames_stay_in_their_format_and_are_named_elsewhere(tmp_path):
    source = with_id3(tmp_path / "a.mp3", **BINARY)
    frame = b"XABC\0\0\0\3\0\0abc"
    tag = ID3(source)
    tag.unknown_frames = [frame]
    tag.save(source)
    for suffix in ("mp3", "aiff", "wav"):
        notes, hiding = carried(source, tmp_path / f"b.{suffix}").notes, suffix == "wav"
        assert notes == (("WAV cannot hold PRIV; left out",) if hiding else ())
        got = mutagen.File(tmp_path / f"b.{suffix}").tags
        assert got.unknown_frames == [frame] and ("PRIV:me:x" in got) == (not hiding)
        assert got["POPM:me"].rating == 200 and "CHAP:c" in got
    for suffix in ("flac", "ogg"):
        (note,) = carried(source, tmp_path / f"b.{suffix}").notes
        assert all(name in note for name in ("PRIV", "CHAP", "XABC")) and suffix.upper() in note
        assert tags.read(tmp_path / f"b.{suffix}").text["rating"] == ["80"]
    (note,) = carried(source, tmp_path / "b.caf").notes
    assert "CAF holds no tags" in note
    # Chapters of the whole are wrong for a part.
    carried(source, tmp_path / "c.mp3", whole=False)
    got = ID3(tmp_path / "c.mp3")
    assert "CHAP:c" not in got and "PRIV:me:x" in got


def test_cue_sheets_stay_in_flac(tmp_path):
    source = with_comments(tmp_path / "a.flac")
    file = FLAC(source)
    sheet = CueSheet(None)
    sheet.media_catalog_number = b"1234"
    file.add_cuesheet = file.metadata_blocks.append(sheet)
    file.save()
    assert carried(source, tmp_path / "b.flac").notes == ()
    assert FLAC(tmp_path / "b.flac").cuesheet.media_catalog_number == b"1234"
    assert "CUESHEET" in carried(source, tmp_path / "b.mp3").notes[0]
    carried(source, tmp_path / "c.flac", whole=False)
    assert FLAC(tmp_path / "c.flac").cuesheet is None


def test_what_is_of_the_coded_file_is_not_carried(tmp_path):
    more = dict(
        TSSE=(3, ["LAME"]),
        TLEN=(3, ["1"]),
        MLLT=(1, 1, 1, 1, 1, b""),
        TXXX=(3, "encoder", ["x"]),
    )
    carried(with_id3(tmp_path / "a.mp3", **more), tmp_path / "b.mp3")
    assert not {"TSSE", "TLEN", "MLLT", "TXXX:encoder"} & set(ID3(tmp_path / "b.mp3"))
    source = with_comments(tmp_path / "a.ogg", ENCODER="x", itunsmpb="0 1 2")
    carried(source, tmp_path / "b.flac")
    assert not {"encoder", "itunsmpb"} & set(FLAC(tmp_path / "b.flac").tags.as_dict())


# ---------------------------------------------------------------------------------- loudness


def level_of(path: Path) -> tuple[float, float]:
    samples, rate = soundfile.read(path, always_2d=True)
    meter = Meter(rate, samples.shape[1])
    meter.add(samples.astype(np.float32))
    level = meter.level()
    return level.loudness, level.true_peak


def test_replaygain_is_measured_anew(tmp_path):
    stale = {"replaygain_track_gain": "-99 dB", "replaygain_track_peak": "9", "mp3gain_undo": "1"}
    told = carried(with_comments(tmp_path / "a.flac", **stale), tmp_path / "b.flac")
    got = FLAC(tmp_path / "b.flac").tags
    loudness, peak = level_of(tmp_path / "b.flac")
    assert float(got["replaygain_track_gain"][0].split()[0]) == pytest.approx(
        -18 - loudness, abs=0.01
    )
    assert float(got["replaygain_track_peak"][0]) == pytest.approx(peak, rel=1e-3)
    assert len(got["replaygain_track_gain"]) == 1 and "mp3gain_undo" not in got
    assert told.of_album is None
    carried(with_comments(tmp_path / "c.flac"), tmp_path / "d.flac")
    assert not [key for key in FLAC(tmp_path / "d.flac").tags.as_dict() if "gain" in key]


def test_r128_is_for_opus(tmp_path):
    source = with_comments(tmp_path / "a.opus", R128_TRACK_GAIN="1", R128_ALBUM_GAIN="1")
    settings = Settings(format="OGG", subtype="OPUS")
    told = write_result(tmp_path / "b.ogg", WAV, 48000, settings, tags.read(source))
    got = OggOpus(tmp_path / "b.ogg").tags
    expected = 256 * (-23 - audio.measure(tmp_path / "b.ogg").loudness)
    assert int(got["r128_track_gain"][0]) == pytest.approx(expected, abs=1)
    assert not [key for key in got.as_dict() if key.startswith("replaygain")]
    assert told.of_album.kinds == {"r128"}
    tags.add_album_gain(tmp_path / "b.ogg", "OGG", told.of_album.kinds, [told.of_album.level])
    got = OggOpus(tmp_path / "b.ogg").tags
    assert got["r128_album_gain"] == got["r128_track_gain"]
    carried(source, tmp_path / "c.flac")
    got = FLAC(tmp_path / "c.flac").tags
    assert int(got["r128_track_gain"][0]) / 256 == pytest.approx(
        float(got["replaygain_track_gain"][0].split()[0]) - 5, abs=0.02
    )


def test_sound_check_and_gains_of_old(tmp_path):
    source = with_id3(tmp_path / "a.mp3", COMM=(0, "eng", "iTunNORM", [" 00000001" * 10]))
    carried(source, tmp_path / "b.mp3")
    numbers = [int(each, 16) for each in str(ID3(tmp_path / "b.mp3")["COMM:iTunNORM:eng"]).split()]
    gain = float(str(ID3(tmp_path / "b.mp3")["TXXX:REPLAYGAIN_TRACK_GAIN"]).split()[0])
    assert len(numbers) == 10 and numbers[0] == numbers[1]
    assert -10 * np.log10(numbers[0] / 1000) == pytest.approx(gain, abs=0.01)
    assert numbers[2] / numbers[0] == pytest.approx(2.5, rel=1e-3)
    peak = float(str(ID3(tmp_path / "b.mp3")["TXXX:REPLAYGAIN_TRACK_PEAK"]))
    assert numbers[6] / 32768 == pytest.approx(peak, abs=1e-4)
    source = with_id3(tmp_path / "c.mp3", RVA2=("album", 1, -3.0, 0.9))
    assert carried(source, tmp_path / "d.mp3").of_album is not None
    got = ID3(tmp_path / "d.mp3")
    assert not got.getall("RVA2") and "TXXX:REPLAYGAIN_TRACK_GAIN" in got


def test_silence_has_no_loudness(tmp_path):
    source = with_comments(tmp_path / "a.flac", replaygain_track_gain="-99 dB")
    silent = write_result(
        tmp_path / "b.flac", 0 * WAV, 48000, Settings(format="FLAC"), tags.read(source)
    )
    assert "the loudness of silence" in silent.notes[0]
    assert not [key for key in FLAC(tmp_path / "b.flac").tags.as_dict() if "gain" in key]


# --------------------------------------------------------------------------------- bad input


def test_what_is_no_file():
    assert tags.read(Path("/dev/zero")).notes == tags.read(Path("/")).notes == []


def test_covers_that_are_none(tmp_path):
    source = with_id3(tmp_path / "a.mp3", APIC=(3, "image/png", 4, "bad", b"no picture at all"))
    for suffix in ("mp3", "flac"):
        told = carried(source, tmp_path / f"b.{suffix}")
        assert told.notes == ("a cover that is no picture (17 bytes) was left out",)
        assert covers(tmp_path / f"b.{suffix}") == [COVER]
    source = with_comments(tmp_path / "a.ogg", METADATA_BLOCK_PICTURE="%%% no base64")
    assert len(carried(source, tmp_path / "c.flac").notes) == 1
    assert covers(tmp_path / "c.flac") == [COVER]


def test_tags_of_17_mb(tmp_path):
    big = COVER + bytes(17 << 20)
    source = with_id3(tmp_path / "a.mp3", APIC=(3, "image/jpeg", 4, "back", big))
    tag = ID3(source)
    tag.add(Frames["USLT"](3, "eng", "", "la " * (6 << 20)))
    tag.save(source)
    (note,) = carried(source, tmp_path / "b.flac").notes
    assert "a picture of 18 MB" in note and "LYRICS of 19 MB" in note and "\n" not in note
    assert fields(tmp_path / "b.flac") == SAID and covers(tmp_path / "b.flac") == [COVER]
    (note,) = carried(source, tmp_path / "b.ogg").notes
    assert "a picture of 24 MB" in note and "LYRICS of 19 MB" in note
    assert fields(tmp_path / "b.ogg") == SAID and covers(tmp_path / "b.ogg") == [COVER]
    for suffix in ("mp3", "wav"):
        assert carried(source, tmp_path / f"b.{suffix}").notes == ()
        assert sorted(map(len, covers(tmp_path / f"b.{suffix}"))) == [len(COVER), len(big)]
        assert audio.probe(tmp_path / f"b.{suffix}") == (24000, 48000, 2)


@pytest.mark.parametrize("suffix", ["flac", "mp3", "wav", "ogg"])
def test_texts_that_no_encoding_holds(suffix, tmp_path):
    source = with_id3(tmp_path / "a.mp3")
    found = tags.read(source)
    found.id3 = None
    found.add("title", ["\ud800 lone", "nu\0ll"])
    found.add("schlüssel=", ["x"])
    found.add("", ["y"])
    settings = Settings(format=suffix.upper())
    told = write_result(tmp_path / f"b.{suffix}", WAV, 48000, settings, found)
    got = tags.read(tmp_path / f"b.{suffix}").text
    assert got["title"] == ["Tïtle", "? lone", "nu", "ll"]
    assert bool(told.notes) == (suffix in ("flac", "ogg"))  # names are ASCII there


@pytest.mark.parametrize("name", SOURCES)
def test_broken_tags_never_cost_the_sound(name, sources, tmp_path):
    """Bytes are damaged where the tags are: nothing is raised, and whatever is carried is whole."""
    data = sources[name].read_bytes()
    dice = random.Random(name)
    path = tmp_path / name
    for index in range(30):
        broken = bytearray(data)
        places = [data.find(COVER[:8]), data.find(b"The album"), 4, 8, len(data) - 40]
        for _ in range(dice.choice((1, 4, 40))):
            place = max(0, dice.choice(places)) + dice.randrange(-40, 40)
            broken[place % len(data)] = dice.randrange(256)
        path.write_bytes(bytes(broken[: dice.choice((len(data), len(data) // 2, 60))]))
        found = tags.read(path)
        assert all("\n" not in note for note in found.notes)
        target = tmp_path / f"b.{('flac', 'mp3', 'wav')[index % 3]}"
        settings = Settings(format=target.suffix[1:].upper())
        told = write_result(target, WAV[:, :2400], 48000, settings, found)
        assert not any("tags were left out" in note for note in told.notes), told.notes
        assert audio.probe(target)[0] == 2400


@needs_limits
@pytest.mark.parametrize("suffix", ["flac", "mp3", "wav", "ogg", "aiff"])
def test_a_disk_that_is_full_in_the_middle_of_the_tags(suffix, tmp_path):
    source = with_id3(tmp_path / "a.mp3", APIC=(3, "image/jpeg", 4, "back", COVER + bytes(1 << 20)))
    settings = Settings(format=suffix.upper())
    plain = tmp_path / f"plain.{suffix}"
    audio.write(plain, WAV, 48000, settings.format)
    with limited_files(plain.stat().st_size + 5000):
        told = write_result(tmp_path / f"b.{suffix}", WAV, 48000, settings, tags.read(source))
    assert told.notes == ("its tags were left out: File too large",)
    got, expected = read(tmp_path / f"b.{suffix}"), read(plain)
    assert torch.equal(got[0], expected[0])
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        ["a.mp3", plain.name, f"b.{suffix}"]
    )


def test_a_wav_beyond_4_gib_has_no_place_for_tags(tmp_path, monkeypatch):
    monkeypatch.setattr("apollo_plugin.audio.writing._WAV_LIMIT", 1000)
    (note,) = carried(with_id3(tmp_path / "a.mp3"), tmp_path / "b.wav").notes
    assert "holds no tags" in note
    assert audio.probe(tmp_path / "b.wav") == (24000, 48000, 2)


def test_an_album_gain_that_cannot_be_told_leaves_the_file(tmp_path):
    told = carried(
        with_comments(tmp_path / "a.flac", replaygain_album_gain="1"), tmp_path / "b.flac"
    )
    (tmp_path / "b.flac").write_bytes(b"broken")
    with pytest.raises(TagError, match="b.flac"):
        tags.add_album_gain(tmp_path / "b.flac", "FLAC", {"replaygain"}, [told.of_album.level])
    assert (tmp_path / "b.flac").read_bytes() == b"broken"


def test_a_frame_that_unpacks_to_gigabytes_is_left_out(tmp_path):
    """A kilobyte to a megabyte here; mutagen sets no bound."""
    packed = zlib.compress(b"\0" + b"a" * (1 << 20), 9)
    honest = zlib.compress(b"\0packed well")
    tag = ID3()
    tag.add(Frames["TPE1"](encoding=3, text="somebody"))
    tag.save(tmp_path / "a.mp3", v2_version=3, padding=lambda _: 0)
    body = (tmp_path / "a.mp3").read_bytes()[10:]
    for name, content in (("TIT2", packed), ("TALB", honest)):
        size = struct.pack(">I", len(content) + 4)
        body += name.encode() + size + b"\0\x80" + struct.pack(">I", 1 << 20) + content
    sound = encode_mp3(tone(22050), kbps=64)
    head = b"ID3\3\0\0" + bytes(len(body) >> shift & 127 for shift in (21, 14, 7, 0))
    (tmp_path / "a.mp3").write_bytes(head + body + sound)
    told = carried(tmp_path / "a.mp3", tmp_path / "b.flac")
    got = FLAC(tmp_path / "b.flac").tags
    assert got["artist"] == ["somebody"] and got["album"] == ["packed well"] and "title" not in got
    assert any("unpack to too many bytes" in note for note in told.notes)


def test_frames_that_unpack_to_gigabytes_together_are_left_out(tmp_path):
    """Each to less than a hundred times its size, or to a megabyte where it is half of one."""
    noise = torch.randint(256, (1 << 14,), generator=torch.Generator().manual_seed(0))
    each = b"\0" + bytes(noise.tolist()) + b"a" * (1 << 20)
    packed, body = zlib.compress(each, 9), b""
    assert len(each) < 100 * len(packed)
    for _ in range(200):
        size = struct.pack(">I", len(packed) + 4)
        body += b"TXXX" + size + b"\0\x80" + struct.pack(">I", len(each)) + packed
    head = b"ID3\3\0\0" + bytes(len(body) >> shift & 127 for shift in (21, 14, 7, 0))
    (tmp_path / "a.mp3").write_bytes(head + body + encode_mp3(tone(22050), kbps=64))
    tracemalloc.start()
    got = tags.read(tmp_path / "a.mp3")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 160 << 20  # of 200 MB, twice
    assert any("unpack to too many bytes" in note for note in got.notes)
    # The next file has its own room.
    (tmp_path / "b.mp3").write_bytes(head[:6] + bytes((0, 0, 0, 0)) + encode_mp3(tone(9), kbps=64))
    assert not tags.read(tmp_path / "b.mp3").notes

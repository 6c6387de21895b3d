"""Files joined in one come in whole, whatever their container; what else follows one is told."""

import struct

import numpy as np
import pytest
import soundfile
import torch
from helpers import encoded, read, tone
from tag_files import seven

from apollo_plugin import audio
from apollo_plugin.audio import joined
from apollo_plugin.audio.containers import Link
from apollo_plugin.audio.frames import Window
from apollo_plugin.audio.joined import extents, packed_frames, skip_tags, unexplained

CODED = [("aac", "m4a"), ("alac", "m4a"), ("aac", "mov"), ("aac", "3gp"), ("tta", "tta")]
CODED += [("wavpack", "wv"), ("wmav2", "wma")]
PLAIN = ["WAV", "RF64", "AIFF", "AU", "CAF", "W64", "VOC"]
APE_TAG = b"APETAGEX" + (2000).to_bytes(4, "little") + (32).to_bytes(4, "little") + bytes(16)


@pytest.fixture(scope="module", params=[*CODED, *PLAIN], ids=str)
def two(request, tmp_path_factory):
    """Two files of a kind, of 0.5 and 0.3 s."""
    folder, wav = tmp_path_factory.mktemp("two"), tone(35280)
    parts = wav[:, :22050], wav[:, 22050:]
    if isinstance(request.param, tuple):
        codec, suffix = request.param
        return [
            encoded(folder / f"{n}.{suffix}", part, codec, kbps=96) for n, part in enumerate(parts)
        ]
    paths = [folder / f"{n}.{request.param.lower()}" for n in (0, 1)]
    for path, part in zip(paths, parts):
        soundfile.write(path, part.T.numpy(), 44100, "PCM_16", format=request.param)
    return paths


@pytest.mark.parametrize("between", [b"", b"TAG" + b"x" * 125])
def test_joined_files_come_in_whole(two, between, tmp_path):
    both = tmp_path / f"both{two[0].suffix}"
    # VOC and WMA are searched for the next file's beginning, the others end where they say.
    both.write_bytes(two[0].read_bytes() + between + two[1].read_bytes())
    wavs = [read(path)[0] for path in two]
    if between and both.suffix in (".voc", ".wma"):
        pytest.skip("tags do not follow these")
    reading = audio.read_all(both)
    assert torch.equal(torch.from_numpy(reading.wav), torch.cat(wavs, -1)) and reading.notes == ()
    assert audio.probe(both) == (reading.wav.shape[1], 44100, 2)
    n = wavs[0].shape[1]
    part = audio.read_part(both, n / 44100 - 0.1, 0.2, 44100)
    np.testing.assert_allclose(part, reading.wav[:, n - 4410 : n + 4410], atol=1e-6)


@pytest.mark.parametrize("rest, told", [(bytes(5000), False), (bytes(range(1, 251)) * 8, True)])
def test_what_follows_the_end(two, rest, told, tmp_path):
    if two[0].suffix in (".voc", ".wma", ".wv"):
        pytest.skip("it is read block by block, and does not say where it ends")
    longer = tmp_path / f"longer{two[0].suffix}"
    longer.write_bytes(two[0].read_bytes() + rest)
    reading = audio.read_all(longer)
    assert torch.equal(torch.from_numpy(reading.wav), read(two[0])[0])
    expected = ("2,000 bytes behind its end are no part of its sound; left out",)
    assert reading.notes == (expected if told else ())


def test_a_header_that_a_recorder_did_not_renew(tmp_path):
    """It tells of a tenth of the samples; the rest went without a word."""
    wav = (0.5 * torch.sin(torch.arange(44100) / 9)).numpy()
    soundfile.write(tmp_path / "a.wav", wav[:4410], 44100, "PCM_16")
    samples = (wav[4410:] * 32767).astype("<i2").tobytes()
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes() + samples)
    (note,) = audio.read_all(tmp_path / "b.wav").notes
    assert note.startswith(f"{len(samples):,} bytes behind its end")


def be(n):
    return n.to_bytes(4, "big")


def le(n):
    return n.to_bytes(4, "little")


def frames(version, *each):
    """Frames of ID3, of a size and a second byte of flags; and where the flags are that count."""
    data, marked = b"", []
    for size, flags in each:
        if flags & 8:
            marked.append(len(data) + 9)
        data += b"TXXX" + (seven(size) if version == 4 else be(size)) + bytes([0, flags])
        data += b"\xff" * size
    return data, marked


EACH = [(300, 0x08), (5, 0x07), (0, 0x08), (200, 0xF7), (20, 0xFF), (0, 0x08)]


@pytest.mark.parametrize("padding", [0, 5, 40])
@pytest.mark.parametrize("extended", [0, 130])
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_packed_frames_are_found_where_they_were_put(version, extended, padding):
    version, told = max(3, min(version, 4)), version
    more, flags = b"", 0
    if extended:  # its size counts itself in the newer version
        more, flags = (seven(extended) if version == 4 else be(extended - 4)).ljust(
            extended, b"\1"
        ), 0x40
    body, marked = frames(version, *EACH)
    n_body = len(more + body) + padding
    tag = b"ID3" + bytes([told, 0, flags]) + seven(n_body) + more + body + bytes(padding)
    marked = [10 + extended + at for at in marked]
    assert len(marked) == 4
    sound = b"\xff" * 40
    assert packed_frames(tag + sound, 0, len(tag) + 40) == marked
    assert packed_frames(sound + tag + sound, 40, len(tag) + 80) == [40 + at for at in marked]
    assert packed_frames(sound + tag + sound, 0, len(tag) + 80) == []
    # A second tag follows the first; none is looked for behind the end.
    both = marked + [len(tag) + at for at in marked]
    assert packed_frames(tag + tag + sound, 0, 2 * len(tag) + 40) == both
    assert packed_frames(tag + tag + sound, 0, len(tag)) == marked
    # What is cut short, by the file or the part of it that is read.
    for n in range(len(tag)):
        expected = [at for at in marked if at < n]
        assert packed_frames(tag[:n], 0, n) == packed_frames(tag + sound, 0, n) == expected


def test_a_window_clears_the_marks_of_packed_frames():
    """Whatever is read of it, in whatever pieces."""
    body, marked = frames(4, *EACH)
    tag = b"ID3\4\0\0" + seven(len(body)) + body
    sound = bytes(range(256))
    whole = bytearray(tag + sound)
    for at in marked:
        whole[10 + at] &= ~8
    data = b"before" + tag + sound + b"after"
    window = Window(data, Link(6, len(data) - 5), ".mp3")
    assert window.name == "audio.mp3" and Window(data, Link(0, 9), ".m\u00fc").name == "audio"
    assert window.read() == whole
    for size in (1, 7, 10, 64, 10_000):
        assert window.seek(0) == 0
        pieces = list(iter(lambda size=size: window.read(size), b""))
        assert b"".join(pieces) == whole and len(pieces) == -(-len(whole) // size)
    assert window.seek(-4, 2) == len(whole) - 4 == window.tell() and window.read() == sound[-4:]
    assert window.seek(20) == 20 and window.seek(5, 1) == 25 and window.read(3) == whole[25:28]
    assert window.seek(9, 2) == len(whole) + 9 and window.read() == b"" == window.read(5)
    assert window.tell() == len(whole) + 9


def box(kind, body=b"", long=False):
    size = struct.pack(">I4sQ", 1, kind, 16 + len(body))
    return (size if long else struct.pack(">I4s", 8 + len(body), kind)) + body


FTYP, MOOV = box(b"ftyp", b"M4A "), box(b"moov", b"index")
WAV = b"RIFF" + le(4 + 8 + 4) + b"WAVEdata" + le(4) + b"abcd"
ODD = b"RIFF" + le(4 + 10 + 8 + 3) + b"WAVEnote" + le(1) + b"x\0data" + le(3) + b"abc"
PIPED = b"RIFF" + le(4 + 8 + 4) + b"WAVEdata" + le(0) + b"abcd"
RF64 = (
    b"RF64"
    + b"\xff" * 4
    + b"WAVEds64"
    + le(28)
    + (4 + 36 + 8 + 6).to_bytes(8, "little")
    + bytes(20)
    + b"data\xff\xff\xff\xffabcdef"
)
AIFF = b"FORM" + be(4 + 8 + 3) + b"AIFFSSND" + be(3) + b"abc"
AU = b".snd" + be(28) + be(5) + bytes(16) + b"abcde"
CAF = b"caff\0\1\0\0desc" + (3).to_bytes(8, "big") + b"abcdata" + (4).to_bytes(8, "big") + b"abcd"
W64_MARK = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
W64 = W64_MARK + (43).to_bytes(8, "little") + bytes(24)
TTA = b"TTA1" + bytes(6) + struct.pack("<II", 44100, 46081) + bytes(4)
TTA += le(3) + le(4) + bytes(4) + b"abcdefg"


def wavpack(first, flags=0x800, high=0, body=b"abc"):
    return struct.pack("<4sI2xB5xI4xI4x", b"wvpk", 24 + len(body), high, first, flags) + body


WV = wavpack(0) + wavpack(0, 0x1000) + wavpack(5) + wavpack(0, high=1)


@pytest.mark.parametrize(
    "data",
    [
        *(WAV, ODD + b"\0", RF64, AIFF + b"\0", AU, W64, TTA, WV, CAF),
        *(FTYP + MOOV + box(b"mdat", b"abc"), FTYP + box(b"mdat", b"abc", True) + MOOV),
        FTYP + box(b"moof") + MOOV + box(b"\xa9nam") + box(b"free", long=True),
    ],
    ids=lambda data: data[:8].hex(),
)
def test_joined_containers_end_where_they_say(data):
    n = len(data)
    assert extents(data, 0) == [(0, n)]
    assert extents(3 * data, 0) == [(0, n), (n, 2 * n), (2 * n, 3 * n)]
    assert extents(b"x" + data, 1) == [(1, n + 1)]
    between = b"TAG" + bytes(125)
    assert extents(data + between + data + between, 0) == [(0, n), (n + 128, 2 * n + 128)]


@pytest.mark.parametrize(
    "data, end",
    [
        # Padding bytes that some programs leave out.
        *((ODD + b"x", len(ODD)), (AIFF + b"x", len(AIFF)), (ODD, len(ODD)), (AIFF, len(AIFF))),
        # Of unknown length, or without samples: up to the end.
        *((PIPED + b"more", None), (AU[:8] + b"\xff" * 4 + AU[12:] + b"x", None)),
        *((W64[:16] + bytes(8) + W64[24:] + b"x", None), (WAV[:12] + b"more", None)),
        *((FTYP + MOOV + be(0) + b"mdatabc", None), (TTA[:21], None)),
        # RF64 whose sizes are missing, and RIFF with sizes that are not meant.
        (b"RF64" + WAV[4:] + b"x", len(WAV)),
        # Boxes of MP4 that cannot be.
        *((FTYP + MOOV + be(7) + b"free", len(FTYP + MOOV)),),
        *((FTYP + MOOV + be(9) + b"free", len(FTYP + MOOV)), (FTYP + be(99) + b"mdat", None)),
        *((FTYP + MOOV + be(8) + b"\1\2\3\4", len(FTYP + MOOV)),),
        *((CAF + b"caff\0\1\0\0", len(CAF)), (CAF + b"\1\2\3\4" + bytes(9), len(CAF))),
        *((CAF[:-1], None), (CAF + b"free" + bytes(7) + b"\1", len(CAF))),
    ],
)
def test_ends_that_are_not_declared(data, end):
    assert extents(data, 0)[0] == (0, len(data) if end is None else end)


def test_voc_and_windows_media_end_where_the_next_begins():
    for mark in (b"Creative Voice File\x1a", bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")):
        assert extents(mark + mark + b"x", 0) == [(0, len(mark)), (len(mark), 2 * len(mark) + 1)]
    assert extents(b"wvpk" + bytes(27), 0) == [(0, 0)] and extents(b"other" * 9, 0) == []


def test_tags_are_stepped_over():
    data = b"ID3\4\0\0\0\0\0\5hello" + b"TAG" + bytes(125) + APE_TAG + b"x"
    assert data[skip_tags(data, 0) :] == b"x"
    flags = (1 << 29 | 1 << 31).to_bytes(4, "little")
    head_first = APE_TAG[:12] + (2000).to_bytes(4, "little") + bytes(4) + flags + bytes(8)
    data = head_first + bytes(2000) + b"x"
    assert data[skip_tags(data, 0) :] == b"x"
    assert unexplained(b"\1" * 1000, 0) and not unexplained(b"\1" * 999, 0)
    assert unexplained(bytes(65535) + b"\1", 0) and not unexplained(bytes(65536) + b"\1", 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\xff\xff\xff\xffWAVEdata",
        b"RF64\xff\xff\xff\xffWAVEds64",
        b"RF64\xff\xff\xff\xffWAVEnone" + bytes(4),
        b"FORM\xff\xff\xff\xffAIFF",
        b"FORM\0\0\0\0AIFF" * 3,
        b"caff\0\1\0\0data" + b"\xff" * 8,
        b"caff\0\1\0\0free" + b"\x7f" + b"\xff" * 7,
        b"\0\0\0\1ftyp" + b"\xff" * 8,
        b"\0\0\0\0ftyp",
        b"\0\0\0\4ftyp\0\0\0\4ftyp",
        b"TTA1",
        b"TTA1" + b"\xff" * 18,
        b"TTA1" + b"\0" * 18,
        b"wvpk" + b"\xff" * 28,
        b"wvpk" * 30,
        b".snd" + b"\xff" * 20,
        b".snd" + b"\0" * 8 + b".snd",
        b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00" + b"\0" * 8,
    ],
)
def test_ends_of_damaged_heads(data):
    """No loop without an end, and nothing raised."""
    for begin, end in extents(data, 0):
        assert 0 <= begin <= end <= len(data)


def test_a_tta_whose_table_of_frames_is_cut():
    """One size and a half of three are there; the table is as long as the samples ask for."""
    head = b"TTA1\1\0\1\0\x10\0" + struct.pack("<II", 44100, 3 * 46080 - 99) + bytes(4)
    assert joined._tta(head + struct.pack("<IH", 1000, 7), 0) == 22 + 3 * 4 + 4 + 1000

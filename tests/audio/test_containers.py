"""Lengths and marks of containers: pages of Ogg, chunks of WAV, tags and frames of MPEG audio."""

import itertools
import struct

import pytest
from helpers import encoded, tone

from apollo_plugin.audio import containers
from apollo_plugin.audio.containers import Link, links


def crc(data: bytes) -> int:
    """Ogg's checksum, bit by bit: the polynomial 0x04c11db7 from zero, highest bit first."""
    rest = 0
    for byte in data:
        rest ^= byte << 24
        for _ in range(8):
            rest = (rest << 1 ^ (0x04C11DB7 if rest >> 31 else 0)) & 0xFFFFFFFF
    return rest


FIRST, LAST = 2, 4


def page(serial, number, granule=0, flags=0, body=b"sound"):
    segments = bytes([255] * (len(body) // 255) + [len(body) % 255])
    fields = ["<4sBBqIIIB", b"OggS", 0, flags, granule, serial, number, 0, len(segments)]
    bare = struct.pack(*fields) + segments + body
    return bare[:22] + crc(bare).to_bytes(4, "little") + bare[26:]


def stream(serial=7, last=LAST, numbers=(0, 1, 2, 3), more=b""):
    """Four pages: heads at a granule of 0, then sound up to the 900th sample."""
    granules, flags = (0, 0, 500, 900), (FIRST, 0, 0, last)
    return b"".join(page(serial, *each) for each in zip(numbers, granules, flags)) + more


WHOLE = stream()
OPEN = "it ends without Ogg's mark of an end and may be cut short"
CUT = "its last Ogg page is cut"


@pytest.mark.parametrize(
    "data, expected",
    [
        (WHOLE, [dict(last_sample=900)]),
        (b"ID3\4\0\0\0\0\0\5hello" + WHOLE, [dict(last_sample=900)]),
        (stream(last=0), [dict(last_sample=900, note=OPEN)]),
        (WHOLE + stream(8, last=0), [dict(last_sample=900), dict(last_sample=900, note=OPEN)]),
        # Two streams at once: they begin together, and the last sample is of neither.
        (
            page(1, 0, 0, FIRST) + page(2, 0, 0, FIRST) + page(1, 1, 5, LAST) + page(2, 1, 9, LAST),
            [{}],
        ),
        # A granule of -1 ends no packet; it is no sound yet.
        (page(7, 0, 0, FIRST) + page(7, 5, -1) + page(7, 9, 800, LAST), [dict(last_sample=800)]),
        (page(7, 0, 0, FIRST | LAST), [{}]),
        (page(7, 0, 1, FIRST), [dict(last_sample=1, note=OPEN)]),
        (stream(last=1), [dict(last_sample=900, note=OPEN)]),
        (page(7, 0, 1, FIRST | LAST, bytes(600)), [dict(last_sample=1)]),
        # Pages may be missing before the first with sound, not after it.
        (stream(numbers=(0, 4, 9, 10)), [dict(last_sample=900)]),
        (stream(numbers=(0, 1, 2, 4)), [dict(fault="0 of its Ogg pages are damaged, 1 missing")]),
        (stream(numbers=(0, 1, 2, 7)), [dict(fault="0 of its Ogg pages are damaged, 4 missing")]),
        (stream(numbers=(0, 1, 7, 2)), [dict(last_sample=900)]),
        (stream(more=b"Ogg"), [dict(last_sample=900)]),
        (stream(more=b"OggS"), [dict(fault=CUT, cut=True)]),
        (WHOLE[:-1], [dict(fault=CUT, cut=True)]),
        (WHOLE[:-6], [dict(fault=CUT, cut=True)]),
        (WHOLE + stream(8)[:-1], [dict(last_sample=900), dict(fault=CUT, cut=True)]),
    ],
)
def test_chains_of_ogg(data, expected):
    found = links(data)
    assert [link.begin for link in found[1:]] == [link.end for link in found[:-1]]
    assert found[-1].end == len(data) and data[found[-1].begin :].startswith(b"OggS")
    assert found == [Link(f.begin, f.end, **each) for f, each in zip(found, expected)]
    assert len(found) == len(expected)


@pytest.mark.parametrize("place", range(33))
def test_a_damaged_page_of_ogg(place):
    """It is missing, too, if another follows it."""
    longer = stream(last=0, more=page(7, 4, 950, LAST))
    for index, n_missing in ((3, 1), (4, 0)):
        data = bytearray(longer)
        data[33 * index + place] ^= 0x10
        (link,) = links(bytes(data))
        n_damaged = int(place >= 4)
        if place in (26, 27):  # of which its size follows
            assert link.fault
        elif n_damaged + n_missing:
            told = f"{n_damaged} of its Ogg pages are damaged, {n_missing} missing"
            assert link == Link(0, len(data), told)
        else:
            assert link == Link(0, len(data), note=OPEN, last_sample=900)


# ----------------------------------------------------------------------------------------- WAV


def wav(size, there, before=b"", kind=b"RIFF"):
    return kind + b"\0\0\0\0WAVE" + before + b"data" + struct.pack("<I", size) + bytes(there)


TOLD = "its WAV header promises {} bytes of samples, {} are there"


@pytest.mark.parametrize("before", [b"", b"fmt \x03\0\0\0abc\0", b"fmt \x02\0\0\0ab"])
@pytest.mark.parametrize(
    "size, there, short",
    [(10, 10, False), (11, 10, True), (10, 12, False), (0, 10, False), (1, 0, True)]
    # Sizes that stand for none: about everything, and about 2 GiB.
    + [(size, 9, False) for size in (0x7FFE0000, 0x80000000, 0xFFFE0000, 0xFFFFFFFF)]
    + [(size, 9, True) for size in (0x7FFDFFFF, 0x80000001, 0xFFFDFFFF)],
)
def test_a_wav_that_is_short_of_samples(size, there, short, before):
    for tag in (b"ID3\4\0\0\0\0\0\1x", b""):
        data = tag + wav(size, there, before)
        told = TOLD.format(size, there) if short else None
        assert containers._link(data, 0, len(data)) == Link(len(tag), len(data), told, cut=short)
        other = data.replace(b"RIFF", b"RF64")
        assert containers._link(other, 0, len(data)) == Link(0, len(data))


PIECE = b"RIFF" + struct.pack("<I", 40) + b"WAVEdata" + struct.pack("<I", 28) + bytes(28)
FLAC, TAG, REST = b"fLaC\0\0\0\x22" + bytes(40), b"TAG" + bytes(125), b"\1" * 1000
NOTE = "1,000 bytes behind its end are no part of its sound; left out"


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", [Link(0, 0)]),
        (b"unknown" * 9, [Link(0, 63)]),
        (PIECE, [Link(0, 48)]),
        (PIECE[:18], [Link(0, 18)]),
        (PIECE + TAG, [Link(0, 48 + 128)]),
        (TAG + PIECE, [Link(0, 128 + 48)]),
        (PIECE + REST[1:], [Link(0, 48 + 999)]),
        (PIECE + REST, [Link(0, 48, note=NOTE)]),
        (PIECE + TAG + PIECE, [Link(0, 48), Link(176, 224)]),
        (PIECE + PIECE + TAG, [Link(0, 48), Link(48, 96)]),
        (PIECE + PIECE + REST, [Link(0, 48), Link(48, 96, note=NOTE)]),
        (
            PIECE + PIECE[:-1],
            [Link(0, 48), Link(48, 95, TOLD.format(28, 27), cut=True)],
        ),
        (FLAC, [Link(0, 48)]),
        (TAG + FLAC, [Link(0, 176)]),
        (FLAC[:8] + FLAC, [Link(0, 8), Link(8, 56)]),
        (FLAC + FLAC.replace(b"C\0", b"C\x80"), [Link(0, 48), Link(48, 96)]),
        (b"ID3\4\0\0\0\0\0\1x" + FLAC + FLAC, [Link(0, 59), Link(59, 107)]),
        (FLAC + FLAC.replace(b"\x22", b"\x23"), [Link(0, 96)]),
    ],
)
def test_files_joined_in_a_file(data, expected):
    assert links(data) == expected


def test_sizes_of_rf64():
    assert [containers.tells_size(size) for size in (0, 1, (1 << 62) - 1, 1 << 62)] == [
        *(False, True, True, False)
    ]


@pytest.mark.parametrize("size, is_open", [(0, True), (91, True), (92, False), (2**31, False)])
def test_a_wav_of_open_size(size, is_open):
    """It declares fewer bytes than there are."""
    data = b"before" + b"RIFF" + struct.pack("<I", size) + b"WAVE" + bytes(88) + b"after"
    assert containers.has_open_size(data, Link(6, 106)) == is_open
    for other in (data.replace(b"RIFF", b"RIFX"), data.replace(b"WAVE", b"WAVX")):
        assert not containers.has_open_size(other, Link(6, 106))


# ------------------------------------------------------------------------------------------ MP3


@pytest.mark.parametrize("checksum", [b"", b"cc"])
@pytest.mark.parametrize("n_side", [9, 17, 32])
@pytest.mark.parametrize("name", [b"Xing", b"Info"])
@pytest.mark.parametrize("flags, n", [(1, 0x01020304), (15, 0x01020304), (2, 0), (14, 0), (16, 0)])
def test_frames_that_a_tag_counts(flags, n, name, n_side, checksum):
    head = b"\xff\xfb\x90\0" + checksum + bytes(n_side)
    frame = head + name + bytes([0, 0, 0, flags]) + b"\1\2\3\4" + bytes(300)
    assert containers.promised_frames(frame) == n == containers.mpeg_head(frame)
    assert containers.mpeg_head(b"ID3\4\0\0\0\0\0\4Xing" + bytes(4000) + frame) == n
    assert containers.mpeg_head(b"ID3\4\0\0\0\0\x23\x76" + bytes(4598 + 512) + frame) == n
    assert containers.promised_frames(head + b"\0" + frame[len(head) :]) == 0
    assert containers.mpeg_head(bytes(4096) + frame) == 0 == containers.mpeg_head(b"")


def test_frames_that_a_vbri_tag_counts():
    frame = b"\xff\xfb\x90\0" + bytes(32) + b"VBRI" + bytes(10) + b"\0\0\1\2" + bytes(9)
    assert containers.promised_frames(frame) == 258
    assert containers.promised_frames(bytes((1 << 20) - 54) + frame) == 258
    assert containers.promised_frames(bytes((1 << 20) - 53) + frame) == 0


def test_frames_and_what_is_none(tmp_path):
    path = encoded(tmp_path / "a.mp3", tone(5000), "libmp3lame", kbps=128, write_xing="0")
    data = path.read_bytes()
    first = data.index(b"\xff\xfb")
    # 144 times 128 kbit/s over 44.1 kHz, without the slot of padding.
    assert not containers.is_cut_frame(data[first : first + 417])
    assert containers.is_cut_frame(data[first : first + 416])
    assert not containers.is_cut_frame(b"no frame") and not containers.is_cut_frame(b"")
    assert containers.is_mpeg_frame(b"\xff\xe2") and not containers.is_mpeg_frame(
        b"\xff\xe1\xff\xfb"
    )
    assert (
        containers.is_mpeg(b"\xff\xfb") and containers.is_mpeg(b"\0\0") and containers.is_mpeg(b"")
    )
    assert not containers.is_mpeg(b"\0\xff\xfb")


def test_heads_of_free_format():
    """A bit rate of 0, at 44.1, 48 and 32 kHz, of all versions and layers."""
    for version, layer, rate, hertz in itertools.product(range(4), range(4), (0, 1, 14), range(4)):
        code = 0xFFE00000 | version << 19 | layer << 17 | 1 << 16 | rate << 12 | hertz << 10
        is_free = version != 1 and layer > 0 and rate == 0 and hertz < 3
        for before in (b"", b"ID3\4\0\0\0\0\0\1x"):
            assert containers.is_free_format(before + code.to_bytes(4, "big") + b"more") == is_free

"""Declared ends of containers: what follows one may be another file, joined to it."""

import mmap
import re
import struct
from collections.abc import Callable

from mutagen.id3 import BitPaddedInt  # of four groups of seven bits

_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
# Boxes of MP4 that may be truncated; anything else that reaches beyond the file is not a box.
_BOXES = (b"ftyp", b"moov", b"moof", b"mdat")
_BOX = re.compile(rb"[ -~\xa9]{4}")
_CHUNK = re.compile(rb"[ -~]{4}")
# Shorter remainders are not reported; nor are tags and zeros.
_LEAST_REST = 1000


def extents(data: mmap.mmap | bytes, begin: int) -> list[tuple[int, int]]:
    """Start and end of each file concatenated in a file, without the tags between them.

    Args:
        data: the whole file.
        begin: position of its first container.

    Returns:
        positions in bytes; none for containers that do not declare their end, and for those
        whose pages and frames are read one by one anyway.
    """
    end_of = _kind(data, begin)
    found: list[tuple[int, int]] = []
    while end_of:
        end = end_of(data, begin)
        found.append((begin, min(max(begin, end), len(data))))
        following = skip_tags(data, end) if begin < end <= len(data) else len(data)
        if not following < len(data) or _kind(data, following) is not end_of:
            break
        begin = following
    return found


def unexplained(data: mmap.mmap | bytes, end: int) -> str | None:
    """Note on data after a file's end; None for nothing, tags and zeros."""
    rest = skip_tags(data, end)
    if len(data) - rest < _LEAST_REST or not data[rest : rest + (1 << 16)].strip(b"\0"):
        return None
    return f"{len(data) - rest:,} bytes behind its end are no part of its sound; left out"


def skip_tags(data: mmap.mmap | bytes, place: int) -> int:
    """Position after any number of ID3 and APE tags."""
    while True:
        head = data[place : place + 32]
        if head[:3] == b"ID3" and len(head) >= 10:
            place += _id3_bytes(head)
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            (flags,) = struct.unpack("<I", head[20:24])
            # A header's size counts what follows it, a footer's what precedes it.
            place += 32 + (int.from_bytes(head[12:16], "little") if flags & 1 << 29 else 0)
        elif head[:3] == b"TAG":
            place += 128
        else:
            return place


def packed_frames(data: mmap.mmap | bytes, begin: int, end: int) -> list[int]:
    """Positions of the flags that mark frames of leading ID3 tags as compressed, in bytes.

    FFmpeg would unpack each of them, to up to 256 MB, for texts and pictures that are read
    elsewhere.
    """
    found, place = [], begin
    while place < end and data[place : place + 3] == b"ID3" and len(data) >= place + 10:
        newest, flags = data[place + 3] >= 4, data[place + 5]
        stop = min(place + 10 + BitPaddedInt(data[place + 6 : place + 10]), end)
        at = place + 10
        if flags & 0x40:  # an extended header; that of the older version does not count itself
            more = data[at : at + 4]
            at += BitPaddedInt(more) if newest else 4 + int.from_bytes(more, "big")
        while at + 10 <= stop and data[at]:
            size = data[at + 4 : at + 8]
            if data[at + 9] & 0x08:
                found.append(at + 9)
            at += 10 + (BitPaddedInt(size) if newest else int.from_bytes(size, "big"))
        place += _id3_bytes(data[place : place + 10])
    return found


def _id3_bytes(head: bytes) -> int:
    """Length of an ID3 tag by its header, which a footer may repeat."""
    return 10 + BitPaddedInt(bytes(head[6:10])) + (10 if head[5] & 0x10 else 0)


def _kind(data: mmap.mmap | bytes, begin: int) -> Callable[[mmap.mmap | bytes, int], int] | None:
    head = data[begin : begin + 24]
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _riff
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff
    if head[4:8] == b"ftyp":
        return _mp4
    for magic, end_of in _MAGIC.items():
        if head.startswith(magic):
            return end_of
    return None


def _riff(data: mmap.mmap | bytes, begin: int) -> int:
    if data[begin : begin + 4] != b"RIFF" and data[begin + 12 : begin + 16] == b"ds64":
        return begin + 8 + int.from_bytes(data[begin + 20 : begin + 28], "little")
    end = begin + 8 + int.from_bytes(data[begin + 4 : begin + 8], "little")
    place = begin + 12
    while place + 8 <= min(end, len(data)):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] == b"data":
            # Programs that write to pipes declare an empty chunk of samples before the samples.
            return _padded(data, begin, end) if size else len(data)
        place += 8 + size + size % 2
    return len(data)


def _aiff(data: mmap.mmap | bytes, begin: int) -> int:
    return _padded(data, begin, begin + 8 + int.from_bytes(data[begin + 4 : begin + 8], "big"))


def _padded(data: mmap.mmap | bytes, begin: int, end: int) -> int:
    """End of a file with its padding byte: lengths are even, but not all programs pad them."""
    return end + 1 if (end - begin) % 2 and data[end : end + 1] == b"\0" else end


def _w64(data: mmap.mmap | bytes, begin: int) -> int:
    size = int.from_bytes(data[begin + 16 : begin + 24], "little")
    return begin + -(-size // 8) * 8 if size else len(data)


def _au(data: mmap.mmap | bytes, begin: int) -> int:
    offset, size = struct.unpack(">II", data[begin + 4 : begin + 12])
    return len(data) if size == 2**32 - 1 else begin + offset + size


def _caf(data: mmap.mmap | bytes, begin: int) -> int:
    place = begin + 8
    while place + 12 <= len(data) and _CHUNK.match(data[place : place + 4]):
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 12], "big")
        if kind == b"caff":
            return place
        if kind == b"data" and place + 12 + size > len(data):
            return len(data)  # truncated, or unknown when writing began
        if place + 12 + size > len(data):
            return place
        place += 12 + size
    return min(place, len(data))


def _mp4(data: mmap.mmap | bytes, begin: int) -> int:
    place, indexed = begin, False
    while place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if not _BOX.match(kind) or (kind == b"ftyp" and indexed):
            return place
        indexed |= kind == b"moov"
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        if size == 0:
            return len(data)
        if size < 8 or (place + size > len(data) and kind not in _BOXES):
            return place
        place += size
    return min(place, len(data))


def _tta(data: mmap.mmap | bytes, begin: int) -> int:
    """End of a TTA file: a header, the sizes of all frames, the frames."""
    head = data[begin : begin + 22]
    if len(head) < 22:
        return len(data)
    rate, n_samples = struct.unpack("<II", head[10:18])
    n_frames = -(-n_samples // max(1, rate * 256 // 245))
    sizes = data[begin + 22 : begin + 22 + 4 * n_frames]
    total = sum(size for (size,) in struct.iter_unpack("<I", sizes[: len(sizes) // 4 * 4]))
    return begin + 22 + 4 * n_frames + 4 + total


def _wavpack(data: mmap.mmap | bytes, begin: int) -> int:
    """End of a WavPack file: blocks, each with the number of its first sample."""
    place = begin
    while data[place : place + 4] == b"wvpk" and place + 32 <= len(data):
        head = data[place : place + 32]
        size, first, flags = (int.from_bytes(head[i : i + 4], "little") for i in (4, 16, 24))
        if place > begin and first == 0 and flags & 0x800 and head[10] == 0:
            return place
        place += 8 + size
    return min(place, len(data))


def _to_the_next(magic: bytes) -> Callable[[mmap.mmap | bytes, int], int]:
    def end_of(data: mmap.mmap | bytes, begin: int) -> int:
        place = data.find(magic, begin + len(magic))
        return len(data) if place < 0 else place

    return end_of


_MAGIC: dict[bytes, Callable[[mmap.mmap | bytes, int], int]] = {
    _W64: _w64,
    b".snd": _au,
    b"caff": _caf,
    b"TTA1": _tta,
    b"wvpk": _wavpack,
    _ASF: _to_the_next(_ASF),
    b"Creative Voice File\x1a": _to_the_next(b"Creative Voice File\x1a"),
}

"""Declared length of a file's sound. A declared length shows if a file is truncated; an estimate,
from bit rate and size or from the last time stamp, does not."""

import mmap
import re
import struct
from collections.abc import Callable
from typing import Any

import av

from . import containers
from .containers import Link

# Containers whose length FFmpeg reads from the header, in samples, frames or time.
_BY_HEADER = (
    "mov wav w64 aiff caf au tta wv ape mpc mpc8 tak dsf iff voc avr nistsphere ogg flac".split()
)
# Bytes of a file that are searched for its header, and objects of a header that are searched.
_HEAD, _MOST_OBJECTS = 1 << 20, 1000
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_FIELDS = struct.Struct("<QQQI")  # play and send duration in 100 ns, preroll in ms; flags
_EBML_INFO, _EBML_DURATION = b"\x15\x49\xa9\x66", b"\x44\x89"
_FLV_DURATION = b"\0\x08duration\0"


def _asf_seconds(data: bytes, _: int) -> float:
    """Length by the file properties object; recordings of live streams have none."""
    place = 30
    for _ in range(_MOST_OBJECTS):
        size = int.from_bytes(data[place + 16 : place + 24], "little")
        if data[place : place + 16] == _ASF_PROPERTIES and len(data) >= place + 92:
            play, _, preroll, flags = _ASF_FIELDS.unpack_from(data, place + 64)
            return 0.0 if flags & 1 else max(0.0, play / 1e7 - preroll / 1e3)
        if size < 24:
            break
        place += size
    return 0.0


def _flv_seconds(data: bytes, _: int) -> float:
    """Length by onMetaData; programs that write to a pipe leave it 0."""
    place = data.find(_FLV_DURATION) + len(_FLV_DURATION)
    if place < len(_FLV_DURATION) or len(data) < place + 8:
        return 0.0
    seconds = struct.unpack_from(">d", data, place)[0]
    return seconds if 0 < seconds < 1e9 else 0.0


def _matroska_tells(data: bytes) -> bool:
    """True if Info holds a Duration; recorders and programs that write to pipes leave it out."""
    for found in re.finditer(re.escape(_EBML_INFO), data):  # the first may be an entry of the index
        size, place = _ebml_size(data, found.end())
        end = min(len(data), place + size)
        while place < end:
            name = data[place : place + 9 - data[place].bit_length()]
            if name == _EBML_DURATION:
                return True
            size, place = _ebml_size(data, place + len(name))
            place += size
    return False


def _ebml_size(data: bytes, place: int) -> tuple[int, int]:
    """A size of variable length, and the position after it."""
    n = 9 - data[place].bit_length() if place < len(data) else 1
    mark = 1 << (7 * n)
    return int.from_bytes(data[place : place + n], "big") & (mark - 1), place + n


def _avi_seconds(data: bytes, index: int) -> float:
    """Length by the stream's header, if sizes were filled in at the end, as pipes do not permit."""
    if data[4:8] in (bytes(4), b"\xff" * 4):
        return 0.0
    heads = re.findall(rb"strh....auds.{16}(.{16})", data, re.DOTALL)
    scale, rate, _, length = struct.unpack("<4I", heads[index] if index < len(heads) else bytes(16))
    return length * scale / rate if rate else 0.0


# Containers whose length is read here, for the sound stream of an index: FFmpeg estimates if they
# declare none, and ignores some declared lengths (of a WMA that got a larger cover later, of a
# truncated AVI). Some declare the length of each stream, others that of all together.
_SECONDS: dict[str, Callable[[bytes, int], float]] = {
    "asf": _asf_seconds,
    "flv": _flv_seconds,
    "avi": _avi_seconds,
}
# All others (ADTS, MPEG, AC-3 and other raw streams, transport streams, OMA, Shorten ...) declare
# none. An MP3's tag counts frames: see containers.py.
_KINDS = {*_BY_HEADER, *_SECONDS, "matroska"}


def is_timed(container: Any) -> bool:
    """True if containers of this kind declare their length."""
    return not _KINDS.isdisjoint(container.format.name.split(","))


def promised_seconds(
    container: Any, stream: Any, data: mmap.mmap, link: Link, reached: float
) -> float:
    """Seconds of sound that a container declares for a stream.

    Args:
        container: as FFmpeg opened it.
        stream: of sound.
        data: the whole file.
        link: the part of it that was opened.
        reached: end of the last packet of any stream, in seconds.

    Returns:
        0 if it declares none.
    """
    names = container.format.name.split(",")
    if not is_timed(container) or containers.has_open_size(data, link):
        return 0.0
    begin = link.begin + containers.skip_id3(data) if not link.begin else link.begin
    head = data[begin : min(link.end, begin + _HEAD)]
    if "matroska" in names and not _matroska_tells(head):
        return 0.0
    known = next((name for name in names if name in _SECONDS), "")
    if known:
        whole = _SECONDS[known](head, container.streams.audio.index(stream))
        if known == "avi":  # of the stream
            return whole
    elif stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    else:
        whole = (container.duration or 0) / av.time_base
    pictures = [each for each in container.streams if _is_picture(each)]
    if len(container.streams) - len(pictures) == 1:
        return whole - max(0.0, float((stream.start_time or 0) * stream.time_base))
    # A container's length is that of its longest stream: it is whole if any stream reaches it.
    return whole if reached < whole - 1 else 0.0


def _is_picture(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)

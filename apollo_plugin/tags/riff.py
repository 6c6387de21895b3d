"""Chunks of WAV and AIFF: texts, markers, labels, loops, broadcast and iXML."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from .model import clean

Chunk = tuple[bytes, bytes]

# Chunks with positions in the sound, and without. Beside a bext chunk, as beside LIST INFO, FFmpeg
# and programs based on it ignore ID3: its texts become tags, and its other content is left out.
_PLACES = (b"cue ", b"adtl", b"smpl")
_OTHERS = (b"iXML", b"axml", b"cart", b"inst", b"acid")
_INFO, _BROADCAST, _ID3 = b"INFO", b"bext", (b"id3 ", b"ID3 ")
_READ = (*_PLACES, *_OTHERS, _INFO, _BROADCAST, *_ID3)
# Chunks of the coding: formats, sizes, samples, levels, and room for others.
_OF_THE_CODING = b"fmt |data|fact|PEAK|JUNK|junk|PAD |FLLR|ds64|levl|COMM|SSND|FVER".split(b"|")
# Our names of the texts in LIST INFO and AIFF; others keep their own. IPRT is a part, or a track.
_TEXTS = {
    name.replace("_", " "): key
    for name, key in (
        pair.split("=")
        for pair in (
            "INAM=title IART=artist IPRD=album ICRD=date IGNR=genre ICMT=comment ICOP=copyright "
            "ITRK=tracknumber IPRT=tracknumber ILNG=language ITCH=encodedby IENG=engineer "
            "IMUS=composer IWRI=writer IPRO=producer IKEY=keywords ISBJ=subject IMED=media "
            "IBPM=bpm ISFT=encoder NAME=title AUTH=artist (c)_=copyright ANNO=comment"
        ).split()
    )
}
_OF_AIFF = (b"NAME", b"AUTH", b"(c) ", b"ANNO")
# The code of a recording; in ISRC others write their source.
_ISRC = re.compile(r"[A-Z]{2}-?\w{3}-?\d{2}-?\d{5}", re.IGNORECASE)
# Texts of a bext chunk: names, places and lengths.
_OF_BROADCAST = (
    ("comment", 0, 256),
    ("encodedby", 256, 32),
    ("originator_reference", 288, 32),
    ("date", 320, 10),
    ("coding_history", 602, None),
)
_MOST_BYTES, _MOST_CHUNKS = 1 << 24, 1000
_LIMIT = 2**32 - 1


@dataclass
class Chunks:
    """Chunks of a file.

    Args:
        carried: those that another WAV can hold, as they are.
        left: names of others that are neither of the coding nor texts.
        texts: names and values of texts, by our names.
        id3: an ID3 tag.
        rate: sample rate in Hz; 0 if unknown.
    """

    carried: list[Chunk] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    id3: bytes = b""
    rate: int = 0


def read(path: Path) -> Chunks:
    """Read the chunks of a WAV, RF64 or AIFF; none of another file."""
    found = Chunks()
    with path.open("rb") as file:
        head = file.read(12)
        is_aiff = head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC")
        is_wav = head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:] == b"WAVE"
        if is_wav or is_aiff:
            for name, body in _walk(file, ">I" if is_aiff else "<I"):
                _add(found, name, body, is_aiff)
    return found


def _add(found: Chunks, name: bytes, body: bytes, is_aiff: bool) -> None:
    if name == b"fmt ":
        found.rate = struct.unpack_from("<I", body.ljust(8, b"\0"), 4)[0]
    elif name == _INFO:
        numbered = any(each == b"ITRK" for each, _ in _chunks(body))
        for each, content in _chunks(body):
            found.texts += _named(each, content, not (numbered and each == b"IPRT"))
    elif is_aiff and name in _OF_AIFF:
        found.texts += _named(name, body)
    elif name in _ID3:
        found.id3 = found.id3 or body
    elif name in _PLACES + _OTHERS and not is_aiff:
        found.carried.append((name, body))
    elif name not in _OF_THE_CODING:
        found.left += names([(name, body)])
    if name == _BROADCAST:
        for key, begin, length in _OF_BROADCAST:
            text = _decode(body[begin : None if length is None else begin + length])
            found.texts += [(key, text)] if text else []


def _named(name: bytes, body: bytes, known: bool = True) -> list[tuple[str, str]]:
    """Name a text; return nothing for an empty one."""
    text, own = _decode(body), name.decode("latin-1")
    key = _TEXTS.get(own, own.lower()) if known else own.lower()
    if own == "ISRC" and not _ISRC.fullmatch(text):
        key = "source"
    return [(key, text)] if text else []


def _decode(body: bytes) -> str:
    """Decode a text, whose encoding is not stated: UTF-8 if it is valid, else that of Windows."""
    body = body.partition(b"\0")[0]
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = body.decode("cp1252", "replace")
    return clean(text).strip()


def _walk(file: BinaryIO, size_of: str) -> Iterator[Chunk]:
    """Iterate over chunks; lists are named by their type, and only the read ones have a body."""
    long_data = 0
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        begin, name = file.tell(), head[:4]
        if name == b"LIST":
            name = file.read(4)
        if len(head) < 8 or not re.fullmatch(rb"[ -~]{4}", name):
            return
        (size,) = struct.unpack(size_of, head[4:])
        if name == b"ds64":
            (long_data,) = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))
        if name == b"data" and size == _LIMIT:
            size = long_data
        if name == b"data" and not size:  # written into a pipe: samples up to the end
            return
        body = b""
        if name in (*_READ, b"fmt ", *_OF_AIFF) and size <= _MOST_BYTES:
            body = file.read(begin + size - file.tell())
        file.seek(begin + size + (size & 1))
        yield name, body


def _chunks(body: bytes) -> Iterator[Chunk]:
    """Iterate over the chunks in a list."""
    place = 0
    while place + 8 <= len(body):
        (size,) = struct.unpack_from("<I", body, place + 4)
        yield body[place : place + 4], body[place + 8 : place + 8 + size]
        place += 8 + size + (size & 1)


def names(chunks: list[Chunk]) -> list[str]:
    """Names of chunks, for messages."""
    return [name.decode("latin-1").strip() for name, _ in chunks]


def holds_places(name: str) -> bool:
    """Return True if chunks of that name hold positions in the sound."""
    return name in names([(each, b"") for each in _PLACES]) or name == "iXML"


def append(path: Path, chunks: list[Chunk], ratio: float) -> list[str]:
    """Append chunks to a WAV.

    Args:
        path: path of the file.
        chunks: chunks to append, as they were read.
        ratio: ratio of the file's sample rate to that of the chunks' positions.

    Returns:
        names of chunks that were left out, as they would be wrong.
    """
    left = [chunk for chunk in chunks if chunk[0] == b"iXML" and ratio != 1]
    with path.open("r+b", buffering=0) as file:
        end = file.seek(0, 2)
        content = b"\0" * (end & 1)
        for name, body in chunks:
            if (name, body) in left:
                continue
            body = _scale_positions(name, body, ratio)
            if name == b"adtl":
                name, body = b"LIST", b"adtl" + body
            content += name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)
        if end + len(content) - 8 > _LIMIT:
            raise ValueError("WAV holds 4 GiB at most")
        if file.write(content) < len(content):
            raise OSError(28, "No space left on device")
        file.seek(4)
        file.write(struct.pack("<I", end + len(content) - 8))
    return names(left)


def _scale_positions(name: bytes, body: bytes, ratio: float) -> bytes:
    """Convert the positions in a chunk to another sample rate."""
    if ratio == 1:
        return body
    scaled = bytearray(body)

    def scale(offset: int, by: float = ratio) -> None:
        if offset + 4 <= len(scaled):
            (old,) = struct.unpack_from("<I", scaled, offset)
            struct.pack_into("<I", scaled, offset, min(round(old * by), _LIMIT))

    if name == b"cue ":
        for place in range(4, len(body) - 23, 24):
            scale(place + 4)
            scale(place + 20)
    elif name == b"smpl":
        scale(8, 1 / ratio)  # sample period in ns
        for place in range(36, len(body) - 23, 24):
            scale(place + 8)
            scale(place + 12)
    elif name == b"adtl":
        place = 0
        while place + 8 <= len(body):
            (size,) = struct.unpack_from("<I", body, place + 4)
            if body[place : place + 4] == b"ltxt":
                scale(place + 12)
            place += 8 + size + (size & 1)
    return bytes(scaled)

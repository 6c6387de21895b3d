"""Chunks of WAV that are neither sound nor tags: markers, labels, loops, broadcast and iXML."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# Chunks with positions in the sound, and without. Beside a bext chunk, as beside LIST INFO, FFmpeg
# and programs based on it ignore ID3: its texts become tags, and its other content is left out.
_PLACES = (b"cue ", b"adtl", b"smpl")
_OTHERS = (b"iXML", b"axml", b"cart", b"inst", b"acid")
_LEFT = (b"bext",)
# Chunks of AIFF, which are not carried.
_OF_AIFF = (b"MARK", b"INST", b"MIDI", b"COMT", b"APPL")
_MOST_BYTES, _MOST_CHUNKS = 1 << 24, 1000
_LIMIT = 2**32 - 1

Chunk = tuple[bytes, bytes]


def read(path: Path) -> tuple[list[Chunk], list[str]]:
    """Read the chunks of a WAV that can be carried, and the names of others, of an AIFF too.

    Args:
        path: path of a file of any kind.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
            chunks = list(_walk(file, "<I"))
            carried = [chunk for chunk in chunks if chunk[0] in _PLACES + _OTHERS]
            return carried, [name.decode() for name, _ in chunks if name in _LEFT]
        if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
            return [], [name.decode() for name, _ in _walk(file, ">I") if name in _OF_AIFF]
    return [], []


def _walk(file: BinaryIO, size_of: str) -> Iterator[Chunk]:
    """Iterate over chunks; lists are named by their type."""
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        name, (size,) = head[:4], struct.unpack(size_of, head[4:])
        body = b""
        if name in (b"LIST", *_PLACES, *_OTHERS) and size <= _MOST_BYTES:
            body = file.read(size)
            file.seek(size & 1, 1)
        else:
            file.seek(size + (size & 1), 1)
        if name == b"LIST":
            name, body = body[:4], body[4:]
        yield name, body


def names(chunks: list[Chunk]) -> list[str]:
    """Names of chunks, for messages."""
    return [name.decode().strip() for name, _ in chunks]


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

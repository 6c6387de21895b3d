"""Chunks of WAV that are neither sound nor tags: markers, labels, loops, broadcast's and iXML."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# With places in the sound; with none. Beside a bext chunk, as beside LIST INFO, FFmpeg and those
# who read by it show no ID3: its texts become tags, and the rest is named.
_PLACES = (b"cue ", b"adtl", b"smpl")
_OTHERS = (b"iXML", b"axml", b"cart", b"inst", b"acid")
_LEFT = (b"bext",)
# Of AIFF, which nothing here writes.
_OF_AIFF = (b"MARK", b"INST", b"MIDI", b"COMT", b"APPL")
_MOST_BYTES, _MOST_CHUNKS = 1 << 24, 1000
_LIMIT = 2**32 - 1

Chunk = tuple[bytes, bytes]


def read(path: Path) -> tuple[list[Chunk], list[str]]:
    """Chunks of a WAV that another can carry, and names of those, and of an AIFF's, that none can.

    Args:
        path: of a file of any kind.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
            chunks = list(_walk(file, "<I"))
            kept = [chunk for chunk in chunks if chunk[0] in _PLACES + _OTHERS]
            return kept, [name.decode() for name, _ in chunks if name in _LEFT]
        if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
            return [], [name.decode() for name, _ in _walk(file, ">I") if name in _OF_AIFF]
    return [], []


def _walk(file: BinaryIO, size_of: str) -> Iterator[Chunk]:
    """Chunks; a list of labels by its kind."""
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
    """Names of chunks, for people."""
    return [name.decode().strip() for name, _ in chunks]


def holds_places(name: str) -> bool:
    """Whether a chunk of that name holds places in the sound."""
    return name in names([(each, b"") for each in _PLACES]) or name == "iXML"


def append(path: Path, chunks: list[Chunk], ratio: float) -> list[str]:
    """Appends chunks to a WAV.

    Args:
        path: of the file.
        chunks: to append, as they were read.
        ratio: of the file's rate to that which their places are counted at.

    Returns:
        names of those that say what is no longer true, left out.
    """
    left = [chunk for chunk in chunks if chunk[0] == b"iXML" and ratio != 1]
    with path.open("r+b", buffering=0) as file:
        end = file.seek(0, 2)
        content = b"\0" * (end & 1)
        for name, body in chunks:
            if (name, body) in left:
                continue
            body = _moved(name, body, ratio)
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


def _moved(name: bytes, body: bytes, ratio: float) -> bytes:
    """A chunk whose places are counted at another rate."""
    if ratio == 1:
        return body
    moved = bytearray(body)

    def move(place: int, by: float = ratio) -> None:
        if place + 4 <= len(moved):
            (old,) = struct.unpack_from("<I", moved, place)
            struct.pack_into("<I", moved, place, min(round(old * by), _LIMIT))

    if name == b"cue ":
        for place in range(4, len(body) - 23, 24):
            move(place + 4)
            move(place + 20)
    elif name == b"smpl":
        move(8, 1 / ratio)  # how long a sample is, in ns
        for place in range(36, len(body) - 23, 24):
            move(place + 8)
            move(place + 12)
    elif name == b"adtl":
        place = 0
        while place + 8 <= len(body):
            (size,) = struct.unpack_from("<I", body, place + 4)
            if body[place : place + 4] == b"ltxt":
                move(place + 12)
            place += 8 + size + (size & 1)
    return bytes(moved)

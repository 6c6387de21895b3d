"""ID3v2 of all versions: conversion between frames and fields."""

import re
import threading
import zlib
from collections.abc import Collection
from typing import Any

from mutagen.id3 import (
    APIC,
    COMM,
    ID3,
    TIPL,
    TMCL,
    TXXX,
    UFID,
    USLT,
    Frame,
    Frames,
    TextFrame,
    TimeStampTextFrame,
    UrlFrame,
)
from mutagen.id3 import _frames as reader

from . import timed
from .model import ID3_NAMES, Tags, free_name, key_of, numbered

_KEYS = {name: key for key, name in ID3_NAMES.items()} | {"GRP1": "grouping"}
# Frames on the coded file: lengths, sizes, positions; and obsolete gains.
_OF_THE_CODING = "TSSE TLEN TSIZ TFLT TDLY MLLT ASPI SEEK RBUF".split()
_GAINS = "RVA2 RVAD RGAD".split()
# Frames beside which FFmpeg, and with it mpv and MPD, shows no others in a WAV.
HIDING = ("PRIV",)
# Frames with times.
TIMED = "CHAP CTOC SYLT SYTC ETCO".split()
_MUSICBRAINZ = "http://musicbrainz.org"
# Roles in TIPL; performers are in TMCL.
_ROLES = {
    "producer": "producer",
    "engineer": "engineer",
    "arranger": "arranger",
    "mix": "mixer",
    "DJ-mix": "djmixer",
}
# Frames of 2.4 that are replaced by others in 2.3.
_REPLACED = ("TDRC", "TDOR", "TIPL", "TMCL")
_ENCODING, _MILLISECONDS, _NO_OFFSET = 3, 2, 2**32 - 1  # UTF-8
_LANGUAGE = "XXX"  # unknown

# A date with a time, as other formats write it; those of ID3 are UTC without a word of it.
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)Z?")

# Largest ratio of a compressed frame, and largest size of all unpacked frames of a file.
_MOST_TIMES, _MOST_BYTES = 100, 1 << 26


class _BoundedZlib(threading.local):
    """Replacement of zlib for mutagen with a size limit: two megabytes can unpack to gigabytes."""

    error = zlib.error
    left, too_much = _MOST_BYTES, False

    def decompress(self, data: bytes) -> bytes:
        unpacker = zlib.decompressobj()
        # At least 1, as zlib takes 0 for no limit.
        most = max(1, min(_MOST_TIMES * len(data), self.left))
        unpacked = unpacker.decompress(data, most)
        self.left -= len(unpacked)
        if not unpacker.eof:
            self.too_much |= len(unpacked) == most
            raise zlib.error("cut short, or unpacks to too much")
        return unpacked


_zlib = _BoundedZlib()
vars(reader)["zlib"] = _zlib  # mutagen has no limit and no option for one


def begin_file() -> None:
    """Reset the size limit for the next file that this thread reads."""
    _zlib.left, _zlib.too_much = _MOST_BYTES, False


def is_over_limit() -> bool:
    """Return True if compressed frames of the current file exceeded the size limit."""
    return _zlib.too_much


def read(tags: Tags, id3: ID3) -> None:
    """Add all frames to ``tags``; remove stale frames and invalid pictures from ``id3``."""
    for key, frame in list(id3.items()):
        name = frame.FrameID
        keep = True
        if name in _OF_THE_CODING or name in _GAINS:
            keep = False
            if name in _GAINS:
                tags.is_stale(f"replaygain_{getattr(frame, 'desc', '').lower()}")
        elif name == "APIC":
            keep = tags.add_picture(frame.data, int(frame.type), frame.desc, frame.mime)
        elif name in ("TXXX", "COMM"):
            field = key_of(frame.desc)
            keep = not tags.is_stale(field)
            if name == "COMM":
                field = "comment" if field in ("", "id3v1 comment") else f"comment:{field}"
            if keep:
                tags.add(field, frame.text)
        elif name in TIMED and getattr(frame, "format", _MILLISECONDS) != _MILLISECONDS:
            keep = False  # in frames of the coded file
            tags.other.append(name)
        elif not _read_text(tags, frame):
            tags.other.append(name)
            if name == "CHAP":
                frame.start_offset = frame.end_offset = _NO_OFFSET  # bytes in the coded file
        if not keep:
            del id3[key]
    unknown = zip(_names(id3.unknown_frames), id3.unknown_frames)
    id3.unknown_frames = [data for name, data in unknown if name not in _OF_THE_CODING + _GAINS]
    tags.other += _names(id3.unknown_frames)
    tags.id3 = id3


def _names(unknown: list[bytes]) -> list[str]:
    return [data[:4].decode("latin-1").strip("\0") for data in unknown]


def _read_text(tags: Tags, frame: Any) -> bool:
    """Add a frame to the fields of text; return False if it is not text."""
    name = frame.FrameID
    if name == "USLT":
        tags.add("lyrics", [frame.text])
    elif name == "SYLT" and (text := timed.lrc(frame)):
        tags.add("syncedlyrics", [text])
    elif name == "POPM" and (text := timed.rating(frame.rating)):
        tags.add("rating", [text])
        tags.add("playcount", [getattr(frame, "count", 0) or ""])
    elif name == "UFID" and frame.owner == _MUSICBRAINZ:
        tags.add("musicbrainz_trackid", [frame.data.decode("ascii", "replace")])
    elif name in ("TIPL", "TMCL"):
        for role, person in frame.people:
            key = _ROLES.get(role) if name == "TIPL" else None
            tags.add(key or "performer", [person if key or not role else f"{person} ({role})"])
    elif name == "TCON":
        tags.add("genre", frame.genres)
    elif issubclass(type(frame), TextFrame):
        tags.add(_KEYS.get(name, name.lower()), frame.text)
    elif name == "WXXX":
        tags.add(f"url:{key_of(frame.desc)}" if frame.desc else "url", [frame.url])
    elif issubclass(type(frame), UrlFrame):
        tags.add(_KEYS.get(name, name.lower()), [frame.url])
    else:
        return False
    return True


def fill(id3: ID3, tags: Tags, extra: dict[str, str], without: Collection[str] = ()) -> list[str]:
    """Replace the content of an ID3 tag by tags and further fields, without frames of some names;
    return the names of tags that ID3 cannot hold."""
    id3.clear()
    written, native = Tags(), tags.id3
    id3.version = (2, version(native), 0)
    if native is not None:
        for frame in native.values():
            if frame.FrameID not in without:
                id3.add(frame)
        id3.unknown_frames = native.unknown_frames
        id3._unknown_v2_version = native._unknown_v2_version
        copy = ID3()
        copy.update(native)
        read(written, copy)
    for frame in _frames({k: v for k, v in tags.text.items() if k not in written.text}):
        if frame.HashKey not in id3:
            id3.add(frame)
    add(id3, extra)
    there = [picture.data for picture in written.pictures]
    for picture in tags.pictures:
        if picture.data not in there:
            text = picture.desc
            while f"APIC:{text}" in id3:  # frames of equal description replace each other
                text += " "
            arguments = dict(mime=picture.mime, type=picture.type, desc=text, data=picture.data)
            id3.add(APIC(encoding=_ENCODING, **arguments))
    if native is None:
        return list(tags.other)
    # Unknown frames can be written to a tag of their own version only, which excludes 2.2.
    unknown = _names(native.unknown_frames)
    carried = {frame.FrameID for frame in native.values()} - set(without)
    carried |= set(unknown if native.version >= (2, 3) else [])
    return [name for name in tags.other if name not in carried]


def add(id3: ID3, fields: dict[str, str]) -> None:
    """Add fields of the loudness to an ID3 tag."""
    for key, value in fields.items():
        if key == "itunnorm":
            id3.add(COMM(encoding=0, lang="eng", desc="iTunNORM", text=[value]))
        else:
            id3.add(TXXX(encoding=_ENCODING, desc=key.upper(), text=[value]))


def version(id3: ID3 | None) -> int:
    """Minor version of ID3v2 to write a tag in: that of the source if it is 3, else 4."""
    return 3 if id3 is not None and id3.version[:2] == (2, 3) else 4


def to_version(id3: ID3) -> int:
    """Convert a tag's frames to the version that it is written in, and return that version."""
    if version(id3) == 3:
        # Other frames of 2.4 have no replacement, and players read them in 2.3 too.
        newer = [frame for frame in id3.values() if frame.FrameID not in _REPLACED]
        id3.update_to_v23()
        for frame in newer:
            id3.add(frame)
    return version(id3)


def _frames(text: dict[str, list[str]]) -> list[Frame]:
    frames: list[Frame] = []
    people: list[list[str]] = []
    for key, values in text.items():
        if key in ("tracktotal", "disctotal") and key.replace("total", "number") in text:
            continue
        role = next((role for role, field in _ROLES.items() if field == key), None)
        name = ID3_NAMES.get(key, key.upper())
        kind = Frames.get(name)
        if key in ("tracknumber", "discnumber"):
            values = [numbered(text, key)]
        if kind and issubclass(kind, TimeStampTextFrame):
            values = [_DATE.sub(r"\1 \2", value) for value in values]
        if role:
            people += [[role, value] for value in values]
        elif key == "performer":
            frames.append(TMCL(encoding=_ENCODING, people=[_player(value) for value in values]))
        elif key == "comment" or key.startswith("comment:"):
            about = key.partition(":")[2]
            frames.append(COMM(encoding=_ENCODING, lang=_LANGUAGE, desc=about, text=values))
        elif key == "lyrics":
            joined = "\n".join(values)
            frames.append(USLT(encoding=_ENCODING, lang=_LANGUAGE, desc="", text=joined))
        elif key == "syncedlyrics" and (lines := timed.lyrics_frame("\n".join(values))):
            frames.append(lines)
        elif key == "rating" and (stars := timed.rating_frame(values[0])):
            frames.append(stars)
        elif key == "musicbrainz_trackid" and len(values) == 1:
            frames.append(UFID(owner=_MUSICBRAINZ, data=values[0].encode("ascii", "replace")))
        elif kind and issubclass(kind, UrlFrame) and _is_address(values):
            frames.append(kind(url=values[0]))
        elif kind and issubclass(kind, TextFrame) and _holds(kind, values):
            frames.append(kind(encoding=_ENCODING, text=values))
        else:
            frames.append(TXXX(encoding=_ENCODING, desc=free_name(key), text=values))
    return [*frames, TIPL(encoding=_ENCODING, people=people)] if people else frames


def _is_address(values: list[str]) -> bool:
    return len(values) == 1 and "://" in values[0]


def _holds(kind: Any, values: list[str]) -> bool:
    """Return True if a kind of frame holds the values unchanged; dates are reformatted."""
    try:
        return [str(text) for text in kind(encoding=_ENCODING, text=values).text] == values
    except (ValueError, TypeError):
        return False


def _player(text: str) -> list[str]:
    person, _, role = text.rstrip(")").rpartition(" (")
    return [role, person] if person and text.endswith(")") else ["", text]

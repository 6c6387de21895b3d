"""Tags of formats that are only read: MP4, APE, ASF, and others by FFmpeg."""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mutagen.apev2 import BINARY, APEv2
from mutagen.mp4 import MP4

from ..audio.frames import opened
from .model import APE_NAMES, ASF_NAMES, MP4_NAMES, Tags, key_of

_MP4_KEYS = {name: key for key, name in MP4_NAMES.items()}
_APE_KEYS = {name.lower(): key for key, name in APE_NAMES.items()}
_ASF_KEYS = {name: key for key, name in ASF_NAMES.items()}
# Atoms on the coded file: its encoder, and gapless playback.
_OF_THE_CODING = ("©too", "pgap")
_FRONT = 3
CHAPTERS = "chapters"
# Kinds of pictures by APE's names, which are those of ID3 with shorter ones beside them.
_APE_PICTURES = {
    name: number
    for number, names in enumerate(
        "other|icon,png icon|other icon|front|back|leaflet|media|lead artist,lead|artist|conductor|"
        "band|composer|lyricist|recording location,studio|during recording,recording|"
        "during performance,performance|video capture,movie scene|fish,colored fish|illustration|"
        "band logotype|publisher logotype".split("|")
    )
    for name in names.split(",")
}
# Attributes of Windows Media on the coded file and its encoder.
_OF_WINDOWS = {
    *("IsVBR", "WM/EncodingSettings", "WM/EncodingTime", "ASFLeakyBucketPairs"),
    *("WMFSDKVersion", "WMFSDKNeeded", "DeviceConformanceTemplate", "PeakValue", "AverageLevel"),
}
# A picture of ASF: kind and size, two null-terminated texts in UTF-16, and the picture's file.
_ASF_HEAD = struct.Struct("<BI")


def read_mp4(tags: Tags, file: MP4) -> None:
    """Add the atoms of an MP4."""
    atoms: Any = file.tags or {}
    for name, values in atoms.items():
        if name == "covr":
            for data in values:
                tags.add_picture(bytes(data), _FRONT, "")
        elif name in ("trkn", "disk"):
            number, total = values[0]
            tags.add(_MP4_KEYS[name], [f"{number or ''}/{total or ''}"])
        elif name.startswith("----:"):
            own = name.split(":", 2)[2]
            try:
                tags.add(key_of(own), [bytes(value).decode() for value in values])
            except UnicodeDecodeError:
                tags.other.append(own)
        elif name == "cpil":
            tags.add("compilation", ["1"] if values else [])
        elif name in _MP4_KEYS:
            tags.add(_MP4_KEYS[name], values)
        elif name not in _OF_THE_CODING and name.isprintable():  # else an index of QuickTime's
            tags.other.append(name)
    if file.chapters:
        tags.other.append(CHAPTERS)


def read_ape(tags: Tags, ape: APEv2) -> None:
    """Add the items of an APEv2 tag."""
    for name, value in ape.items():
        key = _APE_KEYS.get(name.lower()) or key_of(name)
        if value.kind == BINARY and key.startswith("cover art"):
            data = value.value.partition(b"\0")[2]  # after the file's name
            tags.add_picture(data, _APE_PICTURES.get(key[9:].strip("() "), 0), "")
        elif value.kind == BINARY:
            tags.other.append(name)
        else:
            tags.add(key, str(value).split("\0"))


def read_asf(tags: Tags, asf: Iterable[tuple[str, Any]]) -> None:
    """Add the attributes of a Windows Media file."""
    attributes = list(asf)
    given = {name for name, _ in attributes}
    for name, attribute in attributes:
        value = attribute.value
        if name == "WM/Picture":
            kind, size = _ASF_HEAD.unpack_from(value)
            data = value[-size:]
            tags.add_picture(data, kind, "")
        elif name in _OF_WINDOWS or (name == "WM/Track" and "WM/TrackNumber" in given):
            continue
        elif isinstance(value, bytes):
            tags.other.append(name)
        elif name == "WM/Track" and isinstance(value, int):
            tags.add("tracknumber", [value + 1])  # counted from 0
        elif name == "Rating":
            tags.add("contentrating", [value])
        else:
            key = _ASF_KEYS.get(name) or key_of(name.removeprefix("WM/"))
            if key == "rating" and isinstance(value, int):
                # 1, 25, 50, 75 and 99 mean one to five stars.
                value = 20 * (round(value / 25) + 1) if value > 0 else ""
            elif isinstance(value, bool):
                value = "1" if value else ""
            tags.add(key, [value])


def read_by_ffmpeg(tags: Tags, path: Path, track: int = 1) -> None:
    """Add fields from FFmpeg (CAF, AU, AVI, RealAudio ...).

    Args:
        tags: tags to add to.
        path: path of the file.
        track: number of the sound track, from 1 on.
    """
    found: dict[str, str] = {}
    for encoding, errors in (("utf-8", "strict"), ("cp1252", "replace")):
        try:
            with opened(path, errors, encoding) as container:
                for stream in container.streams.audio[track - 1 : track]:
                    found |= stream.metadata
                found |= container.metadata
                chapters = container.chapters()
            break
        except UnicodeDecodeError:
            continue
    if chapters and CHAPTERS not in tags.other:
        tags.other.append(CHAPTERS)
    for name, value in found.items():
        key = key_of(name)
        if (key, value) != ("language", "und") and key != "software":
            tags.add("artist" if key == "author" else key, [value])

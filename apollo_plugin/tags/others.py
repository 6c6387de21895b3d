"""Tags of formats that are only read: MP4, APE, ASF, and others by FFmpeg."""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mutagen.apev2 import BINARY, APEv2
from mutagen.mp4 import MP4

from ..audio.frames import opened
from .model import APE_NAMES, ASF_NAMES, ID3_NAMES, MP4_NAMES, Tags, clean, key_of

_MP4_KEYS = {name: key for key, name in MP4_NAMES.items()}
_APE_KEYS = {name.lower(): key for key, name in APE_NAMES.items()}
_ASF_KEYS = {name: key for key, name in ASF_NAMES.items()}
# Atoms on the coded file: its encoder, and gapless playback.
_OF_THE_CODING = ("©too", "pgap")
_FRONT, _BACK = 3, 4
CHAPTERS = "chapters"
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
            key = key_of(name.split(":", 2)[2])
            tags.add(key, [bytes(value).decode("utf-8", "replace") for value in values])
        elif name == "cpil":
            tags.add("compilation", ["1"] if values else [])
        elif name in _MP4_KEYS:
            tags.add(_MP4_KEYS[name], values)
        elif name not in _OF_THE_CODING:
            tags.other.append(name)
    if file.chapters:
        tags.other.append(CHAPTERS)


def read_ape(tags: Tags, ape: APEv2) -> None:
    """Add the items of an APEv2 tag that are not among the tags yet."""
    old_keys, old_pictures = set(tags.text), [picture.data for picture in tags.pictures]
    for name, value in ape.items():
        key = _APE_KEYS.get(name.lower()) or key_of(name)
        if value.kind == BINARY and key.startswith("cover art"):
            data = value.value.partition(b"\0")[2]  # after the file's name
            if data not in old_pictures:
                tags.add_picture(data, _BACK if "back" in key else _FRONT, "")
        elif value.kind == BINARY:
            tags.other.append(name)
        elif key not in old_keys:
            tags.add(key, str(value).split("\0"))


def read_asf(tags: Tags, asf: Iterable[tuple[str, Any]]) -> None:
    """Add the attributes of a Windows Media file."""
    for name, value in asf:
        if name == "WM/Picture":
            kind, size = _ASF_HEAD.unpack_from(value.value)
            data = value.value[-size:]
            tags.add_picture(data, kind, "")
        elif isinstance(value.value, bytes):
            tags.other.append(name)
        else:
            key = _ASF_KEYS.get(name) or key_of(name.removeprefix("WM/"))
            # 1, 25, 50, 75 and 99 mean one to five stars.
            stars = key == "rating" and isinstance(value.value, int) and value.value > 0
            tags.add(key, [20 * (round(value.value / 25) + 1) if stars else value.value])


def read_by_ffmpeg(tags: Tags, path: Path, common: bool) -> None:
    """Add fields from FFmpeg (RIFF INFO, BWF, AIFF's texts, CAF, Matroska ...) that are new.

    RIFF INFO has no stated encoding: UTF-8 if it is valid, else that of Windows.

    Args:
        tags: tags to add to.
        path: path of the file.
        common: add only fields that every format has. If the file has an ID3 tag too, FFmpeg shows
            its frames under names of its own.
    """
    old_keys: set[str] = set(tags.text)
    found: dict[str, str] = {}
    for encoding, errors in (("utf-8", "strict"), ("cp1252", "replace")):
        try:
            with opened(path, errors, encoding) as container:
                for stream in container.streams.audio[:1]:
                    found |= stream.metadata
                found |= container.metadata
                chapters = container.chapters()
                attached = [(each.name or "", each.data) for each in container.streams.attachments]
            break
        except UnicodeDecodeError:
            continue
    if chapters:
        tags.other.append(CHAPTERS)
    for name, data in attached:
        kind = _BACK if "back" in name.lower() else _FRONT
        if data and not (common or tags.add_picture(data, kind, "")):
            tags.other.append(f"the attachment {clean(name)}")
    for name, value in found.items():
        if (key := key_of(name)) not in old_keys and (key in ID3_NAMES or not common):
            tags.add(key, [value])

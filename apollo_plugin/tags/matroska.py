"""Tags of Matroska and WebM, which FFmpeg reduces to the last value of each name."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from .model import Tags, clean, key_of

MAGIC = b"\x1a\x45\xdf\xa3"
_SEGMENT, _INFO, _TITLE = 0x18538067, 0x1549A966, 0x7BA9
_TRACKS, _TRACK, _TRACK_UID, _TRACK_TYPE, _NAME = 0x1654AE6B, 0xAE, 0x73C5, 0x83, 0x536E
_LANGUAGE = 0x22B59C
_TAGS, _TAG, _TARGETS, _LEVEL, _OF_TRACK = 0x1254C367, 0x7373, 0x63C0, 0x68CA, 0x63C5
_OF_OTHERS = (0x63C9, 0x63C4, 0x63C6)  # of an edition, a chapter, an attachment
_SIMPLE, _TAG_NAME, _TAG_TEXT, _TAG_BINARY = 0x67C8, 0x45A3, 0x4487, 0x4485
_ATTACHMENTS, _FILE = 0x1941A469, 0x61A7
_FILE_NAME, _FILE_TYPE, _FILE_DATA = 0x466E, 0x4660, 0x465C
_CHAPTERS, _CHAPTER = 0x1043A770, 0xB6
_EDITION = 0x45B9
# Elements that hold others which are read.
_OPENED = {_SEGMENT, _INFO, _TRACKS, _TRACK, _TAGS, _TAG, _TARGETS, _SIMPLE, _ATTACHMENTS, _FILE}
_OPENED |= {_CHAPTERS, _EDITION}
_READ = {_TITLE, _TRACK_UID, _TRACK_TYPE, _NAME, _LANGUAGE, _LEVEL, _OF_TRACK, *_OF_OTHERS}
_READ |= {_TAG_NAME, _TAG_TEXT, _FILE_NAME, _FILE_TYPE, _FILE_DATA}
_AUDIO = 2
_MOST_BYTES, _MOST_ELEMENTS, _MOST_LEVELS = 1 << 26, 1 << 18, 12
# Names by the level that tags say they are of; other names are the same at all levels.
_SONG, _ALBUM = 30, 50
_OF_ALBUM = {
    "title": "album",
    "artist": "albumartist",
    "total_parts": "tracktotal",
    "part_number": "discnumber",
    "replaygain_gain": "replaygain_album_gain",
    "replaygain_peak": "replaygain_album_peak",
}
_OF_DISCS = {"total_parts": "disctotal", "title": "boxtitle"}
_OF_SONG = {
    "part_number": "tracknumber",
    "total_parts": "tracktotal",
    "date_released": "date",
    "catalog_number": "catalognumber",
    "initial_key": "key",
    "lead_performer": "performer",
    "mixed_by": "mixer",
    "remixed_by": "remixer",
    "sound_engineer": "engineer",
    "sort_with": "sort",
}


@dataclass
class _Element:
    """An element with its content: other elements, or bytes."""

    number: int
    content: bytes = b""
    inner: list["_Element"] = field(default_factory=list)

    def all(self, number: int) -> list["_Element"]:
        return [each for each in self.inner if each.number == number]

    def first(self, number: int) -> bytes:
        return next((each.content for each in self.inner if each.number == number), b"")

    def text(self, number: int) -> str:
        return clean(self.first(number).rstrip(b"\0").decode("utf-8", "replace"))

    def int(self, number: int) -> int:
        return int.from_bytes(self.first(number), "big")


def read(tags: Tags, path: Path, chapters: str, track: int = 1) -> None:
    """Add the tags, covers and names of a file.

    Args:
        tags: tags to add to.
        path: path of the file.
        chapters: name of chapters, for messages.
        track: number of the sound track, from 1 on; tags of others are left.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        root = _Element(0, inner=list(_elements(file, size, [_MOST_ELEMENTS], _MOST_LEVELS)))
    for segment in root.all(_SEGMENT)[:1]:
        sounds = [
            each
            for tracks in segment.all(_TRACKS)
            for each in tracks.all(_TRACK)
            if each.int(_TRACK_TYPE) == _AUDIO
        ]
        of_sound = sounds[track - 1 : track]
        uids = [each.int(_TRACK_UID) for each in of_sound]
        found = [each for parts in segment.all(_TAGS) for each in parts.all(_TAG)]
        # Tags of the song first, then of its album. The level that is not stated is the album's,
        # but programs that state none at all mean the song.
        levels = {_level(tag) for tag in found}
        unstated = _ALBUM if levels - {0, _ALBUM} else _SONG
        for level in sorted({each or unstated for each in levels}):
            of_level = Tags()
            for tag in found:
                if (_level(tag) or unstated) == level:
                    _read_tag(of_level, tag, level, uids)
            tags.merge(of_level, f"its tag of level {level}")
        if "artist" not in tags.text:
            tags.add("artist", tags.text.get("albumartist", []))
        titles = [each.text(_TITLE) for each in segment.all(_INFO)]
        titles += [each.text(_NAME) for each in of_sound]
        for title in filter(None, titles):
            tags.merge(Tags(text={"title": [title]}), "the container's title")
        languages = [each.text(_LANGUAGE) for each in of_sound]
        if "language" not in tags.text:
            tags.add("language", [each for each in languages if each != "und"])
        for attached in (x for each in segment.all(_ATTACHMENTS) for x in each.all(_FILE)):
            _read_attachment(tags, attached)
        if any(edition.all(_CHAPTER) for x in segment.all(_CHAPTERS) for edition in x.inner):
            tags.other.append(chapters)


def _level(tag: _Element) -> int:
    return next((each.int(_LEVEL) for each in tag.all(_TARGETS)), 0)


def _read_tag(tags: Tags, tag: _Element, level: int, uids: list[int]) -> None:
    targets = tag.all(_TARGETS)
    tracks = [int.from_bytes(x.content, "big") for each in targets for x in each.all(_OF_TRACK)]
    if any(tracks) and not set(tracks) & {0, *uids}:
        return
    if any(each.int(kind) for each in targets for kind in _OF_OTHERS):
        return  # with the chapters and attachments
    names = _OF_DISCS if level > _ALBUM else _OF_ALBUM if level == _ALBUM else {}
    for simple in tag.all(_SIMPLE):
        _read_simple(tags, simple, names)


def _read_simple(tags: Tags, simple: _Element, names: dict[str, str], before: str = "") -> None:
    name = simple.text(_TAG_NAME).lower()
    key = before + (names.get(name) or _OF_SONG.get(name) or key_of(name))
    if simple.all(_TAG_BINARY):
        tags.other.append(key.upper())
    else:
        tags.add(key, [simple.text(_TAG_TEXT)])
    for inner in simple.all(_SIMPLE):
        between = "" if inner.text(_TAG_NAME).lower() == "sort_with" else "/"
        _read_simple(tags, inner, {}, key + between)


def _read_attachment(tags: Tags, attached: _Element) -> None:
    name, kind = attached.text(_FILE_NAME), attached.text(_FILE_TYPE)
    side = 4 if "back" in name.lower() else 3
    is_picture = kind.startswith("image/")
    if not (is_picture and tags.add_picture(attached.first(_FILE_DATA), side, "")):
        tags.other.append(f"the attachment {name}")


def _elements(file: BinaryIO, end: int, left: list[int], depth: int) -> Iterator[_Element]:
    """Read the elements up to a place in the file, those of other kinds without content."""
    while file.tell() < end and left[0] > 0:
        left[0] -= 1
        number, size = _number(file, keep_length=True), _number(file)
        if number is None or size is None:
            return
        begin = file.tell()
        # A size that is not stated; that of the segment is the file's.
        unknown = size < 0
        if unknown and number != _SEGMENT:
            return
        if begin > end:  # what contains it ends within its head
            return
        stop = end if unknown else min(begin + size, end)
        if number in _OPENED and depth:
            yield _Element(number, inner=list(_elements(file, stop, left, depth - 1)))
        elif number in _READ and size <= _MOST_BYTES:
            yield _Element(number, file.read(stop - begin))
        else:
            yield _Element(number)
        file.seek(stop)


def _number(file: BinaryIO, keep_length: bool = False) -> int | None:
    """Read a number of variable length; None at the end, -1 for one that is not stated."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    n_more = 8 - first[0].bit_length()
    rest = file.read(n_more)
    if len(rest) < n_more:
        return None
    value = int.from_bytes(first + rest, "big")
    if keep_length:
        return value
    value &= (1 << 7 * (n_more + 1)) - 1
    return -1 if value == (1 << 7 * (n_more + 1)) - 1 else value

"""Reading tags from files, and writing them to files."""

import contextlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import mutagen
from mutagen.aiff import AIFF
from mutagen.apev2 import APENoHeaderError, APEv2
from mutagen.asf import ASF
from mutagen.flac import FLAC
from mutagen.id3 import ID3, ID3NoHeaderError
from mutagen.mp3 import MP3
from mutagen.mp4 import MP4
from mutagen.ogg import OggFileType
from mutagen.oggopus import OggOpus
from mutagen.oggvorbis import OggVorbis
from mutagen.wave import WAVE

from ..audio import Level, album_loudness
from ..errors import TagError, one_line
from ..files import atomic_write, imitate
from . import gain, id3, mark, matroska, others, riff, vorbis
from .model import Tags, key_of
from .timed import is_timed

# Readers of the formats that hold tags.
_KINDS: dict[str, list[Any]] = {
    "WAV": [WAVE],
    "FLAC": [FLAC],
    "AIFF": [AIFF],
    "MP3": [MP3],
    "OGG": [OggVorbis, OggOpus],
}
# Names of tags with times.
_TIMED = (*id3.TIMED, vorbis.CUESHEET, others.CHAPTERS)


@dataclass(frozen=True)
class Track:
    """A track of an album with tags of loudness.

    Args:
        album: key that distinguishes albums in the same folder.
        kinds: kinds of loudness tags in the source.
        level: level of the result.
    """

    album: str
    kinds: frozenset[str]
    level: Level


# mutagen raises errors of all kinds on broken files. None of them may prevent a restoration, so all
# of them are caught and reported, only in this module.


def read(path: Path, whole: bool = True, track: int = 1) -> Tags:
    """Read the tags of a file; problems are added to their notes.

    Args:
        path: path of the file.
        whole: False if only a part of the sound is used, so that tags with times are dropped.
        track: number of the sound track, from 1 on.
    """
    tags = Tags()
    try:
        if path.is_file():  # not a device, which may have no end
            id3.begin_file()
            _read(tags, path, track)
            if id3.is_over_limit():
                tags.notes.append("some of its tags unpack to too many bytes; those were left out")
    except Exception as error:
        tags.notes.append(f"its tags are broken ({_reason(error)}); readable ones were carried")
    if not whole:
        drop_times(tags)
    return tags


def _read(tags: Tags, path: Path, track: int) -> None:
    with path.open("rb") as start:
        magic = start.read(4)
    if magic == matroska.MAGIC:
        return matroska.read(tags, path, others.CHAPTERS, track)
    try:
        file = mutagen.File(path)
    except mutagen.MutagenError:
        file = None
    if isinstance(file, (FLAC, OggFileType)):
        vorbis.read(tags, file)
    elif isinstance(file, MP4):
        others.read_mp4(tags, file)
    elif isinstance(file, ASF):
        others.read_asf(tags, file.tags or [])
    elif file is not None and isinstance(file.tags, APEv2):
        others.read_ape(tags, file.tags)
    elif file is not None and isinstance(file.tags, ID3):
        id3.read(tags, file.tags)
    has_chunks = _read_chunks(tags, path)
    _read_second(tags, path, file is not None and isinstance(file.tags, APEv2))
    if (file is None or isinstance(file, MP4)) and not (tags.text or has_chunks):
        others.read_by_ffmpeg(tags, path, track)


def _read_chunks(tags: Tags, path: Path) -> bool:
    """Read the chunks of a WAV or AIFF; return False for another file."""
    found = riff.read(path)
    if tags.id3 is None and found.id3:
        try:
            id3.read(tags, ID3(BytesIO(found.id3)))
        except ID3NoHeaderError:  # room for a tag
            pass
        except mutagen.MutagenError:
            tags.other.append("an ID3 tag that cannot be read")
    tags.chunks, tags.rate = found.carried, found.rate or tags.rate
    tags.other += found.left
    texts = Tags()
    for key, text in found.texts:
        texts.add(key, [text])
    tags.merge(texts, "its RIFF or AIFF text")
    return bool(found.rate)


def _read_second(tags: Tags, path: Path, had_ape: bool) -> None:
    """Read the tags that some programs add to any file: ID3v2 at its begin, APEv2 at its end."""
    with contextlib.suppress(ID3NoHeaderError):
        if tags.id3 is None:
            found, second = ID3(path), Tags()
            if tags.text or tags.pictures:
                id3.read(second, found)
                tags.merge(second, "its ID3 tag")
            else:
                id3.read(tags, found)
    with contextlib.suppress(APENoHeaderError):
        if not had_ape:
            second = Tags()
            others.read_ape(second, APEv2(path))
            tags.merge(second, "its APEv2 tag")


def drop_times(tags: Tags) -> None:
    """Remove tags that hold times of the whole from those of a part, and note their names."""
    left = [key for key, values in tags.text.items() if is_timed(key, values)]
    for key in left:
        del tags.text[key]
    tags.comments = [(name, text) for name, text in tags.comments if key_of(name) not in left]
    if tags.id3 is not None:
        for name, frame in list(tags.id3.items()):
            if frame.FrameID in _TIMED or not _keys_of(frame).isdisjoint(left):
                del tags.id3[name]
    left = [key.upper() for key in left] + [each for each in tags.other if _holds_places(each)]
    tags.other = [name for name in tags.other if not _holds_places(name)]
    tags.blocks = [each for each in tags.blocks if getattr(each, "code", 0) != vorbis.CUESHEET_CODE]
    left += [name for name in riff.names(tags.chunks) if _holds_places(name)]
    tags.chunks = [each for each in tags.chunks if not _holds_places(riff.names([each])[0])]
    if left:
        names = ", ".join(dict.fromkeys(left))
        tags.notes.append(f"times of the whole do not fit a part: {names} left out")


def _holds_places(name: str) -> bool:
    return name in _TIMED or riff.holds_places(name)


def _keys_of(frame) -> set[str]:
    """Our names of the fields that a frame holds."""
    tags, alone = Tags(), ID3()
    alone.add(frame)
    id3.read(tags, alone)
    return set(tags.text)


def write(path: Path, tags: Tags, format: str, level: Level | None, made: str = "") -> list[str]:
    """Write tags to a file, in the way of its format.

    Args:
        path: path of the file, which has no tags yet.
        tags: tags as they were read.
        format: soundfile's name of the format.
        level: level of its sound, which replaces the source's loudness, if that had any.
        made: its mark, see :mod:`.mark`.

    Returns:
        a line on tags that could not be carried, if any.

    Raises:
        TagError: if writing fails; the file may be damaged then.
    """
    found = tags.text, tags.pictures, tags.id3, tags.loudness, tags.blocks, tags.chunks, tags.other
    has_tags = any(found)
    if not has_tags and not made:
        return []
    try:
        file = _open(path, format)
        if file is None:
            return [f"{format} holds no tags; they were left out"] if has_tags else []
        opus = isinstance(file, OggOpus)
        loudness, peak = (level.loudness, level.true_peak) if level else (None, 0.0)
        extra = gain.fields(tags.loudness, "track", loudness, peak, opus)
        has_gain, left = bool(extra), []
        extra |= {mark.KEY: made} if made else {}
        if format != "WAV":
            left = riff.names(tags.chunks)
        elif tags.chunks:
            left = riff.append(path, tags.chunks, file.info.sample_rate / tags.rate)
            file = _open(path, format)
        left += _fill(file, tags, extra)
        _save(file)
    except Exception as error:
        raise TagError(_reason(error)) from error
    if tags.loudness and not has_gain:
        left.append("the loudness of silence")
    if not left:
        return []
    counted = [f"{name} ({left.count(name)})" if left.count(name) > 1 else name for name in left]
    return [f"{format} cannot hold {', '.join(dict.fromkeys(counted))}; left out"]


def add_album_gain(path: Path, format: str, kinds: frozenset[str], levels: Iterable[Level]) -> None:
    """Write the loudness of an album to one of its tracks, atomically.

    Args:
        path: path of the track.
        format: soundfile's name of its format.
        kinds: kinds of loudness tags in its source.
        levels: levels of all tracks.

    Raises:
        TagError: if that fails; the file is unchanged.
    """
    levels = list(levels)
    peak = max(level.true_peak for level in levels)
    try:
        if (file := _open(path, format)) is None or file.tags is None:
            return
        with atomic_write(path) as beside:
            shutil.copyfile(path, beside)
            file = _open(beside, format)
            opus = isinstance(file, OggOpus)
            found = gain.fields(kinds, "album", album_loudness(levels), peak, opus)
            if isinstance(file.tags, ID3):
                id3.add(file.tags, found)
            else:
                for key, value in found.items():
                    file.tags[key.upper()] = value
            _save(file)
            imitate(beside, path)
    except Exception as error:
        raise TagError(f"'{path}': its album's loudness is missing ({_reason(error)})") from error


def _open(path: Path, format: str) -> Any:
    with path.open("rb") as file:
        if format not in _KINDS or file.read(4) == b"RF64":
            return None
    kinds = _KINDS[format]
    # MP3 cannot be recognised by its first bytes at all sample rates.
    return kinds[0](path) if len(kinds) == 1 else mutagen.File(path, kinds)


def _fill(file: Any, tags: Tags, extra: dict[str, str]) -> list[str]:
    if isinstance(file, (FLAC, OggFileType)):
        return vorbis.fill(file, tags, extra)
    if file.tags is None:
        file.add_tags()
    return id3.fill(file.tags, tags, extra, id3.HIDING if isinstance(file, WAVE) else ())


def _save(file: Any) -> None:
    if isinstance(file.tags, ID3):
        # Multiple values stay separate in version 2.3 too.
        file.save(v2_version=id3.to_version(file.tags), v23_sep=None)
    else:
        file.save()


def _reason(error: BaseException) -> str:
    """Return the system's message if mutagen has wrapped one, else the error's own."""
    inner: BaseException | None = error
    while inner and not isinstance(inner, OSError):
        inner = inner.__context__
    return one_line(inner or error, 120)

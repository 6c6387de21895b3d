"""Tags from files and into files."""

import contextlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
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
from . import gain, id3, mark, others, parts, riff, vorbis
from .model import Tags

# How the formats that hold tags are opened.
_KINDS: dict[str, list[Any]] = {
    "WAV": [WAVE],
    "FLAC": [FLAC],
    "AIFF": [AIFF],
    "MP3": [MP3],
    "OGG": [OggVorbis, OggOpus],
}


@dataclass(frozen=True)
class Track:
    """A track of an album whose loudness is told.

    Args:
        album: tells it from others in the same folder.
        kinds: in which ways the source told the loudness.
        level: of the result.
    """

    album: str
    kinds: frozenset[str]
    level: Level


# mutagen and what it finds in broken files raise errors of all kinds. None of them may cost the
# sound, so all of them are told, here only.


def read(path: Path, whole: bool = True) -> Tags:
    """What a file carries; whatever is wrong with it, its notes say so.

    Args:
        path: of the file.
        whole: False where a part of the sound is taken, which times of the whole do not fit.
    """
    tags = Tags()
    try:
        if path.is_file():  # a device may have no end
            id3.begin_file()
            _read(tags, path)
            if id3.left_out():
                tags.notes.append("some of its tags unpack to too much; those were left out")
    except Exception as error:
        tags.notes.append(f"its tags are broken ({_reason(error)}); what could be read was carried")
    if not whole:
        parts.drop_times(tags)
    return tags


def _read(tags: Tags, path: Path) -> None:
    try:
        file = mutagen.File(path)
    except mutagen.MutagenError:
        file = None
    if file is None or isinstance(file, MP3):
        # Also where no frame of sound is found behind the tag.
        with contextlib.suppress(ID3NoHeaderError):
            id3.read(tags, ID3(path))
        with contextlib.suppress(APENoHeaderError):
            others.read_ape(tags, APEv2(path))
    elif isinstance(file, (FLAC, OggFileType)):
        vorbis.read(tags, file)
    elif isinstance(file, MP4):
        others.read_mp4(tags, file)
    elif isinstance(file, ASF):
        others.read_asf(tags, file.tags or [])
    elif isinstance(file.tags, APEv2):
        others.read_ape(tags, file.tags)
    elif isinstance(file.tags, ID3):
        id3.read(tags, file.tags)
    if isinstance(file, (WAVE, AIFF)):
        tags.chunks, names = riff.read(path)
        tags.other += names
        info: Any = file.info
        tags.rate = info.sample_rate
    if file is None or isinstance(file, (WAVE, AIFF)):
        common = file is not None and file.tags is not None
        others.read_by_ffmpeg(tags, path, common)
        # It shows markers as chapters, and those are among the chunks.
        if file is not None and others.CHAPTERS in tags.other:
            tags.other.remove(others.CHAPTERS)


def write(path: Path, tags: Tags, format: str, level: Level | None, made: str = "") -> list[str]:
    """Puts tags into a file, in its format's own way.

    Args:
        path: of the file, which has none yet.
        tags: as they were read.
        format: soundfile's name of it.
        level: of its sound, told instead of the loudness that the source told, if it did.
        made: its mark, see :mod:`.mark`.

    Returns:
        a line on what could not be carried, if anything.

    Raises:
        TagError: the file may be damaged then.
    """
    held = tags.text, tags.pictures, tags.id3, tags.loudness, tags.blocks, tags.chunks, tags.other
    carried = any(held)
    if not carried and not made:
        return []
    try:
        file = _open(path, format)
        if file is None:
            return [f"{format} holds no tags; they were left out"] if carried else []
        opus = isinstance(file, OggOpus)
        loudness, peak = (level.loudness, level.true_peak) if level else (None, 0.0)
        extra = gain.fields(tags.loudness, "track", loudness, peak, opus)
        told, left = bool(extra), []
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
    if tags.loudness and not told:
        left.append("the loudness of silence")
    if not left:
        return []
    counted = [f"{name} ({left.count(name)})" if left.count(name) > 1 else name for name in left]
    return [f"{format} cannot hold {', '.join(dict.fromkeys(counted))}; left out"]


def add_album_gain(path: Path, format: str, kinds: frozenset[str], levels: Iterable[Level]) -> None:
    """Tells the loudness of an album in one of its tracks, which is there whole or as it was.

    Args:
        path: of the file.
        format: soundfile's name of it.
        kinds: in which ways its source told it.
        levels: of all tracks.

    Raises:
        TagError: where that fails; the file is as it was.
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
        raise TagError(f"'{path}': its album's loudness is not told ({_reason(error)})") from error


def _open(path: Path, format: str) -> Any:
    with path.open("rb") as file:
        if format not in _KINDS or file.read(4) == b"RF64":
            return None
    kinds = _KINDS[format]
    # MP3 is not known by its first bytes at all rates.
    return kinds[0](path) if len(kinds) == 1 else mutagen.File(path, kinds)


def _fill(file: Any, tags: Tags, extra: dict[str, str]) -> list[str]:
    if isinstance(file, (FLAC, OggFileType)):
        return vorbis.fill(file, tags, extra)
    if file.tags is None:
        file.add_tags()
    return id3.fill(file.tags, tags, extra)


def _save(file: Any) -> None:
    if isinstance(file.tags, ID3):
        # Several values stay several in version 2.3 too.
        file.save(v2_version=id3.to_version(file.tags), v23_sep=None)
    else:
        file.save()


def _reason(error: BaseException) -> str:
    """What the system said, where mutagen passes that on."""
    inner: BaseException | None = error
    while inner and not isinstance(inner, OSError):
        inner = inner.__context__
    return one_line(inner or error, 120)

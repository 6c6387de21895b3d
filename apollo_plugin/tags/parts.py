"""Tags of a part of the sound, without tags that hold times of the whole."""

from mutagen.id3 import ID3

from . import id3, others, riff, vorbis
from .model import Tags, key_of
from .timed import is_timed

_NAMES = (*id3.TIMED, vorbis.CUESHEET, others.CHAPTERS)


def drop_times(tags: Tags) -> None:
    """Remove tags that hold times of the whole, and note their names."""
    left = [key for key, values in tags.text.items() if is_timed(key, values)]
    for key in left:
        del tags.text[key]
    tags.comments = [(name, text) for name, text in tags.comments if key_of(name) not in left]
    if tags.id3 is not None:
        for name, frame in list(tags.id3.items()):
            if frame.FrameID in _NAMES or not _keys_of(frame).isdisjoint(left):
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
    return name in _NAMES or riff.holds_places(name)


def _keys_of(frame) -> set[str]:
    """Our names of the fields that a frame holds."""
    tags, alone = Tags(), ID3()
    alone.add(frame)
    id3.read(tags, alone)
    return set(tags.text)

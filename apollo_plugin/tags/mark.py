"""The mark of a restoration: what made it and of what, so that it never passes for an original.

One line in a field of its own, ``APOLLO_RESTORED``: TXXX in ID3 (MP3, AIFF, WAV), a Vorbis comment
(FLAC, Ogg), a freeform atom where somebody makes an MP4 of it; the comment of CAF and RF64, which
have no fields. W64 and AU hold no text at all. No ``ISFT`` in WAV: FFmpeg shows no ID3 beside it.
"""

import contextlib
from pathlib import Path

import soundfile

from .. import __version__, audio
from .model import Tags

# Our name of the field, that of a Vorbis comment in lower case.
KEY = "apollo_restored"
TOOL = "apollo-plugin"
# Formats whose comment libsndfile writes, and that have no other place for it.
BY_COMMENT = ("CAF", "RF64")
# Of a mark that was made somewhere else, so much is kept and told.
_LONGEST = 400


def make(origin: str, source: Path, cutoff: float | None, before: str = "") -> str:
    """The mark of a new restoration.

    Args:
        origin: of the model, see :attr:`apollo_plugin.network.base.RestorationNetwork.origin`.
        source: file that it is made of.
        cutoff: where a codec cut that off, in Hz; None where no edge was found.
        before: the source's own mark, where it is a restoration already.
    """
    edge = f"cut off at {cutoff / 1000:.1f} kHz" if cutoff else "no cut-off found"
    line = f"{TOOL} {__version__}; model {origin or 'unnamed'}; source {coding(source)}, {edge}"
    return f"{line}; again, after: {before}" if before else line


def coding(path: Path) -> str:
    """How a file is coded, such as ``MP3 128 kbit/s``; its suffix where that is not known."""
    return str(audio.coding(path) or path.suffix[1:].upper() or "unknown")


def find(path: Path, tags: Tags) -> str:
    """The mark that a file carries; empty where it is no restoration of ours.

    Args:
        path: of the file.
        tags: its, as :func:`apollo_plugin.tags.read` gives them.
    """
    values = tags.text.get(KEY, [])
    # Opening a named pipe would wait for its writer.
    if not values and path.is_file():
        with contextlib.suppress(soundfile.SoundFileError, OSError), path.open("rb") as file:
            if file.read(4) in (b"caff", b"RF64"):
                comment = soundfile.SoundFile(path).comment
                values = [comment] if comment.startswith(f"{TOOL} ") else []
    return " ".join(values[0].split())[:_LONGEST] if values else ""


def strip(tags: Tags) -> None:
    """Takes the mark out of what is carried to another file, which gets one of its own."""
    tags.text.pop(KEY, None)
    tags.comments = [(name, value) for name, value in tags.comments if name.lower() != KEY]
    if tags.id3 is not None:
        tags.id3.delall(f"TXXX:{KEY.upper()}")

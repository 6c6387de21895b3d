"""The mark of a restoration: its model and source, so that it is never mistaken for an original.

One line in a field of its own, ``APOLLO_RESTORED``: TXXX in ID3 (MP3, AIFF, WAV), a Vorbis comment
(FLAC, Ogg), a freeform atom after a conversion to MP4; the comment of CAF and RF64, which have no
fields. W64 and AU hold no text at all. ``ISFT`` in WAV is not used, as FFmpeg would then hide ID3.
"""

import contextlib
from pathlib import Path

import soundfile

from .. import __version__, audio
from .model import Tags

# Name of the field, as a Vorbis comment in lower case.
KEY = "apollo_restored"
TOOL = "apollo-plugin"
# Length to which foreign marks are cut.
_LONGEST = 400


def make(origin: str, source: Path, cutoff: float | None, before: str = "") -> str:
    """Compose the mark of a new restoration.

    Args:
        origin: origin of the model, :attr:`apollo_plugin.network.base.RestorationNetwork.origin`.
        source: the restored file.
        cutoff: cut-off frequency of the source in Hz; None if none was found.
        before: the source's own mark, if it is a restoration already.
    """
    edge = f"cut off at {cutoff / 1000:.1f} kHz" if cutoff else "no cut-off found"
    line = f"{TOOL} {__version__}; model {origin or 'unnamed'}; source {coding(source)}, {edge}"
    return f"{line}; again, after: {before}" if before else line


def coding(path: Path) -> str:
    """Describe the coding of a file, such as ``MP3 128 kbit/s``, or its suffix if unknown."""
    return str(audio.coding(path) or path.suffix[1:].upper() or "unknown")


def find(path: Path, tags: Tags) -> str:
    """Find the mark of a file with these tags; empty if it is no restoration by this package."""
    values = tags.text.get(KEY, [])
    # Not a named pipe, as opening it would wait for its writer.
    if not values and path.is_file():
        with contextlib.suppress(soundfile.SoundFileError, OSError), path.open("rb") as file:
            if file.read(4) in (b"caff", b"RF64"):
                comment = soundfile.SoundFile(path).comment
                values = [comment] if comment.startswith(f"{TOOL} ") else []
    return " ".join(values[0].split())[:_LONGEST] if values else ""


def strip(tags: Tags) -> None:
    """Remove the mark from tags that are carried to another file, which gets its own mark."""
    tags.text.pop(KEY, None)
    tags.comments = [(name, value) for name, value in tags.comments if name.lower() != KEY]
    if tags.id3 is not None:
        tags.id3.delall(f"TXXX:{KEY.upper()}")

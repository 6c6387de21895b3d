"""Suffixes of results, and the formats they stand for."""

from pathlib import Path

# End of restored files' names; a search of folders skips these.
MARK = "_restored"
# Writable formats, by soundfile's names: those that keep rate, channels and length.
FORMATS = ("WAV", "FLAC", "AIFF", "OGG", "MP3", "CAF", "W64", "RF64", "AU")
BY_SUFFIX = {f".{name.lower()}": name for name in FORMATS} | {".aif": "AIFF"}
# Suffixes of sound files that cannot be written.
FOREIGN = (".m4a", ".aac", ".opus", ".wma", ".webm", ".mp4", ".m4b", ".mka", ".mkv")


def format_of(path: Path) -> str | None:
    """soundfile's name of the format; None for a suffix that cannot be written."""
    return BY_SUFFIX.get(path.suffix.lower())


def refusal(path: Path) -> str:
    """Message that a file of that name cannot be written."""
    return f"{path}: {path.suffix} cannot be written; known: {' '.join(sorted(BY_SUFFIX))}"

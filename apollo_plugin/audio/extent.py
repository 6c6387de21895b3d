"""How much sound a file holds, by its header alone."""

import os

import av

from .frames import opened, take_layout


def expected_bytes(path: str | os.PathLike, seconds: float | None = None) -> int:
    """What a file's samples will take in memory as float32: what its header says, in milliseconds.

    No more than a guess, for planning: headers may be wrong, and some containers tell no length.

    Args:
        path: of the file.
        seconds: most that will be read; all unless given.

    Returns:
        bytes; 0 where the file cannot be read or tells nothing.
    """
    try:
        with opened(path, "ignore") as container:
            stream = container.streams.audio[0]
            length = max(
                float((stream.duration or 0) * (stream.time_base or 0)),
                (container.duration or 0) / av.time_base,
            )
            if seconds is not None:
                length = min(length, seconds)
            return int(4 * max(0.0, length) * (stream.rate or 0) * max(take_layout(stream)[1], 1))
    except (av.FFmpegError, OSError, ValueError, LookupError):
        return 0

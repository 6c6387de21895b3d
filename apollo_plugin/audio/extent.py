"""Length of a file's sound, from its header alone."""

import os

import av

from .frames import opened, take_layout


def expected_bytes(path: str | os.PathLike, seconds: float | None = None) -> int:
    """Estimate the memory of a file's samples as float32 from its header, within milliseconds.

    An estimate for planning only: headers may be wrong, and some containers give no length.

    Args:
        path: of the file.
        seconds: limit of what will be read; everything unless given.

    Returns:
        bytes; 0 if the file cannot be read or gives no length.
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

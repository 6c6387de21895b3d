"""A file's codec, bit rate and length, as its container gives them."""

import os
from dataclasses import dataclass
from typing import Any

import av

from .frames import opened, take_layout

_NAMES = {
    "mp2": "MP2",
    "mp3": "MP3",
    "vorbis": "Vorbis",
    "opus": "Opus",
    "wmav1": "WMA",
    "wmav2": "WMA",
    "wmapro": "WMA Pro",
    "wmavoice": "WMA Voice",
    "ac3": "AC-3",
    "eac3": "E-AC-3",
}
# kbit/s per channel below which a codec loses something audible.
_COARSE_KBPS = 64


@dataclass(frozen=True)
class Coding:
    """A lossy coding.

    Args:
        name: of the codec.
        kbps: mean bit rate of its packets in kbit/s; 0 if they have no time stamps.
        n_channels: number of channels.
    """

    name: str
    kbps: float
    n_channels: int

    @property
    def is_coarse(self) -> bool:
        """True if something is certainly missing, whatever the spectrum looks like: some codecs
        fill with noise what they left out."""
        return 0 < self.kbps < _COARSE_KBPS * self.n_channels

    def __str__(self) -> str:
        return f"{self.name} {self.kbps:.0f} kbit/s" if self.kbps else self.name


def coding(path: str | os.PathLike) -> Coding | None:
    """Read a file's coding; None if it is lossless or unknown to FFmpeg."""
    n_bytes, seconds = 0, 0.0
    try:
        with opened(path, "ignore") as container:
            streams = container.streams
            stream: Any = streams.best("audio") or streams.audio[0]
            codec = stream.codec_context.codec
            if not codec.lossy or codec.lossless or codec.canonical_name.startswith("pcm_"):
                return None
            n_channels = take_layout(stream)[1]
            for packet in container.demux(stream):
                if packet.size and packet.duration:
                    n_bytes += packet.size
                    seconds += float(packet.duration * packet.time_base)
    except (av.FFmpegError, OSError, ValueError, LookupError, AttributeError):
        return None
    name = _NAMES.get(codec.canonical_name, codec.canonical_name.upper())
    return Coding(name, n_bytes / 125 / seconds if seconds else 0.0, n_channels)


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

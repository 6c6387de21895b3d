"""A file's codec and bit rate, as its container gives them."""

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
    """Read a file's coding; None if it is lossless or unknown to FFmpeg.

    Args:
        path: of the file.
    """
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

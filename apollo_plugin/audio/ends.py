"""Where coded sound begins and ends, to the sample, where FFmpeg leaves that open."""

import re
from typing import Any

import av
import numpy as np

from .containers import Link

# iTunes' word in a tag, in hexadecimal: samples to leave out at the beginning and at the end, and
# how many are the sound.
_ITUNES = re.compile(r"\s*[0-9A-F]{8} ([0-9A-F]{8}) ([0-9A-F]{8}) ([0-9A-F]{16})\b", re.IGNORECASE)
_MOST_PADDING = 20_000
# A decoder of MPEG's layer III is late by so many samples, which encoders do not count.
_MP3_LATE = 529
_FRAME = {"mp3": 1152, "mp3float": 1152, "aac": 1024}
# The coarsest clock by which edit lists of MP4 tell their ends, in seconds.
_TICK = 1 / 600


class Ends:
    """Cuts decoded blocks.

    Args:
        container: that is decoded.
        stream: which of its streams; it has not been decoded yet.
        link: which part of the file it is.
    """

    def __init__(self, container: Any, stream: Any, link: Link):
        self._stream, self._mov = stream, "mov" in container.format.name.split(",")
        self._skip, self._left = 0, None
        # In seconds: begin of the first packet that sounds, end of the latest.
        self._begin: float | None = None
        self._end = 0.0
        self._ogg = stream.codec_context.name == "vorbis" and bool(link.last_sample)
        if self._ogg:
            self._left = link.last_sample
        if container.format.name == "caf" and stream.codec_context.name == "alac":
            # Its last packet is short already; FFmpeg shortens it once more.
            self._keep_all()
        told = {**container.metadata, **stream.metadata}.get("iTunSMPB", "")
        if found := _ITUNES.match(told):
            self._believe(*(int(number, 16) for number in found.groups()))

    def _keep_all(self) -> None:
        """FFmpeg leaves out nothing from now on."""
        self._stream.codec_context.flags2 |= int(av.codec.context.Flags2.skip_manual)

    def _believe(self, delay: int, padding: int, total: int) -> None:
        """Takes iTunes' word where it fits the file and FFmpeg does not know better."""
        stream = self._stream
        frame = _FRAME.get(stream.codec_context.name)
        if not (frame and total > 0 and delay + padding < _MOST_PADDING):
            return
        if self._mov:  # FFmpeg sees to the beginning
            there = (stream.duration or 0) * (stream.time_base or 0) * (stream.rate or 0)
            self._left = total if abs(there - total) < _MOST_PADDING else None
        elif not stream.start_time and (delay + padding + total) % frame == 0:
            self._skip = delay + (_MP3_LATE if frame == _FRAME["mp3"] else 0)
            self._left = total

    def see(self, packet: Any) -> None:
        """Takes note of a packet of the stream."""
        if packet.size and packet.pts is not None and packet.time_base:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._end = max(self._end, end)

    def cut(self, block: np.ndarray, time: float | None) -> np.ndarray:
        """What of a block ``(time, channels)`` is sound; ``time`` is its begin in seconds."""
        if self._begin is None:
            self._begin = time
            if self._ogg:
                # FFmpeg leaves the padding of a file of one page, and takes a block too much from
                # others; what it leaves out at the beginning is right, and done by now.
                self._keep_all()
        skipped = min(self._skip, len(block))
        self._skip -= skipped
        block = block[skipped:]
        if self._left is not None:
            block = block[: self._left]
            self._left -= len(block)
        return block

    def surplus(self, n_samples: int, sample_rate: int, n_frame: int) -> int:
        """How many samples at the end of an MP4 are padding, by its last packet and edit list.

        Args:
            n_samples: number of samples that were decoded.
            sample_rate: in Hz.
            n_frame: of samples that a packet holds.
        """
        if not self._mov or self._begin is None or self._left is not None:
            return 0
        surplus = n_samples - round((self._end - self._begin) * sample_rate)
        surplus = surplus if 0 < surplus < n_frame else 0
        if self._stream.duration:
            edited = float(self._stream.duration * self._stream.time_base) * sample_rate
            more = n_samples - surplus - round(edited)
            # Less than a tick may be how the clock was rounded.
            surplus += more if _TICK * sample_rate < more < n_frame else 0
        return surplus

"""Exact first and last samples of coded sound, where FFmpeg does not give them."""

import re
from typing import Any

import av
import numpy as np

from .containers import Link

# iTunes' tag, in hexadecimal: samples to remove at the beginning and at the end, and the number of
# samples of the sound.
_ITUNES = re.compile(r"\s*[0-9A-F]{8} ([0-9A-F]{8}) ([0-9A-F]{8}) ([0-9A-F]{16})\b", re.IGNORECASE)
_MOST_PADDING = 20_000
# Delay of a layer III decoder in samples, which encoders do not count.
_MP3_LATE = 529
_FRAME = {"mp3": 1152, "mp3float": 1152, "aac": 1024}
# Tick of the coarsest clock of MP4 edit lists, in seconds.
_TICK = 1 / 600


class Ends:
    """Trimmer of decoded blocks.

    Args:
        container: the container being decoded.
        stream: one of its streams, not decoded yet.
        link: the part of the file that it is.
    """

    def __init__(self, container: Any, stream: Any, link: Link):
        self._stream, self._mov = stream, "mov" in container.format.name.split(",")
        self._skip, self._left = 0, None
        # In seconds: begin of the first packet with sound, end of the latest.
        self._begin: float | None = None
        self._end = 0.0
        self._ogg = stream.codec_context.name == "vorbis" and bool(link.last_sample)
        if self._ogg:
            self._left = link.last_sample
        if container.format.name == "caf" and stream.codec_context.name == "alac":
            # The last packet is short already; FFmpeg would shorten it again.
            self._keep_all()
        told = {**container.metadata, **stream.metadata}.get("iTunSMPB", "")
        if found := _ITUNES.match(told):
            self._believe(*(int(number, 16) for number in found.groups()))

    def _keep_all(self) -> None:
        """Make FFmpeg keep all samples from now on."""
        self._stream.codec_context.flags2 |= int(av.codec.context.Flags2.skip_manual)

    def _believe(self, delay: int, padding: int, total: int) -> None:
        """Use iTunes' numbers if they fit the file and FFmpeg has no better ones."""
        stream = self._stream
        frame = _FRAME.get(stream.codec_context.name)
        if not (frame and total > 0 and delay + padding < _MOST_PADDING):
            return
        if self._mov:  # FFmpeg trims the beginning
            there = (stream.duration or 0) * (stream.time_base or 0) * (stream.rate or 0)
            self._left = total if abs(there - total) < _MOST_PADDING else None
        elif not stream.start_time and (delay + padding + total) % frame == 0:
            self._skip = delay + (_MP3_LATE if frame == _FRAME["mp3"] else 0)
            self._left = total

    def see(self, packet: Any) -> None:
        """Note the times of a packet of the stream."""
        if packet.size and packet.pts is not None and packet.time_base:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._end = max(self._end, end)

    def cut(self, block: np.ndarray, time: float | None) -> np.ndarray:
        """Trim a block ``(time, channels)`` that begins at ``time`` seconds to its sound."""
        if self._begin is None:
            self._begin = time
            if self._ogg:
                # FFmpeg keeps the padding of a file of one page, and removes a block too many from
                # others; what it removes at the beginning is right, and already removed here.
                self._keep_all()
        skipped = min(self._skip, len(block))
        self._skip -= skipped
        block = block[skipped:]
        if self._left is not None:
            block = block[: self._left]
            self._left -= len(block)
        return block

    def surplus(self, n_samples: int, sample_rate: int, n_frame: int) -> int:
        """Number of padding samples at the end of an MP4, by its last packet and edit list.

        Args:
            n_samples: number of decoded samples.
            sample_rate: in Hz.
            n_frame: samples per packet.
        """
        if not self._mov or self._begin is None or self._left is not None:
            return 0
        surplus = n_samples - round((self._end - self._begin) * sample_rate)
        surplus = surplus if 0 < surplus < n_frame else 0
        if self._stream.duration:
            edited = float(self._stream.duration * self._stream.time_base) * sample_rate
            more = n_samples - surplus - round(edited)
            # Less than a tick may be rounding of the clock.
            surplus += more if _TICK * sample_rate < more < n_frame else 0
        return surplus

"""Decoding of coded audio by FFmpeg (PyAV), packet by packet."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from ..errors import AudioError
from . import containers, layouts
from .containers import Link
from .ends import Ends
from .frames import ONLY_SOUND, Window, take_layout, to_float
from .promises import is_timed, promised_seconds
from .samples import Samples, check_bounds

# Containers whose packets have no gaps; in others a gap may be intended.
_GAPLESS = ("mov", "matroska")
# Codecs with checksums, which prove damage.
_LOSSLESS = "flac alac wavpack tta ape tak mlp truehd wmalossless".split()
_MPEG_AUDIO = ("mp3", "mp3float", "mp2", "mp2float", "mp1", "mp1float")
# Tolerated difference between declared and decoded length, in seconds, besides two frames.
_SLACK = 0.1
_GAP = 0.5
# A demuxer or decoder that gives nothing this many times in a row is given up.
_MOST_ERRORS, _MOST_IDLE = 100, 100_000


@dataclass
class Found:
    """Findings of decoding one link of a file.

    Args:
        faults: a text for each missing or damaged part.
        cut: True if the end is missing.
        promised: seconds of sound that the container declares; 0 if it declares none.
    """

    faults: list[str]
    cut: bool = False
    promised: float = 0.0


class Undecodable(AudioError):
    """Content unknown to this reader; another may know it."""


def decode(
    path: Path,
    data: mmap.mmap,
    link: Link,
    samples: Samples,
    track: int | None = None,
    pcm: bool = True,
) -> Found:
    """Decode one link of a file into ``samples``, as far as possible.

    Args:
        path: of the file, for errors.
        data: the whole file.
        link: the part of it.
        samples: receives the blocks, and notes on skipped parts.
        track: number of the sound track, from 1 on; the file's default unless given.
        pcm: False if what the container calls PCM is known to be coded.

    Returns:
        missing or damaged parts.

    Raises:
        Undecodable: if FFmpeg finds no sound.
        AudioError: for a missing track, and for rates and channels out of bounds.
    """
    window = Window(data, link, path.suffix)
    try:
        with av.open(
            window, metadata_errors="ignore", buffer_size=1 << 16, options=ONLY_SOUND
        ) as container:
            stream = _stream(path, container, samples, track)
            if not pcm and stream.codec_context.name.startswith("pcm_"):
                raise Undecodable(f"'{path}' holds no PCM")
            return _Decoding(path, container, stream, samples, pcm).run(data, link)
    except (av.FFmpegError, ValueError, EOFError) as error:
        if isinstance(error, AudioError):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise Undecodable(f"'{path}' cannot be decoded: {reason}") from error


def _stream(path, container, samples: Samples, track: int | None) -> "av.AudioStream":
    streams = container.streams.audio
    if not streams:
        raise Undecodable(f"'{path}' holds no sound")
    if track is not None:
        if not 1 <= track <= len(streams):
            raise AudioError(f"'{path}' has no sound track {track}; it has {len(streams)}")
        return streams[track - 1]
    stream = container.streams.best("audio") or streams[0]
    if len(streams) > 1:
        samples.notes.append(
            f"track {streams.index(stream) + 1} of its {len(streams)} sound tracks was read; "
            "--track chooses another"
        )
    return stream


class _Decoding:
    def __init__(self, path: Path, container, stream, samples: Samples, pcm: bool):
        self.path, self.container, self.stream, self.samples = path, container, stream, samples
        self.timed = pcm and is_timed(container)
        self.gapless = not set(_GAPLESS).isdisjoint(container.format.name.split(","))
        codec = stream.codec_context
        if codec is None:
            raise Undecodable(f"'{path}' is coded in a way that FFmpeg does not know")
        self.mpeg = codec.name in _MPEG_AUDIO
        self.layout, n_channels = take_layout(stream)
        if codec.sample_rate or n_channels:
            check_bounds(path, codec.sample_rate or 44100, n_channels or 1)
        codec.thread_type = "NONE"  # so that an error belongs to the packet just decoded
        self.lossless = codec.name in _LOSSLESS
        if self.lossless:
            codec.options = {"err_detect": "crccheck+explode"}
        self.mixers: dict[tuple[str, str, int], av.AudioResampler] = {}
        self.orders: dict[str, list[int] | None] = {}
        self.channels = samples.n_channels
        self.n_good = self.n_bad = self.n_corrupt = self.n_junk = 0
        self.first_bad: float | None = None
        self.bad_last = self.cut_last = False
        self.gaps = 0.0
        self.next_time: float | None = None
        self.n_frames = self.n_promised_frames = 0
        # Latest end of any stream, longest frame, in seconds.
        self.reached = self.frame_seconds = 0.0
        self.ends: Ends

    def run(self, data: mmap.mmap, link: Link) -> Found:
        seconds_before, n_idle = self.samples.seconds, 0
        self.ends = Ends(self.container, self.stream, link)
        head = (
            containers.mpeg_head(data[link.begin : link.end]) if self.mpeg and not link.begin else 0
        )
        for packet in self._packets(None if len(self.container.streams) > 1 else self.stream):
            if packet.stream is not self.stream:
                self._reach(packet)
                continue
            frames = self._decode(packet, head if not self.n_good + self.n_bad else 0)
            for frame in frames:
                self._take(frame)
            n_idle = 0 if frames else n_idle + 1
            if self.samples.full:
                return Found([])
            if n_idle > _MOST_IDLE:
                break
        rate = self.samples.sample_rate
        n_frame = round(self.frame_seconds * rate)
        there = round((self.samples.seconds - seconds_before) * rate)
        self.samples.drop(self.ends.surplus(there, rate, n_frame))
        if self.samples.seconds == seconds_before:
            promised = self._promised(data, link)
            of = f"nothing of the {promised:.1f} s that it tells of"
            raise Undecodable(f"'{self.path}' holds {of if promised > _SLACK else 'no samples'}")
        return self._verdict(data, link, self.samples.seconds - seconds_before)

    def _packets(self, stream) -> Iterator["av.Packet"]:
        """Yield all packets, also after errors of the demuxer."""
        n_errors, ended = 0, False
        while not ended and n_errors < _MOST_ERRORS:
            try:
                packets = self.container.demux(stream) if stream else self.container.demux()
                for packet in packets:
                    n_errors = 0 if packet.size else n_errors
                    yield packet
                ended = True
            except (av.FFmpegError, ValueError) as error:
                if isinstance(error, AudioError):
                    raise
                n_errors += 1
                self._bad(None)
        if not ended:
            flush = av.Packet()
            flush.stream = self.stream
            yield flush

    def _decode(self, packet: "av.Packet", head: int) -> list["av.AudioFrame"]:
        self._reach(packet)
        self.ends.see(packet)
        if packet.size and packet.is_corrupt:
            self.n_corrupt += 1
        if self.mpeg and packet.size and containers.is_mpeg_frame(bytes(packet)):
            # FFmpeg leaves out the first tag, if it recognises it.
            self.n_promised_frames += containers.promised_frames(bytes(packet)) or head
        try:
            frames = self.stream.codec_context.decode(packet)
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, av.error.MemoryError):
                raise
            if packet.size:
                junk = self.mpeg and not containers.is_mpeg_frame(bytes(packet))
                self._junk(packet) if junk else self._bad(packet)
            return []
        if packet.size:
            self.n_good += 1
            self.bad_last = False
            self.cut_last = self.mpeg and containers.is_cut_frame(bytes(packet))
        return frames

    def _reach(self, packet: "av.Packet") -> None:
        if packet.size and packet.pts is not None and packet.time_base:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self.reached = max(self.reached, end)

    def _bad(self, packet) -> None:
        self.n_bad += 1
        self.bad_last = True
        if self.first_bad is None:
            self.first_bad = self.samples.seconds

    def _junk(self, packet: "av.Packet") -> None:
        self.n_junk += 1
        if self.n_promised_frames and self.n_frames >= self.n_promised_frames:
            return  # after the end
        self.samples.change(
            f"{packet.size} bytes at {self.samples.seconds:.1f} s are no MPEG frames and were "
            "passed over"
        )

    def _take(self, frame: "av.AudioFrame") -> None:
        rate = frame.sample_rate or self.stream.rate
        n_channels = frame.layout.nb_channels
        if not rate:
            raise AudioError(f"'{self.path}' tells no sample rate")
        check_bounds(self.path, rate, n_channels)
        if not frame.samples:
            return
        self._watch_gaps(frame, rate)
        self.n_frames += 1
        self.frame_seconds = max(self.frame_seconds, frame.samples / rate)
        if self.channels and n_channels != self.channels:
            self.samples.change(
                f"its channels change from {self.channels} to {n_channels} at "
                f"{self.samples.seconds:.1f} s; mixed to {self.samples.n_channels}"
            )
        self.channels = n_channels
        n_wanted = self.samples.n_channels or n_channels
        for block in [frame] if n_channels in (1, n_wanted) else self._mixed(frame):
            samples = self.ends.cut(self._ordered(block), frame.time)
            # Mono is copied to all channels at its own level; FFmpeg would lower it by 3 dB.
            self.samples.add(np.repeat(samples, n_wanted, 1) if n_channels == 1 else samples, rate)

    def _ordered(self, frame: "av.AudioFrame") -> np.ndarray:
        """Samples of a frame, with channels in the native order."""
        name = frame.layout.name
        if name not in self.orders:
            layout, self.orders[name] = layouts.native(name)
            if not layout:  # only the container may give it
                layout, self.orders[name] = layouts.native(self.layout)
            self.samples.layout = self.samples.layout if self.samples.n_channels else layout
        order = self.orders[name]
        return to_float(frame) if order is None else to_float(frame)[:, order]

    def _mixed(self, frame: "av.AudioFrame") -> list["av.AudioFrame"]:
        """Mix a frame by FFmpeg from one channel layout to another."""
        key = (frame.format.name, frame.layout.name, frame.sample_rate)
        if key not in self.mixers:
            wanted = self.samples.layout or layouts.usual(self.samples.n_channels)
            self.mixers[key] = av.AudioResampler("flt", wanted)
        return self.mixers[key].resample(frame)

    def _watch_gaps(self, frame: "av.AudioFrame", rate: int) -> None:
        # Of several frames of a packet only the first has a time stamp.
        time = self.next_time if frame.time is None else frame.time
        if time is None:
            return
        if self.next_time is not None and time - self.next_time > _GAP:
            self.gaps += time - self.next_time
        self.next_time = time + frame.samples / rate

    def _verdict(self, data: mmap.mmap, link: Link, there: float) -> Found:
        faults = [link.fault] if link.fault else []
        cut, short = link.cut, False
        promised = self._promised(data, link)
        slack = 0.001 if self.lossless else _SLACK + 2 * self.frame_seconds
        if abs(promised - self.n_good * self.frame_seconds) < 0.001:
            promised = there  # it counts whole packets
        if self.n_corrupt and self.timed and not containers.has_open_size(data, link):
            cut = True  # the end of the file cuts a packet
        if self.n_promised_frames and self.mpeg:
            # A frame after junk is lost with it.
            missing = self.n_promised_frames - self.n_frames - self.n_junk
            if missing > 1:
                promised = there * self.n_promised_frames / max(1, self.n_frames)
                cut = True
        elif promised and there + self.gaps < promised - slack:
            short = True  # the end is present if a packet reaches it
            cut = cut or self.reached < promised - slack
        if (cut or short) and not link.fault:
            of = f" of {promised:.1f}" if promised > there else ""
            faults.append(f"{there:.1f}{of} s are there")
        n_bad = self.n_bad
        if n_bad and self.bad_last and not self.timed and n_bad == 1:
            self.cut_last, n_bad = True, 0  # nothing gives the original length of such a file
        if self.cut_last and not cut:
            self.samples.notes.append("its last frame is cut short; the sound may go on elsewhere")
        if n_bad:
            total = self.n_good + self.n_bad
            faults.append(
                f"{n_bad} of {total} packets cannot be decoded, the first at {self.first_bad:.1f} s"
            )
        if self.gaps and self.gapless:
            faults.append(f"packets for {self.gaps:.1f} s are missing")
        elif self.gaps:
            self.samples.notes.append(f"its time stamps leave out {self.gaps:.1f} s; joined")
        if link.note:
            self.samples.notes.append(link.note)
        return Found(faults, cut, promised)

    def _promised(self, data: mmap.mmap, link: Link) -> float:
        of = self.container, self.stream, data, link, self.reached
        return promised_seconds(*of) if self.timed else 0.0

"""Live sound through pipes: raw PCM and WAV streams in and out."""

import os
import select
import stat
import struct
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from ..audio.containers import tells_size
from ..audio.kinds import HEAD_BYTES, frames_in, holds_sound, kind_of
from ..audio.samples import MAX_CHANNELS, MAX_RATE, MIN_RATE
from ..audio.writing import integers
from ..errors import AudioError, SettingError
from ..files import write_all
from .terminal import say

# Bits per sample by format; f32 is floating point, all are little-endian.
FORMATS = {"s16": 16, "s24": 24, "s32": 32, "f32": 32}
_RATE, _CHANNELS, _FORMAT = 44100, 2, "s16"
# Largest plausible chunk of a WAV header.
_MOST_CHUNK = 1 << 24
# Most live sound, in seconds, that piles up while a model is loaded: servers first send some
# seconds of the past, and players have buffers.
_MOST_BEFORE = 30.0
# Number and seconds of the measurements of an input's speed, and the multiple of real time below
# which it counts as live.
_N_LOOKS, _LOOK, _REAL_TIME = 3, 0.1, 3.0
# Beyond this peak a float stream does not have full scale 1.0, or is not one.
_MAX_PEAK = 100.0
_NAME = "standard input"


class Input:
    """A stream of sound, with the format of its WAV header or of the settings.

    Args:
        file: to read from, by ``read1``.
        rate: in Hz.
        n_channels: number of channels.
        format: one of :data:`FORMATS`.

    Raises:
        AudioError: for a stream that is empty or not sound.
        SettingError: for settings out of range, or that contradict a header.
    """

    def __init__(
        self,
        file: Any,
        rate: int | None = None,
        n_channels: int | None = None,
        format: str | None = None,
    ):
        self._file = file
        # Of a WAV: its header, and the size of its sound; None if it gives none.
        self.header = b""
        self._left: int | None = None
        self._rest = b""
        self._n_taken = 0
        self._faults: list[str] = []
        start = _exactly(self._file, 12)
        if start[:4] in (b"RIFF", b"RF64") and start[8:] == b"WAVE":
            found = self._read_header()
            names = ("--rate", "--channels", "--format")
            for name, asked, there in zip(names, (rate, n_channels, format), found):
                if asked not in (None, there):
                    raise SettingError(f"{_NAME} is a WAV of {name} {there}, not {asked}")
            self.rate, self.n_channels, self.format = found
            self._rest = _exactly(self, HEAD_BYTES)
            self._refuse(frames_in(self._rest), "called PCM by its WAV header")
        else:
            if not start:
                raise AudioError(f"{_NAME} is empty")
            self.rate = _RATE if rate is None else rate
            self.n_channels = _CHANNELS if n_channels is None else n_channels
            self.format = _FORMAT if format is None else format
            # Less for slow streams, to keep the delay short.
            tenth = self.rate * self.n_channels * FORMATS[self.format] // 80
            n_head = min(HEAD_BYTES, max(tenth, HEAD_BYTES // 4))
            self._rest = start + _exactly(self._file, n_head - len(start))
            self._refuse(kind_of(self._rest), "no PCM")
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise SettingError(f"rate {self.rate} Hz has to lie between {MIN_RATE} and {MAX_RATE}")
        if not 1 <= self.n_channels <= MAX_CHANNELS:
            raise SettingError(f"{self.n_channels} channels; 1 to {MAX_CHANNELS} can be")
        self._frame = self.n_channels * FORMATS[self.format] // 8

    def _refuse(self, kind: str | None, what: str) -> None:
        if kind and holds_sound(kind):
            raise AudioError(
                f"{_NAME} is {kind}, {what}; decode it first: ... | ffmpeg -i - -f wav - | "
                "apollo-stream"
            )
        if kind:
            raise AudioError(f"{_NAME} is {kind}, no sound; pipe PCM or a WAV into it")

    def _read_header(self) -> tuple[int, int, str]:
        """Read rate, channels and format of a WAV, up to its samples."""
        found: dict[bytes, bytes] = {}
        while True:
            head = _exactly(self._file, 8)
            if len(head) < 8:
                raise AudioError(f"{_NAME} ends in its WAV header")
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                break
            body = _exactly(self._file, size + size % 2) if size <= _MOST_CHUNK else b""
            if len(body) < size:
                raise AudioError(f"{_NAME} has a damaged WAV header, or ends in it")
            if head[:4] in (b"fmt ", b"ds64"):
                found[head[:4]] = body
        layout = found.get(b"fmt ", b"")
        if len(layout) < 16:
            raise AudioError(f"{_NAME} has a damaged WAV header: it does not say what the sound is")
        kind, n_channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", layout)
        if kind == 0xFFFE and len(layout) >= 26:  # extensible: the kind comes later
            kind = struct.unpack_from("<H", layout, 24)[0]
        formats = {(1, 16): "s16", (1, 24): "s24", (1, 32): "s32", (3, 32): "f32"}
        if (kind, bits) not in formats:
            raise AudioError(
                f"{_NAME} is a WAV of type {kind} with {bits} bits; known: {', '.join(FORMATS)}"
            )
        self._left = _sound_bytes(size, found.get(b"ds64", b""))
        chunks = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout + head
        total = 0xFFFFFFFF if self._left is None else min(len(chunks) + size, 0xFFFFFFFF)
        self.header = b"RIFF" + struct.pack("<I", total) + chunks
        return rate, n_channels, formats[kind, bits]

    def skip_waiting(self, elapsed: float) -> float | None:
        """Skip the sound that has piled up so far.

        Args:
            elapsed: seconds since the start.

        Returns:
            seconds skipped; None for an input that is not live, but a file or a pipe that is
            faster than real time or ended already: nothing of it is skipped.
        """
        if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            return None
        bytes_a_second = self.rate * self._frame
        most = len(self._rest) + (elapsed + _MOST_BEFORE) * bytes_a_second
        quick = self._take_waiting(most, 0.0) or self._left == 0
        # Then it is live, unless it comes in bursts.
        for _ in range(_N_LOOKS):
            if quick:
                break
            before = len(self._rest)
            ended = self._take_waiting(most, _LOOK)
            came = (len(self._rest) - before) / bytes_a_second
            quick = ended
            if not ended and came <= _REAL_TIME * _LOOK:
                n = len(self._rest) // self._frame
                self._rest = self._rest[n * self._frame :]
                self._n_taken += n
                return n / self.rate
        return None

    def _take_waiting(self, most: float, seconds: float) -> bool:
        """Buffer what comes within some seconds, or is waiting; returns True at the end of the
        stream, or if it is more than ``most`` bytes."""
        taken, end = bytearray(self._rest), time.monotonic() + seconds
        data = b"-"
        while data and len(taken) <= most:
            wait = max(0.0, end - time.monotonic())
            if not select.select([self._file], [], [], wait)[0]:
                break
            data = self.read1(1 << 16)
            taken += data
        self._rest = bytes(taken)
        return not data or len(taken) > most

    def read1(self, n: int) -> bytes:
        """Read waiting bytes of sound, up to ``n``; empty at the end."""
        if self._left is not None:
            n = min(n, self._left)
        data = self._file.read1(n) if n else b""
        if self._left is not None:
            self._left -= len(data)
        return data

    def blocks(self, at_least: int, at_most: int) -> Iterator[np.ndarray]:
        """Yield float32 ``(n_channels, n)``, full scale 1.0, as the sound comes.

        Args:
            at_least: smallest block in samples, except at the end.
            at_most: largest block in samples.
        """
        least, most = at_least * self._frame, at_most * self._frame
        while True:
            while len(self._rest) >= least:
                yield self._decoded(min(len(self._rest) // self._frame * self._frame, most))
            data = self.read1(most - len(self._rest))
            if not data:
                break
            self._rest += data
        n = len(self._rest) // self._frame * self._frame
        if n:
            yield self._decoded(n)

    def _decoded(self, n_bytes: int) -> np.ndarray:
        data, self._rest = self._rest[:n_bytes], self._rest[n_bytes:]
        if self.format == "f32":
            wav = np.frombuffer(data, "<f4").astype(np.float32).reshape(-1, self.n_channels).T
            wrong = ~(np.abs(wav) <= _MAX_PEAK)
            if wrong.any():
                wav = np.where(wrong, np.float32(0), wav)
                if not self._faults:
                    seconds = (self._n_taken + int(wrong.any(0).argmax())) / self.rate
                    self._fault(
                        f"{_NAME} holds NaN, infinity or integers as floats at {seconds:.3f} s; "
                        "such samples are taken as silence"
                    )
        else:
            if self.format == "s24":
                padded = np.zeros((n_bytes // 3, 4), np.uint8)
                padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
                steps = padded.view("<i4")[:, 0]
            else:
                steps = np.frombuffer(data, "<i2" if self.format == "s16" else "<i4")
            scale = 2.0 ** (8 * steps.itemsize - 1)
            wav = (steps / scale).astype(np.float32).reshape(-1, self.n_channels).T
        self._n_taken += wav.shape[1]
        return wav

    def _fault(self, line: str) -> None:
        self._faults.append(line)
        say(line)

    def end(self) -> int:
        """Report a damaged end; return the exit status."""
        if self._left:
            seconds = self._left / self._frame / self.rate
            self._fault(f"{_NAME} ends {seconds:.1f} s before its header says")
        elif self._rest:
            self._fault(
                f"{_NAME} ends in the middle of a sample: {len(self._rest)} byte(s) are left out"
            )
        elif self._left == 0 and _exactly(self._file, 4) == b"RIFF":
            self._fault(
                f"{_NAME} goes on with another WAV, which is left out; pipe them one by one"
            )
        return 1 if self._faults else 0


def _exactly(file: Any, n: int) -> bytes:
    """Read ``n`` bytes, fewer at the end, and none ahead: nobody would see those waiting."""
    data = bytearray()
    while len(data) < n and (more := file.read1(n - len(data))):
        data += more
    return bytes(data)


def _sound_bytes(size: int, ds64: bytes) -> int | None:
    """Number of bytes of the sound, which RF64 has in a chunk of its own; None if unknown."""
    if size == 0xFFFFFFFF:
        size = int.from_bytes(ds64[8:16], "little")
    return size if tells_size(size) else None


class Output:
    """A stream in the format of an input.

    Args:
        file: to write to.
        like: the input, for channels, format and header.
    """

    def __init__(self, file: BinaryIO, like: Input):
        self._file, self._format = file, like.format
        self.n_clipped = 0
        write_all(self._file, like.header)

    def write(self, wav: np.ndarray) -> None:
        """Write float32 ``(n_channels, n)``."""
        samples = np.ascontiguousarray(wav.T)
        if self._format == "f32":
            write_all(self._file, samples.astype("<f4").tobytes())
            return
        self.n_clipped += int((np.abs(samples) > 1).sum())
        steps = integers(samples, FORMATS[self._format], None).astype("<i4")
        n_bytes = FORMATS[self._format] // 8
        write_all(self._file, steps.reshape(-1, 1).view(np.uint8)[:, 4 - n_bytes :].tobytes())

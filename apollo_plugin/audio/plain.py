"""PCM and FLAC, read by soundfile."""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soundfile

from ..errors import AudioError
from . import layouts
from .containers import Link, skip_id3
from .frames import opened, take_layout
from .samples import Samples, check_bounds

# First bytes of the files that soundfile tries first. It never gets MPEG audio, since its decoder
# writes to the terminal. It reads W64 and VOC beyond the end of their samples.
MAGIC = tuple(b"RIFF RIFX RF64 FORM fLaC caff .snd".split())
_PLAIN = re.compile(r"PCM|FLOAT|DOUBLE|ULAW|ALAW")
# A chunk that declares more bytes than exist; libsndfile reports it in its log only.
_CHUNK = re.compile(r"\b(?:SSND|Data Size|riff|Riff size|data) *: (\d+) \(should be (\d+)\)")
_UNKNOWN_LENGTH = 2**62
_BLOCK = 1 << 18
# A FLAC's STREAMINFO comes first: 4 bytes of mark, 4 of header, then 34 that end in the digest.
_BEGIN, _BITS, _DIGEST = 8, 12, slice(18, 34)
# Bits of the integers that floats represent exactly.
_MOST_BITS = 24


class Unreadable(AudioError):
    """A file unknown to soundfile or damaged; another reader may tell more."""


@contextlib.contextmanager
def sound_file(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open a file in Python, for names in any encoding and the system's own errors."""
    with path.open("rb") as file:
        try:
            with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
                check_bounds(path, sound.samplerate, sound.channels)
                yield sound
        except (soundfile.SoundFileError, TypeError) as error:
            text = " ".join(str(error).split()).rsplit(": ", 1)[-1].rstrip(".")
            raise Unreadable(f"'{path}' is damaged or is no audio file: {text}") from error


def is_plain(sound: soundfile.SoundFile) -> bool:
    """True if the file holds samples rather than a codec's packets."""
    return sound.format not in ("OGG", "MPEG", "MP3") and bool(_PLAIN.match(sound.subtype))


def shortage(sound: soundfile.SoundFile) -> str | None:
    """Note on the data that the header declares and the file lacks."""
    chunk = _CHUNK.search(sound.extra_info) if sound.format not in ("WAV", "WAVEX") else None
    if chunk and int(chunk[2]) < int(chunk[1]) < 2**32 - 1:
        return f"its {sound.format} header promises {chunk[1]} bytes, {chunk[2]} are there"
    return None


def length(sound: soundfile.SoundFile) -> int | None:
    """Number of samples that the header declares; None if it declares none."""
    return sound.frames if 0 < sound.frames < _UNKNOWN_LENGTH else None


def read_plain(path: Path, link: Link, samples: Samples, coded: bool = False) -> str | None:
    """Read a whole file into ``samples``.

    Args:
        path: of the file.
        link: findings in its container.
        samples: receives the blocks.
        coded: read coded files too.

    Returns:
        a note on what is missing at the end; None for a whole file.

    Raises:
        Unreadable: if another reader should be tried.
        Miscalled: if FFmpeg may find a decoder for what is declared as PCM.
        AudioError: for rates and channels out of bounds.
    """
    with sound_file(path) as sound:
        if not coded and not is_plain(sound):
            raise Unreadable(f"'{path}' holds {sound.subtype}, which soundfile cannot decode")
        expected, rate = length(sound), sound.samplerate
        if expected is None and (sound.frames == 0 or sound.format == "FLAC"):
            raise Unreadable(f"'{path}' holds no samples")
        n_read, order, digest = 0, None, None
        if sound.format == "FLAC" and not samples.start and samples.duration is None:
            with path.open("rb") as file:
                digest = Digest(file, link.begin + skip_id3(file.read(1 << 20)))
        samples.layout = layouts.usual(sound.channels)
        if sound.channels > 2:  # libsndfile reads the layouts of few formats, and has its own names
            samples.layout, order = _layout(path, sound.channels)
        if sound.seekable() and samples.start and expected:
            n_read = samples.skip(rate, expected)
            sound.seek(n_read)
        while not samples.full:
            block = sound.read(_BLOCK, dtype="float32", always_2d=True)
            if not len(block):
                break
            if digest:
                digest.add(block)
            samples.add(block if order is None else block[:, order], rate, expected or 0)
            n_read += len(block)
        samples.head.examine()
        if samples.full:
            return None
        fault = link.fault or shortage(sound)
        if digest and digest.is_wrong and n_read == (expected or n_read):
            samples.notes.append("its MD5 is not that of its samples, which were read all the same")
        if fault is None and expected and n_read < expected:
            fault = f"{n_read / rate:.1f} of {expected / rate:.1f} s are there"
            if sound.format == "FLAC":
                raise Unreadable(f"'{path}' is damaged: {fault}")
        return fault


class Digest:
    """MD5 of decoded samples, to compare with the one in a FLAC.

    Args:
        file: at its beginning; anything before the mark is skipped.
        begin: position of its mark, in bytes.
    """

    def __init__(self, file: BinaryIO, begin: int):
        file.seek(begin)
        info = file.read(_BEGIN + 34)[_BEGIN:]
        self._told = info[_DIGEST]
        self._n_bits = 1 + (int.from_bytes(info[_BITS : _BITS + 2], "big") >> 4 & 31)
        known = len(info) == 34 and any(self._told) and self._n_bits <= _MOST_BITS
        self._md5 = hashlib.md5(usedforsecurity=False) if known else None

    def add(self, samples: np.ndarray) -> None:
        """Add the next ``(time, channels)`` samples, full scale 1.0."""
        if self._md5:
            n_bytes = -(-self._n_bits // 8)
            steps = np.rint(samples * np.float32(2 ** (self._n_bits - 1))).astype("<i4")
            self._md5.update(steps.reshape(-1, 1).view(np.uint8)[:, :n_bytes].tobytes())

    @property
    def is_wrong(self) -> bool:
        """True if the added samples differ from those that were coded."""
        return self._md5 is not None and self._md5.digest() != self._told


def _layout(path: Path, n_channels: int) -> tuple[str, list[int] | None]:
    """A file's layout and the order of its channels, as :func:`.layouts.native` gives them."""
    try:
        with opened(path, "ignore") as container:
            layout, n_told = take_layout(container.streams.audio[0])
    except (av.FFmpegError, OSError, ValueError, LookupError):
        return "", None
    return layouts.native(layout) if n_told == n_channels else ("", None)

"""Atomic writing of audio files."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from mutagen import MutagenError

from ..errors import AudioError
from ..files import atomic_write, free_bytes, is_special
from . import layouts
from .loudness import Meter
from .samples import MAX_CHANNELS, MAX_RATE, MIN_RATE

# Lossy ones of the writable formats.
LOSSY = ("OGG", "MP3")
# Bytes per sample by type; coded ones take at most 4.
SAMPLE_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "DOUBLE": 8}
# Types that hold samples beyond full scale.
UNCLIPPED = ("FLOAT", "DOUBLE")
# Types whose samples are rounded here: libsndfile rounds down.
_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
# RIFF files have 32-bit sizes.
_WAV_LIMIT = 2**32 - 2**16
# Samples written at a time, since the Vorbis encoder puts a whole block on the stack; and the rate
# beyond which libsndfile crashes.
_BLOCK, _OGG_BLOCK = 1 << 18, 1 << 11
_OGG_MAX_RATE = 200_000


def write(
    path: str | os.PathLike,
    wav: np.ndarray,
    sample_rate: int,
    format: str = "WAV",
    subtype: str | None = None,
    headroom: float = 0.0,
    dither: bool = False,
    meter: Meter | None = None,
    finish: Callable[[Path], object] | None = None,
    layout: str = "",
    comment: str = "",
) -> int:
    """Write a file atomically: under a temporary name, then renamed.

    Args:
        path: of the file; its folder is made if missing.
        wav: ``(channels, time)``, full scale 1.0.
        sample_rate: in Hz.
        format: soundfile's name of the container, ``"WAV"``, ``"FLAC"``, ``"OGG"`` and so on.
        subtype: soundfile's name of the sample type; ``"FLOAT"`` if the format has it, else the
            format's default.
        headroom: attenuation in dB.
        dither: add TPDF noise, two steps wide and the same each time, before integers are
            rounded, so that the rounding error is independent of the sound.
        meter: measures the samples before they are clipped.
        finish: called with the temporary file before it is renamed; an exception ends the writing.
        layout: loudspeakers of the channels, as in :mod:`.layouts`; left out if the format cannot
            store it.
        comment: of a CAF or RF64 file, which hold no other tags here.

    Returns:
        number of samples beyond full scale, which were clipped (0 for floating point).

    Raises:
        AudioError: if the file cannot be written.
    """
    path, wav = Path(path), np.asarray(wav)
    subtype = subtype or default_subtype(format)
    try:
        check_writable(format, subtype, sample_rate, wav.shape[0], layout)
    except AudioError as error:
        raise AudioError(f"'{path}' cannot be written: {error}") from error
    n_bytes = wav.size * SAMPLE_BYTES.get(subtype, 4)
    if format == "WAV" and n_bytes > _WAV_LIMIT:
        format = "RF64"
    elif format == "WAV" and layouts.has_place("WAVEX", subtype, layout, wav.shape[0]):
        format = "WAVEX"
    order = layouts.order_of(format, layout, wav.shape[0])
    n_clipped, gain, random = 0, 10 ** (-headroom / 20), np.random.default_rng(0)
    try:
        with atomic_write(path) as beside, beside.open("w+b", buffering=0) as file:
            sink = _Sink(file)
            with soundfile.SoundFile(
                sink, "w", sample_rate, wav.shape[0], subtype, None, format
            ) as sound:
                if comment and format in ("CAF", "RF64"):
                    sound.comment = comment
                n_block = _OGG_BLOCK if format == "OGG" else _BLOCK
                for begin in range(0, wav.shape[1], n_block):
                    samples = wav[:, begin : begin + n_block].T.astype(np.float32)
                    if headroom:
                        samples = samples * np.float32(gain)
                    if meter:
                        meter.add(samples)
                    if subtype not in UNCLIPPED:
                        n_clipped += int((np.abs(samples) > 1).sum())
                        samples = samples.clip(-1, 1)
                    if order:
                        samples = samples[:, order]
                    if subtype in _BITS:
                        samples = integers(samples, _BITS[subtype], random if dither else None)
                    sound.write(samples)
                    if sink.error:
                        break
            if sink.error:
                raise sink.error
            file.close()
            if layouts.has_place(format, subtype, layout, wav.shape[0]):
                layouts.write_mask(beside, format, layout)
            if finish:
                finish(beside)
    except (OSError, soundfile.SoundFileError, ValueError, MutagenError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise AudioError(f"'{path}' cannot be written: {reason}") from error
    return n_clipped


def integers(samples: np.ndarray, n_bits: int, random: np.random.Generator | None) -> np.ndarray:
    """Round to ``n_bits``, in the upper ones of 32; with dither if ``random`` is given."""
    steps = samples.astype(np.float64) * 2 ** (n_bits - 1)
    if random:
        steps += random.random(steps.shape) - random.random(steps.shape)
    limit = 2 ** (n_bits - 1)
    return np.rint(steps).clip(-limit, limit - 1).astype(np.int32) << (32 - n_bits)


class _Sink:
    """File object that remembers a failed write, which libsndfile loses at its last flush."""

    def __init__(self, file: io.FileIO):
        self.seek, self.tell = file.seek, file.tell
        self.read, self.readinto = file.read, file.readinto
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        try:
            while rest and not self.error:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.error = error
        return len(data)


def check_writable(
    format: str, subtype: str | None, sample_rate: int, n_channels: int, layout: str = ""
) -> None:
    """Raise an AudioError if a format cannot hold a rate or a number of channels, or assigns the
    channels to other loudspeakers."""
    subtype = subtype or default_subtype(format)
    layouts.check(format, subtype, layout, n_channels)
    reason = ""
    if format == "OGG" and sample_rate > _OGG_MAX_RATE:
        reason = f"it goes up to {_OGG_MAX_RATE} Hz; "
    elif not (MIN_RATE <= sample_rate <= MAX_RATE and 1 <= n_channels <= MAX_CHANNELS):
        reason = f"rates of {MIN_RATE} to {MAX_RATE} Hz and up to {MAX_CHANNELS} channels can; "
    else:
        try:
            with soundfile.SoundFile(
                io.BytesIO(), "w", sample_rate, n_channels, subtype, None, format
            ) as sound:
                # Some encoders refuse only when they get samples.
                sound.write(np.zeros((16, n_channels), np.float32))
            return
        except (soundfile.SoundFileError, ValueError):
            pass
    raise AudioError(
        f"{format} ({subtype}) cannot hold {n_channels} channel(s) at {sample_rate} Hz; {reason}"
        "choose another --format"
    )


def check_room(path: str | os.PathLike, n_bytes: int) -> None:
    """Raise an AudioError if the disk has no room for a file of ``n_bytes``."""
    if not is_special(path) and n_bytes > (free := free_bytes(Path(path).parent)):
        raise AudioError(
            f"'{path}' cannot be written: it takes {n_bytes / 1e6:.1f} MB and "
            f"{free / 1e6:.1f} MB are free"
        )


def default_subtype(format: str) -> str:
    """Floating point if the format has it, so that nothing clips; else the format's default."""
    known = (name for name in ("FLOAT", "PCM_24") if soundfile.check_format(format, name))
    return next(known, None) or soundfile.default_subtype(format)

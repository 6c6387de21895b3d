"""Reading any audio file."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from ..errors import AudioError

# What a folder is searched for; a file that is named is read whatever it is called.
SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        "wav wave flac mp3 ogg oga opus aif aiff aifc au caf w64 rf64 "
        "m4a mp4 aac webm wma mka ac3"
    ).split()
)
_EXTRA = "pip install 'apollo-plugin[formats]'"
# libsndfile's codes for "format not recognised" and "encoding not supported".
_UNKNOWN_FORMAT = (1, 4)
_CHUNK = r"\b(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)"
# Read around a part that is to be resampled, in seconds.
_RESAMPLING_MARGIN = 0.05


def read(path: str | os.PathLike, max_seconds: float = float("inf")) -> tuple[torch.Tensor, int]:
    """Reads a file of any format: by soundfile, else by PyAV (the extra ``formats``).

    Args:
        path: of the file.
        max_seconds: longer files are refused before they fill the memory.

    Returns:
        float32 tensor ``(channels, time)``, full scale 1.0, and the sample rate in Hz.

    Raises:
        AudioError: for a file that is missing, empty, truncated, too long, no audio, or holds NaN.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise AudioError(f"'{path}' is a folder or a device, no file")
        if path.stat().st_size == 0:
            raise AudioError(f"'{path}' is empty")
        samples, sample_rate = _read_soundfile(path, max_seconds)
    except OSError as error:
        raise AudioError(f"'{path}' cannot be read: {error.strerror or error}") from error
    if samples.shape[0] == 0:
        raise AudioError(f"'{path}' holds no samples")
    # Row by row, so that a long file needs no second copy.
    for start in range(0, len(samples), sample_rate):
        wrong = ~np.isfinite(samples[start : start + sample_rate]).all(1)
        if wrong.any():
            second = (start + int(wrong.argmax())) / sample_rate
            raise AudioError(f"'{path}' holds NaN or infinity at {second:.3f} s; export it anew")
    return torch.from_numpy(samples).T, sample_rate


def probe(path: str | os.PathLike) -> tuple[int, int, int]:
    """Length, rate and channels by a file's header, for what soundfile reads.

    Args:
        path: of the file.

    Returns:
        number of samples, sample rate in Hz, number of channels.

    Raises:
        AudioError: for a file that is missing, empty, truncated or no audio.
    """
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise AudioError(f"'{path}' is empty")
        with _sound_file(path) as sound:
            if sound.frames == 0:
                raise AudioError(f"'{path}' holds no samples")
            if _is_short(sound):
                raise _truncated(path, sound.format, sound.frames)
            return sound.frames, sound.samplerate, sound.channels
    except OSError as error:
        raise AudioError(f"'{path}' cannot be read: {error.strerror or error}") from error


def read_part(
    path: str | os.PathLike, start: float, seconds: float, sample_rate: int
) -> np.ndarray:
    """Reads some seconds of a file, and no more of it than that.

    Args:
        path: of a file that soundfile reads.
        start: in seconds.
        seconds: length; what lies beyond the end is silence.
        sample_rate: of the result in Hz; files of another rate are resampled.

    Returns:
        float32 array ``(channels, round(seconds * sample_rate))``.

    Raises:
        AudioError: for a file that is missing, damaged or no audio, or that holds NaN there.
    """
    path = Path(path)
    n_samples = round(seconds * sample_rate)
    try:
        with _sound_file(path) as sound:
            rate = sound.samplerate
            # A resampler rings at cuts, for about a hundred samples.
            margin = 0 if rate == sample_rate else round(_RESAMPLING_MARGIN * rate)
            first = round(start * rate)
            begin = max(0, first - margin)
            sound.seek(min(begin, sound.frames))
            n_read = first - begin + round(seconds * rate) + margin
            samples = sound.read(n_read, dtype="float32", always_2d=True, fill_value=0.0)
    except OSError as error:
        raise AudioError(f"'{path}' cannot be read: {error.strerror or error}") from error
    if not np.isfinite(samples).all():
        raise AudioError(f"'{path}' holds NaN or infinity after {start:.3f} s; export it anew")
    if rate != sample_rate:
        skip = round((first - begin) * sample_rate / rate)
        samples = soxr.resample(samples, rate, sample_rate, quality="VHQ")[skip : skip + n_samples]
        samples = np.pad(samples, ((0, n_samples - len(samples)), (0, 0)))
    return samples.T


@contextlib.contextmanager
def _sound_file(path: Path) -> Iterator[soundfile.SoundFile]:
    """Opens the file here: names in any encoding, and the system's own word on errors."""
    with path.open("rb") as file:
        try:
            with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
                yield sound
        except soundfile.SoundFileError as error:
            reason = _reason(error)
            if "does not exist" in reason:  # so libsndfile says when it finds no MP3 frame
                reason = "it holds no audio frames"
            what = "is no audio file" if _unknown(error) else "is truncated or damaged"
            raise AudioError(f"'{path}' {what}: {reason}; get it anew") from error


def _unknown(error: BaseException | None) -> bool:
    return getattr(error, "code", None) in _UNKNOWN_FORMAT


def _is_short(sound: soundfile.SoundFile) -> bool:
    """Whether a chunk claims more bytes than there are; libsndfile says so in its log only."""
    chunk = re.search(_CHUNK, sound.extra_info)
    # 2**32 - 1 is written by programs that pipe and do not know the length.
    return bool(chunk) and int(chunk[2]) < int(chunk[1]) < 2**32 - 1


def _truncated(path: Path, container: str, n_samples: int) -> AudioError:
    return AudioError(
        f"'{path}' is truncated: its {container} header promises more than the "
        f"{n_samples} samples that are there; get it anew"
    )


def _check_length(path: Path, n_samples: int, sample_rate: int, max_seconds: float) -> None:
    if n_samples > max_seconds * sample_rate:
        raise AudioError(f"'{path}' is longer than {max_seconds:g} s")


def _read_soundfile(path: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    try:
        with _sound_file(path) as sound:
            n_expected, sample_rate, container = sound.frames, sound.samplerate, sound.format
            _check_length(path, n_expected, sample_rate, max_seconds)
            samples = sound.read(dtype="float32", always_2d=True)
            short = _is_short(sound)
    except AudioError as error:
        if _unknown(error.__cause__):
            return _read_av(path, max_seconds)
        raise
    counted = container != "MP3" or _mp3_counts_frames(path)
    if (len(samples) < n_expected and counted) or short:
        raise _truncated(path, container, len(samples))
    return samples, sample_rate


def _mp3_counts_frames(path: Path) -> bool:
    """Whether an MP3 says how long it is; else libsndfile guesses from the size of the file."""
    with path.open("rb") as file:
        head = file.read(10)
        start = 0
        if head[:3] == b"ID3":  # whose size is written in four groups of seven bits
            start = 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0)))
        file.seek(start)
        first_frame = file.read(400)
    return any(tag in first_frame for tag in (b"Xing", b"Info", b"VBRI"))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.rsplit(": ", 1)[-1].rstrip(".")


def _read_av(path: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    try:
        import av
    except ImportError as error:
        raise AudioError(
            f"'{path}' is no audio that soundfile reads; for m4a, aac, webm and more: {_EXTRA}"
        ) from error
    try:
        with av.open(os.fspath(path)) as container:
            if not container.streams.audio:
                raise AudioError(f"'{path}' holds no audio")
            stream = container.streams.audio[0]
            rate = stream.rate
            planar = av.AudioResampler(format="fltp")
            blocks, n_samples = [], 0
            for frame in container.decode(stream):
                n_samples += frame.samples
                _check_length(path, n_samples, rate, max_seconds)
                blocks += [part.to_ndarray().T for part in planar.resample(frame)]
            blocks += [part.to_ndarray().T for part in planar.resample(None)]
            # Other containers only guess their duration, from the bit rate.
            counted = container.format.name.startswith(("mov", "matroska"))
            promised = container.duration / av.time_base if counted and container.duration else 0
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        reason = getattr(error, "strerror", None) or _reason(error)
        raise AudioError(f"'{path}' is damaged or is no audio file: {reason}") from error
    if not blocks:
        raise AudioError(f"'{path}' holds no samples")
    samples = np.concatenate(blocks)
    if len(samples) / rate < promised - 0.5:
        raise AudioError(
            f"'{path}' is truncated: {len(samples) / rate:.1f} of {promised:.1f} s are there"
        )
    return samples, rate

"""Reading of any audio file: whole, or refused with an error of one line."""

import contextlib
import mmap
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from ..errors import AudioError
from . import containers
from .decoding import Found, Undecodable, decode
from .loudness import Level, Meter
from .plain import MAGIC, Unreadable, is_plain, length, read_plain, shortage, sound_file
from .samples import Miscalled, Samples

# Suffixes that folders are searched for; a file given by name may have any.
SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        "wav wave flac mp3 mp2 ogg oga opus aif aiff aifc au caf w64 rf64 voc "
        "m4a m4b m4r mp4 mov 3gp aac webm mkv mka wma asf ac3 dts amr awb wv tta ape tak mpc dsf "
        "dff spx rm ra avi flv ts weba wmv mpg mpeg m2ts mts vob ogv ogx 3g2 m4v f4v f4a mpga mp1 "
        "mp+ mpp eac3 ec3 snd bwf shn adts loas latm"
    ).split()
)
# Float files with larger samples have the full scale of integers, not 1.0.
_MAX_PEAK = 100.0
# Seconds read around a part that is to be resampled.
_RESAMPLING_MARGIN = 0.05


@dataclass(frozen=True)
class Reading:
    """A decoded file.

    Args:
        wav: float32 ``(channels, time)``, full scale 1.0.
        sample_rate: in Hz.
        notes: a line on each thing skipped, chosen or changed, without the file's name.
        layout: loudspeakers of the channels, as in :mod:`.layouts`; ``""`` if unknown.
    """

    wav: np.ndarray
    sample_rate: int
    notes: tuple[str, ...] = ()
    layout: str = ""

    def warn(self, path: str | os.PathLike) -> tuple[np.ndarray, int, str]:
        """Samples, rate and layout; issues the notes as warnings to the caller's caller."""
        for note in self.notes:
            warnings.warn(f"'{path}': {note}", stacklevel=3)
        return self.wav, self.sample_rate, self.layout


def read(
    path: str | os.PathLike,
    max_seconds: float = float("inf"),
    track: int | None = None,
    start: float = 0.0,
    duration: float | None = None,
    salvage: bool = False,
) -> tuple[np.ndarray, int]:
    """Read a file's samples and rate by :func:`read_all`, with its notes as warnings.

    Returns:
        float32 ``(channels, time)``, full scale 1.0, and the sample rate in Hz.
    """
    reading = read_all(path, max_seconds, track, start, duration, salvage)
    return reading.warn(path)[:2]


def read_all(
    path: str | os.PathLike,
    max_seconds: float = float("inf"),
    track: int | None = None,
    start: float = 0.0,
    duration: float | None = None,
    salvage: bool = False,
) -> Reading:
    """Read a file of any format: PCM and FLAC by soundfile, coded audio by FFmpeg.

    Lengths are exact to the sample: encoders' delays and padding, pre-skip and edit lists are
    applied. If rate or channels change midway, the rest is converted to the first.

    Args:
        path: of the file.
        max_seconds: longer files are refused before they fill the memory.
        track: number of the sound track, from 1 on; the file's default unless given.
        start: seconds to skip at the beginning.
        duration: seconds to read; to the end unless given.
        salvage: read the rest of a truncated or damaged file; a note says what is missing.

    Returns:
        samples, rate and notes.

    Raises:
        AudioError: for a file that is missing, empty, truncated, damaged, too long or not audio,
            that holds NaN or integers as floats, has a rate beyond 1 kHz to 1 MHz or more than 64
            channels; and for a missing track.
    """
    path = Path(path)
    if not 0 <= start < float("inf") or not (duration is None or duration > 0):
        raise AudioError(f"'{path}': start {start} s, duration {duration} s select nothing")
    samples = Samples(path, start, duration, max_seconds)
    n_samples = _collect(path, samples, track, salvage)
    wav = samples.joined
    if n_samples == 0:
        if start and samples.seconds:
            raise AudioError(f"'{path}' ends before {start:g} s")
        raise AudioError(f"'{path}' holds no samples")
    _check_values(path, wav, samples.sample_rate, start)
    notes = tuple(samples.notes)
    return Reading(wav.T, samples.sample_rate, notes, samples.layout)


def probe(path: str | os.PathLike) -> tuple[int, int, int]:
    """Read length, rate and channels from the header, or by decoding if it lacks them.

    Returns:
        number of samples, sample rate in Hz, number of channels.

    Raises:
        AudioError: for a file that is missing, empty, truncated, damaged or not audio.
    """
    path = Path(path)
    with _mapped(path) as data:
        links = containers.links(data) if _starts_plain(data) else []
    if len(links) == 1:
        try:
            with sound_file(path) as sound:
                n_samples, fault = length(sound), links[0].fault or shortage(sound)
                if is_plain(sound) and n_samples and fault:
                    raise AudioError(_refusal(path, [fault], True, sound.frames, sound.samplerate))
                if is_plain(sound) and n_samples:
                    return n_samples, sound.samplerate, sound.channels
        except Unreadable:
            pass
    samples = Samples(path, keep=False)
    n_samples = _collect(path, samples, None, False)
    if n_samples == 0:
        raise AudioError(f"'{path}' holds no samples")
    return n_samples, samples.sample_rate, samples.n_channels


def read_part(
    path: str | os.PathLike, start: float, seconds: float, sample_rate: int
) -> np.ndarray:
    """Read a part of a file; of PCM and FLAC only that part is decoded.

    Args:
        path: of the file.
        start: in seconds.
        seconds: length; filled up with silence after the file's end.
        sample_rate: of the result in Hz; files of another rate are resampled.

    Returns:
        float32 array ``(channels, round(seconds * sample_rate))``.

    Raises:
        AudioError: for a file that is missing, damaged or not audio, or that holds NaN there.
    """
    path = Path(path)
    n_samples = round(seconds * sample_rate)
    # Resamplers ring at cuts, for about a hundred samples.
    begin = max(0.0, start - _RESAMPLING_MARGIN)
    samples = Samples(path, 0.0, None)
    samples.start = begin
    samples.duration = start - begin + seconds + _RESAMPLING_MARGIN
    _collect(path, samples, None, False)
    rate, wav = samples.sample_rate, samples.joined
    if not np.isfinite(wav).all():
        raise AudioError(f"'{path}' holds NaN or infinity after {start:.3f} s; export it anew")
    skip = round(start * rate) - round(begin * rate)
    if rate == sample_rate:
        wav = wav[skip : skip + n_samples]
    elif len(wav):
        skip = round(skip * sample_rate / rate)
        wav = soxr.resample(wav, rate, sample_rate, quality="VHQ")[skip : skip + n_samples]
    wav = np.pad(wav[:n_samples], ((0, n_samples - len(wav)), (0, 0)))
    return wav.T


def measure(path: str | os.PathLike) -> Level:
    """Measure loudness and true peak of a file.

    Raises:
        AudioError: if it cannot be read.
    """
    reading = read_all(path)
    meter = Meter(reading.sample_rate, reading.wav.shape[0], reading.layout)
    for begin in range(0, reading.wav.shape[1], reading.sample_rate):
        meter.add(reading.wav[:, begin : begin + reading.sample_rate].T)
    return meter.level()


def _mapped(path: Path) -> mmap.mmap:
    try:
        if path.exists() and not path.is_file():
            raise AudioError(f"'{path}' is a directory or a device, no file")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise AudioError(f"'{path}' is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        raise AudioError(
            f"'{path}' cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error


def _starts_plain(data: mmap.mmap) -> bool:
    begin = containers.skip_id3(data)
    return data[begin : begin + 16].startswith(MAGIC)


def _collect(path: Path, samples: Samples, track: int | None, salvage: bool) -> int:
    """Read into ``samples``, join them and return their number; raise for a damaged file unless it
    is to be salvaged."""
    with _mapped(path) as data:
        found = _read_links(path, data, samples, track)
    there, rate = samples.seconds, samples.sample_rate
    faults = list(dict.fromkeys(fault for each in found for fault in each.faults))
    if faults and not (salvage and rate):
        cut = any(each.cut for each in found)
        raise AudioError(_refusal(path, faults, cut, round(there * rate), rate or 1))
    if faults:
        samples.notes.insert(0, f"salvaged {there:.1f} s; " + "; ".join(faults))
    return samples.join()


def _read_links(path: Path, data: mmap.mmap, samples: Samples, track: int | None) -> list[Found]:
    begin = containers.skip_id3(data)
    head = data[begin : begin + 64]
    mpeg = containers.is_mpeg(head[:4])
    plain = _starts_plain(data) and track is None
    # A part of the first of joined files needs none of the others.
    if plain and samples.duration is not None:
        trial = samples.fresh()
        with contextlib.suppress(Unreadable, Miscalled):
            read_plain(path, containers.Link(0, len(data)), trial)
            if trial.full:
                samples.take(trial)
                return [Found([])]
    links = containers.links(data)
    unread: AudioError | None = None
    if len(links) == 1 and plain:
        try:
            return [_try_plain(path, links[0], samples)]
        except (Unreadable, Miscalled) as error:
            unread = error
    miscalled = isinstance(unread, Miscalled)
    try:
        found = []
        for link in links:
            found.append(decode(path, data, link, samples, track, not miscalled))
            if samples.full:
                break
        return found
    except Undecodable as error:
        undecoded = error
    if unread and miscalled:
        raise unread
    if not mpeg and len(links) == 1 and track is None:
        try:
            return [_try_plain(path, links[0], samples, coded=True)]
        except Unreadable as error:
            # If FFmpeg recognised the kind, its message says more.
            unread = unread or (error if undecoded.__cause__ else None)
    if samples.seconds:
        return [*found, Found([f"what follows {samples.seconds:.1f} s cannot be decoded"])]
    if head[4:8] == b"ftyp" and data.find(b"moov") < 0:
        raise AudioError(f"'{path}' is truncated: its index is missing; get it anew") from undecoded
    if mpeg and containers.is_free_format(data):
        raise AudioError(
            f"'{path}' is an MP3 of free format, which FFmpeg cannot decode; "
            "make a WAV of it first, by lame --decode or mpg123 -w"
        ) from undecoded
    raise AudioError(f"{unread or undecoded}; get it anew") from undecoded


def _try_plain(path: Path, link: containers.Link, samples: Samples, coded: bool = False) -> Found:
    """Read by soundfile; ``samples`` are unchanged if it cannot."""
    trial = samples.fresh()
    fault = read_plain(path, link, trial, coded)
    samples.take(trial)
    if link.note and not samples.full:
        samples.notes.append(link.note)
    return Found([fault] if fault else [], cut=bool(fault))


def _refusal(path: Path, faults: list[str], cut: bool, n_samples: int, rate: int) -> str:
    there = f"{n_samples / rate:.1f} s are there"
    what = "truncated" if cut else "damaged"
    text = "; ".join(faults)
    if "s are there" not in text:
        text += f"; {there}"
    return f"'{path}' is {what}: {text}; get it anew, or take what is there by --salvage"


def _check_values(path: Path, wav: np.ndarray, sample_rate: int, start: float) -> None:
    # Channel by channel, so that a long file needs no second copy.
    for begin in range(0, len(wav), sample_rate):
        block = wav[begin : begin + sample_rate]
        peak = np.abs(block).max()
        if not np.isfinite(peak):
            row = int((~np.isfinite(block).all(1)).argmax())
            second = start + (begin + row) / sample_rate
            raise AudioError(f"'{path}' holds NaN or infinity at {second:.3f} s; export it anew")
        if peak > _MAX_PEAK:
            raise AudioError(
                f"'{path}' holds floats at the scale of integers, up to {peak:.0f} where full "
                "scale is 1.0; export it anew, or divide it by 32768 (16-bit)"
            )

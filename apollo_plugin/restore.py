"""Restoration of signals of any length and rate, and of files."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import audio, tags
from .audio.writing import LOSSY, SAMPLE_BYTES
from .diagnose import Diagnosis, diagnose
from .engine.protocol import INPUT_PEAK, Engine, Progress, Wav
from .errors import AudioError, TagError, Uncoded
from .files import imitate
from .settings import Job, Settings
from .sounds import array

# Bytes of a result besides its samples, for its header and the folder's entry.
_HEADER_BYTES = 1 << 16
# Signals below -120 dB are amplified as if they were at -120 dB.
_LEAST_PEAK = 1e-6


@dataclass(frozen=True)
class Restored:
    """Facts about one restored file.

    Args:
        n_clipped: number of samples that an integer format clipped.
        true_peak: before clipping, full scale 1.0; measured for integer formats only.
        notes: lines on changes to the tags, without the file's name.
        of_album: a track whose tags held its album's loudness, to be measured anew.
        diagnosis: of the source, if the settings ask for it.
    """

    n_clipped: int = 0
    true_peak: float = 0.0
    notes: tuple[str, ...] = ()
    of_album: tags.Track | None = None
    diagnosis: Diagnosis | None = None


def restore_audio(
    model: Any,
    wav: Wav,
    sample_rate: int,
    keep_below: float | None = None,
    mix: float = 1.0,
    untouched: Sequence[int] = (),
    keep_level: bool = False,
    progress: Progress | None = None,
) -> Wav:
    """Restore a signal of any rate.

    The model's change is computed at its own rate and added to the signal at the signal's, so that
    resampling loses nothing, above the model's range neither. The model gets the signal at the peak
    that it was trained at, its ``input_peak``, and its output is scaled back, so that quiet and
    loud recordings are restored alike. Everything that restores recordings does so.

    Args:
        model: an engine, or an Apollo or another network of restoration.
        wav: ``(channels, time)``; for a tensor the result is one.
        sample_rate: of ``wav``, in Hz.
        keep_below: in Hz; below it the change is removed by a linear-phase crossover.
        mix: share of the change, 0 to 1.
        untouched: indices of channels to leave unchanged, such as that of low frequencies.
        keep_level: give the signal to the model at its own level.
        progress: called as the work goes on.

    Returns:
        float32 of the shape and rate of ``wav``.
    """
    engine = as_engine(model)
    if not isinstance(wav, np.ndarray):
        how = keep_below, mix, untouched, keep_level, progress
        return wav.new_tensor(restore_audio(engine, array(wav), sample_rate, *how))
    if untouched:
        restored, rest = wav.copy(), sorted({*range(len(wav))} - {*untouched})
        if rest:
            restored[rest] = restore_audio(
                engine, wav[rest], sample_rate, keep_below, mix, (), keep_level, progress
            )
        return restored
    source = audio.resample(wav, sample_rate, engine.sample_rate)
    level = 1.0 if keep_level else model_level(source, engine.input_peak)
    restored = engine.restore(source, level, progress)
    if sample_rate == engine.sample_rate and keep_below is None and mix == 1:
        return restored
    restored -= source
    change = audio.resample(restored, engine.sample_rate, sample_rate, wav.shape[-1])
    if keep_below is not None:
        change = audio.high_pass(change, keep_below, sample_rate)
    change = change * np.float32(mix)
    change += wav
    return change


def as_engine(model: Any) -> Engine:
    """Return an engine as it is, and a network of restoration (which needs PyTorch) as one."""
    if hasattr(model, "stream"):
        return model
    from .engine.torch import TorchEngine

    return TorchEngine(model)


def model_level(wav: Any, input_peak: float | None = INPUT_PEAK) -> float:
    """Divisor that brings a signal's peak to ``input_peak`` for a model; 1 if that is None, or if
    the signal holds NaN or infinity."""
    low, high = float(wav.min()), float(wav.max())
    if input_peak is None or not math.isfinite(low + high):
        return 1.0
    return max(-low, high, _LEAST_PEAK) / input_peak


def restore_file(
    model: Any, job: Job, settings: Settings, progress: Progress | None = None
) -> Restored:
    """Restore one file.

    Args:
        model: an engine, or an Apollo or another network of restoration.
        job: the file and its target.
        settings: of the restoration.
        progress: called as the work goes on.

    Returns:
        facts about the result.

    Raises:
        AudioError: one line on the file, what is wrong and the cure. Nothing is written then.
    """
    engine = as_engine(model)
    carried, before = read_tags(job, settings)
    wav, rate, layout, found = read_source(job, settings)
    how = settings.keep_below, settings.mix, audio.low_channels(layout), settings.keep_level
    restored = restore_audio(engine, wav, rate, *how, progress=progress)
    check_finite(restored, job, wav)
    made = tags.mark.make(engine.origin, job.source, found.cutoff, before)
    written = write_result(job.target, restored, rate, settings, carried, layout, made)
    imitate(job.target, job.source)
    return replace(written, diagnosis=found if settings.diagnose else None)


def diagnose_file(path: Path, wav: Wav, rate: int) -> Diagnosis:
    """Diagnose a file by its spectrum, and by its container if the spectrum shows no edge."""
    found = diagnose(wav, rate)
    coding = audio.coding(path) if found.cutoff is None and not found.silent else None
    return replace(found, coding=str(coding)) if coding and coding.is_coarse else found


def read_tags(job: Job, settings: Settings) -> tuple[tags.Tags, str]:
    """Read the tags that a source passes on to its result, and its mark if it is a restoration.

    Raises:
        AudioError: if it is a restoration, and the settings do not ask for another.
    """
    whole = not {"start", "duration"} & set(settings.reading)
    found = tags.read(job.source, whole, settings.reading.get("track", 1))
    before = tags.mark.find(job.source, found)
    if before and not settings.again:
        raise AudioError(
            f"'{job.source}' is a restoration already ({before}); --again restores it once more"
        )
    tags.mark.strip(found)
    return found if settings.tags else tags.Tags(), before


def write_result(
    place: Path,
    wav: Wav,
    rate: int,
    settings: Settings,
    carried: tags.Tags | None = None,
    layout: str = "",
    made: str = "",
) -> Restored:
    """Write a restoration atomically; if its tags cannot be written, it is kept without them.

    Args:
        place: path of the file.
        wav: ``(channels, time)``.
        rate: in Hz.
        settings: format and level.
        carried: tags of its source.
        layout: of its channels.
        made: its mark, see :mod:`apollo_plugin.tags.mark`.

    Raises:
        AudioError: if it cannot be written.
    """
    carried = carried or tags.Tags()
    try:
        return _write(place, wav, rate, settings, carried, layout, made)
    except TagError as error:
        # The written file may be damaged; the samples are still in memory.
        for mark in (made, ""):
            with contextlib.suppress(TagError):
                written = _write(place, wav, rate, settings, tags.Tags(), layout, mark)
                return replace(written, notes=(f"its tags were left out: {error}",))
        raise


def _write(
    place: Path, wav: Wav, rate: int, settings: Settings, carried: tags.Tags, layout: str, made: str
) -> Restored:
    measured = settings.clips or carried.loudness
    meter = audio.Meter(rate, wav.shape[0], layout) if measured else None
    level: audio.Level | None = None  # before clipping
    heard: audio.Level | None = None  # as written
    notes = list(carried.notes)
    notes += audio.lost_layout(settings.format, settings.sample_type, layout, wav.shape[0])

    def finish(beside: Path) -> None:
        nonlocal level, heard
        heard = level = meter.level() if meter else None
        if carried.loudness and settings.format in LOSSY:
            heard = audio.measure(beside)
        notes.extend(tags.write(beside, carried, settings.format, heard, made))

    how = settings.format, settings.subtype, settings.headroom, settings.dither
    n_clipped = audio.write(place, wav, rate, *how, meter, finish, layout, made)
    of_album = None
    if carried.has_album_gain and heard:
        of_album = tags.Track(carried.album, frozenset(carried.loudness), heard)
    return Restored(n_clipped, level.true_peak if level else 0.0, tuple(notes), of_album)


def read_source(
    job: Job, settings: Settings, n_results: int = 1
) -> tuple[Wav, int, str, Diagnosis]:
    """Read a source at the rate of its result, after checking that the result can be written.

    Args:
        job: the file and its target.
        settings: for reading, and for the result's format and rate.
        n_results: number of files of its size to be written.

    Returns:
        float32 ``(channels, time)``, the result's rate in Hz, the layout of the channels, and
        the diagnosis of the source.

    Raises:
        AudioError: if the file cannot be read, the format cannot hold its rate or channels, or
            the disk has no room for the result.
        Uncoded: if it looks uncoded and the settings leave out such files.
    """
    reading = audio.read_all(job.source, **settings.reading)
    wav, rate, layout = reading.warn(job.source)
    found = diagnose_file(job.source, wav, rate)
    if settings.skip_uncoded and found.uncoded:
        raise Uncoded(f"'{job.source}' is left as it is: {found}")
    out_rate = settings.rate or rate
    audio.check_writable(settings.format, settings.subtype, out_rate, wav.shape[0], layout)
    n_samples = wav.size * out_rate // rate * n_results
    n_bytes = n_samples * SAMPLE_BYTES.get(settings.sample_type, 4) + _HEADER_BYTES
    # Compressed formats need less; how much is unknown.
    if settings.format not in ("FLAC", "OGG", "MP3"):
        audio.check_room(job.target, n_bytes)
    return audio.resample(wav, rate, out_rate), out_rate, layout, found


def check_finite(restored: Wav, job: Job, wav: Wav) -> None:
    """Raise an AudioError if a restoration overflowed."""
    if not math.isfinite(float(restored.min()) + float(restored.max())):  # a NaN makes both NaN
        raise AudioError(
            f"'{job.source}' made the model overflow; its peak is {np.abs(wav).max():.3g}, scale it"
        )

"""Signals of any length and rate, and files: in, restored, and out."""

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

# Beside the samples of a result, for its header and the folder's entry.
_HEADER_BYTES = 1 << 16
# What is quieter than -120 dB is amplified no further than that.
_LEAST_PEAK = 1e-6


@dataclass(frozen=True)
class Restored:
    """What is to be told of a result.

    Args:
        n_clipped: number of samples that an integer format clipped.
        true_peak: of what was to be written, full scale 1.0; measured for integer formats only.
        notes: a line each on what happened to the tags, without the file's name.
        of_album: where the tags told the loudness of an album, which is to be told anew.
        diagnosis: of the source, where the settings want it.
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
    """Restores a signal of any rate.

    What the model changes is computed at its own rate and added to the signal at the signal's: so
    nothing is lost to resampling, above the model's range too. The model gets the signal at the
    peak that it was trained at, its ``input_peak``, and what it gives is brought back: the effect
    on quiet and on loud recordings is the same. All that restores recordings does so.

    Args:
        model: an engine, or an Apollo or another network of restoration.
        wav: ``(channels, time)``; a tensor comes back as one.
        sample_rate: of ``wav``, in Hz.
        keep_below: in Hz; below it the change is removed by a linear-phase crossover.
        mix: share of the change, 0 to 1.
        untouched: indices of channels that stay as they came, such as that of low frequencies.
        keep_level: the model gets the signal at the level that it has.
        progress: called as the work goes on.

    Returns:
        float32 of the shape and rate of ``wav``.
    """
    engine = as_engine(model)
    if not isinstance(wav, np.ndarray):
        samples = np.asarray(wav.detach().cpu())
        how = keep_below, mix, untouched, keep_level, progress
        return wav.new_tensor(restore_audio(engine, samples, sample_rate, *how))
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
    """An engine as it is; a network of restoration as one, which takes PyTorch."""
    if hasattr(model, "stream"):
        return model
    from .engine.torch import TorchEngine

    return TorchEngine(model)


def model_level(wav: Any, input_peak: float | None = INPUT_PEAK) -> float:
    """What a signal is divided by before a model gets it, so that its peak is ``input_peak``; 1
    where that is None, and where the signal holds NaN or infinity."""
    low, high = float(wav.min()), float(wav.max())
    if input_peak is None or not math.isfinite(low + high):
        return 1.0
    return max(-low, high, _LEAST_PEAK) / input_peak


# ------------------------------------------------------------------------------------------- files


def restore_file(
    model: Any,
    job: Job,
    settings: Settings,
    progress: Progress | None = None,
) -> Restored:
    """Restores one file.

    Args:
        model: an engine, or an Apollo or another network of restoration.
        job: which file, and where to.
        settings: how.
        progress: told of the work.

    Returns:
        what is to be told of the result.

    Raises:
        AudioError: one line with the file, what is wrong and what helps. Nothing is written then.
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
    """What the spectrum of a file says, and where that shows no edge, its container."""
    found = diagnose(wav, rate)
    coding = audio.coding(path) if found.cutoff is None and not found.silent else None
    return replace(found, coding=str(coding)) if coding and coding.is_coarse else found


def read_tags(job: Job, settings: Settings) -> tuple[tags.Tags, str]:
    """What a source carries to its result, and the mark that it has where it is one itself.

    Raises:
        AudioError: where it is one, and the settings do not ask for another.
    """
    whole = not {"start", "duration"} & set(settings.reading)
    found = tags.read(job.source, whole)
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
    """Writes a restoration, whole or not at all; tags that cannot be written never cost it.

    Args:
        place: of the file.
        wav: ``(channels, time)``.
        rate: in Hz.
        settings: format and level.
        carried: tags of its source.
        layout: of its channels.
        made: its mark, see :mod:`apollo_plugin.tags.mark`.

    Raises:
        AudioError: where it cannot be written.
    """
    carried = carried or tags.Tags()
    try:
        return _write(place, wav, rate, settings, carried, layout, made)
    except TagError as error:
        # What was written is damaged, perhaps; the sound is still here.
        for mark in (made, ""):
            with contextlib.suppress(TagError):
                written = _write(place, wav, rate, settings, tags.Tags(), layout, mark)
                return replace(written, notes=(f"its tags were left out: {error}",))
        raise


def _write(
    place: Path,
    wav: Wav,
    rate: int,
    settings: Settings,
    carried: tags.Tags,
    layout: str,
    made: str,
) -> Restored:
    measured = settings.clips or carried.loudness
    meter = audio.Meter(rate, wav.shape[0], layout) if measured else None
    level: audio.Level | None = None  # of what was to be written
    heard: audio.Level | None = None  # of what was
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
    """Reads what is to be restored, at the rate of its result, once it is known that the result
    can be written.

    Args:
        job: which file, and where to.
        settings: how it is read, and the result's format and rate.
        n_results: how many files of its size are to be written.

    Returns:
        float32 ``(channels, time)``, the result's rate in Hz, the layout of the channels, and
        where a codec cut the source off.

    Raises:
        AudioError: where the file cannot be read, the format cannot hold its rate or channels, or
            the disk not the result.
        Uncoded: where the settings want to leave out what looks like that.
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
    # What is coded, and FLAC, takes less, nobody knows by how much.
    if settings.format not in ("FLAC", "OGG", "MP3"):
        audio.check_room(job.target, n_bytes)
    return audio.resample(wav, rate, out_rate), out_rate, layout, found


def check_finite(restored: Wav, job: Job, wav: Wav) -> None:
    """Raises an AudioError where a restoration overflowed."""
    if not math.isfinite(float(restored.min()) + float(restored.max())):  # NaN makes either NaN
        raise AudioError(
            f"'{job.source}' made the model overflow; its peak is {np.abs(wav).max():.3g}, scale it"
        )

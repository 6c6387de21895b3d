"""Signals of any length and rate, and files: in, restored, and out."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from . import audio, tags
from .audio.writing import LOSSY, SAMPLE_BYTES
from .diagnose import Diagnosis, diagnose
from .errors import AudioError, TagError, Uncoded
from .settings import Job, Settings

if TYPE_CHECKING:
    from .network.base import RestorationNetwork

# Told of work as it goes on: the name of the step, how many seconds of audio it has done by now,
# and of how many.
Progress = Callable[[str, float, float], None]

# An activation's size in a block of restore_wav; the widest layers make eight of it. Twice this
# size is no faster; eight times takes half as long again and 1.5 GB more (full size, two cores).
_BLOCK_BYTES = 2 << 20
# A GPU wants more to do at once.
_GPU_BLOCK_BYTES = 64 << 20
# What restore_audio brings signals to: the middle of the levels that models are trained on. What
# is quieter than -120 dB stays below it.
_PEAK, _LEAST_PEAK = 0.5, 1e-6
# Beside the samples of a result, for its header and the folder's entry.
_HEADER_BYTES = 1 << 16


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


@torch.no_grad()
def restore_wav(
    model: "RestorationNetwork",
    wav: torch.Tensor,
    block_seconds: float | None = None,
    progress: Progress | bool | None = None,
    state: Any = None,
    level: float = 1.0,
) -> torch.Tensor:
    """Restores a signal of any length at the model's rate, block by block; the result is that of
    ``model(wav)``.

    Memory beyond the signal and its restoration depends on ``block_seconds`` only.

    Args:
        model: an Apollo, or another network of restoration.
        wav: ``(..., time)``, on any device; blocks are moved to the model's.
        block_seconds: length of a block; unless given, such that caches hold the activations.
        progress: True for a progress bar, or a function of the step's name, the seconds that are
            done and the seconds in all.
        state: that the model's first step starts from, where not its own.
        level: the model gets the signal divided by it, and what it gives is multiplied by it.

    Returns:
        restored signal of the same shape, type and device as ``wav``.

    Raises:
        ValueError: for an empty signal, one whose last axis is not time, or a block of no length.
    """
    streams = model._streams(wav)
    if block_seconds is None:
        frame_bytes = len(streams) * model.frame_bytes
        on_cpu = next(model.parameters()).device.type == "cpu"
        n_frames = max(1, (_BLOCK_BYTES if on_cpu else _GPU_BLOCK_BYTES) // frame_bytes)
        block_seconds = n_frames * model.filterbank.stride / model.sample_rate
    if not block_seconds > 0:
        raise ValueError(f"block_seconds {block_seconds} has to be positive")
    n_block = max(1, round(min(block_seconds * model.sample_rate, streams.shape[-1])))
    device = next(model.parameters()).device
    restored, begin, start = torch.empty_like(streams), 0, 0
    n_samples, rate = streams.shape[-1], model.sample_rate
    with tqdm(
        total=n_samples,
        unit="sample",
        unit_scale=True,
        desc="restoring",
        disable=progress is not True,
    ) as bar:
        while begin < n_samples:
            end = min(begin + n_block, n_samples)
            try:
                block = streams[:, begin:end].to(device) / level
                out, state = model.step(block, state, end == n_samples)
            except torch.OutOfMemoryError:
                if n_block == 1:
                    raise
                # The step left its state as it was, so half of the block can be tried.
                n_block = (n_block + 1) // 2
                warnings.warn(
                    f"out of memory on {device}; going on with blocks of {n_block / rate:.3g} s",
                    stacklevel=2,
                )
                continue
            restored[:, start : start + out.shape[-1]] = out * level
            start += out.shape[-1]
            bar.update(end - begin)
            begin = end
            if callable(progress):
                progress("restoring", begin / rate, n_samples / rate)
    return restored.reshape(wav.shape)


def restore_audio(
    model: "RestorationNetwork",
    wav: torch.Tensor,
    sample_rate: int,
    keep_below: float | None = None,
    mix: float = 1.0,
    untouched: Sequence[int] = (),
    **kwargs,
) -> torch.Tensor:
    """Restores a signal of any rate.

    What the model changes is computed at its own rate and added to the signal at the signal's: so
    nothing is lost to resampling, above the model's range too. A model is trained on music of usual
    levels, so it gets the signal at one peak: the effect on quiet and on loud files is the same.

    Args:
        model: an Apollo, or another network of restoration.
        wav: ``(channels, time)``.
        sample_rate: of ``wav``, in Hz.
        keep_below: in Hz; below it the change is removed by a linear-phase crossover.
        mix: share of the change, 0 to 1.
        untouched: indices of channels that stay as they came, such as that of low frequencies.
        **kwargs: for :func:`restore_wav`.

    Returns:
        tensor of the shape and rate of ``wav``.
    """
    if untouched:
        restored, rest = wav.clone(), sorted({*range(len(wav))} - {*untouched})
        if rest:
            restored[rest] = restore_audio(model, wav[rest], sample_rate, keep_below, mix, **kwargs)
        return restored
    model_rate = int(model.sample_rate)
    source = audio.resample(wav, sample_rate, model_rate)
    restored = restore_wav(model, source, level=model_level(source), **kwargs)
    if sample_rate == model_rate and keep_below is None and mix == 1:
        return restored
    change = audio.resample(restored.sub_(source), model_rate, sample_rate, wav.shape[-1])
    if keep_below is not None:
        change = audio.high_pass(change, keep_below, sample_rate)
    return change.mul_(mix).add_(wav)


def model_level(wav: torch.Tensor) -> float:
    """What a signal is divided by before a model gets it, so that its peak is that of the signals
    which models are trained on; 1 where it holds NaN or infinity."""
    low, high = wav.aminmax()
    peak = max(-low.item(), high.item(), _LEAST_PEAK)
    return peak / _PEAK if math.isfinite(low.item() + high.item()) else 1.0


# ------------------------------------------------------------------------------------------- files


def restore_file(
    model: "RestorationNetwork",
    job: Job,
    settings: Settings,
    progress: Progress | None = None,
) -> Restored:
    """Restores one file.

    Args:
        model: an Apollo, or another network of restoration.
        job: which file, and where to.
        settings: how.
        progress: told of the work.

    Returns:
        what is to be told of the result.

    Raises:
        AudioError: one line with the file, what is wrong and what helps. Nothing is written then.
    """
    wav, rate, layout, found = read_source(job, settings)
    carried = read_tags(job, settings)
    low = audio.low_channels(layout)
    restored = restore_audio(
        model, wav, rate, settings.keep_below, settings.mix, low, progress=progress
    )
    check_finite(restored, job, wav)
    written = write_result(job.target, restored, rate, settings, carried, layout)
    return replace(written, diagnosis=found)


def read_tags(job: Job, settings: Settings) -> tags.Tags | None:
    """Tags of a source, if they are to be carried."""
    whole = not {"start", "duration"} & set(settings.reading)
    return tags.read(job.source, whole) if settings.tags else None


def write_result(
    place: Path,
    wav: torch.Tensor,
    rate: int,
    settings: Settings,
    carried: tags.Tags | None = None,
    layout: str = "",
) -> Restored:
    """Writes a restoration, whole or not at all; tags that cannot be written never cost it.

    Args:
        place: of the file.
        wav: ``(channels, time)``.
        rate: in Hz.
        settings: format and level.
        carried: tags of its source.
        layout: of its channels.

    Raises:
        AudioError: where it cannot be written.
    """
    try:
        return _write(place, wav, rate, settings, carried, layout)
    except TagError as error:
        # What was written is damaged, perhaps; the sound is still here.
        written = _write(place, wav, rate, settings, None, layout)
        return replace(written, notes=(f"its tags were left out: {error}",))


def _write(
    place: Path,
    wav: torch.Tensor,
    rate: int,
    settings: Settings,
    carried: tags.Tags | None,
    layout: str,
) -> Restored:
    measured = settings.clips or (carried and carried.loudness)
    meter = audio.Meter(rate, wav.shape[0], layout) if measured else None
    level: audio.Level | None = None  # of what was to be written
    heard: audio.Level | None = None  # of what was
    notes = list(carried.notes) if carried else []
    notes += audio.lost_layout(settings.format, settings.sample_type, layout, wav.shape[0])

    def finish(beside: Path) -> None:
        nonlocal level, heard
        heard = level = meter.level() if meter else None
        if carried and carried.loudness and settings.format in LOSSY:
            heard = audio.measure(beside)
        notes.extend(tags.write(beside, carried, settings.format, heard) if carried else [])

    how = settings.format, settings.subtype, settings.headroom, settings.dither
    n_clipped = audio.write(place, wav, rate, *how, meter, finish, layout)
    of_album = None
    if carried and carried.has_album_gain and heard:
        of_album = tags.Track(carried.album, frozenset(carried.loudness), heard)
    return Restored(n_clipped, level.true_peak if level else 0.0, tuple(notes), of_album)


def read_source(
    job: Job, settings: Settings, n_results: int = 1
) -> tuple[torch.Tensor, int, str, Diagnosis | None]:
    """Reads what is to be restored, at the rate of its result, once it is known that the result
    can be written.

    Args:
        job: which file, and where to.
        settings: how it is read, and the result's format and rate.
        n_results: how many files of its size are to be written.

    Returns:
        float32 ``(channels, time)``, the result's rate in Hz, the layout of the channels, and
        where a codec cut the source off, if the settings want that.

    Raises:
        AudioError: where the file cannot be read, the format cannot hold its rate or channels, or
            the disk not the result.
        Uncoded: where the settings want to leave out what looks like that.
    """
    reading = audio.read_all(job.source, **settings.reading)
    wav, rate, layout = reading.warn(job.source)
    found = diagnose(wav, rate) if settings.diagnose or settings.skip_uncoded else None
    if found and settings.skip_uncoded and found.cutoff is None:
        raise Uncoded(f"'{job.source}' is left as it is: {found}")
    out_rate = settings.rate or rate
    audio.check_writable(settings.format, settings.subtype, out_rate, wav.shape[0], layout)
    n_samples = wav.numel() * out_rate // rate * n_results
    n_bytes = n_samples * SAMPLE_BYTES.get(settings.sample_type, 4) + _HEADER_BYTES
    # What is coded, and FLAC, takes less, nobody knows by how much.
    if settings.format not in ("FLAC", "OGG", "MP3"):
        audio.check_room(job.target, n_bytes)
    return audio.resample(wav, rate, out_rate), out_rate, layout, found


def check_finite(restored: torch.Tensor, job: Job, wav: torch.Tensor) -> None:
    """Raises an AudioError where a restoration overflowed."""
    # In parts: isfinite makes copies.
    if not all(torch.isfinite(part).all() for part in restored.split(1 << 18, -1)):
        raise AudioError(
            f"'{job.source}' made the model overflow; its peak is {wav.abs().max():.3g}, scale it"
        )

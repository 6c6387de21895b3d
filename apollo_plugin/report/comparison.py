"""Comparison of a file, its restoration and the original: excerpt, levels, spectra, metrics.

It is the content of the listening page (:mod:`apollo_plugin.report`) for one file.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import audio
from ..audio.loudness import Meter
from ..diagnose import Diagnosis, diagnose
from ..errors import AudioError, one_line
from ..metrics import METRICS, evaluate
from ..sounds import array
from ..spectra import hann, stft
from .envelope import Envelope, envelope

# Length of the excerpt of a song: long enough to judge, short enough to send.
EXCERPT_SECONDS = 12.0
# Decoders delay an MP3 differently (1105 samples is common); a larger shift is another recording.
_MAX_SHIFT_SECONDS = 0.2
_MAX_LENGTH_DIFFERENCE = 1.0
# Spectra: windows of 46 ms, which resolve partials; pictures of so many columns and rows.
_WINDOW_SECONDS = 0.046
_COLUMNS, _ROWS = 900, 320
_FLOOR = 1e-12
# Formats that serve as the label of an input.
_LOSSY = ("MP3", "AAC", "M4A", "OGG", "OPUS", "WMA", "AC3")


@dataclass(frozen=True)
class Version:
    """One version of the sound.

    Args:
        label: ``"Restored"``, ``"Original"``, and for the input its format or ``"Input"``.
        wav: level-matched excerpt, ``(1 or 2, time)``.
        gain: gain of the level matching in dB.
        metrics: metrics of the excerpt against the original; empty if there is none.
    """

    label: str
    wav: np.ndarray
    gain: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Everything that a page shows of one file.

    Args:
        name: of the file.
        sample_rate: in Hz.
        start: begin of the excerpt in seconds.
        seconds: length of the excerpt.
        total_seconds: length of the file.
        versions: the input, the restoration, and the original if there is one.
        spectrograms: dB by label, ``(rows, columns)``, low frequencies first; full scale sine is 0.
        averages: mean over time in dB over frequency, by label.
        envelope: envelope of the band above the cut-off, if there is one.
        diagnosis: diagnosis of the input.
        notes: further remarks for the reader.
    """

    name: str
    sample_rate: int
    start: float
    seconds: float
    total_seconds: float
    versions: list[Version]
    spectrograms: dict[str, np.ndarray]
    averages: dict[str, np.ndarray]
    envelope: Envelope | None
    diagnosis: Diagnosis
    notes: list[str]


# Label of the difference, restored minus input.
CHANGE = "Change"


def compare_files(
    name: str,
    source: str | os.PathLike,
    restored: str | os.PathLike,
    original: str | os.PathLike | None = None,
    *,
    reading: Mapping[str, Any] | None = None,
    label: str | None = None,
    notes: Sequence[str] = (),
    headroom: float = 0.0,
    **kwargs,
) -> Comparison:
    """Compare files by :func:`compare`; the original is resampled and aligned first.

    Args:
        name: title of the file on the page.
        source: the input.
        restored: its restoration.
        original: the recording that the input was coded from, if there is one.
        reading: further arguments of :func:`apollo_plugin.audio.read_all` for ``source``. The
            original is cut likewise.
        label: label of the input; by its suffix unless given.
        notes: further remarks for the reader.
        headroom: attenuation of the restoration in dB, to be undone.
        **kwargs: for :func:`compare`.

    Raises:
        AudioError: if a file cannot be read, or the original is another recording.
    """
    reading = reading or {}
    read = audio.read_all(source, **reading)
    coded, rate = read.wav, read.sample_rate
    output, output_rate = audio.read(restored)
    if (output.shape, output_rate) != (coded.shape, rate):
        raise AudioError(
            f"'{restored}' is no restoration of '{source}': their rates, channels or lengths "
            "differ; restore it again with --overwrite"
        )
    notes = [*notes, *(f"{note[:1].upper()}{note[1:]}." for note in read.notes)]
    if headroom:
        output = output * np.float32(10 ** (headroom / 20))
        notes.append(f"Without the headroom of {headroom:g} dB of the result.")
    reference = None
    if original is not None:
        reference, reference_rate = audio.read(
            original, **{key: reading[key] for key in ("start", "duration") if key in reading}
        )
        reference = audio.resample(reference, reference_rate, rate)
        reference, shift = _align(reference, coded, rate, f"reference '{original}'", str(source))
        if reference_rate != rate:
            notes.append(f"The original was resampled from {reference_rate} to {rate} Hz.")
        if shift:
            notes.append(
                f"The original was moved by {shift} samples ({1000 * shift / rate:.1f} ms) to "
                "align it with the input."
            )
    suffix = Path(source).suffix[1:].upper()
    label = label or (suffix if suffix in _LOSSY else "Input")
    return compare(name, coded, output, rate, reference, notes=notes, label=label, **kwargs)


def compare(
    name: str,
    coded: np.ndarray,
    restored: np.ndarray,
    sample_rate: int,
    original: np.ndarray | None = None,
    *,
    seconds: float = EXCERPT_SECONDS,
    metrics: Sequence[str] = METRICS,
    label: str = "MP3",
    notes: Sequence[str] = (),
) -> Comparison:
    """Prepare a signal and its restoration for the page.

    A long signal is cut to the excerpt that the restoration changed most. The metrics are those of
    the excerpt, before its levels are matched (by loudness of ITU-R BS.1770, below 0.4 s by RMS).

    Args:
        name: title of the file on the page.
        coded: the input, ``(channels, time)``.
        restored: its restoration, of the same shape.
        sample_rate: in Hz.
        original: the original, of the same shape, if there is one.
        seconds: length of the excerpt.
        metrics: names from :data:`apollo_plugin.metrics.METRICS`.
        label: label of the input.
        notes: further remarks for the reader.

    Raises:
        ValueError: for signals of different shapes.
    """
    notes = list(notes)
    waves = {label: array(coded), "Restored": array(restored)}
    if original is not None:
        waves["Original"] = array(original)
    if len({wav.shape for wav in waves.values()}) > 1:
        raise ValueError(f"'{name}': {', '.join(waves)} differ in channels or length")
    for key, wav in waves.items():
        n_broken = int((~np.isfinite(wav)).sum())
        if n_broken:
            waves[key] = np.where(np.isfinite(wav), wav, np.float32(0))
            notes.append(f"{key}: {n_broken} samples are NaN or infinite and set to 0.")
    coded, restored = waves[label], waves["Restored"]
    diagnosis = diagnose(coded, sample_rate)
    n_total, n_keep = coded.shape[-1], round(seconds * sample_rate)
    start = 0
    if n_total > n_keep:
        start = _find_excerpt(coded, restored, n_keep, sample_rate)
        waves = {key: wav[:, start : start + n_keep] for key, wav in waves.items()}
    measured = {}
    for key, wav in waves.items():
        if original is not None and key != "Original":
            measured[key], reasons = _measure(wav, waves["Original"], sample_rate, metrics)
            notes += [f"{key}: {reason}." for reason in reasons if reason not in " ".join(notes)]
    if coded.shape[0] > 2:
        notes.append(f"Only channels 1 and 2 of {coded.shape[0]} are played.")
    waves[CHANGE] = waves["Restored"] - waves[label]
    spectra = {key: _spectrogram(wav, sample_rate) for key, wav in waves.items()}
    del waves[CHANGE]
    band_envelope = envelope(waves, sample_rate, diagnosis.cutoff)
    gains, level_note = _match_levels(waves, sample_rate)
    if level_note:
        notes.append(level_note)
    return Comparison(
        name=name,
        sample_rate=sample_rate,
        start=start / sample_rate,
        seconds=waves[label].shape[-1] / sample_rate,
        total_seconds=n_total / sample_rate,
        versions=[
            Version(key, wav[:2] * 10 ** (gains[key] / 20), gains[key], measured.get(key, {}))
            for key, wav in waves.items()
        ],
        spectrograms={key: picture for key, (picture, _) in spectra.items()},
        averages={key: average for key, (_, average) in spectra.items()},
        envelope=band_envelope,
        diagnosis=diagnosis,
        notes=notes,
    )


def _measure(
    wav: np.ndarray, original: np.ndarray, rate: int, metrics: Sequence[str]
) -> tuple[dict[str, float], list[str]]:
    """Compute the metrics, and the reasons why some are undefined."""
    reasons: dict[str, str] = {}
    try:
        return evaluate(wav, original, rate, metrics, reasons), list(reasons.values())
    except ValueError as error:
        return dict.fromkeys(metrics, math.nan), [one_line(error)]


def _align(
    reference: np.ndarray, wav: np.ndarray, rate: int, name: str, other: str
) -> tuple[np.ndarray, int]:
    """Align a reference with ``wav`` and match its length; return it and the shift in samples."""
    if reference.shape[0] != wav.shape[0]:
        raise AudioError(
            f"{name} has {reference.shape[0]} channel(s) and '{other}' has {wav.shape[0]}; "
            "a comparison needs the same"
        )
    difference = abs(reference.shape[-1] - wav.shape[-1]) / rate
    if difference > _MAX_LENGTH_DIFFERENCE:
        raise AudioError(
            f"{name} is {reference.shape[-1] / rate:.1f} s long and '{other}' "
            f"{wav.shape[-1] / rate:.1f} s; both have to be the same recording"
        )
    reach = round(_MAX_SHIFT_SECONDS * rate)
    # The first minute tells; correlation by FFT, padded so that nothing wraps.
    minutes = (x[:, : 60 * rate].astype(np.float64) for x in (wav, reference))
    one, two = (np.nan_to_num(minute, posinf=0, neginf=0) for minute in minutes)
    n_fft = 1 << (max(one.shape[-1], two.shape[-1]) + reach).bit_length()
    product = np.fft.rfft(one, n_fft) * np.fft.rfft(two, n_fft).conj()
    # Over channels last, so that those in antiphase do not cancel.
    correlation = np.fft.irfft(product.sum(0), n_fft)
    lags = np.concatenate((correlation[-reach:], correlation[: reach + 1]))
    shift = int(lags.argmax()) - reach if lags.max() > 0 else 0
    moved = reference[:, max(0, -shift) :]
    moved = np.pad(moved, ((0, 0), (max(0, shift), 0)))[:, : wav.shape[-1]]
    return np.pad(moved, ((0, 0), (0, wav.shape[-1] - moved.shape[-1]))), shift


def _find_excerpt(coded: np.ndarray, restored: np.ndarray, n_keep: int, rate: int) -> int:
    """Find the start of the excerpt that was changed most, in steps of a quarter second."""
    step = max(1, rate // 4)
    change = np.square(restored - coded).sum(0)
    blocks = change[: len(change) // step * step].reshape(-1, step).sum(-1, dtype=np.float64)
    n_blocks = max(1, n_keep // step)
    sums = np.pad(blocks.cumsum(), (1, 0))
    sums = sums[n_blocks:] - sums[:-n_blocks]
    return min(int(sums.argmax()) * step, coded.shape[-1] - n_keep)


def _match_levels(waves: dict[str, np.ndarray], rate: int) -> tuple[dict[str, float], str]:
    """Compute gains in dB to the loudness of the first, all lowered if one would clip; a note."""
    loudness = {key: _loudness(wav[:2], rate) for key, wav in waves.items()}
    first = next(iter(loudness.values()))
    gains = {
        key: first - value if math.isfinite(first - value) else 0.0
        for key, value in loudness.items()
    }
    peak = max(float(np.abs(wav).max()) * 10 ** (gains[key] / 20) for key, wav in waves.items())
    note = ""
    if peak > 1:
        lower = 20 * math.log10(peak)
        gains = {key: gain - lower for key, gain in gains.items()}
        note = f"All versions were lowered by {lower:.1f} dB to avoid clipping."
    return gains, note


def _loudness(wav: np.ndarray, rate: int) -> float:
    """Measure loudness in LUFS, of a signal too short for that RMS in dB; NaN for silence."""
    meter = Meter(rate, len(wav))
    meter.add(wav.T)
    level = meter.level()
    if len(level.powers):
        return math.nan if level.loudness is None else level.loudness
    return 10 * math.log10(float(np.square(wav).mean()) + 1e-20) if wav.any() else math.nan


def _spectrogram(wav: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Power of all channels in dB over (frequency, time), peaks kept; and its mean over time."""
    n_fft = 1 << max(6, round(math.log2(_WINDOW_SECONDS * rate)))
    hop = max(1, min(n_fft // 4, wav.shape[-1] // _COLUMNS))
    # Frames that lie inside: what is beyond the ends would smear them over all frequencies. Scaled
    # so that a sine of full scale is at 0 dB.
    spec = stft(wav, n_fft, hop) / (hann(n_fft).sum() / 2)
    power = np.square(np.abs(spec)).mean(0).T
    average = 10 * np.log10(power.mean(-1) + _FLOOR)
    peaks = _peaks(_peaks(power, min(_ROWS, len(power))).T, min(_COLUMNS, power.shape[1])).T
    return 10 * np.log10(peaks + _FLOOR), average


def _peaks(values: np.ndarray, n: int) -> np.ndarray:
    """Largest values of ``n`` parts of equal length, which may share an element at their ends."""
    edges = np.arange(n + 1) * len(values) / n
    return np.stack([values[math.floor(a) : math.ceil(b)].max(0) for a, b in zip(edges, edges[1:])])

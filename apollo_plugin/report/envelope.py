"""Energy of the high band over time, to compare the dynamics of restored highs with the original's.

ViSQOL is most sensitive to it: to transients that are sharp or smeared.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..spectra import hann, stft

# Upper end of the band, and its lower end if no cut-off was found.
_LOW_HZ, _HIGH_HZ = 8000.0, 16000.0
_FRAME_SECONDS, _HOP_SECONDS = 0.02, 0.01
_MOST_POINTS = 1200
_FLOOR = 1e-12
# Frames more than this below the original's loudest are not counted.
_RANGE_DB = 40.0


@dataclass(frozen=True)
class Envelope:
    """Levels of a band over time.

    Args:
        low: lower edge of the band in Hz.
        high: upper edge of the band in Hz.
        levels: dB by label, each ``(frames,)``; a full-scale sine in the band is at 0.
    """

    low: float
    high: float
    levels: Mapping[str, np.ndarray]

    def error(self, label: str, original: str) -> tuple[float, float] | None:
        """Compute mean and standard deviation of a version's level above the original's in dB, over
        the frames in which the original has content in the band; None if it has none."""
        ref = self.levels[original]
        counted = (ref > ref.max() - _RANGE_DB) & (ref > 10 * np.log10(_FLOOR) + 1)
        if not counted.any():
            return None
        difference = (self.levels[label] - ref)[counted]
        return float(difference.mean()), float(difference.std())


def envelope(
    waves: Mapping[str, np.ndarray], sample_rate: int, cutoff: float | None
) -> Envelope | None:
    """Measure the level of the band from the cut-off to 16 kHz, or to half of the sample rate.

    Args:
        waves: ``(channels, time)`` by label.
        sample_rate: in Hz.
        cutoff: cut-off of the input in Hz, if it has one.

    Returns:
        the envelope; None if the sample rate leaves no band.
    """
    nyquist = sample_rate / 2
    low = cutoff or min(_LOW_HZ, nyquist / 2)
    high = min(_HIGH_HZ if low < 0.9 * _HIGH_HZ else nyquist, nyquist)
    if high - low < 2 / _FRAME_SECONDS:
        return None
    levels = {key: _level(wav, sample_rate, low, high) for key, wav in waves.items()}
    return Envelope(low, high, levels)


def _level(wav: np.ndarray, rate: int, low: float, high: float) -> np.ndarray:
    n_fft = max(16, round(_FRAME_SECONDS * rate))
    hop = max(1, round(_HOP_SECONDS * rate), -(-wav.shape[-1] // _MOST_POINTS))
    bins = np.arange(n_fft // 2 + 1) * rate / n_fft
    inside = stft(wav, n_fft, hop)[..., (bins >= low) & (bins < high)]
    # By Parseval, of the mean square of a sine, which is 1/2.
    energy = 4 * np.square(np.abs(inside)).sum(-1) / (n_fft * np.square(hann(n_fft)).sum())
    return 10 * np.log10(energy.mean(0) + _FLOOR)

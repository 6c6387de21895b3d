"""Energy over time of a high band: whether what was added comes and goes as the original does.

It is what ViSQOL hears most: transients that stand, or smear.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..spectra import hann, stft

# The band ends where hearing does; where no codec's edge was found it begins at _LOW_HZ.
_LOW_HZ, _HIGH_HZ = 8000.0, 16000.0
_FRAME_SECONDS, _HOP_SECONDS = 0.02, 0.01
_MOST_POINTS = 1200
_FLOOR = 1e-12
# Frames this far below the original's loudest do not count in the figures.
_RANGE_DB = 40.0


@dataclass(frozen=True)
class Envelope:
    """Levels of a band over time.

    Args:
        low: of the band, in Hz.
        high: of the band, in Hz.
        levels: dB by label, each ``(frames,)``; a sine of full scale in the band is at 0.
    """

    low: float
    high: float
    levels: Mapping[str, np.ndarray]

    def error(self, label: str, original: str) -> tuple[float, float] | None:
        """How much louder a version is than the original, in dB: in the mean over the frames in
        which the original sounds, and how that varies from frame to frame (standard deviation).
        None where the original is silent in the band."""
        ref = self.levels[original]
        counted = (ref > ref.max() - _RANGE_DB) & (ref > 10 * np.log10(_FLOOR) + 1)
        if not counted.any():
            return None
        difference = (self.levels[label] - ref)[counted]
        return float(difference.mean()), float(difference.std())


def envelope(
    waves: Mapping[str, np.ndarray], sample_rate: int, cutoff: float | None
) -> Envelope | None:
    """Levels of the band above the cut-off, to 16 kHz or to where the file ends.

    Args:
        waves: ``(channels, time)`` by label.
        sample_rate: in Hz.
        cutoff: of the input in Hz, if it has one.

    Returns:
        None where the file's rate leaves no band.
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

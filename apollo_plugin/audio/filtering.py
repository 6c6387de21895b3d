"""FIR filtering by FFT, and a linear-phase high-pass."""

import math

import numpy as np

# Width of the transition band in Hz, and the attenuation in the stop band in dB.
_WIDTH = 200.0
_DB = 100.0
# Length of transforms in lengths of the response, before rounding up to a power of two.
_TIMES = 4


class Filter:
    """Convolution of a signal in parts with a finite impulse response (overlap-save)."""

    def __init__(self, taps: np.ndarray, n_channels: int):
        self._n_before = len(taps) - 1
        self._n_fft = 1 << math.ceil(math.log2(_TIMES * len(taps)))
        self._response = np.fft.rfft(taps, self._n_fft)
        self._before = np.zeros((n_channels, self._n_before))

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Filter the next ``(channels, n)`` samples; returns as many, float64."""
        samples = np.concatenate((self._before, samples), 1)
        n = samples.shape[1] - self._n_before
        self._before = samples[:, n:]
        out, step = np.empty((len(samples), n)), self._n_fft - self._n_before
        for begin in range(0, n, step):
            part = np.fft.rfft(samples[:, begin : begin + self._n_fft], self._n_fft)
            filtered = np.fft.irfft(part * self._response, self._n_fft)[:, self._n_before :]
            out[:, begin : begin + step] = filtered[:, : n - begin]
        return out


def high_pass(wav: np.ndarray, cutoff: float, sample_rate: int) -> np.ndarray:
    """Linear-phase high-pass: the upper side of a crossover.

    Args:
        wav: ``(channels, time)``.
        cutoff: in Hz; the pass band begins 200 Hz above it.
        sample_rate: in Hz.
    """
    nyquist = sample_rate / 2
    if cutoff + _WIDTH >= nyquist:
        return np.zeros_like(wav)
    taps = _high_pass_taps((cutoff + _WIDTH / 2) / nyquist, _WIDTH / nyquist)
    # Symmetric taps, trimmed by half their length: neither delay nor phase distortion.
    half = len(taps) // 2
    filtered, out = Filter(taps, len(wav)), np.empty_like(wav)
    n_samples, n_block = wav.shape[1], 1 << 18
    for begin in range(0, n_samples + half, n_block):
        part = wav[:, begin : begin + n_block]
        if begin + n_block > n_samples:
            missing = min(begin + n_block, n_samples + half) - max(begin, n_samples)
            part = np.pad(part, ((0, 0), (0, missing)))
        done = filtered(part)[:, max(0, half - begin) :]
        start = max(0, begin - half)
        out[:, start : start + done.shape[1]] = done
    return out


def _high_pass_taps(middle: float, width: float) -> np.ndarray:
    """Kaiser-windowed ideal high-pass (Oppenheim and Schafer, 7.5), with an odd number of taps.

    Args:
        middle: frequency of half the amplitude, in units of the Nyquist frequency.
        width: of the transition band, likewise.
    """
    n_taps = math.ceil((_DB - 7.95) / (2.285 * math.pi * width) + 1) | 1
    time = np.arange(n_taps) - n_taps // 2
    window = np.kaiser(n_taps, 0.1102 * (_DB - 8.7))
    taps = window * (np.sinc(time) - middle * np.sinc(middle * time))
    # Unit gain at the Nyquist frequency.
    return taps / (taps * np.cos(np.pi * time)).sum()

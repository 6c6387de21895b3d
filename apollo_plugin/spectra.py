"""Short-time spectra of sounds, for measurements and plots."""

import numpy as np


def hann(n: int) -> np.ndarray:
    """The periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)


def stft(wav: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Spectra of Hann-windowed frames inside a signal, at least one.

    Args:
        wav: ``(channels, time)``; padded with zeros if shorter than a frame.
        n_fft: length of a frame.
        hop: distance of frames.

    Returns:
        complex ``(channels, frames, bins)``.
    """
    wav = np.pad(wav, ((0, 0), (0, max(0, n_fft - wav.shape[-1]))))
    frames = np.lib.stride_tricks.sliding_window_view(wav, n_fft, -1)[:, ::hop]
    return np.fft.rfft(frames * hann(n_fft))

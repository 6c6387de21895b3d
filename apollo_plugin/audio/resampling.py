"""Resampling between any two rates."""

import numpy as np
import soxr


def resample(
    wav: np.ndarray, old_rate: int, new_rate: int, n_samples: int | None = None
) -> np.ndarray:
    """Resample with linear phase at soxr's highest quality, between any rates.

    Args:
        wav: ``(channels, time)``.
        old_rate: of ``wav``, in Hz.
        new_rate: of the result, in Hz.
        n_samples: length of the result; ``time * new_rate / old_rate`` rounded up unless given.

    Returns:
        float32 ``(channels, n_samples)``; ``wav`` itself if the rates are equal.
    """
    if old_rate == new_rate:
        return np.asarray(wav)
    if n_samples is None:
        n_samples = -(-wav.shape[-1] * new_rate // old_rate)
    # A copy: for a single sample NumPy 1 keeps strides that soxr refuses.
    samples = np.array(np.asarray(wav).T, dtype=np.float32, order="C")
    resampled = soxr.resample(samples, old_rate, new_rate, quality="VHQ")
    # soxr rounds lengths differently, by a sample at most.
    missing = n_samples - len(resampled)
    if missing > 0:
        resampled = np.pad(resampled, ((0, missing), (0, 0)))
    return resampled[:n_samples].T

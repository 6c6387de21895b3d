"""What lies above a frequency."""

import torch
from scipy.signal import firwin, kaiserord, oaconvolve

# The rise above its frequency in Hz, and what is left below it in dB.
_WIDTH = 200.0
_DB = 100.0


def high_pass(wav: torch.Tensor, cutoff: float, sample_rate: int) -> torch.Tensor:
    """A linear-phase crossover's upper side: what lies below it is gone.

    Args:
        wav: ``(channels, time)``.
        cutoff: in Hz; all of it passes from 200 Hz above.
        sample_rate: in Hz.
    """
    nyquist = sample_rate / 2
    if cutoff + _WIDTH >= nyquist:
        return torch.zeros_like(wav)
    n_taps, beta = kaiserord(_DB, _WIDTH / nyquist)
    middle = cutoff + _WIDTH / 2
    taps = firwin(n_taps | 1, middle, window=("kaiser", beta), pass_zero=False, fs=sample_rate)
    # Symmetric taps, cut in the middle: no delay, no phase.
    half = len(taps) // 2
    rows = [
        oaconvolve(channel.numpy(), taps.astype("float32"))[half : half + len(channel)]
        for channel in wav
    ]
    return torch.stack([torch.from_numpy(row) for row in rows])

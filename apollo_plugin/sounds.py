"""Sounds to compare: arrays, or tensors of any device, with or without a gradient."""

from typing import Any

import numpy as np

_MOST_CHANNELS = 8  # of a single sample; more indicate (time, channels)

Sound = Any  # np.ndarray or torch.Tensor; PyTorch is optional


def alike(est: Sound, ref: Sound) -> tuple[np.ndarray, np.ndarray]:
    """Convert an estimate and its reference to arrays of the same shape.

    Args:
        est: ``(channels, time)``, or ``(time,)`` for one channel.
        ref: likewise.

    Raises:
        ValueError: for different shapes, and for anything but sound: empty, of integers, of more
            axes, or ``(time, channels)``.
    """
    est, ref = _sound(est, "est"), _sound(ref, "ref")
    if est.shape != ref.shape:
        shapes = f"est of shape {est.shape} and ref of shape {ref.shape}"
        raise ValueError(f"{shapes} differ; a comparison needs the same channels and length")
    return est, ref


def array(wav: Sound) -> np.ndarray:
    """Return an array as it is, and a tensor as an array."""
    if not hasattr(wav, "detach"):
        return np.asarray(wav)
    wav = wav.detach().cpu()
    # NumPy has no bfloat16.
    return (wav.float() if wav.is_floating_point() and wav.itemsize < 4 else wav).numpy()


def _sound(wav: Sound, name: str) -> np.ndarray:
    wav = array(wav)
    wav = wav[None] if wav.ndim == 1 else wav
    if wav.ndim != 2 or wav.size == 0 or not np.issubdtype(wav.dtype, np.floating):
        raise ValueError(
            f"{name} of shape {wav.shape} and type {wav.dtype} is no sound; it takes floating "
            "point (channels, time)"
        )
    n_channels, n_samples = wav.shape
    if n_channels > (_MOST_CHANNELS if n_samples == 1 else n_samples):
        raise ValueError(
            f"{name} of shape {wav.shape} has more channels than samples; it takes "
            f"(channels, time), and soundfile gives (time, channels): pass {name}.T"
        )
    return wav

"""Sounds that are compared: tensors or arrays, of any device, with or without a gradient."""

import numpy as np
import torch

_MOST_CHANNELS = 8  # of one sample; more are an array (time, channels)

Sound = torch.Tensor | np.ndarray


def alike(est: Sound, ref: Sound) -> tuple[torch.Tensor, torch.Tensor]:
    """An estimate and its reference as tensors of one shape on the CPU, without gradients.

    Args:
        est: ``(channels, time)``, or ``(time,)`` for one channel.
        ref: likewise.

    Raises:
        ValueError: for shapes that differ, and for what is no sound: empty, of integers, of more
            axes, or ``(time, channels)``.
    """
    est, ref = _sound(est, "est"), _sound(ref, "ref")
    if est.shape != ref.shape:
        shapes = f"est of shape {tuple(est.shape)} and ref of shape {tuple(ref.shape)}"
        raise ValueError(f"{shapes} differ; a comparison needs the same channels and length")
    return est, ref


def _sound(wav: Sound, name: str) -> torch.Tensor:
    wav = torch.as_tensor(wav).detach().cpu()
    wav = wav.unsqueeze(0) if wav.ndim == 1 else wav
    shape = tuple(wav.shape)
    if wav.ndim != 2 or wav.numel() == 0 or not wav.is_floating_point():
        raise ValueError(
            f"{name} of shape {shape} and type {wav.dtype} is no sound; it takes floating point "
            "(channels, time)"
        )
    n_channels, n_samples = shape
    if n_channels > (_MOST_CHANNELS if n_samples == 1 else n_samples):
        raise ValueError(
            f"{name} of shape {shape} has more channels than samples; it takes "
            f"(channels, time), and soundfile gives (time, channels): pass {name}.T"
        )
    return wav

"""Restoration block by block of signals at the model's rate, in PyTorch."""

import warnings
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from .engine.protocol import Progress, scaled

if TYPE_CHECKING:
    from .network.base import RestorationNetwork

# An activation's size in a block of restore_wav; the widest layers make eight of it. Twice this
# size is no faster; eight times takes half as long again and 1.5 GB more (full size, two cores).
_BLOCK_BYTES = 2 << 20
# GPUs need larger blocks.
_GPU_BLOCK_BYTES = 64 << 20


@torch.no_grad()
def restore_wav(
    model: "RestorationNetwork",
    wav: torch.Tensor,
    block_seconds: float | None = None,
    progress: Progress | bool | None = None,
    state: Any = None,
    level: float = 1.0,
) -> torch.Tensor:
    """Restore a signal of any length at the model's rate, block by block; the result equals
    ``model(wav)``.

    Memory beyond the signal and its restoration depends on ``block_seconds`` only.

    Args:
        model: an Apollo, or another network of restoration.
        wav: ``(..., time)``, on any device; blocks are moved to the model's.
        block_seconds: length of a block; unless given, one whose activations fit into caches.
        progress: True for a progress bar, or a function of the step's name, the seconds done and
            the total.
        state: of the model's first step, in place of its own.
        level: divisor of the model's input and factor of its output.

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
                # The step has not changed its state, so half of the block can be tried.
                n_block = (n_block + 1) // 2
                warnings.warn(
                    f"out of memory on {device}; going on with blocks of {n_block / rate:.3g} s",
                    stacklevel=2,
                )
                continue
            stop = start + out.shape[-1]
            source = streams[:, start:stop].to(device)
            restored[:, start:stop] = scaled(source, out, level, model.adds)
            start = stop
            bar.update(end - begin)
            begin = end
            if callable(progress):
                progress("restoring", begin / rate, n_samples / rate)
    return restored.reshape(wav.shape)

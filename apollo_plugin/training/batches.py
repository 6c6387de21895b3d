"""Checks of batches: their shapes, and items that no metric can be computed of; items of each
process."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from itertools import islice
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler, default_collate

from ..errors import DataError

# Least peak of an original, -120 dB: below it relative errors are meaningless.
_LEAST_PEAK = 1e-6


def check_batch(batch: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Check a batch; return coded and original signal, ``(batch, channels, time)`` each.

    Args:
        batch: coded and original, of equal shape; ``(batch, time)`` stands for one channel.

    Raises:
        DataError: for anything else.
    """
    if not isinstance(batch, (list, tuple)) or len(batch) != 2:
        given = f"{len(batch)} items" if isinstance(batch, (list, tuple)) else type(batch).__name__
        raise DataError(f"a batch is (coded, original), two tensors; the loader gave {given}")
    for name, wav in zip(("coded", "original"), batch):
        if not torch.is_tensor(wav) or not wav.is_floating_point():
            kind = wav.dtype if torch.is_tensor(wav) else type(wav).__name__
            raise DataError(f"the {name} signal of a batch is {kind}, not a floating point tensor")
        if wav.ndim not in (2, 3) or wav.numel() == 0:
            raise DataError(
                f"the {name} signal of a batch has shape {tuple(wav.shape)}; expected "
                "(batch, channels, time) or (batch, time)"
            )
    coded, original = (wav.unsqueeze(1) if wav.ndim == 2 else wav for wav in batch)
    if coded.shape != original.shape:
        raise DataError(
            f"the coded signal of a batch has shape {tuple(coded.shape)}, the original "
            f"{tuple(original.shape)} (batch, channels, time); they have to be equal"
        )
    return coded, original


def collate(items: list) -> object:
    """Collate as torch's ``default_collate``, with a readable error.

    Raises:
        DataError: for items of different shapes.
    """
    try:
        return default_collate(items)
    except (RuntimeError, TypeError) as error:
        shapes = [
            " and ".join(str(tuple(getattr(part, "shape", ()))) for part in item)
            for item in items
            if isinstance(item, (list, tuple))
        ]
        if len(set(shapes)) < 2:
            raise
        raise DataError(
            f"items of one batch have different shapes: {', '.join(shapes)}; cut them to the same "
            "length, or set batch_size to 1"
        ) from error


def use_collate(loader: DataLoader | None) -> None:
    """Make a loader use :func:`collate` in place of torch's default."""
    if isinstance(loader, DataLoader) and loader.collate_fn is default_collate:
        loader.collate_fn = collate


def find_unusable(coded: torch.Tensor, original: torch.Tensor) -> dict[int, str]:
    """Find the items of a batch that no metric can be computed of, each with the reason."""
    reasons = {}
    for index, pair in enumerate(zip(coded, original)):
        for name, wav in zip(("coded", "original"), pair):
            if not torch.isfinite(wav).all():
                reasons[index] = f"its {name} signal holds NaN or infinity"
        if index not in reasons and pair[1].abs().max() < _LEAST_PEAK:
            reasons[index] = "its original is silent"
    return reasons


def item_indices(loader: Any, batch: int) -> list[int]:
    """Indices of a batch's items in the data set; empty if their order is unknown.

    Args:
        loader: Lightning's loader; under DDP its sampler shuffles, seeded by the epoch.
        batch: number of the batch.
    """
    ordered = isinstance(getattr(loader, "sampler", None), (SequentialSampler, DistributedSampler))
    sampler = getattr(loader, "batch_sampler", None)
    return list(next(islice(iter(sampler), batch, None), [])) if ordered and sampler else []


def n_repeated(loader: Any, n_seen: int, n_items: int) -> int:
    """Count the items at the end of a batch that only fill up this process's share: the sampler of
    several processes repeats items so that all have equally many, which would distort means.

    Args:
        loader: Lightning's loader.
        n_seen: items of this process before the batch.
        n_items: size of the batch.
    """
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return 0
    # Item k of a process is item k * num_replicas + rank of all.
    n_mine = len(range(sampler.rank, len(cast(Sized, sampler.dataset)), sampler.num_replicas))
    return min(n_items, max(0, n_seen + n_items - n_mine))

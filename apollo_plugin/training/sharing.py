"""Distribution of items over processes."""

from collections.abc import Sized
from itertools import islice
from typing import Any, cast

from torch.utils.data import DistributedSampler, SequentialSampler


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

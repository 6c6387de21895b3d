"""Distribution of items over processes."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler


def item_indices(loader: Any, batch: int) -> list[int]:
    """Indices of a batch's items in the data set; empty if their order is unknown.

    Args:
        loader: Lightning's loader; under DDP its sampler shuffles, seeded by the epoch.
        batch: number of the batch.
    """
    ordered = isinstance(getattr(loader, "sampler", None), (SequentialSampler, DistributedSampler))
    sampler = getattr(loader, "batch_sampler", None)
    return list(next(islice(iter(sampler), batch, None), [])) if ordered and sampler else []


def share_loader(loader: DataLoader, n_processes: int, rank: int) -> DataLoader:
    """Make a loader of a process's share of the items, each item once; a loader with a sampler of
    its own stays unchanged."""
    if not isinstance(loader.sampler, SequentialSampler):
        return loader
    return DataLoader(
        loader.dataset,
        loader.batch_size,
        sampler=_Share(loader.dataset, n_processes, rank),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
    )


def is_padded(loader: Any) -> bool:
    """Return True if a process has no share, only a padding item that must not be counted."""
    return getattr(getattr(loader, "sampler", None), "padded", False)


class _Share(DistributedSampler):
    """Sampler of every ``n_processes``-th item. torch's own repeats items so that all processes
    have equally many, which would distort means."""

    def __init__(self, dataset: Any, n_processes: int, rank: int):
        super().__init__(dataset, n_processes, rank, shuffle=False)
        self.mine = range(rank, len(dataset), n_processes)
        # A process without items gets one that is not counted: otherwise it would not take part in
        # validation, and the others would wait for it.
        self.padded = not self.mine
        if self.padded:
            self.mine = range(1)

    def __iter__(self) -> Iterator[int]:
        return iter(self.mine)

    def __len__(self) -> int:
        return len(self.mine)

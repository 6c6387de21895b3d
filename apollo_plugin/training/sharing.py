"""Which process sees which items."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler


def items_of(loader: Any, batch: int) -> list[int]:
    """Indices of a batch's items in the data set; none where their order is not known.

    Args:
        loader: what Lightning trains with; under DDP its sampler shuffles, by the epoch.
        batch: its number.
    """
    known = isinstance(getattr(loader, "sampler", None), (SequentialSampler, DistributedSampler))
    sampler = getattr(loader, "batch_sampler", None)
    return list(next(islice(iter(sampler), batch, None), [])) if known and sampler else []


def shared(loader: DataLoader, n_processes: int, rank: int) -> DataLoader:
    """A loader of a process's share of the items, none of them twice; one with a sampler of its own
    stays as it is."""
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
    """Whether a process's share is an item that another one has, and that does not count here."""
    return getattr(getattr(loader, "sampler", None), "padded", False)


class _Share(DistributedSampler):
    """Every so many-th item from a process's own on, and none twice: torch's own repeats some, so
    that all processes have as many, which a mean must not see."""

    def __init__(self, dataset: Any, n_processes: int, rank: int):
        super().__init__(dataset, n_processes, rank, shuffle=False)
        self.mine = range(rank, len(dataset), n_processes)
        # A process without items has one that does not count: without any it would not take part in
        # validation, and the others would wait for it.
        self.padded = not self.mine
        if self.padded:
            self.mine = range(1)

    def __iter__(self) -> Iterator[int]:
        return iter(self.mine)

    def __len__(self) -> int:
        return len(self.mine)

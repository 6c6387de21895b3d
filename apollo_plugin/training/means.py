"""Means over the items of all processes: sums and counts are reduced, then divided."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import pytorch_lightning as pl


class Means:
    """Running means by name, each over the values that were added in any process.

    Lightning divides the mean of the sums by the mean of the counts, rounded down.

    Example:
        >>> means = Means()
        >>> means.add("loss", [1.0, 2.0])
        >>> means.add("loss", [6.0])
        >>> means.reduce()
        {'loss': 3.0}
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, name: str, values: torch.Tensor | list[float]) -> None:
        """Add values of any shape; an empty tensor adds the name with a count of 0."""
        # On the CPU, as Apple's GPUs have no double precision.
        values = torch.as_tensor(values).detach().cpu().double().flatten()
        both = torch.stack((values.sum(), torch.tensor(values.numel(), dtype=torch.float64)))
        self._sums[name] = self._sums.get(name, 0) + both

    def reduce(self, trainer: pl.Trainer | None = None) -> dict[str, float]:
        """Compute the means, the same in every process, and start afresh. A name without any value
        is NaN.

        Args:
            trainer: trainer of the processes. All of them have to call, with the same names.
        """
        names, sums = list(self._sums), list(self._sums.values())
        self._sums = {}
        if not names:
            return {}
        total = torch.stack(sums)
        if trainer is not None and trainer.world_size > 1:
            total = total.to(trainer.strategy.root_device)
            torch.distributed.all_reduce(total)
        means = total[:, 0] / total[:, 1]
        return dict(zip(names, means.tolist()))

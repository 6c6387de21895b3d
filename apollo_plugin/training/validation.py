"""Metrics of validation, of the model and of the coded signal as its baseline, and means over the
items of all processes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from ..errors import TrainingError
from ..losses import Signal
from ..metrics import si_sdr
from .batches import find_unusable, item_indices, n_repeated

if TYPE_CHECKING:
    import pytorch_lightning as pl

# Metrics of the model; those of the coded signal have the suffix "_coded".
_NAMES = ("val_loss", "val_reconstruction", "val_si_snr")
Loss = Callable[[Signal, Signal, Signal], torch.Tensor]


class Means:
    """Running means by name, each over the values that were added in any process: sums and counts
    are reduced, then divided.

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


class Figures:
    """Means over all items of validation, in all processes. Items that no metric can be computed of
    are named once and left out.

    Args:
        val_loss: loss of estimate, original and coded signal of one item.
        reconstruction: likewise.
    """

    def __init__(self, val_loss: Loss, reconstruction: Loss):
        self.losses = (val_loss, reconstruction)
        self.means = Means()
        self.n_seen = 0
        self.left_out: set[str] = set()

    def add(
        self, est: torch.Tensor, coded: torch.Tensor, original: torch.Tensor, loader, batch_nb: int
    ) -> None:
        """Measure a batch, ``(batch, channels, time)`` each.

        Args:
            est: the model's output.
            coded: its input.
            original: its target.
            loader: loader of the batch.
            batch_nb: number of the batch in the loader.
        """
        n_new = len(coded) - n_repeated(loader, self.n_seen, len(coded))
        self.n_seen += len(coded)
        reasons = find_unusable(coded, original)
        values: dict[str, list[float]] = {f"{n}{end}": [] for end in ("", "_coded") for n in _NAMES}
        # One by one: losses that are no mean over items would depend on their distribution.
        for index in range(n_new):
            if index in reasons:
                self._warn(reasons[index], index, item_indices(loader, batch_nb), batch_nb)
                continue
            restored, given, ref = (Signal(wav[index, None]) for wav in (est, coded, original))
            for end, signal in (("", restored), ("_coded", given)):
                for name, loss in zip(_NAMES, self.losses):
                    values[name + end].append(float(loss(signal, ref, given)))
                # On the CPU, as Apple's GPUs have no double precision.
                si_snr = si_sdr(signal.wav[0].detach().cpu(), ref.wav[0].cpu())
                if math.isfinite(si_snr):
                    values[f"{_NAMES[-1]}{end}"].append(si_snr)
        for name, added in values.items():
            self.means.add(name, added)

    def _warn(self, reason: str, index: int, items: list[int], batch_nb: int) -> None:
        name = f"{items[index]}" if items else f"{index} of batch {batch_nb}"
        if name not in self.left_out:
            self.left_out.add(name)
            warnings.warn(f"validation item {name} is left out: {reason}", stacklevel=2)

    def reduce(self, trainer: pl.Trainer) -> Mapping[str, float]:
        """Compute the means over all processes.

        Raises:
            TrainingError: in all of them, if ``val_loss`` is not finite.
        """
        means, self.n_seen = self.means.reduce(trainer), 0
        if not trainer.sanity_checking and not math.isfinite(means.get("val_loss", 0.0)):
            raise TrainingError(
                "no item of validation can be used: each is silent or holds NaN"
                if math.isnan(means["val_reconstruction_coded"])
                else f"val_loss is {means['val_loss']} in epoch {trainer.current_epoch}; lower the "
                "learning rate"
            )
        return means

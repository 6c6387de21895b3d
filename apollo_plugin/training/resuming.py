"""What a resumed run takes from its checkpoint, and what from its command."""

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR

from ..errors import TrainingError


def refused(reason: str) -> BaseException:
    """One process says why, the others end with it."""
    return TrainingError(reason) if rank_zero_only.rank == 0 else SystemExit(1)


def epochs_done(last: Path) -> int:
    """Whole epochs that a checkpoint holds."""
    if not last.exists():
        raise refused(f"nothing to resume: '{last}' is missing; leave --resume away")
    try:
        with zipfile.ZipFile(last) as file:
            damaged = file.testzip()
        if damaged:
            raise zipfile.BadZipFile(damaged)
        checkpoint = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
        return int(checkpoint["epoch"]) + 1
    except (
        *(zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, OSError),
        *(KeyError, TypeError, ValueError),
    ) as error:
        others = [path for path in last.parent.glob("*.ckpt") if path != last]
        newest = max(others, key=lambda path: path.stat().st_mtime, default=None)
        cure = f"copy '{newest.name}' over it" if newest else "train anew under another --tag"
        raise refused(f"'{last}' is damaged, or no checkpoint of a training; {cure}") from error


def apply_settings(
    checkpoint: dict[str, Any], optimizers: Sequence[Optimizer], schedulers: Sequence[Any]
) -> None:
    """Puts the settings of optimizers and schedules into a checkpoint that is about to be loaded:
    weight decay, betas, and learning rates as if the schedule had been so from the start. The
    moments stay. Schedules other than ``StepLR`` stay as they were.

    Args:
        checkpoint: Lightning's; it is changed.
        optimizers: as the configuration has made them, before anything is loaded into them.
        schedulers: likewise.
    """
    for index, optimizer in enumerate(optimizers):
        kept = checkpoint["optimizer_states"][index]["param_groups"]
        rates = [group["lr"] for group in optimizer.param_groups]
        place = next((i for i, s in enumerate(schedulers) if s.optimizer is optimizer), None)
        if place is not None:
            scheduler, state = schedulers[place], checkpoint["lr_schedulers"][place]
            if not isinstance(scheduler, StepLR):
                continue
            asked = {key: getattr(scheduler, key) for key in ("step_size", "gamma", "base_lrs")}
            if all(state[key] == value for key, value in asked.items()):
                rates = [group["lr"] for group in kept]  # to the last bit
            else:
                factor = scheduler.gamma ** (state["last_epoch"] // scheduler.step_size)
                rates = [base * factor for base in scheduler.base_lrs]
            state.update(asked, _last_lr=rates)
        for old, new, rate in zip(kept, optimizer.param_groups, rates):
            old.update({key: value for key, value in new.items() if key != "params"}, lr=rate)


def match_average(weights: dict[str, torch.Tensor], wanted: bool) -> None:
    """A running average that is new begins at the weights; one that is gone is dropped.

    Args:
        weights: state dict of the system; it is changed.
        wanted: whether the run goes on with an average.
    """
    averaged = [key for key in weights if key.startswith("average.")]
    if not wanted:
        for key in averaged:
            del weights[key]
    elif not averaged:
        weights["average.n_averaged"] = torch.zeros((), dtype=torch.long)
        for key in [key for key in weights if key.startswith("model.")]:
            weights[f"average.module.{key.removeprefix('model.')}"] = weights[key].clone()

"""Resuming of a run: state from its checkpoint, settings from its command."""

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


def is_first_process() -> bool:
    """True in the process that writes the files and messages of a run."""
    return getattr(rank_zero_only, "rank", 0) == 0


def refusal(reason: str) -> BaseException:
    """Error that ends all processes of a run; only the first one reports the reason."""
    return TrainingError(reason) if is_first_process() else SystemExit(1)


def epochs_done(last: Path) -> int:
    """Number of complete epochs in a checkpoint."""
    if not last.exists():
        raise refusal(f"nothing to resume: '{last}' is missing; omit --resume")
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
        cure = f"copy '{newest.name}' over it" if newest else "start again in another folder"
        raise refusal(f"'{last}' is damaged, or not a checkpoint of a training; {cure}") from error


def apply_settings(
    checkpoint: dict[str, Any], optimizers: Sequence[Optimizer], schedulers: Sequence[Any]
) -> None:
    """Apply the settings of optimizers and schedules to a checkpoint before it is loaded: weight
    decay, betas, and learning rates as if the schedule had been in use from the start. Moments stay
    unchanged, and so do schedules other than ``StepLR``.

    Args:
        checkpoint: Lightning's checkpoint, changed in place.
        optimizers: optimizers made from the configuration, before any state is loaded.
        schedulers: likewise.
    """
    for index, optimizer in enumerate(optimizers):
        groups = checkpoint["optimizer_states"][index]["param_groups"]
        rates = [group["lr"] for group in optimizer.param_groups]
        place = next((i for i, s in enumerate(schedulers) if s.optimizer is optimizer), None)
        if place is not None:
            scheduler, state = schedulers[place], checkpoint["lr_schedulers"][place]
            if not isinstance(scheduler, StepLR):
                continue
            settings = {key: getattr(scheduler, key) for key in ("step_size", "gamma", "base_lrs")}
            if all(state[key] == value for key, value in settings.items()):
                rates = [group["lr"] for group in groups]  # exact to the last bit
            else:
                factor = scheduler.gamma ** (state["last_epoch"] // scheduler.step_size)
                rates = [base * factor for base in scheduler.base_lrs]
            state.update(settings, _last_lr=rates)
        for old, new, rate in zip(groups, optimizer.param_groups, rates):
            old.update({key: value for key, value in new.items() if key != "params"}, lr=rate)


def match_average(weights: dict[str, torch.Tensor], wanted: bool) -> None:
    """Add a running average to a checkpoint, starting at its weights, or remove it, as needed.

    Args:
        weights: state dict of the system, changed in place.
        wanted: True if the run continues with an average.
    """
    averaged = [key for key in weights if key.startswith("average.")]
    if not wanted:
        for key in averaged:
            del weights[key]
    elif not averaged:
        weights["average.n_averaged"] = torch.zeros((), dtype=torch.long)
        for key in [key for key in weights if key.startswith("model.")]:
            weights[f"average.module.{key.removeprefix('model.')}"] = weights[key].clone()

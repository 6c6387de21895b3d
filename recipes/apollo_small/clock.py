"""Trainings over a time budget, with averaged weights and resumption."""

import argparse
import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from apollo_plugin.files import atomic_write

SAVED_EVERY = 60.0  # s


class Learner:
    """A module, its optimizer and the running average of its weights.

    Args:
        module: its parameters that require a gradient are trained.
        lr: highest learning rate of AdamW.
        warm_up: steps until it is reached.
        newest: the newest weights have a share of ``newest / (newest + steps)`` in the average...
        least: ... but at least this one.
        options: of AdamW.
    """

    def __init__(
        self, module: nn.Module, lr: float, warm_up: int, newest: float, least: float, **options
    ):
        self.module, self.lr, self.warm_up = module, lr, warm_up
        self.learning = [weight for weight in module.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learning, lr, **options)

        def mean(average, weight, n):
            return torch.lerp(average, weight, torch.clamp(newest / (newest + n), min=least))

        self.average = AveragedModel(module, avg_fn=mean)
        self.average.n_averaged.fill_(1)  # the initial weights count
        self.n_steps = 0

    def descend(self, loss: torch.Tensor, rate: float) -> None:
        """Do one step at a share ``rate`` of the learning rate."""
        self.optimizer.param_groups[0]["lr"] = self.lr * rate * min(1, self.n_steps / self.warm_up)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learning, 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.module)
        self.n_steps += 1

    def state(self) -> dict:
        return dict(
            module=self.module.state_dict(),
            average=self.average.state_dict(),
            optimizer=self.optimizer.state_dict(),
            n_steps=self.n_steps,
        )

    def resume(self, state: dict) -> None:
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.n_steps = state["n_steps"]


def rate_at(share: float) -> float:
    """Share of the learning rate at a share of the time."""
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))


def kept(args: argparse.Namespace) -> dict:
    """State saved in ``--out`` by :func:`until_over`; empty if there is none."""
    file = args.out / "state"
    if not file.exists():
        return {}
    return torch.load(file, weights_only=True, map_location=args.device)


def until_over(
    args: argparse.Namespace, before: float, state: Callable[[], dict]
) -> Iterator[float]:
    """Yield the seconds used until ``--minutes`` are over; saves them and ``state()`` every minute.

    Args:
        args: of the command.
        before: seconds used by earlier runs.
        state: of the training.
    """
    saved, start = before, time.time() - before
    while (used := time.time() - start) < 60 * args.minutes:
        yield used
        if used - saved > SAVED_EVERY:
            saved = used
            with atomic_write(args.out / "state") as beside:
                torch.save(state() | dict(used=used), beside)

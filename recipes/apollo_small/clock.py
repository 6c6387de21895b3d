"""Trainings that follow the clock, average their weights and go on where they were stopped."""

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
        module: of it learns what requires a gradient.
        lr: highest learning rate, of AdamW.
        warm_up: steps until it is reached.
        newest: the share of the newest weights in the average is this over this and the steps...
        least: ... but no less.
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
        self.average.n_averaged.fill_(1)  # what the module starts from counts
        self.n_steps = 0

    def descend(self, loss: torch.Tensor, rate: float) -> None:
        """One step at a share ``rate`` of the learning rate."""
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
    """Of the learning rate, at a share of the time."""
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))


def kept(args: argparse.Namespace) -> dict:
    """What :func:`until_over` left in ``--out``, or nothing."""
    file = args.out / "state"
    if not file.exists():
        return {}
    return torch.load(file, weights_only=True, map_location=args.device)


def until_over(
    args: argparse.Namespace, before: float, state: Callable[[], dict]
) -> Iterator[float]:
    """Seconds used, until ``--minutes`` are over; keeps them and ``state()`` every minute.

    Args:
        args: of the command.
        before: seconds used by runs before.
        state: of the training.
    """
    saved, start = before, time.time() - before
    while (used := time.time() - start) < 60 * args.minutes:
        yield used
        if used - saved > SAVED_EVERY:
            saved = used
            with atomic_write(args.out / "state") as beside:
                torch.save(state() | dict(used=used), beside)

"""Training of Apollo as an Asteroid System: two networks, two optimizers, one step each."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..errors import SettingError, TrainingError
from ..losses import GeneratorLoss, MultiResolutionSTFTDiscriminator, Signal, SRGANCritic, SRGANLoss
from ..model import Apollo, RestorationModel
from . import schedules
from .base_system import BaseSystem, require_precision
from .batches import check_batch, item_indices
from .memory import recomputed

__all__ = ["ApolloSystem", "frozen", "require_precision"]


class ApolloSystem(BaseSystem):
    """System that trains a generator against discriminators, or alone (sections II-E and III-B).

    Batches are ``(coded, original)``, ``(batch, channels, time)`` each, or ``(batch, time)``. The
    monitored ``val_loss`` is the part of the generator's loss that needs no discriminator. Means
    are over the items of all processes; validation items that no metric can be computed of (silent
    or NaN) are named and left out.

    Args:
        model: the generator.
        optimizer: optimizer of the generator; with a discriminator a pair, the discriminator's
            second.
        loss_func: loss of the generator.
        train_loader: training data; its data set's ``set_epoch``, if any, is called for each epoch.
        val_loader: validation data.
        scheduler: one or several learning rate schedules, stepped once per epoch, or as a mapping
            tells: see :func:`~apollo_plugin.training.schedules.normalize`.
        config: plain values, saved in checkpoints.
        discriminator: None trains a plain regression model.
        warmup_steps: optimizer steps of the generator before the discriminator joins.
        gradient_clip: largest norm of each network's gradient.
        accumulate: batches per step. The discriminator's new weights judge the last of them, its
            old ones the others.
        ema_decay: decay of a running average of the generator's weights, used for validation and
            ``best_model.pth``; 0 for none.
        recompute: store few activations, see :mod:`apollo_plugin.training.memory`.
        compile: run Apollo's layers by ``torch.compile``, except in the running average.
    """

    # Of the model's kind: see SRGANSystem.
    loss_func: Any
    discriminator: Any

    def __init__(
        self,
        model: RestorationModel,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        loss_func: GeneratorLoss | SRGANLoss,
        train_loader: DataLoader,
        val_loader: DataLoader | None = None,
        scheduler: Any = None,
        config: Mapping[str, Any] | None = None,
        *,
        discriminator: MultiResolutionSTFTDiscriminator | SRGANCritic | None = None,
        warmup_steps: int = 0,
        gradient_clip: float = 5.0,
        accumulate: int = 1,
        ema_decay: float = 0.0,
        recompute: bool = False,
        compile: bool = False,
    ):
        optimizers = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
        if len(optimizers) != (1 if discriminator is None else 2):
            raise SettingError(
                f"{len(optimizers)} optimizers do not fit {'a' if discriminator else 'no'} "
                "discriminator: each network takes one"
            )
        if not 0 <= ema_decay < 1 or accumulate < 1 or warmup_steps < 0 or not gradient_clip > 0:
            raise SettingError(
                f"ema_decay {ema_decay} has to be in [0, 1), accumulate {accumulate} 1 or more, "
                f"warmup_steps {warmup_steps} 0 or more, gradient_clip {gradient_clip} positive"
            )
        super().__init__(
            model,
            optimizers,
            loss_func,
            train_loader,
            val_loader,
            scheduler,
            config=config,
            ema_decay=ema_decay,
        )
        self.discriminator = discriminator
        self.warmup_steps, self.gradient_clip = warmup_steps, gradient_clip
        self.accumulate, self.recompute = accumulate, recompute
        if compile:
            # Layer by layer, inside of what is recomputed.
            for layer in cast(Apollo, model).layers:
                for module in (layer.roformer, *layer.tcn):
                    vars(module)["forward"] = torch.compile(module.forward)

    def training_step(self, batch: Sequence[torch.Tensor], batch_nb: int) -> None:
        """Make a discriminator step, then a generator step with the updated discriminator."""
        coded, original = batch = check_batch(batch)
        with recomputed(self.model) if self.recompute else contextlib.nullcontext():
            est, ref = Signal(self(coded)), Signal(original)
        optimizers = self._optimizers()
        judged_est = judged_ref = None
        log = {}

        if self.discriminator is not None and self.n_steps >= self.warmup_steps:
            judged_est, judged_ref = self.discriminator.judge(est.detach(), ref)
            loss = self.loss_func.adversarial.discriminator_loss(
                judged_est.scores, judged_ref.scores
            )
            log["discriminator/loss"] = loss
            self._step(optimizers[1], self.discriminator, loss, log, batch, batch_nb)
            with frozen(self.discriminator):
                judged_est, judged_ref = self.discriminator.judge(est, ref)

        loss, parts = self.loss_func(est, ref, judged_est, judged_ref, coded)
        self._step_generator(loss, parts, log, batch, batch_nb)

    def _step_generator(self, loss, parts, log, batch, batch_nb) -> None:
        log |= {"loss": loss} | {f"loss/{name}": part for name, part in parts.items()}
        if self._step(self._optimizers()[0], self.model, loss, log, batch, batch_nb):
            self.n_steps += 1
            if self.average is not None:
                self.average.update_parameters(self.model)
        self.log_dict({name: value.detach() for name, value in log.items()}, prog_bar=False)
        self._train_means.add("epoch_loss", loss.expand(len(batch[0])))
        if self.trainer.is_last_batch:
            self._log_equal(self._train_means.reduce(self.trainer))

    def _step(self, optimizer, network, loss, log, batch, batch_nb) -> bool:
        """Make a backward pass, and a clipped step once enough batches are accumulated."""
        first = batch_nb - batch_nb % self.accumulate
        n_batches = min(self.accumulate, self.trainer.num_training_batches - first)
        self._require_finite(loss, log, batch, batch_nb)
        self.manual_backward(loss / n_batches)
        if batch_nb - first + 1 < n_batches:
            return False
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.gradient_clip)
        log["gradient/" + ("generator" if network is self.model else "discriminator")] = norm
        self._require_finite(norm, log, batch, batch_nb)
        optimizer.step()
        optimizer.zero_grad()
        n_steps = int(self.n_steps) + 1
        schedules.end_step(self.trainer, self.scheduler, optimizer.optimizer, n_steps)
        return True

    def _require_finite(self, value, log, batch, batch_nb):
        if torch.isfinite(value):
            return
        items: Sequence[Any] = item_indices(self.trainer.train_dataloader, batch_nb) or [
            f"{i} of the batch" for i in range(len(batch[0]))
        ]
        causes = [
            f"the {name} signal of item {item}"
            for name, signals in zip(("coded", "original"), batch)
            for item, signal in zip(items, signals)
            if not torch.isfinite(signal).all()
        ]
        causes += [f"{name} is {v.item()}" for name, v in log.items() if not torch.isfinite(v)]
        raise TrainingError(
            f"NaN or infinity in epoch {self.current_epoch}, batch {batch_nb} (items "
            f"{', '.join(map(str, items))}): {', '.join(causes) or 'in a gradient'}; if the items "
            "are intact, lower the learning rate"
        )


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Disable gradients for the weights of a network in this context."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)

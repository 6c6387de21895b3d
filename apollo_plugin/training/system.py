"""The training of Apollo as an Asteroid System: two networks, two optimizers, one step each."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from asteroid.engine.system import System
from asteroid.utils import flatten_dict
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from ..errors import SettingError, TrainingError
from ..losses import (
    GeneratorLoss,
    MultiResolutionSTFTDiscriminator,
    ReconstructionLoss,
    Signal,
    SRGANCritic,
    SRGANLoss,
)
from ..model import RestorationModel
from . import schedules
from .batches import checked, with_checks
from .means import Means
from .memory import recomputed
from .resuming import apply_settings, match_average
from .sharing import items_of, shared
from .validation import Figures


class ApolloSystem(System):
    """Trains a generator against discriminators, or alone (sections II-E and III-B).

    Batches are ``(coded, original)``, ``(batch, channels, time)`` each, or ``(batch, time)``. The
    monitored ``val_loss`` is the part of the generator's loss that needs no discriminator. Means
    are over the items of all processes; items of validation that no figure can be made of (silent
    or NaN) are named and left out.

    Args:
        model: the generator.
        optimizer: of the generator; with a discriminator a pair, its own second.
        loss_func: the generator's loss.
        train_loader: for training; its data set's ``set_epoch``, if it has one, hears of epochs.
        val_loader: for validation.
        scheduler: of learning rates, one or several; stepped once an epoch, or as a mapping says:
            see :func:`~apollo_plugin.training.schedules.configured`.
        config: plain values, kept in checkpoints.
        discriminator: None trains a plain regression model.
        warmup_steps: optimizer steps of the generator before the discriminator joins.
        gradient_clip: largest norm of each network's gradient.
        accumulate: batches a step. The discriminator's new weights judge the last of them, its old
            ones the others.
        ema_decay: of the running average of the generator's weights, which is what validation and
            ``best_model.pth`` take; 0 goes without.
        recompute: keep few activations, see :mod:`apollo_plugin.memory`.
    """

    def __init__(
        self,
        model: RestorationModel,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        loss_func: GeneratorLoss | SRGANLoss,
        train_loader: DataLoader,
        val_loader: DataLoader | None = None,
        scheduler: Any = None,
        config: Mapping[str, Any] | None = None,
        discriminator: MultiResolutionSTFTDiscriminator | SRGANCritic | None = None,
        warmup_steps: int = 0,
        gradient_clip: float = 5.0,
        accumulate: int = 1,
        ema_decay: float = 0.0,
        recompute: bool = False,
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
        scheduler = schedules.configured(scheduler, self.default_monitor)
        train_loader, val_loader = with_checks(train_loader), with_checks(val_loader)
        super().__init__(model, optimizers, loss_func, train_loader, val_loader, scheduler, config)
        # Two optimizers: Lightning leaves backward passes and steps to training_step.
        self.automatic_optimization = False
        self.discriminator = discriminator
        self.warmup_steps, self.gradient_clip, self.accumulate = (
            warmup_steps,
            gradient_clip,
            accumulate,
        )
        self.recompute = recompute
        self.average = None
        if ema_decay:
            self.average = AveragedModel(model, avg_fn=_Average(ema_decay)).requires_grad_(False)
        # Steps of the generator so far; Lightning's global_step counts those of both.
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64))
        self.reconstruction = ReconstructionLoss(loss_func.windows, per_item=True)
        self._train_means, self._validated = Means(), False
        self._figures = Figures(
            self.validation_loss, lambda est, ref, coded: self.reconstruction(est, ref)
        )

    def configure_optimizers(self):
        """The optimizers, and their schedules, which are stepped here by hand."""
        return list(self.optimizer), schedules.plain(self.scheduler)

    # ------------------------------------------------------------------------------- a step

    def training_step(self, batch: Sequence[torch.Tensor], batch_nb: int) -> None:
        """Discriminator step, then generator step with the discriminator that came of it."""
        coded, original = batch = checked(batch)
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
            self._log_means(self._train_means.reduce(self.trainer))

    def _step(self, optimizer, network, loss, log, batch, batch_nb) -> bool:
        """Backward pass, and a clipped step where the gradients of enough batches are in."""
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
        schedules.after_step(self.trainer, self.scheduler, optimizer.optimizer, n_steps)
        return True

    def _require_finite(self, value, log, batch, batch_nb):
        if torch.isfinite(value):
            return
        items = items_of(self.trainer.train_dataloader, batch_nb) or [
            f"{i} of the batch" for i in range(len(batch[0]))
        ]
        where = [
            f"the {name} signal of item {item}"
            for name, signals in zip(("coded", "original"), batch)
            for item, signal in zip(items, signals)
            if not torch.isfinite(signal).all()
        ]
        where += [f"{name} is {v.item()}" for name, v in log.items() if not torch.isfinite(v)]
        raise TrainingError(
            f"NaN or infinity in epoch {self.current_epoch}, batch {batch_nb} (items "
            f"{', '.join(map(str, items))}): {', '.join(where) or 'in a gradient'}; if the items "
            "are sound, lower the learning rate; --resume goes on from the last checkpoint"
        )

    def _optimizers(self) -> list:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    # ------------------------------------------------------------------------- epochs and data

    def train_dataloader(self) -> DataLoader:
        # Lightning takes the first batches before it says which epoch it is, after a resume too.
        self._set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        return self.train_loader

    def val_dataloader(self) -> DataLoader | list:
        loader, world = self.val_loader, self.trainer.world_size
        if loader is None:
            return []
        return loader if world == 1 else shared(loader, world, self.trainer.global_rank)

    def on_fit_start(self) -> None:
        require_precision(self.trainer.precision)

    def on_train_epoch_start(self) -> None:
        self._validated = False
        self._set_epoch(self.current_epoch)

    def _set_epoch(self, epoch: int) -> None:
        if hasattr(self.train_loader.dataset, "set_epoch"):
            self.train_loader.dataset.set_epoch(epoch)

    def on_train_epoch_end(self) -> None:
        schedules.after_epoch(self.trainer, self.scheduler, self._validated)
        for name, optimizer in zip(("generator", "discriminator"), self._optimizers()):
            self.log(f"lr/{name}", optimizer.param_groups[0]["lr"])

    # ------------------------------------------------------------------------------ validation

    @property
    def best_weights(self) -> RestorationModel:
        """The model to validate and to keep: the running average where there is one."""
        return self.model if self.average is None else self.average.module

    def validation_step(self, batch: Sequence[torch.Tensor], batch_nb: int) -> torch.Tensor:
        """Restores a batch and measures it."""
        coded, original = checked(batch)
        est = self.best_weights(coded)
        self._figures.add(est, coded, original, self.trainer.val_dataloaders, batch_nb)
        return est

    def validation_loss(self, est: Signal, ref: Signal, coded: Signal) -> torch.Tensor:
        """The part of the generator's loss that needs no discriminator."""
        return self.loss_func(est, ref, coded=coded)[0]

    def on_validation_epoch_end(self) -> None:
        means = self._figures.reduce(self.trainer)
        if self.trainer.sanity_checking:
            return
        self._log_means(means)
        self._validated = True
        if self.trainer.logger is not None:
            super().on_validation_epoch_end()

    def _log_means(self, means: Mapping[str, float]) -> None:
        # Equal in all processes: the largest is as good as any.
        self.log_dict(dict(means), on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max")

    # ----------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """Adds what ``from_pretrained`` needs."""
        checkpoint["model_args"] = self.model.get_model_args()
        return super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What is asked for now is what a resumed run goes on with."""
        apply_settings(checkpoint, self.optimizer, schedules.plain(self.scheduler))
        match_average(checkpoint["state_dict"], self.average is not None)

    @staticmethod
    def config_to_hparams(dic: Mapping[str, Any]) -> dict[str, Any]:
        """Flat, with text in place of what TensorBoard does not take (asteroid's own fails on
        lists of strings)."""
        plain = (bool, int, float, str)
        return {
            key: value if isinstance(value, plain) else str(value)
            for key, value in flatten_dict(dict(dic)).items()
        }


def require_precision(precision: str | int) -> None:
    """Refuses float16: gradients that are scaled for it would be clipped as they are.

    Args:
        precision: Lightning's name of it.

    Raises:
        SettingError: naming it.
    """
    if "16" in str(precision) and not str(precision).startswith("bf16"):
        raise SettingError(
            f"precision {precision}: float16 is not trained with, its scaled gradients would be "
            "clipped before their time; use bf16-mixed or 32-true"
        )


class _Average:
    """Exponential moving average; over few steps, that of the newest tenth of them."""

    def __init__(self, decay: float):
        self.decay = decay

    def __call__(self, average, new, n_averaged):
        return torch.lerp(average, new, torch.clamp(10 / (10 + n_averaged), min=1 - self.decay))


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for the weights of a network, while they pass through it."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)

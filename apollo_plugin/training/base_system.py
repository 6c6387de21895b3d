"""Asteroid System with validation over several processes, a running average and checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from asteroid.engine.system import System
from asteroid.utils import flatten_dict
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from ..errors import SettingError
from ..losses import GeneratorLoss, ReconstructionLoss, Signal, SRGANLoss
from ..model import RestorationModel
from . import schedules
from .batches import check_batch, use_collate
from .resuming import apply_settings, match_average
from .validation import Figures, Means

# Lightning's names, without those of float16.
_PRECISIONS = ("32-true", "32", "bf16-mixed", "bf16", "bf16-true", "64-true", "64")


class BaseSystem(System):
    """Everything around the steps of a training: epochs, validation and checkpoints.

    Subclasses define ``training_step``; arguments are those of
    :class:`~apollo_plugin.training.system.ApolloSystem`.
    """

    def __init__(
        self,
        model: RestorationModel,
        optimizers: list[torch.optim.Optimizer],
        loss_func: GeneratorLoss | SRGANLoss,
        train_loader: DataLoader,
        val_loader: DataLoader | None,
        scheduler: Any,
        *,
        config: Mapping[str, Any] | None,
        ema_decay: float,
    ):
        scheduler = schedules.normalize(scheduler, self.default_monitor)
        use_collate(train_loader)
        use_collate(val_loader)
        super().__init__(model, optimizers, loss_func, train_loader, val_loader, scheduler, config)
        # Two optimizers: Lightning leaves backward passes and steps to training_step.
        self.automatic_optimization = False
        self.average = None
        if ema_decay:
            self.average = AveragedModel(model, avg_fn=_Average(ema_decay)).requires_grad_(False)
        # Steps of the generator so far; Lightning's global_step counts those of both networks.
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64))
        self.reconstruction = ReconstructionLoss(loss_func.windows, per_item=True)
        self._train_means, self._validated = Means(), False
        self._figures = Figures(
            self.validation_loss, lambda est, ref, coded: self.reconstruction(est, ref)
        )

    def configure_optimizers(self):
        """Return the optimizers, and their schedules, which are stepped manually."""
        return list(self.optimizer), schedules.unwrap(self.scheduler)

    def _optimizers(self) -> list:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def train_dataloader(self) -> DataLoader:
        # Lightning draws the first batches before it announces the epoch, after a resume too.
        self._set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        return self.train_loader

    def val_dataloader(self) -> DataLoader | list:
        return [] if self.val_loader is None else self.val_loader

    def on_fit_start(self) -> None:
        require_precision(self.trainer.precision)

    def on_train_epoch_start(self) -> None:
        self._validated = False
        self._set_epoch(self.current_epoch)

    def _set_epoch(self, epoch: int) -> None:
        if hasattr(self.train_loader.dataset, "set_epoch"):
            self.train_loader.dataset.set_epoch(epoch)

    def on_train_epoch_end(self) -> None:
        schedules.end_epoch(self.trainer, self.scheduler, self._validated)
        for name, optimizer in zip(("generator", "discriminator"), self._optimizers()):
            self._log_equal({f"lr/{name}": optimizer.param_groups[0]["lr"]})

    @property
    def best_weights(self) -> RestorationModel:
        """The model to validate and to save: the running average if there is one."""
        return self.model if self.average is None else cast(RestorationModel, self.average.module)

    def validation_step(self, batch: Sequence[torch.Tensor], batch_nb: int) -> torch.Tensor:
        """Restore a batch and measure it."""
        coded, original = check_batch(batch)
        est = self.best_weights(coded)
        self._figures.add(est, coded, original, self.trainer.val_dataloaders, batch_nb)
        return est

    def validation_loss(self, est: Signal, ref: Signal, coded: Signal) -> torch.Tensor:
        """Compute the part of the generator's loss that needs no discriminator."""
        return self.loss_func(est, ref, coded=coded)[0]

    def on_validation_epoch_end(self) -> None:
        means = self._figures.reduce(self.trainer)
        if self.trainer.sanity_checking:
            return
        self._log_equal(means)
        self._validated = True
        if self.trainer.logger is not None:
            super().on_validation_epoch_end()

    def _log_equal(self, values: Mapping[str, float]) -> None:
        # Equal in all processes, so the maximum equals each of them.
        self.log_dict(dict(values), on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """Add the arguments that ``from_pretrained`` needs."""
        checkpoint["model_args"] = self.model.get_model_args()
        return super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Apply the current settings to the checkpoint of a resumed run."""
        apply_settings(checkpoint, self.optimizer, schedules.unwrap(self.scheduler))
        match_average(checkpoint["state_dict"], self.average is not None)

    @staticmethod
    def config_to_hparams(dic: Mapping[str, Any]) -> dict[str, Any]:
        """Flatten, and convert values that TensorBoard does not take to text (Asteroid's own method
        fails on lists of strings)."""
        plain = (bool, int, float, str)
        return {
            key: value if isinstance(value, plain) else str(value)
            for key, value in flatten_dict(dict(dic)).items()
        }


def require_precision(precision: str | int) -> None:
    """Refuse unknown names, and float16: gradients, which are scaled for it, would be clipped while
    scaled.

    Args:
        precision: Lightning's name of it.

    Raises:
        SettingError: with the name of the precision.
    """
    if "16" in str(precision) and not str(precision).startswith("bf16"):
        raise SettingError(
            f"precision {precision}: training in float16 is not supported, as its gradients would "
            "be clipped while they are scaled; use bf16-mixed or 32-true"
        )
    if str(precision) not in _PRECISIONS:
        raise SettingError(f"precision is {precision!r}; it has to be {' or '.join(_PRECISIONS)}")


class _Average:
    """Exponential moving average; over few steps, the average of the newest tenth of them."""

    def __init__(self, decay: float):
        self.decay = decay

    def __call__(self, average, new, n_averaged):
        return torch.lerp(average, new, torch.clamp(10 / (10 + n_averaged), min=1 - self.decay))

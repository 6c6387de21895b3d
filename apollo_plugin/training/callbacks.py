"""What happens around the steps of a training run: checkpoints, examples, a line for each epoch."""

import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from ..errors import TrainingError
from ..files import atomic_write, write_json
from .batches import checked

# Decibels below its loudest point at which a spectrogram is black.
_RANGE_DB = 100.0


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their place and renames them; Lightning's own writes them to the
    system's temporary folder and may copy them from there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        _save(checkpoint, path)


class BestModels(ModelCheckpoint):
    """Keeps the last and the best checkpoints; ``best_k_models.json`` and ``best_model.pth`` (an
    Asteroid package) follow them, so that a killed run has them too. A checkpoint names its
    siblings without their folder, so a run that was moved or renamed goes on with them.

    Args:
        exp_dir: folder of the run.
        save_top_k: how many of the best to keep beside the last; -1 for all, 0 for none.
        forget: scores of an earlier run, which were those of another loss.
        validated: whether there are scores; else ``best_model.pth`` follows the last.
    """

    def __init__(
        self, exp_dir: Path, save_top_k: int = 5, forget: bool = False, validated: bool = True
    ):
        super().__init__(
            exp_dir / "checkpoints",
            monitor="val_loss" if validated else None,
            save_top_k=save_top_k if validated else 0,
            # After the schedulers have stepped; at the end of validation they have not.
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.exp_dir, self.forget = exp_dir, forget

    def state_dict(self) -> dict[str, Any]:
        return _elsewhere(super().state_dict(), lambda path: Path(path).name) | {"dirpath": ""}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.forget:
            return
        folder = Path(self.dirpath or "")
        # Windows' separators too: a folder may come from another machine.
        state = _elsewhere(
            state_dict, lambda path: str(folder / path.replace("\\", "/").rpartition("/")[2])
        )
        kept = {p: score for p, score in state["best_k_models"].items() if Path(p).exists()}
        state |= {"best_k_models": kept, "dirpath": self.dirpath}
        if kept:
            worst = max(kept, key=lambda path: kept[path])
            state |= {"kth_best_model_path": worst, "kth_value": kept[worst]}
        super().load_state_dict(state)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        before, kept = self.best_model_score, dict(self.best_k_models)
        super().on_train_epoch_end(trainer, pl_module)
        if self.save_top_k == 0 and self.monitor:  # Lightning looks at no score then
            score = trainer.callback_metrics[self.monitor]
            if before is None or score < before:
                self.best_model_score = score
        if trainer.is_global_zero and self.best_k_models != kept:
            scores = {Path(k).name: v.item() for k, v in self.best_k_models.items()}
            write_json(self.exp_dir / "best_k_models.json", scores)
        if trainer.is_global_zero and (self.best_model_score is not before or not self.monitor):
            # What the data set says of itself, for publishing.
            infos = getattr(pl_module.train_loader.dataset, "get_infos", dict)()
            package = pl_module.best_weights.serialize() | infos
            _save(package, self.exp_dir / "best_model.pth")
        # After the files above, which a run that is resumed from it takes for written. Not
        # Lightning's, which leaves it as it is where an epoch is not among the best.
        trainer.save_checkpoint(self.exp_dir / "checkpoints" / "last.ckpt")


class Patience(EarlyStopping):
    """Early stopping whose patience is the configuration's, after a resume too.

    Args:
        patience: epochs without a lower ``val_loss``.
        forget: the lowest of an earlier run, which was that of another loss.
    """

    def __init__(self, patience: int, forget: bool = False):
        super().__init__("val_loss", patience=patience)
        self.forget = forget

    @property
    def state_key(self) -> str:
        # As Lightning's own is called in checkpoints.
        return super().state_key.replace(type(self).__qualname__, EarlyStopping.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.forget:
            super().load_state_dict({**state_dict, "patience": self.patience})


class EpochLine(Callback):
    """One line for each epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = trainer.callback_metrics
        line = (
            f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, "
            f"{time.monotonic() - self._start:.0f} s: loss {value['epoch_loss']:.4f}"
        )
        if "val_loss" in value:
            line += (
                f", val_loss {value['val_loss']:.4f} (coded {value['val_loss_coded']:.4f}), "
                f"reconstruction {value['val_reconstruction']:.4f} "
                f"(coded {value['val_reconstruction_coded']:.4f}), "
                f"SI-SNR {value['val_si_snr']:.2f} dB (coded {value['val_si_snr_coded']:.2f})"
            )
        rank_zero_info(line)


class Examples(Callback):
    """The first validation pairs as sound and spectrogram in TensorBoard.

    Args:
        n_examples: how many.
    """

    def __init__(self, n_examples: int):
        self.n_examples = n_examples

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        skipped = trainer.sanity_checking or not trainer.is_global_zero or trainer.logger is None
        if skipped or batch_idx >= self.n_examples:
            return
        coded, original = checked(batch)
        log, epoch = trainer.logger.experiment, trainer.current_epoch
        if not hasattr(log, "add_audio"):  # only TensorBoard's takes sound
            return
        signals = dict(restored=outputs)
        if epoch == 0:
            signals |= dict(coded=coded, original=original)
        for name, wav in signals.items():
            tag, mono = f"example_{batch_idx}/{name}", wav[0].float().mean(0).cpu()
            log.add_audio(tag, mono.clamp(-1, 1), epoch, int(pl_module.model.sample_rate))
            log.add_image(tag, _spectrogram(mono), epoch, dataformats="HW")


def _spectrogram(wav: torch.Tensor) -> torch.Tensor:
    """Levels from 0 to 1, highest frequency first: ``(bins, frames)``."""
    spec = torch.stft(wav, 2048, 512, window=torch.hann_window(2048), return_complex=True)
    level = 20 * spec.abs().clamp(min=1e-8).log10()
    return ((level - level.max()) / _RANGE_DB + 1).clamp(0, 1).flip(0)


def _save(value: Any, path: str | os.PathLike) -> None:
    """Through memory: what torch makes of a full disk is no OSError."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    try:
        with atomic_write(path) as beside:
            beside.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise TrainingError(
            f"'{path}' cannot be written: {error.strerror or error}; what was there is kept, and "
            "--resume 1 goes on from the last checkpoint"
        ) from error


def _elsewhere(state: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """The state of a ModelCheckpoint with its paths renamed."""
    moved = {
        key: rename(value) if key.endswith("_path") and value else value
        for key, value in state.items()
    }
    return moved | {"best_k_models": {rename(k): v for k, v in state["best_k_models"].items()}}

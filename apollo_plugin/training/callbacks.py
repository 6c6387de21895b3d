"""Callbacks of a training run: checkpoints, early stopping, a line for each epoch, examples."""

import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from ..files import atomic_write, write_json
from .base_system import BaseSystem
from .batches import check_batch

# Range of a spectrogram in dB below its loudest point.
_RANGE_DB = 100.0


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writer of checkpoints that writes beside the target and renames. Lightning's own writes to
    the system's temporary folder and may copy from there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        _save(checkpoint, path)


class BestModels(ModelCheckpoint):
    """Callback that keeps the last and the best checkpoints, and updates ``best_k_models.json`` and
    ``best_model.pth`` (an Asteroid package) with them, so that a killed run has these too. A
    checkpoint names its siblings without their folder, so a run can be resumed after it was moved.

    Args:
        exp_dir: folder of the run.
        save_top_k: number of best checkpoints beside the last; -1 for all, 0 for none.
        forget: discard the scores of an earlier run, which had another loss.
        validated: True if there are scores; otherwise ``best_model.pth`` follows the last.
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
        return _rename_paths(super().state_dict(), lambda path: Path(path).name) | {"dirpath": ""}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.forget:
            return
        folder = Path(self.dirpath or "")
        # Windows' separators too: the folder may come from another machine.
        state = _rename_paths(
            state_dict, lambda path: str(folder / path.replace("\\", "/").rpartition("/")[2])
        )
        scores = {p: score for p, score in state["best_k_models"].items() if Path(p).exists()}
        state |= {"best_k_models": scores, "dirpath": self.dirpath}
        if scores:
            worst = max(scores, key=lambda path: scores[path])
            state |= {"kth_best_model_path": worst, "kth_value": scores[worst]}
        super().load_state_dict(state)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        best_before, models_before = self.best_model_score, dict(self.best_k_models)
        super().on_train_epoch_end(trainer, pl_module)
        if self.save_top_k == 0 and self.monitor:  # Lightning ignores scores then
            score = trainer.callback_metrics[self.monitor]
            if best_before is None or score < best_before:
                self.best_model_score = score
        if trainer.is_global_zero and self.best_k_models != models_before:
            scores = {Path(k).name: v.item() for k, v in self.best_k_models.items()}
            write_json(self.exp_dir / "best_k_models.json", scores)
        improved = self.best_model_score is not best_before or not self.monitor
        if trainer.is_global_zero and improved:
            # Information on the data set, for publishing.
            system = cast(BaseSystem, pl_module)
            infos: dict[str, Any] = getattr(system.train_loader.dataset, "get_infos", dict)()
            package = system.best_weights.serialize() | infos
            _save(package, self.exp_dir / "best_model.pth")
        # After the files above, as a resumed run assumes that they are written. Not by Lightning,
        # which does not update it after an epoch that is not among the best.
        trainer.save_checkpoint(self.exp_dir / "checkpoints" / "last.ckpt", weights_only=False)


class Patience(EarlyStopping):
    """Early stopping with the patience of the configuration, after a resume too.

    Args:
        patience: number of epochs without a lower ``val_loss``.
        forget: discard the best score of an earlier run, which had another loss.
    """

    def __init__(self, patience: int, forget: bool = False):
        super().__init__("val_loss", patience=patience)
        self.forget = forget

    @property
    def state_key(self) -> str:
        # Name of Lightning's own callback in checkpoints.
        return super().state_key.replace(type(self).__qualname__, EarlyStopping.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.forget:
            super().load_state_dict({**state_dict, "patience": self.patience})


class EpochLine(Callback):
    """Callback that prints a line for each epoch."""

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
    """Callback that logs the first validation pairs to TensorBoard, as sound and spectrogram."""

    def __init__(self, n_examples: int):
        self.n_examples = n_examples

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        skipped = trainer.sanity_checking or not trainer.is_global_zero or trainer.logger is None
        if skipped or batch_idx >= self.n_examples:
            return
        coded, original = check_batch(batch)
        log, epoch = trainer.logger.experiment, trainer.current_epoch
        if not hasattr(log, "add_audio"):  # only TensorBoard's logger takes sound
            return
        signals = dict(restored=outputs)
        if epoch == 0:
            signals |= dict(coded=coded, original=original)
        for name, wav in signals.items():
            tag, mono = f"example_{batch_idx}/{name}", wav[0].float().mean(0).cpu()
            log.add_audio(tag, mono.clamp(-1, 1), epoch, int(pl_module.model.sample_rate))
            log.add_image(tag, _spectrogram(mono), epoch, dataformats="HW")


def _spectrogram(wav: torch.Tensor) -> torch.Tensor:
    """Compute levels from 0 to 1, highest frequency first: ``(bins, frames)``."""
    spec = torch.stft(wav, 2048, 512, window=torch.hann_window(2048), return_complex=True)
    level = 20 * spec.abs().clamp(min=1e-8).log10()
    return ((level - level.max()) / _RANGE_DB + 1).clamp(0, 1).flip(0)


def _save(value: Any, path: str | os.PathLike) -> None:
    """Save through a buffer in memory: on a full disk torch itself raises no OSError."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with atomic_write(path) as beside:
        beside.write_bytes(buffer.getbuffer())


def _rename_paths(state: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """Rename the paths in the state of a ModelCheckpoint."""
    renamed = {
        key: rename(value) if key.endswith("_path") and value else value
        for key, value in state.items()
    }
    return renamed | {"best_k_models": {rename(k): v for k, v in state["best_k_models"].items()}}

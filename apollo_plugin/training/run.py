"""A training run from a configuration, as started by the recipe's ``train.py``."""

import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_only
from torch.utils.data import Dataset

from ..errors import TrainingError
from ..evaluation.experiment import FINISHED
from ..files import atomic_write, write_json
from ..memory import keep_freed_memory
from . import ending, memory
from .build import make_system, make_trainer
from .config import compare, load_conf
from .lock import lock_folder
from .models import n_channels, trainable
from .resuming import epochs_done, refusal
from .schema import Conf, convert_types
from .system import ApolloSystem

# Warnings to ignore: about Lightning's own code; and about an epoch that ends before the first step
# of an optimizer, which is normal with accumulation or warm-up.
_NOISE = (
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    "Detected call of `lr_scheduler.step\\(\\)` before",
)


def train(conf: Conf, train_set: Dataset, valid_set: Dataset | None) -> dict[str, Any] | None:
    """Train, and write ``conf.yml``, ``checkpoints/``, ``logs/``, ``best_k_models.json``,
    ``best_model.pth`` and, at the end, ``train_metrics.json`` to ``exp_dir``.

    Args:
        conf: the groups of the recipe's ``local/conf.yml``, and ``main_args`` with ``exp_dir``,
            ``seed``, ``resume`` and ``init_from``.
        train_set: items ``(coded, original)``.
        valid_set: likewise; without it the last weights count as the best.

    Returns:
        the content of ``train_metrics.json``; None if the run was finished before.

    Raises:
        TrainingError: if a run exists already or is in progress, there is none to resume, memory is
            too small, training diverges, or a process dies.
        SystemExit: if a signal ends the run, with 128 + its number.
    """
    conf = convert_types(conf, trainable(conf).groups)
    exp_dir = Path(conf["main_args"]["exp_dir"])
    last = exp_dir / "checkpoints" / "last.ckpt"
    finished = exp_dir / FINISHED
    resume = bool(conf["main_args"].get("resume"))
    epochs = conf["training"]["epochs"]
    # All processes check and come to the same result; otherwise one would wait forever.
    if epochs < 1:
        raise refusal(f"nothing to train with epochs {epochs}; pass --epochs 1 or more")
    if not resume and finished.exists():
        rank_zero_info(f"'{exp_dir}' holds a finished training, which is kept")
        return None
    if not resume and last.exists():
        raise refusal(f"'{exp_dir}' holds a run; pass --resume 1 or another --tag")
    forget = False
    if resume:
        n_done, before = epochs_done(last), load_conf(exp_dir / "conf.yml")
        compare(conf, before, exp_dir)
        if epochs < n_done:
            raise refusal(
                f"'{exp_dir}' has trained {n_done} epochs, more than --epochs {epochs}; pass more, "
                "or start a new training under another --tag"
            )
        if epochs == n_done and finished.exists():
            rank_zero_info(f"'{exp_dir}' has trained all of its {epochs} epochs")
            return None
        forget = conf["loss"] != before.get("loss", conf["loss"])
        if forget:
            rank_zero_info("the loss has changed: earlier val_loss and best models are discarded")
    with lock_folder(exp_dir):
        return _train(conf, train_set, valid_set, last if resume else None, forget)


def _train(
    conf: Conf,
    train_set: Dataset,
    valid_set: Dataset | None,
    resumed: Path | None,
    forget: bool,
) -> dict[str, Any]:
    """Run the training in a locked folder."""
    exp_dir = Path(conf["main_args"]["exp_dir"])
    finished = exp_dir / FINISHED
    pl.seed_everything(conf["main_args"]["seed"], workers=True, verbose=False)
    keep_freed_memory(every_size=True)
    system = make_system(conf, train_set, valid_set)
    trainer = make_trainer(conf, forget, system.val_loader is not None)
    if rank_zero_only.rank == 0:
        with atomic_write(exp_dir / "conf.yml") as beside:
            beside.write_text(yaml.safe_dump(conf, sort_keys=False))
    _require_memory(conf, system, trainer.strategy.root_device)
    if rank_zero_only.rank == 0:
        # Removed until the run is finished again, so that no later stage takes it for finished.
        finished.unlink(missing_ok=True)
    start = time.monotonic()
    with warnings.catch_warnings():
        for words in _NOISE:
            warnings.filterwarnings("ignore", words)
        ending.fit(trainer, system, resumed, _cure(conf))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    metrics |= dict(
        epochs=trainer.current_epoch,
        steps=int(system.n_steps),
        seconds=round(time.monotonic() - start, 1),
    )
    if system.val_loader is not None:
        metrics["best_val_loss"] = float(trainer.checkpoint_callback.best_model_score)
    if trainer.is_global_zero:
        write_json(finished, metrics)
    if torch.distributed.is_initialized():
        # Gloo's threads could abort a process that exits with them; Lightning ends NCCL's only.
        torch.distributed.destroy_process_group()
    return metrics


def _cure(conf: Conf) -> str:
    less = "lower --batch_size or --segment"
    return f"set --recompute true, or {less}" if "recompute" in conf["training"] else less


def _require_memory(conf: Conf, system: ApolloSystem, device: torch.device) -> None:
    settings = conf["training"]
    with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in settings["precision"]):
        needed = memory.training_bytes(
            system.model,
            n_channels(conf) * settings["batch_size"],
            conf["data"]["segment"],
            settings.get("recompute", False),
            device,
            system.discriminator if trainable(conf).has_large_critic else None,
        )
    if device.type == "cpu":
        # Fragmentation of the heap, measured at full size.
        needed = int(needed * (3 if settings.get("recompute") else 1.3))
    free = memory.available_bytes(device)
    if free is not None and needed > free:
        raise TrainingError(
            f"a step needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free on "
            f"{device}: {_cure(conf)}"
        )

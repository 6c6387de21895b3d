"""A training run from a configuration: what the recipe's ``train.py`` calls."""

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
from .build import is_srgan, make_system, make_trainer, n_channels
from .config import Conf, compare, groups_of, load_conf
from .lock import locked
from .resuming import epochs_done, refused
from .schema import typed
from .system import ApolloSystem

# Of Lightning's own code; and while gradients are accumulated or warmed up an epoch may end before
# an optimizer's first step.
_NOISE = (
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    "Detected call of `lr_scheduler.step\\(\\)` before",
)


def train(conf: Conf, train_set: Dataset, valid_set: Dataset | None) -> dict[str, Any] | None:
    """Trains and leaves ``conf.yml``, ``checkpoints/``, ``logs/``, ``best_k_models.json``,
    ``best_model.pth`` and, at the end, ``train_metrics.json`` in ``exp_dir``.

    Args:
        conf: groups as in the recipe's ``local/conf.yml``, and ``main_args`` with ``exp_dir``,
            ``seed``, ``resume`` and ``init_from``.
        train_set: items ``(coded, original)``.
        valid_set: likewise; without one the last weights count as the best.

    Returns:
        the figures of ``train_metrics.json``; None where the run had been finished before.

    Raises:
        TrainingError: where a run is there already or under way, there is none to resume, memory
            does not suffice, numbers ran away, or a process was lost.
        SystemExit: with 128 and its number, where a signal ended the run.
    """
    conf = typed(conf, groups_of(conf))
    exp_dir = Path(conf["main_args"]["exp_dir"])
    last = exp_dir / "checkpoints" / "last.ckpt"
    finished = exp_dir / FINISHED
    resume = bool(conf["main_args"].get("resume"))
    epochs = conf["training"]["epochs"]
    # Every process asks, and all come to the same answer: one alone would wait for ever.
    if epochs < 1:
        raise refused(f"epochs {epochs}: there is nothing to train; pass --epochs 1 or more")
    if not resume and finished.exists():
        rank_zero_info(f"'{exp_dir}' holds a finished training, which is kept")
        return None
    if not resume and last.exists():
        raise refused(f"'{exp_dir}' holds a run; pass --resume 1 or another --tag")
    forget = False
    if resume:
        n_done, before = epochs_done(last), load_conf(exp_dir / "conf.yml")
        compare(conf, before, exp_dir)
        if epochs < n_done:
            raise refused(
                f"'{exp_dir}' has trained {n_done} epochs, more than --epochs {epochs}; pass more, "
                "or train anew under another --tag"
            )
        if epochs == n_done and finished.exists():
            rank_zero_info(f"'{exp_dir}' has trained all of its {epochs} epochs")
            return None
        forget = conf["loss"] != before.get("loss", conf["loss"])
        if forget:
            rank_zero_info("the loss is another one: val_loss begins anew, and so does the best")
    with locked(exp_dir):
        return _train(conf, train_set, valid_set, last if resume else None, forget)


def _train(
    conf: Conf,
    train_set: Dataset,
    valid_set: Dataset | None,
    resumed: Path | None,
    forget: bool,
) -> dict[str, Any]:
    """The run itself, whose folder is this process's."""
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
        # Until it is finished again no later stage takes it for finished.
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
    return metrics


def _cure(conf: Conf) -> str:
    less = "lower --batch_size or --segment"
    return less if is_srgan(conf) else f"set --recompute true, or {less}"


def _require_memory(conf: Conf, system: ApolloSystem, device: torch.device) -> None:
    settings = conf["training"]
    with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in settings["precision"]):
        needed = memory.training_bytes(
            system.model,
            n_channels(conf) * settings["batch_size"],
            conf["data"]["segment"],
            settings.get("recompute", False),
            device,
            system.discriminator if is_srgan(conf) else None,
        )
    if device.type == "cpu":
        # The holes that a heap of large and small blocks gets, measured at full size.
        needed = int(needed * (3 if settings.get("recompute") else 1.3))
    free = memory.available_bytes(device)
    if free is not None and needed > free:
        raise TrainingError(
            f"a step takes about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free on "
            f"{device}: {_cure(conf)}"
        )

"""A training run in its folder: locked, resumed or new, and marked when it is finished."""

import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch.utils.data import Dataset
from typing_extensions import Self

from ..errors import TrainingError
from ..evaluation.experiment import FINISHED
from ..files import atomic_write, write_json
from ..memory import keep_freed_memory
from . import ending, memory
from .build import make_system, make_trainer
from .config import compare, in_todays_groups, load_conf
from .lock import lock_folder
from .models import n_channels, trainable
from .resuming import epochs_done, is_first_process, refusal
from .schema import Conf, convert_types
from .system import ApolloSystem

# Warnings to ignore: about Lightning's own code; and about an epoch that ends before the first step
# of an optimizer, which is normal with accumulation or warm-up.
_NOISE = (
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    "Detected call of `lr_scheduler.step\\(\\)` before",
)


class Run:
    """A training in ``exp_dir``, as a context that locks the folder and sets the random seed.

    Args:
        conf: the groups of the recipe's ``local/conf.yml``, and ``main_args`` with ``exp_dir``,
            ``seed``, ``resume`` and ``init_from``.
        by_itself: the command resumes its run by itself, and has no ``--resume`` that messages
            could name.

    Attributes:
        conf: the same, with values of the keys' types; of a resumed run without ``init_from``.
        is_finished: the folder holds a finished training, and nothing is left to do.
        forget_scores: the loss has changed, so that earlier scores do not compare.

    Raises:
        TrainingError: if a run exists already or is in progress, or there is none to resume.
    """

    def __init__(self, conf: Conf, *, by_itself: bool = False):
        self.conf = conf = convert_types(in_todays_groups(conf), trainable(conf).groups)
        self.exp_dir = exp_dir = Path(conf["main_args"]["exp_dir"])
        self.is_finished = self.forget_scores = False
        self._resumed: Path | None = None
        self._by_itself = by_itself
        self._context = ExitStack()
        last, is_marked = exp_dir / "checkpoints" / "last.ckpt", (exp_dir / FINISHED).exists()
        epochs = conf["training"]["epochs"]
        # All processes check and come to the same result; otherwise one would wait forever.
        if epochs < 1:
            raise refusal(f"nothing to train with epochs {epochs}; set 1 or more")
        if conf["main_args"].get("resume"):
            self._resume(last, is_marked)
        elif is_marked:
            rank_zero_info(f"'{exp_dir}' holds a finished training, which is kept")
            self.is_finished = True
        elif last.exists():
            raise refusal(f"'{exp_dir}' holds a run; pass --resume 1 or another --tag")

    def _resume(self, last: Path, is_marked: bool) -> None:
        """Check that the configuration continues the run of the folder."""
        conf, exp_dir, epochs = self.conf, self.exp_dir, self.conf["training"]["epochs"]
        n_done, before = epochs_done(last), load_conf(exp_dir / "conf.yml")
        compare(conf, before, exp_dir)
        if epochs < n_done:
            raise refusal(
                f"'{exp_dir}' has trained {n_done} epochs, more than epochs {epochs}; set more, "
                "or start a new training in another folder"
            )
        if epochs == n_done and is_marked:
            rank_zero_info(f"'{exp_dir}' has trained all of its {epochs} epochs")
            self.is_finished = True
            return
        self._resumed = last
        self.forget_scores = conf["loss"] != before.get("loss", conf["loss"])
        if self.forget_scores:
            rank_zero_info("the loss has changed: earlier val_loss and best models are discarded")

    def __enter__(self) -> Self:
        if not self.is_finished:
            self._context.enter_context(lock_folder(self.exp_dir))
            pl.seed_everything(self.conf["main_args"]["seed"], workers=True, verbose=False)
            keep_freed_memory(every_size=True)
        return self

    def __exit__(self, *_: Any) -> None:
        self._context.close()

    def fit(self, trainer: pl.Trainer, system: ApolloSystem) -> dict[str, Any]:
        """Train, and write ``conf.yml``, ``checkpoints/``, ``logs/``, ``best_k_models.json``,
        ``best_model.pth`` and, at the end, ``train_metrics.json`` to ``exp_dir``.

        Returns:
            the content of ``train_metrics.json``.

        Raises:
            TrainingError: if memory is too small, training diverges, or a process dies.
            SystemExit: if a signal ends the run, with 128 + its number.
        """
        finished = self.exp_dir / FINISHED
        if is_first_process():
            with atomic_write(self.exp_dir / "conf.yml") as beside:
                beside.write_text(yaml.safe_dump(self.conf, sort_keys=False))
        _require_memory(self.conf, system, trainer.strategy.root_device)
        if is_first_process():
            # Removed until the run is finished again, so that no later stage takes it for finished.
            finished.unlink(missing_ok=True)
        start = time.monotonic()
        with warnings.catch_warnings():
            for words in _NOISE:
                warnings.filterwarnings("ignore", words)
            ending.fit(trainer, system, self._resumed, _cure(self.conf), self._by_itself)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics |= dict(
            epochs=trainer.current_epoch,
            steps=int(system.n_steps),
            seconds=round(time.monotonic() - start, 1),
        )
        best = getattr(trainer.checkpoint_callback, "best_model_score", None)
        if system.val_loader is not None and best is not None:
            metrics["best_val_loss"] = float(best)
        if trainer.is_global_zero:
            write_json(finished, metrics)
        if torch.distributed.is_initialized():
            # Gloo's threads could abort a process that exits with them; Lightning ends NCCL's only.
            torch.distributed.destroy_process_group()
        return metrics


def train(
    conf: Conf, train_set: Dataset, valid_set: Dataset | None, *, by_itself: bool = False
) -> dict[str, Any] | None:
    """Train as the recipe's ``train.py`` does, on any data.

    Args:
        conf: see :class:`Run`.
        train_set: items ``(coded, original)``.
        valid_set: likewise; without it the last weights count as the best.
        by_itself: see :class:`Run`.

    Returns:
        the content of ``train_metrics.json``; None if the run was finished before.

    Raises:
        TrainingError, SystemExit: see :class:`Run` and :meth:`Run.fit`.
    """
    with Run(conf, by_itself=by_itself) as run:
        if run.is_finished:
            return None
        system = make_system(run.conf, train_set, valid_set)
        trainer = make_trainer(run.conf, run.forget_scores, system.val_loader is not None)
        return run.fit(trainer, system)


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

"""How a run ends before its time: by a signal, a process or a worker that was lost.

The last whole epoch is kept and the exit status says that the run is not finished.
"""

import contextlib
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from ..errors import TrainingError, is_out_of_memory, one_line

# What schedulers, containers and people end a run with.
_SIGNALS = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU")
# Patience with processes that were told to end.
_SECONDS = 5.0


class Terminated(SystemExit):
    """A run that a signal ended, with the shell's status: 128 + its number."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class Signals(Callback):
    """Ends the run at once where a signal asks for it. Lightning's own handler waits for the batch
    and for the other processes, and then for a status of 0."""

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen(trainer)

    def _listen(self, trainer: pl.Trainer) -> None:
        def end(number: int, frame: FrameType | None) -> None:
            for name in _SIGNALS:
                _handle(name, signal.SIG_IGN)
            end_children(trainer)
            raise Terminated(number)

        for name in _SIGNALS:
            _handle(name, end)


def _handle(name: str, action: Callable | signal.Handlers) -> None:
    """Sets a signal's handler, where there is such a signal and it is not ignored (by nohup)."""
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) != signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(number, action)


def end_children(trainer: pl.Trainer) -> None:
    """Ends the processes that Lightning has started for this one."""
    children: list[subprocess.Popen] = getattr(trainer.strategy.launcher, "procs", [])
    for child in children:
        child.terminate()
    for child in children:
        try:
            child.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()


def told(error: BaseException, cure: str) -> BaseException:
    """What a run ended with, as an error that a user can mend where it is one; else itself.

    Args:
        error: that left the Trainer.
        cure: for a memory that does not suffice.
    """
    text = str(error)
    again = "--resume 1 goes on after the last whole epoch"
    if isinstance(error, Terminated) or not isinstance(error, Exception):
        return error
    if is_out_of_memory(error):
        return TrainingError(f"out of memory: {cure}")
    if "DataLoader worker" in text and ("exited unexpectedly" in text or "is killed" in text):
        return TrainingError(
            f"a data loader's worker was lost, of too little memory perhaps ({one_line(error, 120)}"
            f"); lower --num_workers, {again}"
        )
    if isinstance(error, torch.distributed.DistError) or "gloo" in text.lower():
        return TrainingError(
            f"another process of the training was lost ({one_line(error, 120)}); see its own last "
            f"line, {again}"
        )
    return _of_worker(error)


def _of_worker(error: Exception) -> BaseException:
    """An error of a DataLoader's worker without the traceback that is its message there."""
    lines = str(error).strip().splitlines()
    if not (lines and lines[0].startswith("Caught ") and "DataLoader worker" in lines[0]):
        return error
    try:
        return type(error)(lines[-1].partition(": ")[2])
    except TypeError:
        return error


def fit(trainer: pl.Trainer, system: Any, resumed: Path | None, cure: str) -> None:
    """``trainer.fit`` that ends in one line and with a true exit status, whatever ends it.

    Args:
        trainer: with :class:`Signals` among its callbacks.
        system: to be trained.
        resumed: checkpoint to go on from.
        cure: for a memory that does not suffice.
    """
    try:
        trainer.fit(system, ckpt_path=resumed, weights_only=True)
    except Terminated as ended:
        last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        kept = "the last whole epoch is kept, --resume 1 goes on after it"
        rank_zero_info(
            f"ended by {ended.name} in epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: "
            + (kept if last.exists() else "no epoch was finished yet")
        )
        raise
    except SystemExit as ended:
        if trainer.interrupted:  # by the keyboard; Lightning makes a status of 1 of it
            raise KeyboardInterrupt from ended
        raise
    except Exception as error:
        end_children(trainer)
        better = told(error, cure)
        if better is error:
            raise
        raise better from error

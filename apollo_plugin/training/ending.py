"""Early end of a run: by a signal, or after the loss of a process or worker.

The last complete epoch is kept, and the exit status tells that the run is not finished.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from ..errors import END_SIGNALS, TrainingError, is_out_of_memory, one_line
from ..files import is_full_disk, naming

# Time that processes get to end themselves.
_SECONDS = 5.0
# Time for a signal to come to this process too, after a worker of the data loader died of it.
_BESIDE_SECONDS = 0.5


class Terminated(SystemExit):
    """Exit of a run by a signal, with the shell's status: 128 + number of the signal."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class Signals(Callback):
    """Callback that ends the run at once on a signal. Lightning's own handler waits for the batch
    and for the other processes, and exits with a status of 0."""

    def __init__(self) -> None:
        self._number: int | None = None

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen(trainer)

    def on_train_batch_start(self, *_: Any) -> None:
        self.end_if_asked()

    def on_validation_batch_start(self, *_: Any) -> None:
        self.end_if_asked()

    def end_if_asked(self) -> None:
        """Raise Terminated anew if a signal came: Python drops what is raised while it removes an
        object, such as the data loader of the epoch before, or forks a worker."""
        if self._number is not None:
            raise Terminated(self._number)

    def _listen(self, trainer: pl.Trainer) -> None:
        process = os.getpid()

        def end(number: int, frame: FrameType | None) -> None:
            if os.getpid() != process:
                # A worker of the data loader: this process ends it. One that ended by itself would
                # be an error, or leave a queue locked.
                return
            for name in END_SIGNALS:
                _handle(name, signal.SIG_IGN)
            _handle("SIGINT", signal.SIG_DFL)  # the second does not wait for anything
            sys.unraisablehook = _say_unless_of_loader
            self._number = number
            end_children(trainer)
            raise Terminated(number)

        for name in ("SIGINT", *END_SIGNALS):
            _handle(name, end)


def _handle(name: str, action: Callable | signal.Handlers) -> None:
    """Set the handler of a signal, if it exists and is not ignored (by nohup)."""
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) != signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(number, action)


def _say_unless_of_loader(error: Any) -> None:
    """Print errors that Python drops, but not the run's end, which is raised again, nor those of a
    data loader that was being made."""
    name = getattr(error.object, "__qualname__", "")
    if error.exc_type is not Terminated and name != "_MultiProcessingDataLoaderIter.__del__":
        sys.__unraisablehook__(error)


def end_children(trainer: pl.Trainer) -> None:
    """End the processes that Lightning has started for this run."""
    children: list[subprocess.Popen] = getattr(trainer.strategy.launcher, "procs", [])
    for child in children:
        child.terminate()
    for child in children:
        try:
            child.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()


def what_is_kept(exp_dir: str | os.PathLike, by_itself: bool = False) -> str:
    """Describe what a run that ended early has kept, and how to go on.

    Args:
        exp_dir: folder of the run.
        by_itself: its command resumes it by itself, and has no ``--resume``.
    """
    if (Path(exp_dir) / "checkpoints" / "last.ckpt").exists():
        how = "the same command" if by_itself else "--resume 1"
        return f"the last complete epoch is kept, {how} continues after it"
    return "no epoch was complete yet, so start it again" + (
        "" if by_itself else " without --resume"
    )


def explain(error: BaseException, cure: str, kept: str) -> BaseException:
    """Turn an error of the Trainer into one that tells a user the cure; defects stay themselves.
    ``cure`` is advice against a lack of memory, ``kept`` the result of :func:`what_is_kept`."""
    text = str(error)
    if isinstance(error, Terminated) or not isinstance(error, Exception):
        return error
    if is_out_of_memory(error):
        return TrainingError(f"out of memory: {cure}")
    if _is_death_of_worker(error):
        return TrainingError(
            "a worker of the data loader died, perhaps for lack of memory "
            f"({one_line(error, 120)}); lower --num_workers; {kept}"
        )
    if isinstance(error, torch.distributed.DistError) or "gloo" in text.lower():
        return TrainingError(
            f"another process of the training died ({one_line(error, 120)}); see its own last "
            f"line; {kept}"
        )
    # Of an OSError only the system's: a full disk, a lost file.
    if isinstance(error, TrainingError) or (isinstance(error, OSError) and error.strerror):
        return TrainingError(f"{one_line(error, 1000)}; {kept}")
    return _strip_traceback(error)


def _is_death_of_worker(error: BaseException) -> bool:
    text = str(error)
    return "DataLoader worker" in text and ("exited unexpectedly" in text or "is killed" in text)


def _strip_traceback(error: Exception) -> BaseException:
    """Replace the traceback in the message of a DataLoader worker's error by the message itself."""
    lines = str(error).strip().splitlines()
    if not (lines and lines[0].startswith("Caught ") and "DataLoader worker" in lines[0]):
        return error
    try:
        return type(error)(lines[-1].partition(": ")[2])
    except TypeError:
        return error


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """Print no traceback of a thread that a full disk ends: TensorBoard's raises the error in the
    main thread too."""
    before = threading.excepthook
    threading.excepthook = lambda args: is_full_disk(args.exc_value) or before(args)
    try:
        yield
    finally:
        threading.excepthook = before


def fit(
    trainer: pl.Trainer, system: Any, resumed: Path | None, cure: str, by_itself: bool = False
) -> None:
    """Run ``trainer.fit``; whatever ends it, print one line and exit with a true status.

    Args:
        trainer: trainer with :class:`Signals` among its callbacks.
        system: system to train.
        resumed: checkpoint to continue from.
        cure: advice against a lack of memory.
        by_itself: see :func:`what_is_kept`.
    """
    try:
        _fit(trainer, system, resumed, cure, by_itself)
    except Terminated as ended:
        rank_zero_info(
            f"ended by {ended.name} in epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: "
            + what_is_kept(trainer.default_root_dir, by_itself)
        )
        raise


def _fit(
    trainer: pl.Trainer, system: Any, resumed: Path | None, cure: str, by_itself: bool
) -> None:
    try:
        with naming(trainer.default_root_dir), _quiet_threads():
            trainer.fit(system, ckpt_path=resumed, weights_only=True)
    except SystemExit as ended:
        # Lightning exits with status 1, whichever signal it was.
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise ended.__context__ from None
        raise
    except Exception as error:
        if _is_death_of_worker(error):
            # Signals of a scheduler go to all processes, and a worker may be the first to end.
            time.sleep(_BESIDE_SECONDS)
            for callback in getattr(trainer, "callbacks", []):
                if isinstance(callback, Signals):
                    callback.end_if_asked()
        end_children(trainer)
        explained = explain(error, cure, what_is_kept(trainer.default_root_dir, by_itself))
        if explained is error:
            raise
        raise explained from error

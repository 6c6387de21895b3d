"""The work on one file, wherever it is done: here, in a worker process, on a cluster."""

import pickle
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

import torch

from ..audio.extent import expected_bytes
from ..memory import Purse
from ..model import RestorationModel
from ..restore import Progress, Restored, restore_file
from ..settings import Job
from .loading import load
from .options import Options
from .terminal import Bar

Work = Callable[[Job, Progress], Restored]

# Copies of a song's samples at the peak of restoring it: as it came, at the model's rate, restored,
# and what a resampler takes and gives.
_COPIES = 5


class Done(NamedTuple):
    """What became of a file.

    Args:
        seconds: of sound.
        took: seconds that it took.
        restored: what is to be told of the result.
        notes: lines that were to be said meanwhile, where nobody could see them.
    """

    seconds: float
    took: float
    restored: Restored
    notes: tuple[str, ...] = ()


def work(options: Options, model: RestorationModel | None = None) -> Work:
    """What is done with each file.

    Args:
        options: what was typed.
        model: that of the options, where it was loaded already.

    Raises:
        ApolloError: where the checkpoint, the device or the separator cannot be used.
    """
    model, settings = model or load(options), options.settings()
    if not options.stems:
        return lambda job, progress: restore_file(model, job, settings, progress)
    from .stems import load_pipeline, restore_stems

    pipeline = load_pipeline(model, options.stems, settings)
    return lambda job, progress: restore_stems(pipeline, job, settings, progress)


def do(work: Work, job: Job, progress: Progress) -> Done:
    """Restores one file and takes its time."""
    begin, seconds = time.perf_counter(), 0.0

    def told(step: str, done: float, total: float) -> None:
        nonlocal seconds
        seconds = total
        progress(step, done, total)

    restored = work(job, told)
    return Done(seconds, time.perf_counter() - begin, restored)


def do_here(work: Work, job: Job) -> Done:
    """Restores one file with a bar over its seconds."""
    bar = Bar(job.source.name)
    try:
        return do(work, job, bar.progress)
    finally:
        bar.close()


# --------------------------------------------------------------------------------------- elsewhere


class Stopped(Exception):
    """Ends the work on a file after an interrupt."""


@dataclass(frozen=True)
class Common:
    """What worker processes of this machine share.

    Args:
        stop: set where the work ends early.
        under_way: how many files those are that are under way, each by its share that is done.
        purse: memory for their samples; None where nobody knows how much there is.
    """

    stop: Event
    under_way: Synchronized
    purse: Purse | None

    def check(self) -> None:
        """Raises Stopped where the work is to end."""
        if self.stop.is_set():
            raise Stopped

    def n_under_way(self) -> float:
        return self.under_way.value

    def add(self, share: float) -> None:
        """Tells of progress."""
        with self.under_way.get_lock():
            self.under_way.value += share


# Of this process; a cluster's share nothing.
_common: Common | None = None


def begin(n_threads: int, common: Common | None) -> None:
    """Makes a process of this machine ready for :func:`do_there`."""
    global _common
    _common = common
    torch.set_num_threads(n_threads)


def do_there(options: Options, folder: Path, job: Job) -> Done:
    """Restores one file in a worker process, which keeps its model for the next.

    Args:
        options: what was typed.
        folder: that names of files are relative to.
        job: which file.
    """
    job = Job(folder / job.source, folder / job.target)
    try:
        with warnings.catch_warnings(record=True) as caught:
            done = _do_in_common(_kept_work(options), job, options, _common)
    except Exception as error:
        raise _portable(error) from None
    return done._replace(notes=tuple(str(warning.message) for warning in caught))


def ready(options: Options) -> None:
    """Loads what a worker needs; raises what stands against it."""
    _kept_work(options)


# One for all that a worker does; threads of a cluster's worker share it.
_kept_work = lru_cache(maxsize=1)(work)


def _do_in_common(work: Work, job: Job, options: Options, common: Common | None) -> Done:
    if common is None:
        return do(work, job, lambda *_: None)
    common.check()
    share = 0.0

    def progress(step: str, done: float, total: float) -> None:
        nonlocal share
        common.check()
        common.add(done / total - share)
        share = done / total

    try:
        if common.purse is None:
            return do(work, job, progress)
        n_bytes = _COPIES * expected_bytes(job.source, options.duration)
        with common.purse.take(n_bytes, common.check):
            return do(work, job, progress)
    finally:
        common.add(-share)


def _portable(error: Exception) -> Exception:
    """An error that goes from process to process."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)

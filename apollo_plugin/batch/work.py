"""Restoration of one file: in this process, in a worker process, or on a cluster."""

import pickle
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path

from ..audio.coding import expected_bytes
from ..engine.choose import Choice, load
from ..engine.protocol import Engine, Progress
from ..memory import MemoryBudget
from ..restore import Restored, restore_file
from ..settings import Job, Settings

Work = Callable[[Job, Progress], Restored]

# Copies of a song's samples at the peak of memory: the source, at the model's rate, restored, and a
# resampler's input and output.
_COPIES = 5


@dataclass(frozen=True)
class Task:
    """Engine and settings for all files of a run.

    Args:
        choice: checkpoint and engine.
        settings: of the results.
        stems: name of a separator, if stems are restored one by one.
    """

    choice: Choice
    settings: Settings
    stems: str | None = None


@dataclass(frozen=True)
class Result:
    """The outcome for one file.

    Args:
        job: the file and its result's place.
        restored: facts about the result; None without one, or if it was kept from before.
        error: reason for a missing result; :class:`~apollo_plugin.errors.Uncoded` if intended.
        seconds: length of the sound.
        took: seconds that the work took.
        notes: warnings from the process that did it.
    """

    job: Job
    restored: Restored | None = None
    error: Exception | None = None
    seconds: float = 0.0
    took: float = 0.0
    notes: tuple[str, ...] = ()


def work(task: Task, engine: Engine) -> Work:
    """Make the function that restores one file.

    Args:
        task: engine and settings.
        engine: the task's, loaded.

    Raises:
        ApolloError: if the separator cannot be used.
    """
    settings = task.settings
    if not task.stems:
        return lambda job, progress: restore_file(engine, job, settings, progress)
    from .stems import load_pipeline, restore_stems

    pipeline = load_pipeline(engine, task.stems, settings)
    return lambda job, progress: restore_stems(pipeline, job, settings, progress)


def do(work: Work, job: Job, progress: Progress) -> Result:
    """Restore one file and time it."""
    begin, seconds = time.perf_counter(), 0.0

    def report(step: str, done: float, total: float) -> None:
        nonlocal seconds
        seconds = total
        progress(step, done, total)

    restored = work(job, report)
    return Result(job, restored, None, seconds, time.perf_counter() - begin)


class Stopped(Exception):
    """End of the work on a file after an interrupt."""


@dataclass(frozen=True)
class Common:
    """Objects shared by the worker processes of this machine.

    Args:
        stop: set to end the work early.
        under_way: sum of the finished shares of all files in progress.
        budget: memory budget for their samples; None if the available memory is unknown.
    """

    stop: Event
    under_way: Synchronized
    budget: MemoryBudget | None

    def check(self) -> None:
        """Raise Stopped if the work is to end."""
        if self.stop.is_set():
            raise Stopped

    def n_under_way(self) -> float:
        return self.under_way.value

    def add(self, share: float) -> None:
        """Add to the progress."""
        with self.under_way.get_lock():
            self.under_way.value += share


# Of this process; a cluster's processes share nothing.
_common: Common | None = None
_n_threads: int | None = None


def begin(n_threads: int, common: Common | None) -> None:
    """Prepare a process of this machine for :func:`do_there`."""
    global _common, _n_threads
    _common, _n_threads = common, n_threads


def do_there(task: Task, folder: Path, job: Job) -> Result:
    """Restore one file in a worker process, which keeps its model for the next.

    Args:
        task: engine and settings.
        folder: the one that file names are relative to.
        job: the file.
    """
    there = Job(folder / job.source, folder / job.target)
    try:
        with warnings.catch_warnings(record=True) as caught:
            done = _do_in_common(_kept_work(task), there, task, _common)
    except Exception as error:
        raise _portable(error) from None
    return replace(done, job=job, notes=tuple(str(warning.message) for warning in caught))


def ready(task: Task) -> None:
    """Load the task's engine in a worker; raises the reason if it cannot be used."""
    _kept_work(task)


@lru_cache(maxsize=1)
def _cached_work(key: bytes) -> Work:
    task = pickle.loads(key)
    return work(task, load(task.choice, _n_threads))


def _kept_work(task: Task) -> Work:
    """Make a worker's function once; threads of a cluster's worker share it."""
    return _cached_work(pickle.dumps(task))


def _do_in_common(work: Work, job: Job, task: Task, common: Common | None) -> Result:
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
        if common.budget is None:
            return do(work, job, progress)
        n_bytes = _COPIES * expected_bytes(job.source, task.settings.reading.get("duration"))
        with common.budget.take(n_bytes, common.check):
            return do(work, job, progress)
    finally:
        common.add(-share)


def _portable(error: Exception) -> Exception:
    """Make an error that can be sent from process to process."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)

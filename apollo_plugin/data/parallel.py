"""Parallel work by any ``concurrent.futures.Executor``: local processes, or a Dask cluster."""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from itertools import islice
from multiprocessing.context import BaseContext
from typing import TypeVar, cast

from tqdm import tqdm

from ..errors import DeviceError, SettingError, install, one_line
from ..memory import n_cores

Item = TypeVar("Item")
Result = TypeVar("Result")
# Items submitted ahead: enough to keep a cluster busy, few enough to hold in memory.
_AHEAD = 256
_DASK_SECONDS = 10
# Seconds between two updates of the progress bar.
_TICK = 0.5


class WorkerDied(DeviceError):
    """Error for a worker process that was killed or crashed."""


@functools.cache
def no_processes() -> str | None:
    """Return the reason why worker processes are unavailable; None if they are available. They
    share semaphores, which Linux keeps in ``/dev/shm``, and start in this one's working folder."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return "processes start in the working folder, which has been removed"
    try:
        multiprocessing.get_context("spawn").Lock()
    except (ImportError, OSError) as error:
        return f"processes share memory in /dev/shm, which cannot be written ({one_line(error)})"
    return None


def context(preload: str) -> BaseContext:
    """Return the multiprocessing context that starts worker processes and makes their locks.

    Args:
        preload: module that all of them need, loaded once for all; the first call decides.
    """
    # Forking a process that runs threads (torch's) can hang; a fork server runs none.
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload([preload])
    return forkserver


def _start_server(mp_context: BaseContext) -> None:
    """Start the fork server such that it and its workers ignore interrupts, which are for the main
    process, from their first instruction on."""
    if mp_context.get_start_method() != "forkserver":
        return
    from multiprocessing.forkserver import ensure_running

    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread
        return
    try:
        ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold signals back while an executor starts a process: one that an interrupt left half started
    would be waited for by nobody, and fail aloud when the main process has gone."""
    came: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            # Blocking them would not do: other threads, of libraries, take them.
            if callable(signal.getsignal(number)):
                before[number] = signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for held in came:
            signal.raise_signal(held)


@contextlib.contextmanager
def executor(
    n_jobs: int | None = None,
    dask: str | None = None,
    prepare: Callable[[], object] | None = None,
    preload: str = "apollo_plugin.data.pairs",
) -> Iterator[Executor]:
    """Open an executor; on exit it is shut down and pending work is cancelled. Without worker
    processes it runs one thread.

    Args:
        n_jobs: number of processes; by default the number of cores.
        dask: address of a Dask scheduler, ``"tcp://host:8786"``, in place of processes.
        prepare: called in each process before its first item; not on a cluster.
        preload: see :func:`context`.

    Raises:
        ValueError: for ``n_jobs`` below 1, without the extra ``cluster``, or if no scheduler
            answers.
    """
    if n_jobs is not None and n_jobs < 1:
        raise SettingError(f"--n_jobs {n_jobs} has to be 1 or more")
    if dask:
        try:
            from distributed import Client
        except ImportError as error:
            raise SettingError(f"--dask needs: {install('cluster')}") from error
        try:
            client = Client(dask, timeout=_DASK_SECONDS)
        except (OSError, ValueError) as error:
            raise SettingError(f"no Dask scheduler answers at '{dask}'") from error
        with client:
            pool: Executor = client.get_executor()
            try:
                yield pool
            finally:
                pool.shutdown(wait=False)
    else:
        if hindrance := no_processes():
            warnings.warn(f"{hindrance}; working in a single process", stacklevel=3)
            pool = ThreadPoolExecutor(1)
        else:
            n_jobs = n_jobs or n_cores()
            mp_context = context(preload)
            _start_server(mp_context)
            pool = ProcessPoolExecutor(n_jobs, mp_context, _prepare_worker, (prepare,))
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def each(
    pool: Executor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    total: int,
    desc: str,
    unit: str,
    *,
    disable: bool | None = None,
    under_way: Callable[[], float] | None = None,
) -> Iterator[tuple[Item, Result | Exception]]:
    """Apply a function to each item, with a progress bar; yield results in order of completion.

    Args:
        pool: an executor.
        function: applied to one item; it and the items have to be picklable.
        items: in the order in which they are started.
        total: number of items.
        desc: title of the bar.
        unit: unit of the bar.
        disable: hide the bar; None hides it without a terminal.
        under_way: returns the finished shares of the items in progress, summed up.

    Yields:
        item and its result, or the exception that it raised.

    Raises:
        WorkerDied: if a worker process died.
    """
    todo = iter(items)
    running: dict = {}
    n_done = 0
    with tqdm(total=total, desc=desc, unit=unit, disable=disable) as bar:
        try:
            while True:
                for item in islice(todo, _AHEAD - len(running)):
                    with _signals_held():
                        running[pool.submit(function, item)] = item
                if not running:
                    return
                tick = None if bar.disable or not under_way else _TICK
                done, _ = wait(running, tick, FIRST_COMPLETED)
                if tick and under_way:
                    bar.n = round(n_done + under_way(), 1)
                    bar.refresh()
                for future in done:
                    item, error = running.pop(future), future.exception()
                    if isinstance(error, BrokenExecutor):
                        raise error
                    if error is not None and not isinstance(error, Exception):
                        raise error
                    n_done += 1
                    bar.update(n_done - bar.n)
                    yield item, future.result() if error is None else _explain(error)
        except BrokenExecutor as error:
            raise WorkerDied(
                "a worker process died, perhaps for lack of memory; try a smaller --n_jobs"
            ) from error
        except CancelledError as error:
            raise WorkerDied("the cluster dropped the work: its scheduler has ended") from error


def _explain(error: Exception) -> Exception:
    """Turn an error of Dask itself into one that tells a user the cure; others stay themselves."""
    if type(error).__module__.partition(".")[0] == "distributed":
        return WorkerDied(
            "the cluster gave it up: its workers died at it, perhaps for lack of memory, or none "
            f"is left ({one_line(error, 120)})"
        )
    if isinstance(error, RuntimeError) and "deserialization of the task graph" in str(error):
        return DeviceError(
            "the cluster's scheduler cannot read the work: it needs the same apollo-plugin, Python "
            "and dask as this machine"
        )
    return error


def _prepare_worker(prepare: Callable[[], object] | None) -> None:
    """Set up a worker process: one thread, as processes share the cores already; no interrupts,
    which are for the main process; and an end as soon as the main process ends."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for PyTorch where it is still to be imported
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # tqdm's default lock is shared between processes, and a killed process would never release it.
    tqdm.set_lock(threading.RLock())

    parent = cast(multiprocessing.process.BaseProcess, multiprocessing.parent_process())

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    if prepare:
        prepare()

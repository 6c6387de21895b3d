"""Work on many items by any ``concurrent.futures.Executor``: processes here, or a Dask cluster."""

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
from typing import TypeVar

from tqdm import tqdm

from ..errors import DeviceError, SettingError, install, one_line
from ..memory import n_cores

Item, Result = TypeVar("Item"), TypeVar("Result")
# Submitted ahead: enough to keep a cluster busy, little to hold.
_AHEAD = 256
_DASK_SECONDS = 10
# Seconds between two looks at what is under way.
_TICK = 0.5


class WorkerDied(DeviceError):
    """A worker process that ended, killed or crashed, in the middle of its work."""


@functools.cache
def no_processes() -> str | None:
    """Why worker processes cannot be had here; None where they can. They share semaphores, which
    Linux keeps in ``/dev/shm``."""
    try:
        multiprocessing.get_context("spawn").Lock()
    except (ImportError, OSError) as error:
        return f"processes share memory in /dev/shm, which cannot be written ({one_line(error)})"
    return None


def context(preload: str) -> BaseContext:
    """How worker processes are begun, and what their locks and events have to be made by.

    Args:
        preload: module that all of them need, loaded once for all; that of the first call counts.
    """
    # A fork of a process that runs threads (torch's) can hang; a fork server has none.
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload([preload])
    return forkserver


def _start_server(ways: BaseContext) -> None:
    """Starts what makes the worker processes, such that it and they ignore interrupts, which are
    for the main process, from their first instruction on."""
    if ways.get_start_method() != "forkserver":
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
def executor(
    n_jobs: int | None = None,
    dask: str | None = None,
    prepare: Callable[[], object] | None = None,
    preload: str = "apollo_plugin.data.pairs",
) -> Iterator[Executor]:
    """An executor that is shut down at the end, and what is left undone with it; of one thread
    where processes cannot be had.

    Args:
        n_jobs: number of processes; as many as there are cores unless given.
        dask: address of a Dask scheduler, ``"tcp://host:8786"``, in place of processes.
        prepare: called in each process before its first item; a cluster's are not ours to prepare.
        preload: of :func:`context`.

    Raises:
        ValueError: for ``n_jobs`` below 1, without the extra ``cluster``, or where no scheduler
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
            pool = client.get_executor()
            try:
                yield pool
            finally:
                pool.shutdown(wait=False)
    else:
        pool: Executor
        if hindrance := no_processes():
            warnings.warn(f"{hindrance}: one after another", stacklevel=3)
            pool = ThreadPoolExecutor(1)
        else:
            n_jobs = n_jobs or n_cores()
            ways = context(preload)
            _start_server(ways)
            pool = ProcessPoolExecutor(n_jobs, ways, _prepare_worker, (prepare,))
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
    disable: bool | None = None,
    under_way: Callable[[], float] | None = None,
) -> Iterator[tuple[Item, Result | Exception]]:
    """Applies a function to each item, with a progress bar; results come as they are done.

    Args:
        pool: an executor.
        function: of one item; it and the items have to be picklable.
        items: in the order in which they are begun.
        total: number of items.
        desc: title of the bar.
        unit: of the bar.
        disable: the bar; None where there is no terminal.
        under_way: how many items those are that are under way, each by its share that is done.

    Yields:
        item and its result, or the exception that it ended with.

    Raises:
        WorkerDied: where a worker process did.
    """
    todo = iter(items)
    running: dict = {}
    n_done = 0
    with tqdm(total=total, desc=desc, unit=unit, disable=disable) as bar:
        try:
            while True:
                for item in islice(todo, _AHEAD - len(running)):
                    running[pool.submit(function, item)] = item
                if not running:
                    return
                tick = None if bar.disable or not under_way else _TICK
                done, _ = wait(running, tick, FIRST_COMPLETED)
                if tick:
                    bar.n = round(n_done + under_way(), 1)
                    bar.refresh()
                for future in done:
                    item, error = running.pop(future), future.exception()
                    if error is not None and (
                        isinstance(error, BrokenExecutor) or not isinstance(error, Exception)
                    ):
                        raise error
                    n_done += 1
                    bar.update(n_done - bar.n)
                    yield item, future.result() if error is None else error
        except (BrokenExecutor, CancelledError) as error:
            raise WorkerDied(
                "a worker process died, of too little memory perhaps; try a smaller --n_jobs"
            ) from error


def _prepare_worker(prepare: Callable[[], object] | None) -> None:
    """One thread: processes share the cores already. An interrupt is for the main process; where
    that is killed, its workers end too."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for PyTorch where it is still to be imported
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Its own is one between processes, which a process that is killed would leave behind.
    tqdm.set_lock(threading.RLock())

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    if prepare:
        prepare()

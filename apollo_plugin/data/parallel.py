"""Work on many items by any ``concurrent.futures.Executor``: processes or threads here, or a Dask
cluster."""

import contextlib
import multiprocessing
import os
import signal
import threading
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
from typing import TypeVar

from tqdm import tqdm

from ..errors import DeviceError, SettingError

Item, Result = TypeVar("Item"), TypeVar("Result")
# Submitted ahead: enough to keep a cluster busy, little to hold.
_AHEAD = 256
_DASK_SECONDS = 10


@contextlib.contextmanager
def executor(n_jobs: int | None = None, dask: str | None = None) -> Iterator[Executor]:
    """An executor that is shut down at the end, and what is left undone with it.

    Args:
        n_jobs: number of processes; as many as there are cores unless given.
        dask: address of a Dask scheduler, ``"tcp://host:8786"``, in place of processes.

    Raises:
        ValueError: for ``n_jobs`` below 1, without the extra ``cluster``, or where no scheduler
            answers.
    """
    if n_jobs is None:
        n_jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    elif n_jobs < 1:
        raise SettingError(f"--n_jobs {n_jobs} has to be 1 or more")
    if dask:
        try:
            from distributed import Client
        except ImportError as error:
            raise SettingError("--dask needs: pip install 'apollo-plugin[cluster]'") from error
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
        # A fork of a process that runs threads (torch's) can hang; a fork server has none.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["apollo_plugin.data.pairs"])
        pool = ProcessPoolExecutor(n_jobs, context, initializer=_prepare_worker)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def threads(n_threads: int) -> Iterator[tuple[ThreadPoolExecutor, threading.Event]]:
    """Threads that share PyTorch's between them, and an event that is set where the work ends.

    Python cannot end a thread: what takes long has to look at the event.

    Args:
        n_threads: their number, 1 or more.
    """
    import torch

    stop, n_cores = threading.Event(), torch.get_num_threads()
    torch.set_num_threads(max(1, n_cores // n_threads))
    pool = ThreadPoolExecutor(n_threads)
    try:
        yield pool, stop
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_cores)


def each(
    pool: Executor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    total: int,
    desc: str,
    unit: str,
    disable: bool | None = None,
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

    Yields:
        item and its result, or the exception that it ended with.

    Raises:
        RuntimeError: where a worker process died.
    """
    todo = iter(items)
    running: dict = {}
    with tqdm(total=total, desc=desc, unit=unit, disable=disable) as bar:
        try:
            while True:
                for item in islice(todo, _AHEAD - len(running)):
                    running[pool.submit(function, item)] = item
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    item, error = running.pop(future), future.exception()
                    if error is not None and (
                        isinstance(error, BrokenExecutor) or not isinstance(error, Exception)
                    ):
                        raise error
                    bar.update()
                    yield item, future.result() if error is None else error
        except (BrokenExecutor, CancelledError) as error:
            raise DeviceError(
                "a worker process died, of too little memory perhaps; try a smaller --n_jobs"
            ) from error


def _prepare_worker() -> None:
    """One thread: processes share the cores already. An interrupt is for the main process; where
    that is killed, its workers end too."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()

"""Execution of a plan: in this process, in several independent ones, or on a cluster."""

import os
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ..bundled import BUNDLED
from ..data.parallel import WorkerDied, context, each, executor, n_cores, no_processes
from ..engine.choose import load
from ..engine.protocol import Engine, Progress
from ..errors import DeviceError
from ..files import sweep
from ..memory import MemoryBudget, available_bytes
from ..settings import Job
from .work import Common, Result, Task, Work, begin, do, do_there, ready, work

# Makes a job's progress display.
Watch = Callable[[Job], AbstractContextManager[Progress]]

# Total size of files below which one process is done before others have started.
_WORTH_BYTES = 1 << 20
# Memory of a process without model and song; a multiple of the weights for packed copies and
# activations; and a song that should fit into a process.
_PROCESS_BYTES, _TIMES_WEIGHTS, _SONG_BYTES = 500 << 20, 12, 400 << 20
# On a GPU one file is read or written while another is computed.
_ON_GPU = 2
# Modules loaded once for all worker processes, by engine.
_PRELOAD = {"onnx": "apollo_plugin.batch.work", "torch": "apollo_plugin.batch.stems"}
_DIED = "the process that restored it died, of too little memory perhaps"


def silent(_: Job) -> AbstractContextManager[Progress]:
    """Show no progress."""
    return nullcontext(lambda *_: None)


def outcomes(
    task: Task,
    due: Sequence[Job],
    *,
    jobs: int | None = None,
    dask: str | None = None,
    engine: Engine | None = None,
    watch: Watch = silent,
    bars: bool = False,
) -> Generator[Result, None, None]:
    """Restore files; yield each result as it is finished.

    Args:
        task: engine and settings.
        due: the files.
        jobs: files at a time; unless given, as many as cores and memory allow.
        dask: address of a Dask cluster to use.
        engine: the task's, if it is loaded already.
        watch: makes the progress display of a file restored in this process.
        bars: show a progress bar over the files, on terminals.

    Raises:
        ApolloError: if no file can be restored: for checkpoint, device or cluster.
    """
    if dask:
        yield from _on_cluster(task, due, dask, bars)
        return
    engine = engine or load(task.choice)
    n, budget = share_out(engine, due, jobs, bool(task.stems))
    if n == 1:
        yield from _here(work(task, engine), due, watch, bars)
    else:
        preload = _PRELOAD[engine.name]
        del engine
        yield from _in_processes(task, list(due), n, max(1, n_cores() // n), budget, preload, bars)


def share_out(
    engine: Engine, due: Sequence[Job], jobs: int | None, stems: bool
) -> tuple[int, int | None]:
    """Choose the number of processes, and the memory in bytes that they share for songs.

    ``--jobs``, or as many as there are cores, within the limits of files and memory. This process
    alone if others would start too late, and for stems, since a separator's memory is unknown.
    """
    n = jobs or {"cpu": n_cores(), "cuda": _ON_GPU}.get(engine.device, 1)
    if not jobs and (stems or _total_bytes(due) < _WORTH_BYTES):
        n = 1
    n = min(n, len(due))
    hindrance = no_processes() if n > 1 else None
    if hindrance:
        warnings.warn(f"{hindrance}: one file at a time", stacklevel=2)
        n = 1
    free = available_bytes()
    if n == 1 or free is None:
        return n, None
    each_bytes = _PROCESS_BYTES + _TIMES_WEIGHTS * engine.n_bytes
    fit = max(1, free // (each_bytes + _SONG_BYTES))
    if fit < n:
        line = f"{free / 1e9:.1f} GB of memory are free: {fit} files at a time, not {n}"
        warnings.warn(line, stacklevel=2)
    n = min(n, fit)
    return n, free - n * each_bytes if n > 1 else None


def _total_bytes(due: Sequence[Job]) -> int:
    return sum(os.path.getsize(job.source) for job in due if os.path.exists(job.source))


def _here(one: Work, due: Sequence[Job], watch: Watch, bars: bool) -> Iterator[Result]:
    # A single file needs no bar over files.
    for job in tqdm(due, "files", unit="file", disable=None if bars and len(due) > 1 else True):
        try:
            with watch(job) as progress:
                done = do(one, job, progress)
        except Exception as error:
            done = Result(job, error=error)
        yield done


def _in_processes(
    task: Task,
    due: list[Job],
    n: int,
    n_threads: int,
    budget_bytes: int | None,
    preload: str,
    bars: bool,
) -> Iterator[Result]:
    """Restore files in processes of this machine. If one dies, the files in progress, which are
    the first, are restored one by one, so that only the one that crashes is lost."""
    ways = context(preload)
    while due:
        budget = None if budget_bytes is None else MemoryBudget(budget_bytes, ways)
        common = Common(ways.Event(), ways.Value("d", 0.0), budget)
        prepare = partial(begin, n_threads, common)
        one = partial(do_there, task, Path())
        try:
            with executor(n, prepare=prepare, preload=preload) as pool:
                done = each(
                    pool,
                    one,
                    list(due),
                    len(due),
                    "files",
                    "file",
                    disable=None if bars else True,
                    under_way=common.n_under_way,
                )
                try:
                    for job, outcome in done:
                        due.remove(job)
                        yield _result(job, outcome)
                finally:
                    common.stop.set()
        except WorkerDied:
            if n == 1:
                yield Result(due.pop(0), error=DeviceError(_DIED))
            else:
                under_way, due = due[:n], due[n:]
                few = 1, n_threads, budget_bytes, preload, bars
                yield from _in_processes(task, under_way, *few)


def _on_cluster(task: Task, due: Sequence[Job], address: str, bars: bool) -> Iterator[Result]:
    """Restore files on a Dask cluster whose workers see the same files under the same names. A
    worker's file is restored by another if it dies."""
    # Workers have a working folder of their own.
    checkpoint, stems = task.choice.checkpoint, task.stems
    if checkpoint not in BUNDLED and os.path.exists(checkpoint):
        task = replace(task, choice=replace(task.choice, checkpoint=os.path.abspath(checkpoint)))
    if stems and os.path.isfile(stems):
        task = replace(task, stems=os.path.abspath(stems))
    one = partial(do_there, task, Path.cwd())
    try:
        with executor(dask=address) as pool:
            pool.submit(ready, task).result()
            quiet = None if bars else True
            for job, outcome in each(pool, one, due, len(due), "files", "file", disable=quiet):
                # A file on which several workers died raises Dask's KilledWorker.
                died = type(outcome).__name__ == "KilledWorker"
                yield _result(job, DeviceError(_DIED) if died else outcome)
    except ImportError as error:
        raise DeviceError(f"the workers at '{address}' lack something: {error}") from error
    except WorkerDied as error:
        raise DeviceError(f"the cluster at '{address}' went away") from error
    finally:
        for folder in {job.target.parent for job in due}:
            sweep(folder)


def _result(job: Job, outcome: Result | Exception) -> Result:
    return Result(job, error=outcome) if isinstance(outcome, Exception) else outcome

"""Who restores the files: this process, several that share nothing but the plan, or a cluster."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ..checkpoints import BUNDLED
from ..data.parallel import WorkerDied, context, each, executor, n_cores, no_processes
from ..errors import DeviceError
from ..files import sweep
from ..memory import Purse, available_bytes
from ..model import RestorationModel
from ..settings import Job
from .loading import load
from .options import Options
from .terminal import say, waiting
from .work import Common, Done, begin, do_here, do_there, ready, work

Outcomes = Iterator[tuple[Job, Done | Exception]]

# Files of less than this in all are restored before processes have started.
_WORTH_BYTES = 1 << 20
# What a process takes beside its model and its song; what a model's weights take again in products,
# packed, and what lies between layers; and a song that a process should have room for.
_PROCESS_BYTES, _TIMES_WEIGHTS, _SONG_BYTES = 500 << 20, 12, 400 << 20
# On a GPU one file is read and written while another is computed.
_ON_GPU = 2
_PRELOAD = "apollo_plugin.cli.work"
_DIED = "the process that restored it died, of too little memory perhaps"


def outcomes(options: Options, due: Sequence[Job]) -> Outcomes:
    """Restores files; gives each with what became of it, as they are done.

    Raises:
        ApolloError: where none can be restored: the checkpoint, the device, the cluster.
    """
    if options.dask:
        yield from _on_cluster(options, due)
        return
    with waiting(f"loading {options.checkpoint}"):
        model = load(options)
    n, purse = share_out(model, options, due)
    if n == 1:
        yield from _here(options, model, due)
    else:
        del model
        yield from _in_processes(options, list(due), n, max(1, n_cores() // n), purse)


def share_out(
    model: RestorationModel, options: Options, due: Sequence[Job]
) -> tuple[int, int | None]:
    """How many processes restore files, and how many bytes of memory they share for songs.

    As many as there are cores, so far as there are files and memory for them, or as ``--jobs``
    says. One, this one, where others would not have started before all is done, and for stems:
    what a separator takes is its own affair.
    """
    n_bytes = sum(weight.nbytes for weight in model.parameters())
    device = next(model.parameters()).device.type
    n = options.jobs or {"cpu": n_cores(), "cuda": _ON_GPU}.get(device, 1)
    if not options.jobs and (options.stems or _total_bytes(due) < _WORTH_BYTES):
        n = 1
    n = min(n, len(due))
    hindrance = no_processes() if n > 1 else None
    if hindrance:
        say(f"{hindrance}: one file at a time")
        n = 1
    free = available_bytes()
    if n == 1 or free is None:
        return n, None
    each_bytes = _PROCESS_BYTES + _TIMES_WEIGHTS * n_bytes
    fit = max(1, free // (each_bytes + _SONG_BYTES))
    if fit < n:
        say(f"{free / 1e9:.1f} GB of memory are free: {fit} files at a time, not {n}")
    n = min(n, fit)
    return n, free - n * each_bytes if n > 1 else None


def _total_bytes(due: Sequence[Job]) -> int:
    return sum(os.path.getsize(job.source) for job in due if os.path.exists(job.source))


def _here(options: Options, model: RestorationModel, due: Sequence[Job]) -> Outcomes:
    one = work(options, model)
    # One file needs no bar over files.
    for job in tqdm(due, "files", unit="file", disable=None if len(due) > 1 else True):
        try:
            yield job, do_here(one, job)
        except Exception as error:
            yield job, error


def _in_processes(
    options: Options, due: list[Job], n: int, n_threads: int, purse_bytes: int | None
) -> Outcomes:
    """By processes of this machine. Where one dies the files that were under way, which are the
    first, are restored one by one, so that only the one that kills is lost."""
    ways = context(_PRELOAD)
    while due:
        purse = None if purse_bytes is None else Purse(purse_bytes, ways)
        common = Common(ways.Event(), ways.Value("d", 0.0), purse)
        prepare = partial(begin, n_threads, common)
        one = partial(do_there, options, Path())
        try:
            with executor(n, prepare=prepare, preload=_PRELOAD) as pool:
                done = each(
                    pool,
                    one,
                    list(due),
                    len(due),
                    "files",
                    "file",
                    under_way=common.n_under_way,
                )
                try:
                    for job, outcome in done:
                        due.remove(job)
                        yield job, _said(outcome)
                finally:
                    common.stop.set()
        except WorkerDied:
            if n == 1:
                yield due.pop(0), DeviceError(_DIED)
            else:
                under_way, due = due[:n], due[n:]
                yield from _in_processes(options, under_way, 1, n_threads, purse_bytes)


def _on_cluster(options: Options, due: Sequence[Job]) -> Outcomes:
    """By the workers of a Dask cluster, which see the same files under the same names. What one was
    at when it died another does anew."""
    checkpoint = options.checkpoint
    if checkpoint not in BUNDLED and os.path.exists(checkpoint):
        options = replace(options, checkpoint=os.path.abspath(checkpoint))
    one = partial(do_there, options, Path.cwd())
    try:
        with executor(dask=options.dask) as pool:
            pool.submit(ready, options).result()
            for job, outcome in each(pool, one, due, len(due), "files", "file"):
                # What nobody survived, on several workers, is Dask's KilledWorker.
                died = type(outcome).__name__ == "KilledWorker"
                yield job, DeviceError(_DIED) if died else _said(outcome)
    except ImportError as error:
        raise DeviceError(f"the workers at '{options.dask}' lack something: {error}") from error
    except WorkerDied as error:
        raise DeviceError(f"the cluster at '{options.dask}' went away") from error
    finally:
        for folder in {job.target.parent for job in due}:
            sweep(folder)


def _said(outcome: Done | Exception) -> Done | Exception:
    """An outcome, once what its worker had to say is said."""
    for note in getattr(outcome, "notes", ()):
        say(" ".join(note.split()))
    return outcome

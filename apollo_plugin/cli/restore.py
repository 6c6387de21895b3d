"""``apollo-restore``: restores MP3s and other coded music from the command line."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from .arguments import parse
from .options import Options
from .terminal import Bar, Failures, command, say, tell

if TYPE_CHECKING:
    from ..restore import Progress, Restored
    from ..settings import Job, Settings

# Anything that imports torch is imported once the arguments are known to be right.
_Work = Callable[["Job", "Settings", "Progress"], "Restored"]


class _Stopped(Exception):
    """Ends the work on a file after an interrupt."""


class _Done(NamedTuple):
    seconds: float
    took: float
    restored: "Restored"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return command("apollo-restore", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    options, settings = parse(argv)
    if options.diagnose:
        from .modes import diagnose

        return diagnose(options)
    if options.demo:
        from .modes import demo

        return demo(options, settings)
    return restore(options, settings)


def restore(options: Options, settings: "Settings") -> int:
    """Restores what was asked for; returns the exit status."""
    from . import report
    from .plan import plan

    todo, failures = plan(options, settings), Failures()
    for problem in todo.problems:
        failures.add("", problem)
    if options.report:
        report.check(options, len(todo.jobs))
    _say_kept([job for job in todo.jobs if job not in todo.due])
    if todo.due:
        _restore_all(options, settings, todo.due, failures)
    status = failures.end(len(todo.jobs) + len(todo.problems))
    if options.report:
        shown = [report.Shown(job.source.name, job.source, job.target) for job in todo.jobs]
        status |= report.write(options, shown, options.reference)
    return status


def _say_kept(kept: Sequence["Job"]) -> None:
    if len(kept) == 1:
        say(f"'{kept[0].target}' is there already and kept; --overwrite makes it anew")
    elif kept:
        say(f"{len(kept)} results are there already and kept; --overwrite makes them anew")


def _restore_all(
    options: Options, settings: "Settings", due: Sequence["Job"], failures: Failures
) -> None:
    from ..data.parallel import each, threads
    from .after import say_level
    from .loading import files_at_once, load

    model, results = load(options), []
    with threads(files_at_once(model, options, len(due))) as (pool, stop):
        work = partial(_restore_one, _work(model, options, settings), settings, stop)
        # One file needs no bar over files.
        hidden = None if len(due) > 1 else True
        for job, done in each(pool, work, due, len(due), "files", "file", hidden):
            if isinstance(done, Exception):
                failures.add(job.source, done)
            else:
                _tell_done(job, done)
                results.append(done.restored)
    say_level(results, settings)


def _work(model, options: Options, settings: "Settings") -> _Work:
    """What is done with each file."""
    from ..restore import restore_file

    if not options.stems:
        return partial(restore_file, model)
    from .stems import load_pipeline, restore_stems

    return partial(restore_stems, load_pipeline(model, options.stems, settings))


def _restore_one(work: _Work, settings: "Settings", stop: threading.Event, job: "Job") -> _Done:
    if stop.is_set():
        raise _Stopped
    begin, seconds = time.perf_counter(), 0.0
    bar = Bar(job.source.name)

    def progress(step: str, done: float, total: float) -> None:
        nonlocal seconds
        if stop.is_set():
            raise _Stopped
        seconds = total
        bar.progress(step, done, total)

    try:
        restored = work(job, settings, progress)
    finally:
        bar.close()
    return _Done(seconds, time.perf_counter() - begin, restored)


def _tell_done(job: "Job", done: _Done) -> None:
    speed = done.seconds / done.took
    tell(f"{job.source} -> {job.target}  ({done.seconds:.1f} s, {speed:.1f} times real time)")

"""``apollo-restore``: restoration of MP3s and other coded music from the command line."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from ..errors import Uncoded
from .arguments import parse
from .options import Options
from .pipes import unpiped
from .terminal import Bar, Failures, command, say, tell, waiting

if TYPE_CHECKING:
    from ..batch.work import Result
    from ..engine.protocol import Progress
    from ..settings import Job, Settings

# Slow imports come after the arguments have been checked.


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``apollo-restore``; returns the exit status."""
    return command("apollo-restore", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    options, settings = parse(argv)
    with unpiped(options, settings.format) as options:
        if options.diagnose:
            from .modes import diagnose

            return diagnose(options)
        if options.list:
            from .listing import listing

            return listing(options)
        if options.demo:
            from .modes import demo

            return demo(options, settings)
        return restore(options, settings)


def restore(options: Options, settings: "Settings") -> int:
    """Restore the inputs; return the exit status."""
    from ..batch.plan import plan

    todo, failures = plan(options.inputs, options.places(), settings), Failures()
    for problem in todo.problems:
        failures.add("", problem)
    if options.report:
        from . import report

        report.check(options, options.report, todo.jobs)
    kept = [job for job in todo.jobs if job not in todo.due]
    _say_kept(kept)
    left: list[Job] = []
    if todo.due:
        left = _restore_all(options, settings, todo.due, kept, failures)
    status = failures.end(len(todo.jobs) + len(todo.problems))
    if options.copy_others:
        from .others import copy_others

        made = [job for job in todo.jobs if job not in left]
        status |= copy_others(options, made, [job.source for job in left])
    if options.report:
        shown = [
            report.Shown(
                job.source.name,
                job.source,
                job.target,
                # That of earlier results is unknown.
                headroom=0.0 if job in kept else settings.headroom,
            )
            for job in todo.jobs
        ]
        status |= report.write(options, options.report, shown, options.reference)
    return status


def _say_kept(kept: Sequence["Job"]) -> None:
    if len(kept) == 1:
        say(f"'{kept[0].target}' is there already and kept; --overwrite makes it anew")
    elif kept:
        say(f"{len(kept)} results are there already and kept; --overwrite makes them anew")


def _restore_all(
    options: Options,
    settings: "Settings",
    due: Sequence["Job"],
    kept: Sequence["Job"],
    failures: Failures,
) -> list["Job"]:
    """Restore all files that are due; returns those left unchanged."""
    from ..batch.albums import add_gains
    from ..batch.pool import outcomes
    from ..engine.choose import load
    from .summary import Summary, tell_all

    results: list[Result] = []
    left: list[Job] = []
    summary, n_failed = Summary(), failures.n
    task, engine = options.task(settings), None
    if not options.dask:
        with waiting(f"loading {options.checkpoint}"):
            engine = load(task.choice)
    under_way = outcomes(
        task, due, jobs=options.jobs, dask=options.dask, engine=engine, watch=_watch, bars=True
    )
    del engine
    with closing(under_way) as all_done:
        for done in all_done:
            results.append(done)
            for note in done.notes:
                say(" ".join(note.split()))
            if isinstance(done.error, Uncoded):
                tell(str(done.error))
                summary.n_uncoded += 1
                left.append(done.job)
            elif done.error:
                failures.add(done.job.source, done.error)
            else:
                _tell_done(done)
                summary.add(done)
    if len(due) > 1:
        summary.tell(len(kept), failures.n - n_failed)
    add_gains(results, kept, settings, bars=True)
    tell_all(results, settings)
    return left


@contextmanager
def _watch(job: "Job") -> Iterator["Progress"]:
    """Show a bar over the seconds of a file."""
    with Bar(job.source.name) as bar:
        yield bar.progress


def _tell_done(done: "Result") -> None:
    speed, job = done.seconds / done.took, done.job
    tell(f"{job.source} -> {job.target}  ({done.seconds:.1f} s, {speed:.1f} times real time)")

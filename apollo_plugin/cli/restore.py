"""``apollo-restore``: restores MP3s and other coded music from the command line."""

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from ..errors import Uncoded
from .arguments import parse
from .options import Options
from .pipes import unpiped
from .terminal import Failures, command, say, tell

if TYPE_CHECKING:
    from ..settings import Job, Settings
    from .work import Done

# Anything that imports torch is imported once the arguments are known to be right.


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
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
    """Restores what was asked for; returns the exit status."""
    from . import report
    from .plan import plan

    todo, failures = plan(options, settings), Failures()
    for problem in todo.problems:
        failures.add("", problem)
    if options.report:
        report.check(options, len(todo.jobs))
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
        shown = [report.Shown(job.source.name, job.source, job.target) for job in todo.jobs]
        status |= report.write(options, shown, options.reference)
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
    """Restores what is due; returns what was left as it is."""
    from . import after
    from .pool import outcomes
    from .summary import Summary

    results, left, summary, n_failed = [], [], Summary(), failures.n
    with closing(outcomes(options, due)) as all_done:
        for job, done in all_done:
            if isinstance(done, Uncoded):
                tell(str(done))
                summary.n_uncoded += 1
                left.append(job)
            elif isinstance(done, Exception):
                failures.add(job.source, done)
            else:
                _tell_done(job, done)
                summary.add(done)
                results.append((job, done.restored))
    if len(due) > 1:
        summary.tell(len(kept), failures.n - n_failed)
    after.end(results, kept, left, settings)
    return left


def _tell_done(job: "Job", done: "Done") -> None:
    speed = done.seconds / done.took
    tell(f"{job.source} -> {job.target}  ({done.seconds:.1f} s, {speed:.1f} times real time)")

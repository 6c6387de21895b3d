"""Table at the end of a folder, and notes on all results together."""

import math
import time
from collections import defaultdict
from collections.abc import Sequence

from ..batch.work import Result
from ..diagnose import Diagnosis
from ..restore import Restored
from ..settings import Job, Settings
from .terminal import say, tell


class Summary:
    """Counts of files by cut-off frequency.

    Attributes:
        n_uncoded: number of files left unchanged.
    """

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        # Seconds of each file, by cut-off in kHz; None for files without one.
        self._seconds: dict[int | None, list[float]] = defaultdict(list)
        self.n_uncoded = 0

    def add(self, done: Result) -> None:
        """Count a restored file."""
        found = done.restored.diagnosis if done.restored else None
        self._seconds[_place(found)].append(done.seconds)

    def tell(self, n_kept: int, n_failed: int) -> None:
        """Print the table, with the numbers of files restored before and of those that failed."""
        took = time.perf_counter() - self._begin
        tell(f"{'cut off at':24}{'files':>8}{'seconds':>12}")
        for place in sorted(self._seconds, key=lambda khz: khz or float("inf")):
            name = "not cut off" if place is None else f"about {place} kHz"
            _row(name, self._seconds[place])
        every = [seconds for each in self._seconds.values() for seconds in each]
        speed = sum(every) / took
        _row("restored", every, f"  in {took:.1f} s, {speed:.1f} times real time")
        for name, n in (
            ("left, looks uncoded", self.n_uncoded),
            ("kept from before", n_kept),
            ("failed", n_failed),
        ):
            if n:
                tell(f"{name:24}{n:8}")


def _place(found: Diagnosis | None) -> int | None:
    return None if found is None or found.cutoff is None else round(found.cutoff / 1000)


def _row(name: str, seconds: list[float], more: str = "") -> None:
    tell(f"{name:24}{len(seconds):8}{sum(seconds):12.1f}{more}")


def tell_all(results: Sequence[Result], settings: Settings) -> None:
    """Print each note on tags once, and the headroom that avoids clipping."""
    done = [(each.job, each.restored) for each in results if each.restored]
    _say_notes(done)
    _say_level([restored for _, restored in done], settings)


def _say_notes(results: Sequence[tuple[Job, Restored]]) -> None:
    """Print the notes on tags, each once."""
    where: dict[str, list[Job]] = defaultdict(list)
    for job, restored in results:
        for note in restored.notes:
            where[note].append(job)
    for note, jobs in where.items():
        more = f" and {len(jobs) - 1} more" if jobs[1:] else ""
        say(f"'{jobs[0].source}'{more}: {note}")


def _say_level(results: Sequence[Restored], settings: Settings) -> None:
    """Print the headroom that would have avoided clipping, between samples too."""
    peak = max((each.true_peak for each in results), default=0.0)
    if not settings.clips or peak <= 1:
        return
    over = 20 * math.log10(peak)
    n_clipped = sum(each.n_clipped for each in results)
    n_over = sum(each.true_peak > 1 for each in results)
    # Rounded up, so that it suffices.
    headroom = math.ceil(10 * (settings.headroom + over)) / 10
    say(
        f"{n_clipped} samples were clipped, {n_over} of {len(results)} result(s) go beyond full "
        f"scale (true peak +{over:.1f} dB); --headroom {headroom:g} would have kept all of it"
    )

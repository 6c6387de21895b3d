"""Table at the end of a folder."""

import time
from collections import defaultdict

from ..batch.work import Result
from ..diagnose import Diagnosis
from .terminal import tell


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
        """Print the table.

        Args:
            n_kept: number of files restored before.
            n_failed: number of files that failed.
        """
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

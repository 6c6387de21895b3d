"""Note at the end of a run, on all results together."""

import math
from collections import defaultdict
from collections.abc import Sequence

from ..batch.work import Result
from ..restore import Restored
from ..settings import Job, Settings
from .terminal import say


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

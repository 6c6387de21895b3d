"""What is told when all files are through."""

import math
from collections.abc import Sequence

from ..restore import Restored
from ..settings import Settings
from .terminal import say


def say_level(results: Sequence[Restored], settings: Settings) -> None:
    """Which headroom would have kept a run from clipping, between samples too."""
    peak = max((each.true_peak for each in results), default=0.0)
    if not settings.clips or peak <= 1:
        return
    over = 20 * math.log10(peak)
    n_clipped = sum(each.n_clipped for each in results)
    n_over = sum(each.true_peak > 1 for each in results)
    # Rounded up: it has to be enough.
    headroom = math.ceil(10 * (settings.headroom + over)) / 10
    say(
        f"{n_clipped} samples were clipped, {n_over} of {len(results)} result(s) go beyond full "
        f"scale (true peak +{over:.1f} dB); --headroom {headroom:g} would have kept all of it"
    )

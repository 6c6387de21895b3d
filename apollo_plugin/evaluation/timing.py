"""Time and memory that a model needs to run."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ..memory import give_freed_memory_back
from ..model import Apollo, RestorationModel


def real_time_factor(
    model: RestorationModel,
    device: str,
    iterations: int = 1000,
    limit: float = math.inf,
    warm_up: int = 3,
) -> list[float]:
    """Time runs over 1 s of mono, in seconds, as in section III-C of the paper.

    Args:
        model: on its device.
        device: type of the device.
        iterations: number of timed runs.
        limit: seconds after which no further run starts.
        warm_up: number of untimed runs before.
    """
    wav = 0.1 * torch.randn(1, int(model.sample_rate), device=device)
    times: list[float] = []
    begin = time.perf_counter()
    for index in range(-warm_up, iterations):
        wait(device)
        start = time.perf_counter()
        model.restore(wav)
        wait(device)
        if index >= 0:
            times.append(time.perf_counter() - start)
        if times and time.perf_counter() - begin > limit:
            break
    return times


def stream_times(
    model: Apollo, blocks: list[torch.Tensor], device: str, limit: float = math.inf
) -> list[float]:
    """Time a streamer, in seconds for each block, without the blocks of its first second.

    At least two blocks are timed, and no further one starts after ``limit`` seconds.
    """
    streamer = model.streamer(n_channels=1)
    n_first = min((len(blocks) - 1) // 2, math.ceil(model.sample_rate / blocks[0].shape[-1]))
    times: list[float] = []
    begin = time.perf_counter()
    for index, block in enumerate(blocks):
        start = time.perf_counter()
        streamer.feed(block)
        wait(device)
        if index >= n_first:
            times.append(time.perf_counter() - start)
        if len(times) > 1 and time.perf_counter() - begin > limit:
            break
    return times


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[list[float]]:
    """Measure the peak of allocated bytes over those held before; set on exit, NaN if unknown."""
    peak = [math.nan]
    if device == "cuda":
        held: float = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak[0] = torch.cuda.max_memory_allocated() - held
        return
    status, refs = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def kilobytes(name: str) -> float:
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return float(line.split()[1])

    give_freed_memory_back()  # otherwise it would count as held
    try:
        refs.write_text("5")  # resets the high-water mark (Linux)
        held = kilobytes("VmRSS")
    except OSError:
        yield peak
        return
    yield peak
    peak[0] = 1024 * (kilobytes("VmHWM") - held)


def wait(device: str) -> None:
    """Wait until a device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()

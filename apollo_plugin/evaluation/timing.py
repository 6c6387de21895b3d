"""What a model costs to run: arithmetic, time, memory, and the limit that bare products set."""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..memory import give_freed_memory_back
from ..model import Apollo
from ..network.linear import linear
from ..network.precision import Int8Linear

Multiply = Callable[[], torch.Tensor]


def _plain(one: torch.Tensor, two: torch.Tensor) -> list[Multiply]:
    """The ways to multiply matrices of floating point: PyTorch's choice, and oneDNN on a CPU."""
    ways = [lambda: torch.matmul(one, two)]
    if one.ndim == 2:
        layer = torch.nn.Linear(*two.shape, bias=False, device=two.device, dtype=two.dtype)
        ways.append(lambda: linear(one, layer))
    return ways


def _int8(one: torch.Tensor, two: torch.Tensor) -> list[Multiply]:
    """Bare products of 8 bits: activations and result are quantised already."""
    packed = Int8Linear(torch.nn.Linear(*two.shape, bias=False))._packed
    rows = torch.quantize_per_tensor(one, 0.05, 64, torch.quint8)
    return [lambda: torch.ops.quantized.linear(rows, packed, 0.5, 64)]


@dataclass(frozen=True)
class Precision:
    """One way to compute.

    Args:
        name: as :func:`apollo_plugin.precision.convert` knows it.
        dtype: of the factors that ``products`` takes.
        products: ways to multiply two matrices, with nothing in between.
        devices: kinds that can.
    """

    name: str
    dtype: torch.dtype
    products: Callable[[torch.Tensor, torch.Tensor], list[Multiply]]
    devices: tuple[str, ...]


PRECISIONS = [
    Precision("fp32", torch.float32, _plain, ("cpu", "cuda", "mps")),
    Precision("bf16", torch.bfloat16, _plain, ("cpu", "cuda", "mps")),
    Precision("int8", torch.float32, _int8, ("cpu",)),
]


def real_time_factor(
    model: Apollo, device: str, iterations: int = 1000, limit: float = math.inf, warm_up: int = 3
) -> list[float]:
    """Seconds that each run over 1 s of mono took, as in section III-C of the paper.

    Args:
        model: on its device.
        device: kind of it.
        iterations: runs that count.
        limit: seconds after which no further run begins.
        warm_up: runs before them that do not count.
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
    """Seconds that a streamer took for each block, those of its first second left out.

    At least two are measured, and no further one begins after ``limit`` seconds.
    """
    streamer = model.streamer(n_channels=1)
    n_first = min(len(blocks) // 2, math.ceil(model.sample_rate / blocks[0].shape[-1]))
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


def count_flops(model: Apollo, wav: torch.Tensor) -> float:
    """Operations of one forward pass by torch's counter (matrix products, convolutions)."""
    with _plain_operators(), FlopCounterMode(display=False) as counter:
        model(wav)
    return float(counter.get_total_flops())


@contextlib.contextmanager
def _plain_operators() -> Iterator[None]:
    # Neither the counter nor the list of products below knows the fused operators of CPUs.
    backend = torch.backends.mkldnn
    before, backend.enabled = backend.enabled, False
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        backend.enabled = before


class _Products(TorchDispatchMode):
    """Notes the shapes of all matrix products, ``(batch, m, k, n)``."""

    def __init__(self):
        super().__init__()
        self.shapes: Counter[tuple[int, int, int, int]] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        factors = {"mm": args[:2], "addmm": args[1:3], "bmm": args[:2], "baddbmm": args[1:3]}
        if name in factors:
            one, two = factors[name]
            batch = one.shape[0] if one.ndim == 3 else 1
            self.shapes[(batch, *one.shape[-2:], two.shape[-1])] += 1
        return function(*args, **(kwargs or {}))


def matmul_shapes(model: Apollo, wav: torch.Tensor) -> Counter[tuple[int, int, int, int]]:
    """How often a forward pass multiplies matrices of each shape ``(batch, m, k, n)``."""
    with _plain_operators(), _Products() as products:
        model(wav)
    return products.shapes


def matmul_time(
    shapes: Counter[tuple[int, int, int, int]],
    device: str,
    precision: Precision,
    repeats: int = 3,
) -> float:
    """Seconds for those products alone: for each the fastest way, at its best of some repeats.

    Products by weights are in ``precision``; those of batches (attention, the layers of single
    bands) in float32, as in the model.
    """
    total = 0.0
    for (batch, m, k, n), count in shapes.items():
        one, two = torch.randn(batch, m, k, device=device), torch.randn(batch, k, n, device=device)
        if batch == 1:
            dtype = precision.dtype
            ways = precision.products(one[0].to(dtype), two[0].to(dtype))
        else:
            ways = _plain(one, two)
        best = math.inf
        with torch.inference_mode():
            for way in ways * (repeats + 1):
                wait(device)
                start = time.perf_counter()
                way()
                wait(device)
                best = min(best, time.perf_counter() - start)
        total += count * best
    return total


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[list[float]]:
    """Bytes that were needed beyond those held before; filled in at the end, NaN if unknown."""
    peak = [math.nan]
    if device == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak[0] = torch.cuda.max_memory_allocated() - held
        return
    status, refs = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def kilobytes(name: str) -> float:
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return float(line.split()[1])

    give_freed_memory_back()  # or it would count as held
    try:
        refs.write_text("5")  # forgets the high-water mark (Linux)
        held = kilobytes("VmRSS")
    except OSError:
        yield peak
        return
    yield peak
    peak[0] = 1024 * (kilobytes("VmHWM") - held)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()

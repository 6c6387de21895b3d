"""Cost of a model on this machine: ``python -m apollo_plugin.benchmark``.

For each model, device and precision: parameters, the real-time factor of the paper's Table II (mean
over runs on 1 s of mono), a song, a stream, memory; on a CPU also the speed of one process on one
core and of one process per core. Printed as tables, and all figures as JSON.

A model is a bundled name, a checkpoint, ``published`` (the paper's 16.54 M parameters, random
weights) or ``streaming`` (causal, about 1 M parameters, random weights). docs/speed.md holds
measurements, and optimizations that did not help.
"""

import argparse
import contextlib
import platform
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .batch.timing import SideBySide, measure_processes
from .cli.terminal import run
from .data.parallel import n_cores
from .errors import DeviceError
from .evaluation.timing import peak_memory, real_time_factor, stream_times, wait
from .files import write_json
from .memory import keep_freed_memory
from .model import Apollo
from .network.precision import PRECISIONS, convert

RANDOM_MODELS: dict[str, dict[str, Any]] = {
    "published": {},
    "streaming": dict(
        causal=True, feature_dim=80, n_layers=3, n_heads=4, residual=True, band_gain=True
    ),
}


@dataclass(frozen=True)
class Result:
    """Figures of one model, device and precision.

    Args:
        model: its name.
        device: its type.
        precision: its name.
        parameters: their number.
        rtf_ms: milliseconds for 1 s of mono, mean over runs: Table II's RTF.
        rtf_best_ms: of the fastest run.
        rtf_runs: number of runs.
        start_s: seconds of the first run, including one-time work.
        song_seconds: lengths of the stereo songs.
        song_speed: times real time, for each.
        song_peak_mb: peak memory in megabytes beyond model and song, for each, with the result.
        hop_ms: length of a hop of the stream in milliseconds.
        hop_median_ms: median time of the streamer for a hop, in milliseconds.
        hop_p99_ms: the same, 99th percentile.
        hops: number of hops.
    """

    model: str
    device: str
    precision: str
    parameters: int
    rtf_ms: float
    rtf_best_ms: float
    rtf_runs: int
    start_s: float
    song_seconds: list[float]
    song_speed: list[float]
    song_peak_mb: list[float]
    hop_ms: float
    hop_median_ms: float
    hop_p99_ms: float
    hops: int


def measure(
    model: Apollo,
    name: str,
    device: str,
    precision: str,
    iterations: int = 1000,
    song_seconds: Sequence[float] = (60.0,),
    stream_seconds: float = 60.0,
    limit: float = 30.0,
) -> Result:
    """Measure one model.

    Args:
        model: float32, on the CPU.
        name: of the model.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        precision: one of :data:`apollo_plugin.network.precision.PRECISIONS`.
        iterations: runs on 1 s of mono.
        song_seconds: lengths of stereo songs.
        stream_seconds: length of the mono stream, fed hop by hop.
        limit: seconds that any figure may take; runs, songs and stream are shortened to fit.
    """
    rate = int(model.sample_rate)
    generator = torch.Generator().manual_seed(0)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    model = convert(model.to(device), precision)
    start = real_time_factor(model, device, 1, warm_up=0)[0]
    times = real_time_factor(model, device, iterations, limit)
    rtf = statistics.mean(times)
    # Two channels, and a first estimate of the time.
    lengths = sorted({max(1.0, min(seconds, limit / (2 * rtf))) for seconds in song_seconds})
    speeds, peaks = [], []
    for seconds in lengths:
        song = 0.1 * torch.randn(2, round(seconds * rate), generator=generator)
        with peak_memory(device) as peak:
            begin = time.perf_counter()
            model.restore(song)
            wait(device)
            speeds.append(seconds / (time.perf_counter() - begin))
        peaks.append(peak[0] / 1e6)
    hop = model.filterbank.stride
    # At least two hops are timed.
    n_samples = max(2 * hop, round(stream_seconds * rate))
    stream = 0.1 * torch.randn(1, n_samples, generator=generator)
    hops = stream_times(model, stream.split(hop, -1), device, limit)
    return Result(
        model=name,
        device=device,
        precision=precision,
        parameters=n_parameters,
        rtf_ms=1000 * rtf,
        rtf_best_ms=1000 * min(times),
        rtf_runs=len(times),
        start_s=start,
        song_seconds=lengths,
        song_speed=speeds,
        song_peak_mb=peaks,
        hop_ms=1000 * hop / rate,
        hop_median_ms=1000 * statistics.median(hops),
        hop_p99_ms=1000 * statistics.quantiles(hops, n=100)[98],
        hops=len(hops),
    )


def table_of_processes(results: list[SideBySide]) -> str:
    """Results in Markdown."""
    columns = (
        "model, precision",
        "processes",
        "songs of",
        "times real time: one, all",
        "gain: by the clock, by processor time",
    )
    rows = [
        (
            f"{r.model}, {r.precision}",
            f"{r.processes}",
            f"{r.song_seconds:.0f} s",
            f"{r.one_speed:.2f}, {r.all_speed:.2f}",
            f"{r.all_speed / r.one_speed:.2f}, "
            f"{r.processes * r.one_processor_s / r.all_processor_s:.2f}",
        )
        for r in results
    ]
    return _markdown(columns, rows)


def table(results: list[Result]) -> str:
    """Results in Markdown."""
    columns = (
        "model, device, precision",
        "parameters",
        "1 s of mono in ms: mean, best (runs)",
        "start in s",
        "songs of",
        "times real time",
        "memory in MB",
        "hop in ms: median, 99th percentile",
    )
    rows = [
        (
            f"{r.model}, {r.device}, {r.precision}",
            f"{r.parameters / 1e6:.2f} M",
            f"{r.rtf_ms:.2f}, {r.rtf_best_ms:.2f} ({r.rtf_runs})",
            f"{r.start_s:.1f}",
            ", ".join(f"{seconds:.0f}" for seconds in r.song_seconds) + " s",
            ", ".join(f"{speed:.2f}" for speed in r.song_speed),
            ", ".join(f"{peak:.0f}" for peak in r.song_peak_mb),
            f"{r.hop_median_ms:.2f}, {r.hop_p99_ms:.2f} of {r.hop_ms:.0f}",
        )
        for r in results
    ]
    return _markdown(columns, rows)


def _markdown(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ("---",) * len(columns), *rows))


def machine() -> dict[str, str | int]:
    """Describe the machine that the figures apply to: processor, threads, GPU, torch."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), cpu)
    return dict(
        cpu=cpu,
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        torch=str(torch.__version__),
    )


def _unfit(precision: str, device: str, asked: bool) -> str:
    """Reason for leaving out a precision on a device: unsupported, or slower than float32 and not
    requested; empty if there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if asked else "error")
            convert(Apollo(feature_dim=8, n_layers=1, n_heads=2).to(device), precision)
    except (DeviceError, UserWarning) as reason:
        return str(reason)
    return ""


def _build(name: str) -> Apollo:
    if name in RANDOM_MODELS:
        torch.manual_seed(0)
        return Apollo(**RANDOM_MODELS[name]).eval()
    return Apollo.from_pretrained(name)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m apollo_plugin.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models", nargs="+", default=["apollo-small", "streaming", "published"], metavar="NAME")
    add("--devices", nargs="+", choices=("cpu", "cuda", "mps"), help="all that are at hand")
    add("--precisions", nargs="+", choices=PRECISIONS, help="all that the device can")
    add("--iterations", type=int, default=1000, help="runs over 1 s of mono (%(default)s)")
    songs: dict[str, Any] = dict(type=float, nargs="+", default=[60.0], metavar="SECONDS")
    add("--song_seconds", **songs, help="lengths of stereo songs, such as 60 240 600 (60)")
    add("--stream_seconds", type=float, default=60.0, help="length of the stream (%(default)s)")
    cores: dict[str, Any] = dict(type=int, default=n_cores(), metavar="N")
    add("--processes", **cores, help="of files side by side, 1 for none (as many as cores)")
    add("--limit", type=float, default=30.0, help="most seconds for one figure (%(default)s)")
    add("--json", type=Path, default=Path("benchmark.json"), help="file to write (%(default)s)")
    args = parser.parse_args()
    for name in ("iterations", "song_seconds", "stream_seconds", "processes", "limit"):
        values = getattr(args, name)
        if not all(value > 0 for value in (values if isinstance(values, list) else [values])):
            parser.error(f"--{name} {values} has to be positive")
    at_hand = ["cpu"]
    at_hand += ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    missing = sorted(set(args.devices or ()) - set(at_hand))
    if missing:
        raise DeviceError(f"this machine has no {missing[0]} device; it has {', '.join(at_hand)}")
    keep_freed_memory()
    results: list[Result] = []
    side_by_side: list[SideBySide] = []
    for name in args.models:
        for device in args.devices or at_hand:
            for precision in args.precisions or PRECISIONS:
                reason = _unfit(precision, device, asked=bool(args.precisions))
                if reason:
                    print(f"{name}, {device}, {precision} is left out: {reason}")
                    continue
                sizes = (args.iterations, args.song_seconds, args.stream_seconds, args.limit)
                results.append(measure(_build(name), name, device, precision, *sizes))
                if device == "cpu" and args.processes > 1:
                    few = (args.processes, max(args.song_seconds), args.limit)
                    side_by_side.append(measure_processes(_build(name), name, precision, *few))
    if not results:
        raise DeviceError("no precision that was asked for runs on these devices")
    about = machine()
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    print(table(results))
    content: dict[str, Any] = {"machine": about, "results": [asdict(result) for result in results]}
    if side_by_side:
        print(f"\n{table_of_processes(side_by_side)}\n")
        content["processes"] = [asdict(result) for result in side_by_side]
    write_json(args.json, content)
    print(f"figures: {args.json}")


if __name__ == "__main__":
    run(main)

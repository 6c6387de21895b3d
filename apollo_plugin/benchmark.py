"""Cost of a model on this machine: ``python -m apollo_plugin.benchmark``.

For each model, device and precision: parameters, arithmetic for a second of audio, the real-time
factor as the paper's Table II has it (mean over runs on 1 s of mono), a song, a stream, memory; and
beside them the bare matrix products of the same shapes in the same run, the limit that the hardware
sets. A table, and all figures as JSON.

A model is a bundled name, a checkpoint, ``published`` (the paper's 16.54 M parameters, random
weights) or ``streaming`` (causal, about 1 M parameters, random weights).

What was tried and did not pay, on two cores of an AMD EPYC (Zen 4, AVX-512, VNNI), full size:

- ``torch.compile`` of the layers: 3.58 s for a second of stereo where it is 3.64 s without, after a
  start of 44 s. So it is an option (``--compile``) and off.
- SiLU and residual sums inside of the int8 products (``onednn.qlinear_pointwise``), as in float32:
  4.7 ms against 4.5 ms for the widest layer with its SiLU, 3.0 against 2.8 ms for the narrowest.
- bfloat16 under autocast for training steps of a small model: 1.8 s against 1.4 s.
- Blocks eight times as long: half as much time again and 1.5 GB more.
- Decoding one file piece by piece beside the network: decoding and writing are 2 % of the time of
  ``apollo-small`` and less of larger models; files side by side hide them where there are several.
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

import torch

from .cli.terminal import run
from .errors import ApolloError
from .evaluation.timing import (
    PRECISIONS,
    Precision,
    count_flops,
    matmul_shapes,
    matmul_time,
    peak_memory,
    real_time_factor,
    stream_times,
    wait,
)
from .files import write_json
from .memory import keep_freed_memory
from .model import Apollo
from .network.compiling import compiled, has_compiler
from .network.precision import convert

RANDOM_MODELS = {
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
        device: kind of it.
        precision: name of it.
        parameters: their number.
        flops_per_second: operations for a second of mono audio.
        rtf_ms: milliseconds for 1 s of mono, mean over runs: Table II's RTF.
        rtf_best_ms: of the fastest run.
        rtf_runs: number of runs.
        matmul_ms: milliseconds for its bare matrix products, the best of some repeats.
        start_s: seconds of the first run, with all that is done only once, compiling above all.
        song_seconds: lengths of the stereo songs.
        song_speed: times real time, for each.
        song_peak_mb: megabytes at the peak beyond model and song, for each; the result is in them.
        hop_ms: length of a hop of the stream in milliseconds.
        hop_median_ms: milliseconds that the streamer took for one.
        hop_p99_ms: the same, 99th percentile.
        hops: number of hops.
    """

    model: str
    device: str
    precision: str
    parameters: int
    flops_per_second: float
    rtf_ms: float
    rtf_best_ms: float
    rtf_runs: int
    matmul_ms: float
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
    precision: Precision,
    iterations: int = 1000,
    song_seconds: Sequence[float] = (60.0,),
    stream_seconds: float = 60.0,
    limit: float = 30.0,
    compile_layers: bool = False,
) -> Result:
    """Measures one model.

    Args:
        model: float32, on the CPU.
        name: of the model.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        precision: one of :data:`apollo_plugin.costs.PRECISIONS`.
        iterations: runs on 1 s of mono.
        song_seconds: lengths of stereo songs.
        stream_seconds: length of the mono stream, fed hop by hop.
        limit: seconds that any one figure may take; runs, songs and stream are cut to that.
        compile_layers: see :func:`apollo_plugin.compiling.compiled`.
    """
    rate = int(model.sample_rate)
    generator = torch.Generator().manual_seed(0)
    second = 0.1 * torch.randn(1, rate, generator=generator)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    flops = count_flops(model, second)
    shapes = matmul_shapes(model, second)
    model = convert(model.to(device), precision.name)
    kind = precision.name
    if compile_layers:
        model = compiled(model)
        kind += " compiled" if has_compiler(torch.device(device)) else " (no compiler here)"
    start = real_time_factor(model, device, 1, warm_up=0)[0]
    times = real_time_factor(model, device, iterations, limit)
    rtf = statistics.mean(times)
    # Two channels, and a first guess at how long it takes.
    lengths = sorted({max(1.0, min(seconds, limit / (2 * rtf))) for seconds in song_seconds})
    speeds, peaks = [], []
    if compile_layers:  # anew for two channels
        model.restore(0.1 * torch.randn(2, rate, generator=generator))
    for seconds in lengths:
        song = 0.1 * torch.randn(2, round(seconds * rate), generator=generator)
        with peak_memory(device) as peak:
            begin = time.perf_counter()
            model.restore(song)
            wait(device)
            speeds.append(seconds / (time.perf_counter() - begin))
        peaks.append(peak[0] / 1e6)
    hop = model.filterbank.stride
    stream = 0.1 * torch.randn(1, round(stream_seconds * rate), generator=generator)
    hops = stream_times(model, stream.split(hop, -1), device, limit)
    return Result(
        model=name,
        device=device,
        precision=kind,
        parameters=n_parameters,
        flops_per_second=flops,
        rtf_ms=1000 * rtf,
        rtf_best_ms=1000 * min(times),
        rtf_runs=len(times),
        matmul_ms=1000 * matmul_time(shapes, device, precision),
        start_s=start,
        song_seconds=lengths,
        song_speed=speeds,
        song_peak_mb=peaks,
        hop_ms=1000 * hop / rate,
        hop_median_ms=1000 * statistics.median(hops),
        hop_p99_ms=1000 * statistics.quantiles(hops, n=100)[98],
        hops=len(hops),
    )


def table(results: list[Result]) -> str:
    """Results in Markdown."""
    columns = (
        "model, device, precision",
        "parameters",
        "GFLOP for 1 s",
        "1 s of mono in ms: mean, best (runs)",
        "bare products in ms",
        "best over bare",
        "start in s",
        "songs of",
        "times real time",
        "memory in MB",
        "hop in ms: median, 99th percentile",
    )
    rows = [columns, ("---",) * len(columns)]
    for r in results:
        rows.append(
            (
                f"{r.model}, {r.device}, {r.precision}",
                f"{r.parameters / 1e6:.2f} M",
                f"{r.flops_per_second / 1e9:.1f}",
                f"{r.rtf_ms:.2f}, {r.rtf_best_ms:.2f} ({r.rtf_runs})",
                f"{r.matmul_ms:.2f}",
                f"{r.rtf_best_ms / r.matmul_ms:.2f}",
                f"{r.start_s:.1f}",
                ", ".join(f"{seconds:.0f}" for seconds in r.song_seconds) + " s",
                ", ".join(f"{speed:.2f}" for speed in r.song_speed),
                ", ".join(f"{peak:.0f}" for peak in r.song_peak_mb),
                f"{r.hop_median_ms:.2f}, {r.hop_p99_ms:.2f} of {r.hop_ms:.0f}",
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine() -> dict[str, str | int]:
    """What the figures hold for."""
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


def profile(model: Apollo, device: str) -> str:
    """Where the time of one second of mono goes, by operator."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    wav = 0.1 * torch.randn(1, int(model.sample_rate), device=device)
    model.restore(wav)
    with torch.profiler.profile(activities=activities) as profiler:
        model.restore(wav)
        wait(device)
    key = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=key, row_limit=12, max_name_column_width=40)


def _unfit(precision: Precision, device: str) -> str:
    """Why a precision does not run, or does not pay, on a device; empty where it does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            convert(Apollo(feature_dim=8, n_layers=1, n_heads=2).to(device), precision.name)
    except (ApolloError, UserWarning) as reason:
        return str(reason)
    return "" if device in precision.devices else f"not made for {device}"


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
    names = [precision.name for precision in PRECISIONS]
    add("--precisions", nargs="+", choices=names, help="all that the device can")
    add("--iterations", type=int, default=1000, help="runs over 1 s of mono (%(default)s)")
    songs = dict(type=float, nargs="+", default=[60.0], metavar="SECONDS")
    add("--song_seconds", **songs, help="lengths of stereo songs, such as 60 240 600 (60)")
    add("--compile", action="store_true", help="each model with its layers compiled, too")
    add("--stream_seconds", type=float, default=60.0, help="length of the stream (%(default)s)")
    add("--limit", type=float, default=30.0, help="most seconds for one figure (%(default)s)")
    add("--json", type=Path, default=Path("benchmark.json"), help="file to write (%(default)s)")
    add("--profile", action="store_true", help="also tell where the time goes, by operator")
    args = parser.parse_args()
    for name in ("iterations", "song_seconds", "stream_seconds", "limit"):
        values = getattr(args, name)
        if not all(value > 0 for value in (values if isinstance(values, list) else [values])):
            parser.error(f"--{name} {values} has to be positive")
    at_hand = ["cpu"]
    at_hand += ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    missing = sorted(set(args.devices or ()) - set(at_hand))
    if missing:
        raise ValueError(f"this machine has no {missing[0]} device; it has {', '.join(at_hand)}")
    keep_freed_memory()
    results: list[Result] = []
    for name in args.models:
        for device in args.devices or at_hand:
            for precision in PRECISIONS:
                if precision.name not in (args.precisions or names):
                    continue
                reason = _unfit(precision, device)
                if reason and not (args.precisions and device in precision.devices):
                    print(f"{name}, {device}, {precision.name} is left out: {reason}")
                    continue
                sizes = (args.iterations, args.song_seconds, args.stream_seconds, args.limit)
                for compile_layers in (False, True)[: 1 + args.compile]:
                    case = (device, precision, *sizes, compile_layers)
                    results.append(measure(_build(name), name, *case))
                if args.profile:
                    print(profile(convert(_build(name).to(device), precision.name), device))
    if not results:
        raise ValueError("no precision that was asked for runs on these devices")
    about = machine()
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    print(table(results))
    write_json(args.json, {"machine": about, "results": [asdict(result) for result in results]})
    print(f"figures: {args.json}")


if __name__ == "__main__":
    run(main)

"""The benchmark's command line, and the models that it knows."""

import contextlib
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import conv_flops, linear_flops, small_model

from apollo_plugin import Apollo, benchmark
from apollo_plugin.batch import timing
from apollo_plugin.batch.timing import SideBySide
from apollo_plugin.errors import DeviceError


def test_the_published_model_costs_what_is_known():
    """255 GFLOP a second of mono, 16.54 M parameters."""
    model = benchmark._build("published")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(16.54e6, rel=0.001)
    per_frame = linear_flops(model, 1) + conv_flops(model, 1)
    assert 100 * per_frame == pytest.approx(255e9, rel=0.02)


def test_the_streaming_model_is_causal_and_small():
    model = benchmark._build("streaming")
    assert model.latency == model.filterbank.kernel_size
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1e6, rel=0.1)


def test_command_line(tiny_checkpoint, tmp_path):
    command = [sys.executable, "-m", "apollo_plugin.benchmark", "--models", str(tiny_checkpoint)]
    options = "--devices cpu --precisions fp32 int8 --iterations 3 --limit 5".split()
    options += "--song_seconds 1 2 --stream_seconds 2 --processes 1".split()
    done = subprocess.run(
        [*command, *options, "--json", tmp_path / "b.json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "b.json").read_text())
    result, _ = content["results"]
    assert [r["precision"] for r in content["results"]] == ["fp32", "int8"]
    model = Apollo.from_pretrained(tiny_checkpoint)
    assert result["parameters"] == sum(p.numel() for p in model.parameters())
    assert result["rtf_runs"] == 3 and result["rtf_best_ms"] <= result["rtf_ms"]
    assert result["rtf_best_ms"] > 0
    assert result["song_seconds"] == [1, 2] and min(result["song_speed"]) > 0
    assert len(result["song_peak_mb"]) == 2 and result["start_s"] > 0
    assert 0 < result["hop_median_ms"] <= result["hop_p99_ms"] and result["hop_ms"] == 10
    assert content["machine"]["torch"] == torch.__version__
    assert f"{result['rtf_best_ms']:.2f} (3)" in done.stdout
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


def result_of(name, precision="fp32", **figures):
    known = dict(
        parameters=1_234_567,
        rtf_ms=12.346,
        rtf_best_ms=11.5,
        rtf_runs=7,
        start_s=0.26,
        song_seconds=[60.0, 240.4],
        song_speed=[3.456, 2.0],
        song_peak_mb=[123.6, 99.0],
        hop_ms=10.0,
        hop_median_ms=1.234,
        hop_p99_ms=5.678,
        hops=9,
    )
    return benchmark.Result(name, "cpu", precision, **{**known, **figures})


def test_tables_in_print():
    _, rule, row = benchmark.table([result_of("tiny")]).splitlines()
    assert rule == f"| {' | '.join(['---'] * 8)} |"
    assert row == (
        "| tiny, cpu, fp32 | 1.23 M | 12.35, 11.50 (7) | 0.3 | 60, 240 s | 3.46, 2.00 | 124, 99 | "
        "1.23, 5.68 of 10 |"
    )
    beside = SideBySide("tiny", "fp32", 4, 60.0, 2.0, 6.0, 1.5, 1.875)
    _, rule, row = benchmark.table_of_processes([beside]).splitlines()
    # Four processes of 1.5 s each, which takes 1.875 s of a core if all are at work.
    assert row == "| tiny, fp32 | 4 | 60 s | 2.00, 6.00 | 3.00, 3.20 |" and rule.count("---") == 5


class Clock:
    """A clock that goes on only when it is told to."""

    now = 0.0

    def perf_counter(self):
        return self.now

    process_time = perf_counter


def test_figures_are_those_of_the_runs(monkeypatch):
    """Of runs whose times are known: means, the fastest, and lengths that fit the limit."""
    model, clock, asked, songs = small_model(n_layers=1), Clock(), [], []

    def runs(model, device, n, limit=None, warm_up=None):
        asked.append((n, limit, warm_up))
        return [5.0] if n == 1 else [0.1, 0.2, 0.3]

    def streamed(model, hops, device, limit):
        assert {hop.shape for hop in hops} == {(1, 441)} and limit == 1.0
        return [0.001 * n for n in range(len(hops), 0, -1)]

    @contextlib.contextmanager
    def peak(device):
        yield (peak := [0])
        peak[0] = 3e6 * len(songs)

    def restore(song):
        songs.append(song.shape)
        clock.now += 0.5

    monkeypatch.setattr(benchmark, "real_time_factor", runs)
    monkeypatch.setattr(benchmark, "stream_times", streamed)
    monkeypatch.setattr(benchmark, "peak_memory", peak)
    monkeypatch.setattr(benchmark, "time", clock)
    monkeypatch.setattr(model, "restore", restore)
    result = benchmark.measure(model, "m", "cpu", "fp32", 9, (60.0, 2.0, 0.5, 3.0), 0.99, 1.0)
    # Two channels at 0.2 s for a second of one: 2.5 s of song fit into a second.
    assert asked == [(1, None, 0), (9, 1.0, None)]
    assert result.song_seconds == [1.0, 2.0, pytest.approx(2.5)]
    assert songs == [(2, round(44100 * seconds)) for seconds in (1, 2, 2.5)]
    assert result.song_speed == pytest.approx([2, 4, 5]) and result.song_peak_mb == [3, 6, 9]
    assert (result.start_s, result.rtf_runs) == (5.0, 3)
    assert (result.rtf_ms, result.rtf_best_ms) == pytest.approx((200, 100))
    # Of 99 hops of 1 to 99 ms each is a percentile.
    assert (result.hops, result.hop_ms) == (99, 10)
    assert (result.hop_median_ms, result.hop_p99_ms) == pytest.approx((50, 99))
    assert result.parameters == sum(weight.numel() for weight in model.parameters())


def test_processes_take_turns_and_the_best_round_counts(monkeypatch):
    """The first round, which loads the models, does not count."""
    clock, begun, runs = Clock(), [], []
    rounds = {1: [90, 2, 1, 3], 4: [1, 8, 9, 6]}

    @contextlib.contextmanager
    def executor(n, prepare, preload):
        assert preload == timing.do_there.__module__
        prepare()
        begun.append(n)

        def run(work, jobs):
            assert [job.source for job in jobs] == [Path("song.wav")] * n
            assert len({job.target for job in jobs}) == n
            took = rounds[n].pop(0)
            clock.now += took
            return [took + index for index in range(n)]

        yield SimpleNamespace(map=run)

    monkeypatch.setattr(timing, "executor", executor)
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing, "begin", lambda *how: begun.append(how))
    monkeypatch.setattr(
        timing, "real_time_factor", lambda *how, **more: runs.append((how, more)) or [0.5, 0.25]
    )
    model, how = small_model(n_layers=1), ("m", "int8", 4)
    # Two channels, and two turns in each of four rounds.
    limit = 16 * 0.25 * torch.get_num_threads() * 3
    found = timing.measure_processes(model, *how, 60.0, limit)
    assert begun == [(1, None), 1, (1, None), 4]
    assert runs == [((model, "cpu", 3), dict(warm_up=1))]  # the first run is slower
    # Songs of 3 s: one in 1 s, four in 6 s; and the mean of 6, 7, 8 and 9 s of processors.
    assert found == SideBySide(*how, 3.0, 3.0, 2.0, 1, 7.5)
    for song_seconds, limit, expected in ((2.0, 1e9, 2.0), (9.0, 0.0, 1.0)):
        rounds.update({1: [1] * 4, 4: [1] * 4})
        assert timing.measure_processes(model, *how, song_seconds, limit).song_seconds == expected


def test_the_time_of_a_process_is_that_of_its_work(monkeypatch):
    clock = Clock()
    clock.now = 3.0

    def do_there(task, folder, job):
        assert (task, folder, job) == ("task", "folder", "job")
        clock.now += 1.5

    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing, "do_there", do_there)
    assert timing._processor_time("task", "folder", "job") == 1.5


def test_what_is_measured_and_written(monkeypatch, tmp_path, capsys):
    """Each model, device and precision, but those that do not fit; processes on a CPU only."""
    measured, beside, unfit = [], [], {("int8", False): "it is slow"}

    def measure(model, name, device, precision, *sizes):
        measured.append((model, name, device, precision, sizes))
        return result_of(name, precision)

    def measure_processes(model, name, precision, *sizes):
        beside.append((model, name, precision, sizes))
        return SideBySide(name, precision, 2, 7.0, 1.0, 2.0, 1.0, 1.0)

    monkeypatch.setattr(benchmark, "measure", measure)
    monkeypatch.setattr(benchmark, "measure_processes", measure_processes)
    monkeypatch.setattr(benchmark, "_build", lambda name: f"model {name}")
    monkeypatch.setattr(benchmark, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(benchmark, "_unfit", lambda p, device, asked: unfit.get((p, asked), ""))
    common = "x --models a b --devices cpu --song_seconds 5 7 6 --stream_seconds 2 --limit 9"
    common += f" --iterations 4 --json {tmp_path / 'b.json'}"
    monkeypatch.setattr(sys, "argv", [*common.split(), "--processes", "2"])
    benchmark.main()
    wanted = [(name, p) for name in "ab" for p in benchmark.PRECISIONS if p != "int8"]
    sizes = 4, [5.0, 7.0, 6.0], 2.0, 9.0
    assert measured == [(f"model {name}", name, "cpu", p, sizes) for name, p in wanted]
    assert beside == [(f"model {name}", name, p, (2, 7.0, 9.0)) for name, p in wanted]
    content = json.loads((tmp_path / "b.json").read_text())
    for key in ("results", "processes"):
        assert [(r["model"], r["precision"]) for r in content[key]] == wanted
    assert content["machine"] == benchmark.machine()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"{name}, cpu, int8 is left out: it is slow" for name in "ab"]
    assert lines[-1] == f"figures: {tmp_path / 'b.json'}" and any(
        line.startswith("| a, fp32 | 2 |") for line in lines
    )
    # One that is asked for is measured, and one process is beside no other.
    measured.clear(), beside.clear()
    monkeypatch.setattr(sys, "argv", [*common.split(), "--processes", "1", "--precisions", "int8"])
    benchmark.main()
    assert [each[1:4] for each in measured] == [(n, "cpu", "int8") for n in "ab"] and not beside
    assert "processes" not in json.loads((tmp_path / "b.json").read_text())
    unfit["int8", True] = "it does not run"
    with pytest.raises(DeviceError, match="no precision that was asked for runs"):
        benchmark.main()


def test_precisions_that_are_left_out(monkeypatch):
    """Those that cannot be; and those that are slow, unless they are asked for."""

    def convert(model, precision):
        if precision == "none":
            raise DeviceError("there is none")
        if precision == "slow":
            warnings.warn("it is slow", UserWarning, stacklevel=2)

    monkeypatch.setattr(benchmark, "convert", convert)
    reasons = {"none": ["there is none"] * 2, "slow": ["", "it is slow"], "fp32": ["", ""]}
    for precision, expected in reasons.items():
        assert [benchmark._unfit(precision, "cpu", asked) for asked in (True, False)] == expected


def test_the_machine_is_described():
    found = benchmark.machine()
    assert found["threads"] == torch.get_num_threads() and found["torch"] == torch.__version__
    assert (found["gpu"] == "none") != torch.cuda.is_available()
    cpus = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.*)$", cpus.read_text(), re.M) if cpus.exists() else None
    assert not named or found["cpu"] == named[1].strip()


@pytest.mark.parametrize("seconds", [0.013, 1e-6])
def test_the_shortest_stream_has_two_hops(seconds):
    model = small_model(n_layers=1)
    result = benchmark.measure(model, "tiny", "cpu", "fp32", 1, (1.0,), seconds, 1.0)
    assert result.hops == 2 and result.hop_median_ms > 0


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--devices", "mps"], "no mps device"),
        (["--iterations", "0"], "has to be positive"),
        (["--processes", "0"], "--processes 0 has to be positive"),
        (["--song_seconds", "5", "0"], "--song_seconds [5.0, 0.0] has to be positive"),
        (["--stream_seconds", "-1"], "--stream_seconds -1.0 has to be positive"),
        (["--limit", "nan"], "--limit nan has to be positive"),
        (["--precisions", "fp7"], "invalid choice"),
        (["--models", "no-such-model"], "no checkpoint 'no-such-model'"),
    ],
)
def test_bad_input(options, reason, monkeypatch, capsys, tmp_path):
    from apollo_plugin.cli.terminal import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmark", *options])
    with pytest.raises(SystemExit) as ended:
        run(benchmark.main)
    assert ended.value.code != 0 and reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

"""Time and memory of a model: limits are kept, memory is what was taken."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from apollo_plugin import Apollo
from apollo_plugin.evaluation import timing


def test_peak_memory_sees_what_was_used():
    with timing.peak_memory("cpu") as peak:
        torch.ones(50_000_000)
    assert math.isnan(peak[0]) or peak[0] == pytest.approx(200e6, rel=0.1)


def test_peak_memory_is_the_mark_over_what_was_held(monkeypatch):
    """As Linux tells both, in units of 1024 bytes; and as CUDA does, in bytes."""
    reset, status = [], "VmPeak:\t 9999 kB\nVmHWM:\t     {} kB\nVmRSS:\t     {} kB\n"
    now = [900, 300]
    monkeypatch.setattr(Path, "read_text", lambda path: status.format(*now))
    monkeypatch.setattr(Path, "write_text", lambda path, text: reset.append((path.name, text)))
    with timing.peak_memory("cpu") as peak:
        assert math.isnan(peak[0])
        now[:] = 1000, 400
    assert peak == [700 * 1024] and reset == [("clear_refs", "5")]

    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refused)
    with timing.peak_memory("cpu") as peak:
        pass
    assert math.isnan(peak[0])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 100)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: reset.append("cuda"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 350)
    with timing.peak_memory("cuda") as peak:
        assert reset[-1] == "cuda" and math.isnan(peak[0])
    assert peak == [250]


def test_a_device_is_waited_for(monkeypatch):
    waited = []
    for name in ("cuda", "mps"):
        module = getattr(torch, name)
        monkeypatch.setattr(module, "synchronize", lambda name=name: waited.append(name))
    for name in ("cpu", "mps", "cuda"):
        timing.wait(name)
    assert waited == ["mps", "cuda"]


class Clock:
    """A model each of whose runs takes as many seconds as runs have been, by a clock of its own."""

    sample_rate = 10

    def __init__(self, monkeypatch):
        self.now = self.n_runs = 0
        self.heard = []
        monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def restore(self, wav):
        self.heard.append(wav)
        self.n_runs += 1
        self.now += self.n_runs

    feed = restore

    def streamer(self, n_channels):
        assert n_channels == 1
        return self


@pytest.mark.parametrize(
    "warm_up, iterations, limit, times",
    [
        (3, 4, math.inf, [4, 5, 6, 7]),
        (0, 2, math.inf, [1, 2]),
        # After 6 and 10 seconds, which the runs before count for.
        (3, 9, 10, [4, 5]),
        (3, 9, 9, [4]),
        (3, 9, 0, [4]),
    ],
)
def test_runs_are_timed_after_those_that_warm_up(warm_up, iterations, limit, times, monkeypatch):
    model = Clock(monkeypatch)
    assert timing.real_time_factor(model, "cpu", iterations, limit, warm_up) == times
    assert len(model.heard) == warm_up + len(times)
    assert all(wav.shape == (1, 10) for wav in model.heard)


def test_what_is_timed_is_noise_at_minus_20_db(monkeypatch):
    model = Clock(monkeypatch)
    model.sample_rate = 44100.0
    timing.real_time_factor(model, "cpu", 1, warm_up=0)
    assert model.heard[0].std() == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize(
    "n_blocks, limit, times",
    [
        (20, math.inf, range(5, 21)),  # a second is 3 1/3 blocks
        (9, math.inf, range(5, 10)),
        (8, math.inf, range(4, 9)),  # half of them, where there are fewer
        (2, math.inf, [1, 2]),
        (20, 21, [5, 6, 7]),  # seconds after 6 blocks
        (20, 20, [5, 6]),
        (20, 0, [5, 6]),
    ],
)
def test_a_stream_is_timed_after_its_first_second(n_blocks, limit, times, monkeypatch):
    blocks = list(torch.zeros(n_blocks, 1, 3))
    assert timing.stream_times(Clock(monkeypatch), blocks, "cpu", limit) == [*times]


def test_limits_are_kept(tiny_checkpoint):
    model = Apollo.from_pretrained(tiny_checkpoint)
    assert len(timing.real_time_factor(model, "cpu", 4)) == 4
    blocks = torch.zeros(1, 441 * 120).split(441, -1)
    assert len(timing.stream_times(model, blocks, "cpu")) == 61

"""Recorded steps: streams made of them equal whole files. On a CPU a recorder stands in for CUDA's
that runs the step anew on the same tensors, which is all that a graph does."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from helpers import small_model, snr, tone
from torch.utils._python_dispatch import TorchDispatchMode

from apollo_plugin.network.streaming import cuda_graph, settled


class Recorder:
    def __init__(self):
        self.n_recorded = self.n_replayed = 0

    def __call__(self, step, reset):
        self.n_recorded += 1
        for _ in range(3):
            step()
        reset()

        def replay():
            self.n_replayed += 1
            step()

        return replay


@pytest.fixture(params=[{}, {"causal": True, "residual": True, "band_gain": True}])
def model(request):
    return small_model(**request.param)


def stream(model, n_channels, recorder):
    streamer = model.streamer(n_channels)
    streamer._recorder = recorder
    return streamer


@pytest.mark.parametrize("size", [441, 882, 2205, 512, 7000])
def test_replays_equal_the_whole(model, size):
    wav, recorder = tone(60000), Recorder()
    streamer = stream(model, 2, recorder)
    out = torch.cat([*map(streamer.feed, wav.split(size, -1)), streamer.flush()], -1)
    with torch.no_grad():
        assert out.shape == wav.shape and snr(out, model(wav)) > 90
    # Blocks of whole hops settle, others do not.
    assert recorder.n_recorded == (size % 441 == 0)
    if size % 441 == 0:
        assert recorder.n_replayed > 0.5 * len(wav.split(size, -1))


def test_other_blocks_in_between_and_another_signal(model):
    recorder = Recorder()
    streamer = stream(model, 1, recorder)
    for n_samples in (50000, 40000):
        wav = tone(n_samples, 1)
        sizes = [441] * 60 + [100, 341] + [882] * 14
        sizes.append(n_samples - sum(sizes))
        out = torch.cat([*map(streamer.feed, wav.split(sizes, -1)), streamer.flush()], -1)
        with torch.no_grad():
            assert out.shape == wav.shape and snr(out, model(wav)) > 90
    assert recorder.n_recorded >= 3 and recorder.n_replayed > 60


def test_blocks_in_turn_are_not_recorded_and_empty_ones_change_nothing(model):
    recorder, wav = Recorder(), tone(40000)
    streamer = stream(model, 2, recorder)
    outs = [streamer.feed(block) for block in wav.split([441, 882] * 20 + [13540], -1)]
    assert recorder.n_recorded == 0
    with torch.no_grad():
        assert snr(torch.cat([*outs, streamer.flush()], -1), model(wav)) > 90
    outs = [streamer.feed(part) for b in wav.split(441, -1) for part in (b, b[:, :0])]
    assert recorder.n_recorded == 1 and recorder.n_replayed > 20
    with torch.no_grad():
        assert snr(torch.cat([*outs, streamer.flush()], -1), model(wav)) > 90


def test_a_recorder_that_fails_loses_nothing(model):
    def fail(step, reset):
        step()
        raise torch.OutOfMemoryError("CUDA out of memory")

    streamer, wav = stream(model, 2, fail), tone(40000)
    with pytest.warns(
        UserWarning, match="cannot be recorded, going on without: CUDA out of"
    ) as said:
        outs = [streamer.feed(block) for block in wav.split(441, -1)]
    assert len(said) == 1
    with torch.no_grad():
        assert snr(torch.cat([*outs, streamer.flush()], -1), model(wav)) > 90


def test_another_type_in_between():
    streamer = stream(small_model(causal=True), 1, Recorder())
    for _ in range(30):
        streamer.feed(tone(441, 1))
    assert streamer.feed(tone(441, 1).double()).dtype == torch.float64


def test_what_came_out_stays_as_it_is():
    recorder = Recorder()
    streamer = stream(small_model(causal=True), 1, recorder)
    outs = [streamer.feed(block) for block in tone(20000, 1).split(441, -1)]
    before = [out.clone() for out in outs]
    streamer.feed(torch.ones(1, 441))
    assert recorder.n_replayed > 20 and all(map(torch.equal, outs, before))


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_silence_and_nan(value):
    streamer = stream(small_model(causal=True), 1, Recorder())
    outs = [streamer.feed(block) for block in torch.full((1, 9000), value).split(441, -1)]
    out = torch.cat([*outs, streamer.flush()], -1)
    assert out.shape == (1, 9000) and (out.isnan().all() if value else not out.any())


def test_a_start_is_not_settled():
    model, block = small_model(causal=True), tone(441, 1)
    with torch.no_grad():
        _, first = model.step(block, None, False)
        _, second = model.step(block, first, False)
    assert not settled(None, first) and not settled(first, second)


class FromPython(TorchDispatchMode):
    """Notes what makes tensors of Python's numbers, or numbers of tensors: a GPU would wait for the
    CPU, and its recorder refuses."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._overloadname == "default" and func._opname in (
            "lift_fresh",
            "_local_scalar_dense",
        ):
            self.found.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "options",
    [{}, {"residual": True, "band_gain": True, "excitation": True, "envelope_dim": 176}],
)
def test_a_settled_step_takes_nothing_from_the_cpu(options):
    model, wav = small_model(causal=True, **options), tone(4410, 1)
    state = None
    with torch.inference_mode():
        for block in wav.split(441, -1):
            with FromPython() as watch:
                _, state = model.step(block, state, False)
    assert watch.found == []


def test_a_step_is_recorded_beside_what_runs(monkeypatch):
    """The order that CUDA's documentation asks for: warm up on a stream of its own that waits for
    the current one, which then waits for it; record there; every launch on the stream's device."""
    said = []

    class Stream:
        def __init__(self, name="side"):
            self.name = name

        def wait_stream(self, other):
            said.append(f"{self.name} waits for {other.name}")

    def within(word):
        @contextlib.contextmanager
        def context(thing, **how):
            said.append(f"{word} {getattr(thing, 'name', thing)}")
            if how:
                assert how["stream"].name == "side"
                assert how["capture_error_mode"] == "thread_local"
            yield
            said.append(f"end of {word}")

        return context

    graph = SimpleNamespace(name="graph", replay=lambda: said.append("replay"))
    cuda = dict(Stream=Stream, CUDAGraph=lambda: graph, current_stream=lambda: Stream("current"))
    cuda |= {word: within(word) for word in ("device", "stream", "graph")}
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    replay = cuda_graph(lambda: said.append("step"), lambda: said.append("reset"), "cuda:1")
    assert said == [
        *("device cuda:1", "side waits for current"),
        *("stream side", "step", "step", "step", "end of stream", "current waits for side"),
        *("graph graph", "step", "end of graph", "reset", "end of device"),
    ]
    said.clear()
    replay()
    assert said == ["device cuda:1", "replay", "end of device"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graph():
    model, wav = small_model(causal=True).cuda(), tone(40000)
    streamer = model.streamer(2)
    out = torch.cat([*map(streamer.feed, wav.split(441, -1)), streamer.flush()], -1)
    with torch.no_grad():
        assert snr(out, model(wav.cuda()).cpu()) > 80

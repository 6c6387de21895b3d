"""Both engines give the same samples: files, blocks, streams; and which of them is chosen."""

import json
import subprocess
import sys
from functools import cache

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import small_model, tone

from apollo_plugin import Apollo, export
from apollo_plugin.bundled import BUNDLED
from apollo_plugin.data.codecs import mp3
from apollo_plugin.data.demo import mixture
from apollo_plugin.engine import choose
from apollo_plugin.engine.choose import Choice
from apollo_plugin.engine.onnx import OnnxEngine, OnnxStream
from apollo_plugin.engine.torch import TorchEngine
from apollo_plugin.errors import CheckpointError, DeviceError, SettingError
from apollo_plugin.live import LiveRestorer
from apollo_plugin.restore import restore_audio

RATE = 44100
# Of single samples, and their mean square.
MOST, RMS = 1e-5, 1e-6


@cache
def made(seconds: float) -> np.ndarray:
    return mp3(mixture(seconds, seed=7), RATE, 48)


def music(seconds: float = 1.5) -> np.ndarray:
    """Music that went through MP3: uncoded music would be left alone."""
    return made(seconds).copy()


def same(one: np.ndarray, other: np.ndarray) -> None:
    assert one.shape == other.shape and one.dtype == other.dtype == np.float32
    error = np.abs(one - other)
    assert error.max() < MOST and np.sqrt(np.square(error).mean()) < RMS


@pytest.fixture(scope="module", params=sorted(BUNDLED))
def engines(request):
    onnx = choose.load(Choice(request.param, "cpu", engine="onnx"))
    torch_ = choose.load(Choice(request.param, "cpu", engine="torch"))
    assert (onnx.name, torch_.name) == ("onnx", "torch")
    return onnx, torch_


def test_their_facts_are_the_same(engines):
    onnx, torch_ = engines
    for name in ("sample_rate", "input_peak", "latency", "adds", "origin", "device"):
        assert getattr(onnx, name) == getattr(torch_, name), name


@pytest.mark.parametrize(
    "rate, options", [(44100, {}), (48000, dict(keep_below=4000.0, mix=0.5)), (22050, {})]
)
def test_files(engines, rate, options):
    wav = mp3(mixture(1.2, seed=3, sample_rate=rate), rate, 32)
    restored = [restore_audio(engine, wav, rate, **options) for engine in engines]
    same(*restored)
    assert np.abs(restored[0] - wav).max() > 1e-3


@pytest.mark.parametrize("block", [100, 441, 5000])
def test_streams(engines, block):
    wav = music()
    restored = []
    for engine in engines:
        live = LiveRestorer(engine, RATE, 2)
        n_in, parts = 0, []
        for begin in range(0, wav.shape[1], block):
            parts.append(live.feed(wav[:, begin : begin + block]))
            n_in = min(begin + block, wav.shape[1])
            assert n_in - live.latency <= sum(part.shape[1] for part in parts) <= n_in
        restored.append(np.concatenate([*parts, live.flush()], 1))
        assert restored[-1].shape == wav.shape
    same(*restored)


@pytest.mark.parametrize("n_samples", [1, 2, 100, 441, 442, 882, 1323, 5000])
def test_short_signals(engines, n_samples):
    wav = music()[:, 20000 : 20000 + n_samples]
    same(*(engine.restore(wav) for engine in engines))


@pytest.mark.parametrize("n_channels", [1, 3, 5])
def test_channels_are_restored_one_by_one(engines, n_channels):
    """By several threads as by one, in files and in streams."""
    onnx = engines[0]
    wav = np.concatenate((music(), 0.5 * music(), 0.1 * music()))[:n_channels]
    many = onnx.restore(wav)
    onnx._n_threads = 4
    try:
        same(onnx.restore(wav), many)
        stream = onnx.stream(n_channels)
        parts = [stream.feed(wav[:, begin : begin + 5000]) for begin in range(0, 66150, 5000)]
        same(np.concatenate([*parts, stream.flush()], 1), many)
    finally:
        onnx._n_threads = 1
    same(np.concatenate([onnx.restore(row[None]) for row in wav]), many)


def test_levels(engines):
    """The model's input is divided, its output multiplied; silence stays to the last bit."""
    for engine in engines:
        wav = 0.01 * music()
        same(engine.restore(wav, level=0.02) / 0.02, engine.restore(wav / np.float32(0.02)))
        wav[:] = 0
        assert np.array_equal(engine.restore(wav, level=1e-6), wav)


def test_an_export_of_another_model(tmp_path):
    model = small_model(residual=False, kernel_size=5, n_layers=1, tcn_blocks=1)
    export.export(model, tmp_path / "a.onnx", "stream")
    onnx = choose.load(Choice(str(tmp_path / "a.onnx")))
    wav = tone(9000).numpy()
    with torch.no_grad():
        whole = model(torch.from_numpy(wav)).numpy()
    assert not onnx.adds
    for restored in (onnx.restore(wav), TorchEngine(model).restore(wav)):
        assert np.abs(restored - whole).max() < 1e-4 * np.abs(whole).max()


def test_progress_is_told_and_ends_the_work(engines):
    for engine in engines:
        steps: list[tuple] = []
        engine.restore(music(2.5), progress=lambda *step, steps=steps: steps.append(step))
        assert [step[0] for step in steps] == ["restoring"] * len(steps)
        assert steps[-1][1] == steps[-1][2] == pytest.approx(2.5, abs=0.01)
        if engine.name == "onnx":  # every second
            assert [step[1:] for step in steps] == [(1.0, 2.5), (2.0, 2.5), (2.5, 2.5)]

        def stop(*_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            engine.restore(music(), progress=stop)


@pytest.mark.parametrize("shape", [(2, 0), (100,), (5000, 2)])
def test_no_signals(engines, shape):
    for engine in engines:
        if len(shape) == 1 and engine.name == "torch":
            continue  # one channel to it
        with pytest.raises(ValueError):
            engine.restore(np.zeros(shape, np.float32))
        with pytest.raises(ValueError, match="2 channel"):
            engine.stream(2).feed(np.zeros((1, 10), np.float32))
        with pytest.raises(ValueError, match="1 or more"):
            engine.stream(0)
        assert engine.stream(1).flush().size == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_near_its_place(engines, bad):
    wav = music()
    wav[:, 30000] = bad
    for engine in engines:
        restored = engine.restore(wav)
        assert not np.isfinite(restored[:, 30000]).any()
        assert np.isfinite(restored[:, :8000]).all()


# ---------------------------------------------------------------------------------------- choice


@pytest.mark.parametrize(
    "choice, gpu, expected",
    [
        (Choice("apollo-small"), False, True),
        (Choice("apollo-small"), True, False),
        (Choice("apollo-small", "cpu"), True, True),
        (Choice("apollo-small", "cuda"), True, False),
        (Choice("apollo-small", "cpu", "fp32"), False, True),
        (Choice("apollo-small", "cpu", "int8"), False, False),
        (Choice("apollo-small", engine="torch"), False, False),
        (Choice("apollo-small", engine="onnx"), True, True),
        (Choice("someone/else"), False, False),
        (Choice("a.onnx"), True, True),
    ],
)
def test_which_engine(choice, gpu, expected, monkeypatch):
    monkeypatch.setattr(choose, "_may_have_gpu", lambda: gpu)
    assert choice.by_onnx == expected


class Driver:
    """CUDA's, as far as it is asked."""

    def __init__(self, failed=0, count_failed=0, n=1):
        self.failed, self.count_failed, self.n = failed, count_failed, n

    def cuInit(self, flags):
        assert flags == 0
        return self.failed

    def cuDeviceGetCount(self, count):
        count._obj.value = self.n
        return self.count_failed


@pytest.mark.parametrize(
    "system, machine, driver, there",
    [
        ("Darwin", "arm64", None, True),
        ("Darwin", "x86_64", Driver(), False),
        ("Linux", "arm64", Driver(), True),
        ("Linux", "x86_64", Driver(n=0), False),
        ("Linux", "x86_64", Driver(failed=100), False),
        ("Linux", "x86_64", Driver(count_failed=3), False),
        ("Windows", "AMD64", Driver(n=2), True),
        ("Linux", "x86_64", OSError("libcuda.so.1: cannot open"), False),
        ("Linux", "x86_64", object(), False),
        ("AMD", "x86_64", OSError(), True),
    ],
)
def test_where_a_gpu_may_be(system, machine, driver, there, monkeypatch):
    asked = []

    def load(name):
        asked.append(name)
        if isinstance(driver, OSError):
            raise driver
        return driver

    monkeypatch.setattr(choose.platform, "system", lambda: system)
    monkeypatch.setattr(choose.platform, "machine", lambda: machine)
    monkeypatch.setattr(choose.os.path, "exists", lambda path: system == "AMD")
    monkeypatch.setattr(choose.ctypes, "CDLL", load)
    assert choose._may_have_gpu() is there
    name = dict(Windows="nvcuda.dll", Linux="libcuda.so.1").get(system)
    assert asked == ([name] if name else [])
    monkeypatch.setattr(choose, "has_torch", lambda: False)
    assert not choose._may_have_gpu()


@pytest.mark.parametrize(
    "own, asked, n_threads", [("3", None, 3), ("3", 2, 2), ("", None, 5), ("many", None, 5)]
)
def test_as_many_threads_as_are_asked_for_or_allowed(own, asked, n_threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", own)
    monkeypatch.setattr(choose, "n_cores", lambda: 5)
    monkeypatch.setattr(choose, "_load_onnx", lambda name, n: (name, n))
    assert choose.load(Choice("a.onnx"), asked) == ("a.onnx", n_threads)


def test_threads_of_torch(monkeypatch):
    """None are set unless asked for; a stream takes one of a small model, two at most of others."""
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    model = small_model(n_layers=1)
    TorchEngine(model)
    assert used == []
    engine = TorchEngine(model, 3)
    assert used == [3] and engine.n_bytes == 4 * sum(p.numel() for p in model.parameters())
    for n_weights, n_threads in ((4_000_000 - 1, 1), (4_000_000, 2)):
        left = n_weights - sum(p.numel() for p in model.parameters())
        with torch.no_grad():
            more = torch.nn.Parameter(torch.zeros(left))
        weights = [*model.parameters(), more]
        monkeypatch.setattr(model, "parameters", lambda weights=weights: iter(weights))
        stream = engine.stream(1)
        used.clear()
        stream.feed(np.zeros((1, 10), np.float32))
        assert used == [n_threads, 8]
        monkeypatch.undo()
        monkeypatch.setattr(torch, "set_num_threads", used.append)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 8)


def test_calls_of_the_exported_step_fit_into_caches(engines, monkeypatch):
    """Activations of 2 MiB at most, at least one hop; every hop comes once, in order."""
    onnx, torch_ = engines
    args = torch_.model.get_model_args()
    frame = 4 * torch_.model.filterbank.n_bands * args["feature_dim"]
    most = (2 << 20) // (2 * frame)
    sizes = []

    class Session:
        def run(self, _, given):
            sizes.append(given["wav"].shape[1])
            state = [given[each.name] for each in onnx._state]
            return [given["wav"], *state]

    monkeypatch.setattr(onnx, "_session", Session())
    hops = np.random.default_rng(0).standard_normal((2, 2 * most + 1, onnx.hop), np.float32)
    out, _ = onnx.step(hops, onnx.initial_state(2), None)
    assert sizes == [most, most, 1] and np.array_equal(out, hops)
    sizes.clear()
    many = np.zeros((2 + (2 << 20) // frame, 2, onnx.hop), np.float32)
    onnx.step(many, onnx.initial_state(len(many)), None)
    assert sizes == [1, 1]


def test_threads_of_the_exported_step(engines, monkeypatch):
    """Each takes channels of its own; streams give each of them two."""
    onnx = engines[0]
    for n_threads, n_channels, n_file, n_stream in (
        (1, 2, 1, 1),
        (4, 1, 1, 1),
        (4, 3, 3, 1),
        (4, 4, 4, 2),
        (2, 6, 2, 2),
    ):
        monkeypatch.setattr(onnx, "_n_threads", n_threads)
        stream = onnx.stream(n_channels)
        of_file = OnnxStream(onnx, n_channels, n_threads)
        assert [len(s._groups) for s in (of_file, stream)] == [n_file, n_stream]
        assert (stream._pool is None) == (n_stream == 1)
        covered = [k for group in of_file._groups for k in range(group.start, group.stop)]
        assert covered == [*range(n_channels)]
    assert OnnxEngine(choose._exported("apollo-small"), 0)._n_threads == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(engine="tvm"), "unknown engine 'tvm'"),
        (dict(device="tpu"), "unknown device 'tpu'"),
        (dict(engine="onnx", device="cuda"), "on CPUs, not on --device cuda"),
        (dict(engine="onnx", precision="int8"), "--precision int8 is for --engine torch"),
        (dict(engine="onnx", checkpoint="a.safetensors"), "not 'a.safetensors'"),
        (dict(engine="torch", checkpoint="a.onnx"), "'a.onnx' is for --engine onnx"),
    ],
)
def test_choices_that_exclude_each_other(arguments, message):
    with pytest.raises(SettingError, match=message):
        Choice(**arguments)


def test_files_that_are_no_step(tmp_path):
    path = tmp_path / "a.onnx"
    with pytest.raises(CheckpointError, match="is no file"):
        choose.load(Choice(str(path)))
    for content in (b"", b"ONNX", bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"a\.onnx' (cannot be loaded|is no streaming)"):
            choose.load(Choice(str(path)))
    onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
    program = onnx.load(choose._exported("apollo-small"))
    for info in (export.metadata(small_model(), "whole"), {"kind": "stream"}):
        onnx.helper.set_model_props(program, {"apollo": json.dumps(info)})
        onnx.save(program, path)
        with pytest.raises(CheckpointError, match="--kind stream writes one"):
            choose.load(Choice(str(path)))


def test_without_torch(monkeypatch):
    monkeypatch.setattr(choose, "has_torch", lambda: False)
    assert choose.load(Choice("apollo-small")).name == "onnx"
    with pytest.raises(DeviceError, match="needs PyTorch: pip install") as caught:
        choose.load(Choice("apollo-small", precision="int8"))
    assert "\n" not in str(caught.value)


def test_a_session_has_no_threads_of_its_own():
    """Two that meet after every product would wait for each other beside other work."""
    options = OnnxEngine(choose._exported("apollo-small"))._session.get_session_options()
    assert options.intra_op_num_threads == options.inter_op_num_threads == 1
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL


def test_a_wrong_engine_for_a_model_that_cannot_stream():
    from helpers import tiny_srgan

    with pytest.raises(CheckpointError, match="SRGAN cannot stream"):
        TorchEngine(tiny_srgan()).stream(1)


def test_both_are_models_of_the_bundled_weights():
    model = Apollo.from_pretrained("apollo-small")
    onnx = choose.load(Choice("apollo-small", engine="onnx"))
    wav = music()
    with torch.no_grad():
        same(onnx.restore(wav), model(torch.from_numpy(wav)).numpy())


# ------------------------------------------------------------------------------------- what loads

HEAVY = "torch asteroid asteroid_filterbanks torchaudio pytorch_lightning scipy".split()


@pytest.mark.parametrize(
    "command, arguments",
    [
        ("restore", ["--help"]),
        ("restore", ["--version"]),
        ("restore", ["--list"]),
        ("restore", ["song.mp3", "-o", "out.flac"]),
        ("restore", ["song.mp3", "--keep-below", "4000", "--rate", "48000"]),
        ("restore", ["--diagnose", "song.mp3"]),
        ("stream", ["--help"]),
        ("stream", []),
    ],
)
def test_the_side_of_files_needs_no_torch(command, arguments, tmp_path):
    from helpers import save

    from apollo_plugin.data.codecs import encode_mp3

    (tmp_path / "song.mp3").write_bytes(encode_mp3(music(), RATE, 48))
    stream = save(tmp_path / "stream.wav", torch.from_numpy(music()))
    code = f"""if True:
        import sys
        from apollo_plugin.cli.{command} import main
        status = 0
        try:
            status = main({arguments!r})
        except SystemExit as end:
            status = end.code or 0
        loaded = [name for name in {HEAVY!r} if name in sys.modules]
        sys.exit(f"{{status}} {{loaded}}" if status or loaded else 0)
    """
    with stream.open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, stdin=file, capture_output=True
        )
    assert done.returncode == 0, done.stderr.decode()

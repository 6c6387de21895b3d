"""The benchmark's figures against closed forms, and its command line."""

import json
import math
import subprocess
import sys
import time
from collections import Counter

import pytest
import torch
from conftest import small_model

from apollo_plugin import Apollo, benchmark, precision
from apollo_plugin.benchmark import PRECISIONS, count_flops, matmul_shapes, matmul_time


def linear_flops(model: Apollo, n_frames: int) -> int:
    """Two operations for each weight that a frame meets, and the attention over the bands."""
    bands, n = model.filterbank.n_bands, model.get_model_args()["feature_dim"]
    per_frame = 0
    for name, weight in model.named_parameters():
        # One weight for all bands, or for each band its own.
        if weight.ndim == 2 and "layers" in name:
            per_frame += 2 * bands * weight.numel()
        elif weight.ndim == 3 and ("encoders" in name or "decoders" in name):
            per_frame += 2 * weight.numel()
    per_frame += len(model.layers) * 2 * 2 * bands * bands * n
    return n_frames * per_frame


def conv_flops(model: Apollo, n_frames: int) -> int:
    convs = [block.conv for layer in model.layers for block in layer.tcn]
    return sum(2 * n_frames * model.filterbank.n_bands * conv.weight.numel() for conv in convs)


def test_operations_and_products_have_a_closed_form():
    model = small_model()
    wav = torch.randn(1, 4410)
    n_frames = 4410 // 441 + 1
    shapes = matmul_shapes(model, wav)
    products = sum(2 * count * math.prod(shape) for shape, count in shapes.items())
    assert products == linear_flops(model, n_frames)
    assert torch.backends.mkldnn.enabled
    assert count_flops(model, wav) == linear_flops(model, n_frames) + conv_flops(model, n_frames)


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


def test_bare_products_take_as_long_as_they_take():
    one, two = torch.randn(600, 500), torch.randn(500, 700)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        one @ two
        times.append(time.perf_counter() - start)
    measured = matmul_time(Counter({(1, 600, 500, 700): 10}), "cpu", PRECISIONS[0], repeats=5)
    # Other work on the machine makes either slower at times.
    assert 10 * min(times) / 8 < measured < 10 * max(times) * 4
    for entry in PRECISIONS:
        shapes = Counter({(3, 5, 6, 7): 2, (1, 32, 16, 8): 1})
        assert matmul_time(shapes, "cpu", entry) > 0


def test_peak_memory_sees_what_was_used():
    with benchmark.peak_memory("cpu") as peak:
        torch.ones(50_000_000)
    assert math.isnan(peak[0]) or peak[0] == pytest.approx(200e6, rel=0.1)


def test_limits_are_kept(tiny_checkpoint):
    model = Apollo.from_pretrained(tiny_checkpoint)
    assert len(benchmark.real_time_factor(model, "cpu", 4)) == 4
    assert len(benchmark.real_time_factor(model, "cpu", 1000, limit=0.001)) == 1
    blocks = torch.zeros(1, 441 * 400).split(441, -1)
    assert len(benchmark.stream_times(model, blocks, "cpu")) == 300
    assert len(benchmark.stream_times(model, blocks[:6], "cpu", limit=0.0)) == 2


def test_command_line(tiny_checkpoint, tmp_path):
    command = [sys.executable, "-m", "apollo_plugin.benchmark", "--models", str(tiny_checkpoint)]
    options = "--devices cpu --precisions fp32 int8 --iterations 3 --limit 5".split()
    options += "--song_seconds 2 --stream_seconds 2".split()
    done = subprocess.run(
        [*command, *options, "--json", tmp_path / "b.json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "b.json").read_text())
    result, _ = content["results"]
    assert [r["precision"] for r in content["results"]] == ["fp32", "int8"]
    assert len({r["flops_per_second"] for r in content["results"]}) == 1
    model = Apollo.from_pretrained(tiny_checkpoint)
    assert result["parameters"] == sum(p.numel() for p in model.parameters())
    assert result["rtf_runs"] == 3 and result["rtf_best_ms"] <= result["rtf_ms"]
    assert result["rtf_best_ms"] > 0.3 * result["matmul_ms"] > 0
    assert 0 < result["hop_median_ms"] <= result["hop_p99_ms"] and result["hop_ms"] == 10
    assert content["machine"]["torch"] == torch.__version__
    assert f"{result['rtf_best_ms']:.2f} (3)" in done.stdout
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--devices", "mps"], "no mps device"),
        (["--iterations", "0"], "has to be positive"),
        (["--precisions", "fp7"], "invalid choice"),
        (["--models", "no-such-model"], "no checkpoint 'no-such-model'"),
    ],
)
def test_bad_input(options, reason, monkeypatch, capsys, tmp_path):
    from apollo_plugin.script import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmark", *options])
    with pytest.raises(SystemExit) as ended:
        run(benchmark.main)
    assert ended.value.code != 0 and reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_precision_is_one_entry():
    assert tuple(entry.name for entry in PRECISIONS) == precision.PRECISIONS

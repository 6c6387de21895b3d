"""The benchmark's command line, and the models that it knows."""

import json
import subprocess
import sys

import pytest
import torch
from helpers import conv_flops, linear_flops, small_model

from apollo_plugin import Apollo, benchmark


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
        (["--processes", "0"], "has to be positive"),
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

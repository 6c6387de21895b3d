"""tools/gpu.py, small and on a CPU: every section has figures, true where that is known."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).parents[1] / "tools" / "gpu.py"


@pytest.fixture(scope="module")
def figures(tmp_path_factory, python):
    out = tmp_path_factory.mktemp("gpu")
    done = subprocess.run(
        [python, TOOL, "--small", "--device", "cpu", "-o", out],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=out,  # nothing but the checkout, from anywhere
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "gpu.json").read_text(), parse_constant=pytest.fail)
    return found, (out / "gpu.md").read_text()


def test_every_section_has_its_figures(figures):
    found, text = figures
    assert len(found["sections"]) == 5
    for title, section in found["sections"].items():
        assert section["rows"] and not section["left_out"], title
        assert title in text
        for row in section["rows"]:
            assert f"| {row['name']} |" in text
            assert all(value == value for key, value in row.items() if key != "name")


def test_figures_that_are_known(figures):
    """A CPU is itself to the last bit; eight bits of mantissa are some 40 to 60 dB; a mean is no
    higher than the 99th percentile of twelve."""
    sections = list(figures[0]["sections"].values())
    parity = {row["name"]: row["SNR, dB"] for row in sections[0]["rows"]}
    assert parity.keys() == {"tiny, float32", "tiny, bf16"}  # no TF32
    assert parity["tiny, float32"] > 100 and 25 < parity["tiny, bf16"] < 80
    for row in sections[2]["rows"]:
        assert 0 < row["mean, ms"] <= row["99th percentile, ms"]
        assert row["a hop, ms"] == 10
    for row in sections[3]["rows"]:
        assert row["name"].startswith("tiny, ")
        parts = sum(row[f"{part}, ms"] for part in ("forward", "backward", "discriminators"))
        n_items = int(row["name"].split(", ")[-1])
        assert row["items a second"] == pytest.approx(1000 * n_items / parts, rel=1e-6)


def test_without_time_everything_is_left_out_and_named(tmp_path, python):
    done = subprocess.run(
        [python, TOOL, "--small", "--device", "cpu", "--minutes", "0", "-o", tmp_path],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"].values()
    assert all(not section["rows"] and section["left_out"] for section in sections)
    assert "no time left" in (tmp_path / "gpu.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there(tmp_path, python):
    done = subprocess.run(
        [python, TOOL, "--small", "--device", "cuda", "-o", tmp_path],
        capture_output=True,
        text=True,
        timeout=600,
    )
    line = "gpu.py: this machine has no cuda device; leave --device out"
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1] == line
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


def test_a_cluster_that_loses_a_worker_in_every_stage_leaves_the_same_bytes():
    pytest.importorskip("distributed")
    done = subprocess.run(
        [sys.executable, TOOL.with_name("scale.py"), "--songs", "9"],
        capture_output=True,
        text=True,
        timeout=900,
    )
    row = next(line for line in done.stdout.splitlines() if line.startswith("| 9 |"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "activity, pairs, evaluation" in row and row.endswith("| yes |")

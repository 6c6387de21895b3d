"""Time and memory of a model: limits are kept, memory is what was taken."""

import math

import pytest
import torch

from apollo_plugin import Apollo
from apollo_plugin.evaluation import timing


def test_peak_memory_sees_what_was_used():
    with timing.peak_memory("cpu") as peak:
        torch.ones(50_000_000)
    assert math.isnan(peak[0]) or peak[0] == pytest.approx(200e6, rel=0.1)


def test_limits_are_kept(tiny_checkpoint):
    model = Apollo.from_pretrained(tiny_checkpoint)
    assert len(timing.real_time_factor(model, "cpu", 4)) == 4
    assert len(timing.real_time_factor(model, "cpu", 1000, limit=0.001)) == 1
    blocks = torch.zeros(1, 441 * 400).split(441, -1)
    assert len(timing.stream_times(model, blocks, "cpu")) == 300
    assert len(timing.stream_times(model, blocks[:6], "cpu", limit=0.0)) == 2

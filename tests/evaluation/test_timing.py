"""What a model costs, against closed forms."""

import math
import time
from collections import Counter

import pytest
import torch
from helpers import conv_flops, linear_flops, small_model

from apollo_plugin import Apollo
from apollo_plugin.evaluation import timing as costs
from apollo_plugin.evaluation.timing import PRECISIONS, count_flops, matmul_shapes, matmul_time
from apollo_plugin.network import precision


def test_operations_and_products_have_a_closed_form():
    model = small_model()
    wav = torch.randn(1, 4410)
    n_frames = 4410 // 441 + 1
    shapes = matmul_shapes(model, wav)
    products = sum(2 * count * math.prod(shape) for shape, count in shapes.items())
    assert products == linear_flops(model, n_frames)
    assert torch.backends.mkldnn.enabled
    assert count_flops(model, wav) == linear_flops(model, n_frames) + conv_flops(model, n_frames)


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
    with costs.peak_memory("cpu") as peak:
        torch.ones(50_000_000)
    assert math.isnan(peak[0]) or peak[0] == pytest.approx(200e6, rel=0.1)


def test_limits_are_kept(tiny_checkpoint):
    model = Apollo.from_pretrained(tiny_checkpoint)
    assert len(costs.real_time_factor(model, "cpu", 4)) == 4
    assert len(costs.real_time_factor(model, "cpu", 1000, limit=0.001)) == 1
    blocks = torch.zeros(1, 441 * 400).split(441, -1)
    assert len(costs.stream_times(model, blocks, "cpu")) == 300
    assert len(costs.stream_times(model, blocks[:6], "cpu", limit=0.0)) == 2


def test_a_precision_is_one_entry():
    assert tuple(entry.name for entry in PRECISIONS) == precision.PRECISIONS

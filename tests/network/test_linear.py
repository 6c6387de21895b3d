"""Matrix products by oneDNN against torch's own, forwards and backwards."""

import copy

import pytest
import torch
from helpers import small_model, snr, tone
from torch import nn

from apollo_plugin.network import linear as products
from apollo_plugin.network.linear import linear

SHAPES = [(5, 8), (1, 3), (2, 7, 5, 8), (0, 8), (2, 0, 5, 8)]


@pytest.fixture(autouse=True, params=[1, products._LEAST_ROWS])
def least_rows(request, monkeypatch):
    """Few rows by oneDNN too, as many are, and as they are by default."""
    monkeypatch.setattr(products, "_LEAST_ROWS", request.param)


def test_what_goes_to_onednn(least_rows):
    at_hand = products._ONEDNN is not None and torch.backends.mkldnn.is_available()
    assert products._onednn_does(torch.zeros(300, 8)) == at_hand
    assert products._onednn_does(torch.zeros(2, 5, 8)) == (at_hand and products._LEAST_ROWS == 1)
    assert not products._onednn_does(torch.zeros(0, 8))


def test_few_rows_are_left_to_mkl():
    at_hand = products._ONEDNN is not None and torch.backends.mkldnn.is_available()
    for n_rows in (255, 256):
        done = at_hand and n_rows >= products._LEAST_ROWS
        assert products._onednn_does(torch.zeros(n_rows, 3)) == done
        assert not products._onednn_does(torch.zeros(n_rows, 3).double())
        with torch.autocast("cpu", torch.bfloat16):
            assert not products._onednn_does(torch.zeros(n_rows, 3))
    assert products._LEAST_ROWS in (1, 256)


@pytest.mark.parametrize("answer, does", [(16, True), (15, False), (None, False)])
def test_products_of_bfloat16_are_tried(answer, does, monkeypatch):
    """A wrong sum of 16 ones, or an error, and they are not used."""

    def product(x, weight, *_):
        assert x.dtype == weight.dtype == torch.bfloat16
        if answer is None:
            raise RuntimeError("could not create a primitive descriptor")
        return torch.full((len(x), len(weight)), float(answer))

    products._does_bfloat16.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(products, "_ONEDNN", product)
            assert products._does_bfloat16() is does
        products._does_bfloat16.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(products, "_ONEDNN", None)
            assert products._does_bfloat16() is False
    finally:
        products._does_bfloat16.cache_clear()


def tensors(shape, n_out=6, requires_grad=False, bias=True):
    """Input, layer and something to add."""
    torch.manual_seed(0)
    layer = nn.Linear(shape[-1], n_out, bias=bias).requires_grad_(requires_grad)
    x, plus = (
        torch.randn(size, requires_grad=requires_grad) for size in (shape, (*shape[:-1], n_out))
    )
    return x, layer, plus


def textbook(x, layer, silu, plus):
    y = (x.unsqueeze(-2) * layer.weight).sum(-1)
    y = y if layer.bias is None else y + layer.bias
    y = y * torch.sigmoid(y) if silu else y
    return y if plus is None else y + plus


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("silu, with_plus", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_the_textbook(shape, with_bias, silu, with_plus, requires_grad, dtype):
    x, layer, plus = tensors(shape, requires_grad=requires_grad, bias=with_bias)
    plus = plus if with_plus else None
    expected = textbook(x, layer, silu, plus)
    leaves = [t for t in (x, plus, *layer.parameters()) if t is not None]
    seed = torch.randn(expected.shape)
    wanted = torch.autograd.grad(expected, leaves, seed) if requires_grad else ()
    layer = copy.deepcopy(layer).to(dtype)
    x, plus = (t if t is None else t.detach().to(dtype) for t in (x, plus))
    leaves = [t for t in (x, plus, *layer.parameters()) if t is not None]
    for leaf in leaves:
        leaf.requires_grad_(requires_grad)
    y = linear(x, layer, silu=silu, plus=plus)
    assert y.shape == expected.shape and y.dtype == dtype
    torch.testing.assert_close(y, expected.to(dtype), atol=1e-5, rtol=1e-5)
    if requires_grad:
        for grad, want in zip(torch.autograd.grad(y, leaves, seed.to(dtype)), wanted):
            torch.testing.assert_close(grad, want.to(dtype), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("silu, with_plus", [(False, False), (True, False), (False, True)])
def test_weights_of_bfloat16(silu, with_plus):
    x, layer, plus = tensors((6, 32))
    layer = layer.bfloat16()
    with torch.no_grad():
        y = linear(x, layer, silu=silu, plus=plus if with_plus else None)
        expected = textbook(x.bfloat16().float(), copy.deepcopy(layer).float(), silu, None)
    # What is added to stays float32.
    assert y.dtype == (torch.float32 if with_plus else torch.bfloat16)
    assert snr(y - plus if with_plus else y.float(), expected) > 40


def test_bfloat16_that_the_processor_has_not(monkeypatch):
    """Its numbers, multiplied in float32, whatever torch's own products would do."""
    monkeypatch.setattr(products, "_does_bfloat16", lambda: False)
    x, layer, plus = tensors((6, 300, 32))
    layer = layer.bfloat16()
    expected = textbook(x.bfloat16().double(), copy.deepcopy(layer).double(), True, None)
    y = linear(x, layer, silu=True)
    assert y.dtype == torch.bfloat16 and snr(y.float(), expected) > 45
    y = linear(x, layer, plus=plus)
    expected = textbook(x.bfloat16().double(), copy.deepcopy(layer).double(), False, plus)
    assert y.dtype == torch.float32 and snr(y, expected) > 100


def test_only_the_gradients_that_are_asked_for():
    x, layer, _ = tensors((4, 8))
    layer.weight.requires_grad_()
    linear(x, layer).sum().backward()
    assert layer.weight.grad is not None and x.grad is None and layer.bias.grad is None


def test_strided_inputs():
    x, layer, plus = tensors((6, 4, 8))
    got = linear(x.transpose(0, 1), layer, plus=plus.transpose(0, 1))
    torch.testing.assert_close(got, layer(x).transpose(0, 1) + plus.transpose(0, 1))
    half = torch.cat((x, x), -1)[..., ::2]
    torch.testing.assert_close(linear(half, layer), layer(half))


def test_input_and_sum_are_not_changed():
    x, layer, plus = tensors((4, 8))
    before = x.clone(), plus.clone()
    linear(x, layer, plus=plus)
    linear(x, layer, silu=True)
    assert torch.equal(x, before[0]) and torch.equal(plus, before[1])


def test_nan_and_infinity_are_not_hidden():
    x, layer, _ = tensors((3, 8))
    x[1, 2] = float("nan")
    x[2, 2] = float("inf")
    y = linear(x, layer)
    assert torch.isfinite(y[0]).all() and y[1].isnan().all() and not torch.isfinite(y[2]).any()


def test_wrong_sizes():
    with pytest.raises(RuntimeError):
        linear(torch.zeros(3, 7), nn.Linear(8, 6))


@pytest.mark.parametrize("options", [{}, {"residual": True, "band_gain": True, "causal": True}])
def test_the_model_with_and_without_onednn(options, monkeypatch):
    model, wav = small_model(**options), tone(20000)
    with torch.no_grad():
        fast = model(wav)
    slow_grad = model(wav)
    monkeypatch.setattr(products, "_ONEDNN", None)
    with torch.no_grad():
        assert snr(fast, model(wav)) > 110 and snr(slow_grad.detach(), model(wav)) > 110


def test_autocast_is_left_alone():
    x, layer, _ = tensors((4, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, layer).dtype == torch.bfloat16


def test_exported_programs_hold_no_private_calls():
    class Layer(nn.Linear):
        def forward(self, x):
            return linear(x, self.inner, silu=True)

    layer = Layer(8, 6)
    layer.inner = nn.Linear(8, 6)
    program = torch.export.export(layer, (torch.zeros(3, 8),))
    assert "mkldnn" not in str(program.graph) and "linear" in str(program.graph)

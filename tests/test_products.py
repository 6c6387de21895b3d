"""Matrix products by oneDNN against torch's own, forwards and backwards."""

import pytest
import torch
import torch.nn.functional as F
from conftest import small_model, snr, tone

from apollo_plugin import products
from apollo_plugin.products import linear

SHAPES = [(5, 8), (1, 3), (2, 7, 5, 8), (0, 8), (2, 0, 5, 8)]


def tensors(shape, n_out=6, requires_grad=False):
    torch.manual_seed(0)
    sizes = (shape, (n_out, shape[-1]), (n_out,), (*shape[:-1], n_out))
    return [torch.randn(size, requires_grad=requires_grad) for size in sizes]


def textbook(x, weight, bias, silu, plus):
    y = (x.unsqueeze(-2) * weight).sum(-1)
    y = y if bias is None else y + bias
    y = y * torch.sigmoid(y) if silu else y
    return y if plus is None else y + plus


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("silu, with_plus", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_the_textbook(shape, with_bias, silu, with_plus, requires_grad, dtype):
    x, weight, bias, plus = tensors(shape, requires_grad=requires_grad)
    bias, plus = (t if wanted else None for t, wanted in ((bias, with_bias), (plus, with_plus)))
    given = [t if t is None else t.to(dtype) for t in (x, weight, bias, plus)]
    y = linear(*given[:3], silu=silu, plus=given[3])
    expected = textbook(x, weight, bias, silu, plus)
    assert y.shape == expected.shape and y.dtype == dtype
    torch.testing.assert_close(y, expected.to(dtype), atol=1e-5, rtol=1e-5)
    if requires_grad:
        leaves = [t for t in (x, weight, bias, plus) if t is not None]
        seed = torch.randn(expected.shape)
        grads = torch.autograd.grad(y, leaves, seed.to(dtype))
        wanted = torch.autograd.grad(expected, leaves, seed)
        for grad, want in zip(grads, wanted):
            torch.testing.assert_close(grad, want, atol=1e-5, rtol=1e-5)


def test_only_the_gradients_that_are_asked_for():
    x, weight, bias, _ = tensors((4, 8))
    weight.requires_grad_()
    linear(x, weight, bias).sum().backward()
    assert weight.grad is not None and x.grad is None and bias.grad is None


def test_strided_inputs():
    x, weight, _, plus = tensors((6, 4, 8))
    got = linear(x.transpose(0, 1), weight, plus=plus.transpose(0, 1))
    torch.testing.assert_close(got, F.linear(x, weight).transpose(0, 1) + plus.transpose(0, 1))
    half = torch.cat((x, x), -1)[..., ::2]
    torch.testing.assert_close(linear(half, weight), F.linear(half, weight))


def test_input_and_sum_are_not_changed():
    x, weight, bias, plus = tensors((4, 8))
    before = x.clone(), plus.clone()
    linear(x, weight, bias, plus=plus)
    linear(x, weight, bias, silu=True)
    assert torch.equal(x, before[0]) and torch.equal(plus, before[1])


def test_nan_and_infinity_are_not_hidden():
    x, weight, bias, _ = tensors((3, 8))
    x[1, 2] = float("nan")
    x[2, 2] = float("inf")
    y = linear(x, weight, bias)
    assert torch.isfinite(y[0]).all() and y[1].isnan().all() and not torch.isfinite(y[2]).any()


def test_wrong_sizes():
    with pytest.raises(RuntimeError):
        linear(torch.zeros(3, 7), torch.zeros(6, 8))


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
    x, weight, bias, _ = tensors((4, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16


def test_exported_programs_hold_no_private_calls():
    class Layer(torch.nn.Module):
        def forward(self, x, weight):
            return linear(x, weight, silu=True)

    program = torch.export.export(Layer(), (torch.zeros(3, 8), torch.zeros(6, 8)))
    assert "mkldnn" not in str(program.graph) and "linear" in str(program.graph)

"""Layers are modules: hooks hear of each, counters count, what is made of hooks works, and
derivatives have derivatives."""

import pytest
import torch
from helpers import conv_flops, linear_flops, small_model, snr, tone
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

from apollo_plugin import SRGAN
from apollo_plugin.network import linear as products

ALL = dict(residual=True, band_gain=True, excitation=True, envelope_dim=176)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


@pytest.fixture(autouse=True, params=[1, 10**9])
def least_rows(request, monkeypatch):
    """By oneDNN, and without."""
    monkeypatch.setattr(products, "_LEAST_ROWS", request.param)


def srgan():
    torch.manual_seed(0)
    sizes = dict(channels=(4, 6, 6), n_rows=8, width=16, noise_dim=4, dilations=(1, 2, 1, 2))
    return SRGAN(window=256, hop=64, **sizes).eval()


def layers(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LAYERS)}


@torch.no_grad()
@pytest.mark.parametrize("make", [small_model, lambda: small_model(**ALL), srgan])
def test_hooks_hear_of_every_layer_and_change_nothing(make):
    model, wav, heard = make(), tone(9000), {}
    plain = model(wav)
    for name, layer in layers(model).items():
        layer.register_forward_hook(lambda *call, name=name: heard.update({name: call}))
    assert snr(model(wav), plain) > 100
    assert heard.keys() == layers(model).keys() and len(heard) > 5
    for layer, (x,), y in heard.values():
        # Its own output, not that of what else is done in the same pass.
        layer._forward_hooks.clear()
        torch.testing.assert_close(y, layer(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_a_hook_gives_is_what_goes_on():
    model, wav = small_model(), tone(5000)
    for layer in layers(model).values():
        layer.register_forward_hook(lambda layer, x, y: 0 * y)
    for decoder in model.decoders:
        decoder[-1].register_forward_hook(lambda layer, x, y: torch.ones_like(y))
    ones = model(wav)
    for parameter in model.layers.parameters():
        parameter.add_(1)
    assert torch.equal(model(wav), ones)


@torch.no_grad()
def test_torchs_counter_agrees_with_the_closed_form():
    model = small_model(feature_dim=32)
    with FlopCounterMode(display=False) as counter:
        model(tone(441 * 9, 1))
    assert counter.get_total_flops() == linear_flops(model, 10) + conv_flops(model, 10)


def steps(model, n=2):
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    for _ in range(n):
        optimizer.zero_grad()
        model(tone(4000)).square().mean().backward()
        optimizer.step()


def test_pruned_layers_learn():
    model = small_model(n_layers=1)
    for layer in layers(model).values():
        prune.random_unstructured(layer, "weight", 0.5)
    before = {name: layer.weight_orig.clone() for name, layer in layers(model).items()}
    steps(model)
    for name, layer in layers(model).items():
        kept = layer.weight_mask.bool()
        assert not layer.weight_orig.equal(before[name]), name
        assert layer.weight_orig[~kept].equal(before[name][~kept]), name
        torch.testing.assert_close(
            layer.weight, layer.weight_orig * layer.weight_mask, atol=1, rtol=0
        )
        assert not layer.weight[~kept].any()


def test_parametrized_layers_learn():
    model = small_model(n_layers=1)
    parametrizations = torch.nn.utils.parametrizations
    for layer in [*layers(model).values()]:
        parametrizations.weight_norm(layer)
    steps(model)
    assert all(parametrize.is_parametrized(layer) for layer in layers(model).values())


def test_derivatives_by_func_are_those_of_backward():
    model, wav = small_model(n_layers=1), tone(3000)
    model(wav).square().mean().backward()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def loss(weights):
        return torch.func.functional_call(model, weights, (wav,)).square().mean()

    for name, found in torch.func.grad(loss)(weights).items():
        torch.testing.assert_close(found, model.get_parameter(name).grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("options", [dict(), ALL])
def test_a_gradient_penalty_has_the_slope_of_finite_differences(options):
    model = small_model(n_layers=1, **options).double()
    wav = tone(2000, 1).double().requires_grad_()
    weight = model.layers[0].roformer.qkv.weight

    def penalty(**how):
        (slope,) = torch.autograd.grad(model(wav).square().sum(), wav, create_graph=True)
        return slope.square().sum()

    (found,) = torch.autograd.grad(penalty(), weight)
    direction = torch.randn_like(weight)
    values = []
    for step in (1e-3, -1e-3):  # norms are computed in float32
        with torch.no_grad():
            weight.add_(step * direction)
        values.append(penalty().item())
        with torch.no_grad():
            weight.sub_(step * direction)
    expected = (values[0] - values[1]) / 2e-3
    assert (found * direction).sum().item() == pytest.approx(expected, rel=1e-2)


def test_a_penalty_in_float32_is_that_in_float64():
    """Also with oneDNN's products."""
    slopes = []
    for dtype in (torch.float64, torch.float32):
        model = small_model(n_layers=1).to(dtype)
        wav = tone(3000).to(dtype).requires_grad_()
        (slope,) = torch.autograd.grad(model(wav).square().sum(), wav, create_graph=True)
        slope.square().sum().backward()
        slopes.append(torch.cat([p.grad.flatten().double() for p in model.layers.parameters()]))
    assert snr(slopes[1][None], slopes[0][None]) > 60

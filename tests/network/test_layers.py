"""Each layer against a slow version written from the paper's and the code's description."""

import pytest
import torch
from helpers import small_model
from torch import nn

from apollo_plugin.network.layers import (
    BandGain,
    BandLinear,
    BandRoformer,
    RMSNorm,
    TemporalBlock,
    rotary,
    rotate,
)


def slow_norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def test_rms_norm():
    norm = RMSNorm(12)
    nn.init.normal_(norm.weight)
    x = torch.randn(4, 12)
    torch.testing.assert_close(norm(x), slow_norm(x, norm.weight))
    assert torch.isfinite(norm(torch.zeros(1, 12))).all()


def test_rms_norm_of_bfloat16_is_computed_in_float32():
    norm = RMSNorm(256).bfloat16()
    x = (torch.randn(3, 256) * 1e-3).bfloat16()
    expected = slow_norm(x.float(), 1.0)
    torch.testing.assert_close(norm(x).float(), expected, atol=0, rtol=2**-8)


def test_band_linear_against_one_linear_a_band():
    layer = BandLinear(5, 7, 3)
    x = torch.randn(2, 4, 5, 7)
    y = layer(x)
    for band in range(5):
        expected = x[:, :, band] @ layer.weight[band].T + layer.bias[band]
        torch.testing.assert_close(y[:, :, band], expected)


def test_rotation_is_that_of_complex_numbers():
    x = torch.randn(2, 6, 1, 3, 8)  # bands on axis 1
    rotated = rotate(x, rotary(6, 8))
    for band in range(6):
        for pair in range(4):
            number = torch.complex(x[:, band, ..., pair], x[:, band, ..., pair + 4])
            angle = torch.tensor(band * 10000.0 ** (-2 * pair / 8))
            turned = number * torch.polar(torch.tensor(1.0), angle)
            torch.testing.assert_close(rotated[:, band, ..., pair], turned.real)
            torch.testing.assert_close(rotated[:, band, ..., pair + 4], turned.imag)


def test_roformer_against_softmax_written_out():
    torch.manual_seed(1)
    layer = BandRoformer(16, 2)
    x = torch.randn(2, 3, 5, 16)
    rotation = rotary(5, 8)
    normed = slow_norm(x, layer.norm.weight)
    q, k, v = (part.unflatten(-1, (2, 8)) for part in (normed @ layer.qkv.weight.T).chunk(3, -1))
    attended = torch.empty(2, 3, 5, 2, 8)
    for stream in range(2):
        for frame in range(3):
            for head in range(2):
                qh, kh = (
                    rotate(part[stream, frame, :, head][None, :, None, None], rotation)[0, :, 0, 0]
                    for part in (q, k)
                )
                weights = torch.softmax(qh @ kh.T / 8**0.5, -1)
                attended[stream, frame, :, head] = weights @ v[stream, frame, :, head]
    y = x + attended.flatten(-2) @ layer.out.weight.T
    wide = slow_norm(y, layer.mlp_norm.weight) @ layer.mlp_in.weight.T
    gate, z = (wide * torch.sigmoid(wide)).chunk(2, -1)
    expected = y + (gate * torch.sigmoid(gate) * z) @ layer.mlp_out.weight.T
    torch.testing.assert_close(layer(x, rotation), expected, atol=1e-5, rtol=1e-4)


def test_attention_is_never_given_more_rows_than_a_gpu_launches(monkeypatch):
    torch.manual_seed(1)
    layer, rotation, rows = BandRoformer(4, 2), rotary(2, 2), []
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(q, k, v):
        rows.append((len(q), len(k), len(v)))
        return attend(q, k, v)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    x = torch.randn(3, 2 * 65535 // 3 + 100, 2, 4)
    with torch.no_grad():
        y = layer(x, rotation)
        assert {r for row in rows for r in row} == {65535, 300} and len(rows) == 3
        torch.testing.assert_close(y[:, 40000:40010], layer(x[:, 40000:40010], rotation))


def test_band_linears_begin_as_torch_s_do():
    """Uniform up to the root of the inputs' number, weights and biases."""
    layer = BandLinear(9, 25, 300)
    for parameter in (layer.weight.detach(), layer.bias.detach()):
        assert 0.19 < -parameter.min() <= 0.2 and 0.19 < parameter.max() <= 0.2
        assert parameter.std() == pytest.approx(0.2 / 3**0.5, rel=0.05)


def test_gains_of_bands_have_a_bound():
    """Last features and a map of all levels, summed, and no more than exp(6); gates stay."""
    layer = BandGain(3)
    nn.init.normal_(layer.weight)
    parts, levels = [torch.randn(2, 4, 1, 9), torch.randn(2, 4, 2, 5)], torch.randn(2, 4, 3)
    parts[0][0, 0, 0, -1] = 50.0
    found = layer(parts, levels)
    mapped = levels @ layer.weight.T
    for part, scaled, start in zip(parts, found, (0, 1)):
        half = part.shape[-1] // 2
        assert scaled.shape == (*part.shape[:-1], 2 * half)
        for band in range(part.shape[2]):
            gain = (part[:, :, band, -1] + mapped[..., start + band]).clamp(max=6).exp()
            value = part[:, :, band, :half] * gain[..., None]
            torch.testing.assert_close(scaled[:, :, band, :half], value)
        assert torch.equal(scaled[..., half:], part[..., half:-1])
    # A new network begins well below what a codec left.
    decoders = small_model(band_gain=True).decoders
    assert all((decoder[-1].bias[:, -1] == -4).all() for decoder in decoders)


def fresh(block, x):
    return x.new_zeros(x.shape[0], block.behind, *x.shape[2:])


@pytest.mark.parametrize("causal", [False, True])
def test_temporal_block_against_a_padded_conv1d(causal):
    torch.manual_seed(2)
    block = TemporalBlock(8, 7, causal)
    x = torch.randn(2, 20, 3, 8)
    y, _ = block(x, fresh(block, x), last=True)
    for band in range(3):
        line = x[:, :, band].transpose(1, 2)
        padded = nn.functional.pad(line, (6, 0) if causal else (3, 3))
        conv = nn.functional.conv1d(padded, block.conv.weight, block.conv.bias, groups=8)
        hidden = nn.functional.silu(
            block.mlp_in(slow_norm(conv.transpose(1, 2), block.norm.weight))
        )
        expected = x[:, :, band] + block.mlp_out(hidden)
        torch.testing.assert_close(y[:, :, band], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("step", [1, 2, 5, 30])
@pytest.mark.parametrize("n_frames", [1, 2, 3, 4, 30])
def test_temporal_block_in_steps_equals_one_step(causal, step, n_frames):
    block = TemporalBlock(8, 7, causal)
    x = torch.randn(1, n_frames, 2, 8)
    expected, _ = block(x, fresh(block, x), last=True)
    state, out = fresh(block, x), []
    for part in x.split(step, 1):
        y, state = block(part, state, last=False)
        out.append(y)
        assert state.shape[1] <= 6
    y, state = block(x[:, :0], state, last=True)
    torch.testing.assert_close(torch.cat([*out, y], 1), expected)

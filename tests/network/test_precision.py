"""bfloat16 and int8 against float32, and int8 products against the textbook."""

import copy

import pytest
import torch
from helpers import read, small_model, snr, tone
from torch import nn

from apollo_plugin import Apollo, cli
from apollo_plugin.data.codecs import mp3
from apollo_plugin.data.demo import mixture
from apollo_plugin.errors import DeviceError, SettingError
from apollo_plugin.network import precision
from apollo_plugin.network.precision import Int8Linear, convert, default_precision
from apollo_plugin.restore import restore_audio

LEAST = {"bf16": 40, "int8": 30}
has_int8 = "onednn" in torch.backends.quantized.supported_engines
int8 = pytest.param("int8", marks=pytest.mark.skipif(not has_int8, reason="no oneDNN int8 here"))


@pytest.fixture(scope="module")
def music():
    return mp3(torch.from_numpy(mixture(1.5, seed=77)), kbps=48)


@pytest.mark.filterwarnings("ignore:.*has no bfloat16 products")
@pytest.mark.parametrize("name", ["bf16", int8])
@pytest.mark.parametrize("weights", ["published", "apollo-small", "wide"])
def test_close_to_float32(name, weights, published, music):
    if weights == "published":
        model = published
    elif weights == "wide":
        model = small_model(feature_dim=128, n_layers=3, n_heads=8)
    else:
        model = Apollo.from_pretrained(weights)
    before = copy.deepcopy(model.state_dict())
    expected = model.restore(music)
    converted = convert(model, name)
    restored = converted.restore(music)
    assert restored.dtype == torch.float32
    assert LEAST[name] < snr(restored, expected) < 100
    # The model itself is as it was.
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(model.restore(music), expected)


@pytest.mark.filterwarnings("ignore:.*has no bfloat16 products")
@pytest.mark.parametrize("name", ["bf16", int8])
def test_blocks_and_streams(name, music):
    model = convert(small_model(causal=True), name)
    with torch.no_grad():
        whole = model(music)
    streamer = model.streamer(n_channels=2)
    live = torch.cat([*map(streamer.feed, music.split(441, -1)), streamer.flush()], -1)
    # Rounding depends on the block, with int8 the scale of the activations too.
    assert snr(live, whole) > LEAST[name]
    assert snr(model.restore(music, block_seconds=0.1), whole) > LEAST[name]


def test_fp32_is_the_model_itself():
    model = small_model()
    assert convert(model, "fp32") is model


@pytest.mark.skipif(not has_int8, reason="no oneDNN int8 here")
@pytest.mark.parametrize("bias", [True, False])
def test_int8_product_is_the_textbook_s(bias):
    torch.manual_seed(0)
    layer = nn.Linear(24, 10, bias=bias)
    x = torch.randn(3, 5, 24)
    weight_scale = layer.weight.detach().abs().amax(1, keepdim=True).double() / 127
    weight = (layer.weight.detach() / weight_scale).round() * weight_scale
    low, high = min(0.0, x.min().item()), max(0.0, x.max().item())
    int8_layer = Int8Linear(layer)
    most, least = (127, 30) if int8_layer._seven_bits else (255, 35)
    scale = (high - low) / most
    zero = round(-low / scale)
    quantized = ((x / scale).round() + zero).clamp(0, most)
    expected = ((quantized - zero) * scale).double() @ weight.double().T
    expected = expected + (layer.bias.detach() if bias else 0)
    got = int8_layer(x)
    assert got.shape == (3, 5, 10)
    # Rounding of halves may differ, by one step of one input.
    assert snr(got, expected) > 60 and snr(got, layer(x).detach()) > least


@pytest.mark.skipif(not has_int8, reason="no oneDNN int8 here")
@pytest.mark.parametrize("n_rows", [1, 7, 300])
@pytest.mark.parametrize("shape", [(4, 2), (64, 64), (256, 1024)])
def test_large_sums_of_int8_products_are_not_cut(n_rows, shape):
    """Weights and activations at their most: without VNNI, half of the sum would be lost."""
    layer = nn.Linear(*shape, bias=False)
    nn.init.constant_(layer.weight, 0.5)
    x = torch.ones(n_rows, shape[0])
    torch.testing.assert_close(Int8Linear(layer)(x), layer(x), rtol=1e-3, atol=0)


@pytest.mark.skipif(not has_int8, reason="no oneDNN int8 here")
@pytest.mark.parametrize("shape", [(0, 1), (1, 0, 1), (2, 3, 0, 1), (1, 1)])
def test_shapes_of_int8_products(shape):
    layer = nn.Linear(1, 3)
    torch.testing.assert_close(
        Int8Linear(layer)(torch.ones(shape)), layer(torch.ones(shape)), rtol=0, atol=0.05
    )


@pytest.mark.skipif(not has_int8, reason="no oneDNN int8 here")
def test_copies_of_int8_layers_stay_what_they_are():
    layer, x = Int8Linear(nn.Linear(24, 10)), torch.randn(5, 24)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.skipif(not has_int8, reason="no oneDNN int8 here")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(value):
    layer = Int8Linear(nn.Linear(4, 3))
    assert not torch.isfinite(layer(torch.tensor([[1.0, 2.0, value, 0.0]]))).any()
    assert layer(torch.zeros(0, 4)).shape == (0, 3)


@pytest.mark.skipif(not has_int8, reason="no oneDNN int8 here")
def test_silence_and_one_sample():
    model = convert(small_model(), "int8")
    assert not model.restore(torch.zeros(2, 5000)).any()
    assert torch.isfinite(model.restore(torch.ones(1, 1))).all()


def test_unknown_precision():
    with pytest.raises(SettingError, match="unknown precision 'fp8'; known: fp32, bf16, int8"):
        convert(small_model(), "fp8")


def test_default_precision_is_what_the_device_has(monkeypatch):
    assert default_precision("cpu") == default_precision("mps") == "fp32"
    for has, name in ((False, "fp32"), (True, "bf16")):  # a T4, an A100
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has)
        assert default_precision("cuda") == default_precision(torch.device("cuda", 1)) == name


def test_precisions_that_the_machine_does_not_have(monkeypatch):
    monkeypatch.setattr(precision, "_has_bf16", lambda device: False)
    with pytest.warns(UserWarning, match="slower than fp32"):
        convert(small_model(), "bf16")
    with pytest.raises(DeviceError, match="int8 runs on CPUs, not on meta"):
        convert(small_model().to("meta"), "int8")
    monkeypatch.setattr(precision, "_ENGINE", "abacus")
    with pytest.raises(DeviceError, match="no int8 products for this processor; use fp32"):
        convert(small_model(), "int8")


@pytest.mark.filterwarnings("ignore:.*has no bfloat16 products")
@pytest.mark.parametrize("name", ["fp32", "bf16", int8])
def test_from_the_command_line(name, tmp_path, tiny_checkpoint, capsys):
    from apollo_plugin import audio

    audio.write(tmp_path / "a.wav", tone(20000), 44100)
    options = ["--checkpoint", str(tiny_checkpoint), "--precision", name, "--device", "cpu"]
    assert cli.main([str(tmp_path / "a.wav"), *options]) == 0
    restored, _ = read(tmp_path / "a_restored.wav")
    expected = restore_audio(Apollo.from_pretrained(tiny_checkpoint), tone(20000), 44100)
    assert snr(restored, expected) > LEAST.get(name, 100)


def test_a_precision_that_cannot_be_had_is_one_line(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    from apollo_plugin import audio

    monkeypatch.setattr(precision, "_ENGINE", "abacus")
    audio.write(tmp_path / "a.wav", tone(2000), 44100)
    options = ["--checkpoint", str(tiny_checkpoint), "--precision", "int8", "--device", "cpu"]
    assert cli.main([str(tmp_path / "a.wav"), *options]) == 1
    error = capsys.readouterr().err
    assert "use fp32" in error and len(error.splitlines()) == 1

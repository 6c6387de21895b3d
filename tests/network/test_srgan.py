"""SR-GAN's generator against counts by hand, plain convolutions, and the laws of every network."""

import warnings

import pytest
import soundfile
import torch
import torch.nn.functional as F
from helpers import TINY_SRGAN, load, snr, tiny_srgan, tone
from torch.utils._pytree import tree_leaves

import apollo_plugin
from apollo_plugin import SRGAN, Apollo, checkpoints
from apollo_plugin.errors import CheckpointError
from apollo_plugin.metrics import si_sdr
from apollo_plugin.model import RestorationModel
from apollo_plugin.network.aggregation import compress, expand
from apollo_plugin.network.precision import convert
from apollo_plugin.restore import restore_audio

# Of the layer table that shared the names: their figure has one PReLU more, at the output.
SMALL = dict(channels=(8, 12, 12), n_rows=8, width=64, noise_dim=16, dilations=(1, 2, 4, 8) * 2)


@pytest.fixture(scope="module")
def model():
    return tiny_srgan()


def n_parameters(window=2048, channels=(18, 38, 38), n_rows=32, width=256, noise_dim=64, n_gated=9):
    """The layer table, term by term."""
    c1, c2, c3 = channels
    bins, vector, half = window // 2, n_rows * width // 2, width // 2

    def conv(n_in, n_out):
        return 9 * n_in * n_out + n_out

    encoder = conv(2, c1) + conv(c1, c2) + conv(c2, c3) + c3 * bins * vector + vector
    middle = half * width + width + conv(width, width)
    gated = conv(width + noise_dim, width) + (n_gated - 1) * conv(half, width)
    decoder = vector * bins * c3 + c3 + conv(c3, c2) + conv(c2, c1) + conv(c1, 2)
    return encoder + middle + gated + decoder + 10  # of PReLUs


def test_parameters_of_the_paper():
    with torch.device("meta"):
        count = sum(p.numel() for p in SRGAN().parameters())
    assert count == n_parameters() == 322_532_336
    assert round(count / 1e6, 2) == 322.53


def test_the_spreading_layer_begins_as_a_transposed_convolution_does():
    """Uniform, with the root of its outputs' number: 6 channels of 128 bins."""
    bound = (6 * 128) ** -0.5
    weight, bias = tiny_srgan().spread.weight, SRGAN(**TINY_SRGAN | dict(channels=(1, 1, 900))).bias
    assert 0.99 * bound < weight.abs().max() <= bound and weight.min() < -0.99 * bound
    bound = (900 * 128) ** -0.5
    assert 0.97 * bound < bias.abs().max() <= bound and bias.min() < -0.97 * bound


def test_parameters_of_other_sizes(model):
    assert sum(p.numel() for p in model.parameters()) == 107_333 - 1
    with torch.device("meta"):
        count = sum(p.numel() for p in SRGAN(**SMALL).parameters())
    assert count == n_parameters(channels=(8, 12, 12), n_rows=8, width=64, noise_dim=16, n_gated=7)
    assert count == 6_492_557 - 1


def plain(model, wav, z):
    """The layer table with torch's own STFT and convolutions over the whole signal at once."""
    args = model.get_model_args()
    window, hop, dilations = args["window"], args["hop"], args["dilations"]
    margin, n_samples = hop * sum(dilations) + window // 2, wav.shape[-1]
    hann = torch.hann_window(window)
    padded = F.pad(wav[None], (margin, margin), mode="reflect")[0]
    spec = torch.stft(padded, window, hop, window=hann, center=False, return_complex=True)[:, :-1]
    parts = torch.stack((spec.real, spec.imag), 1)
    x = torch.sign(parts) * parts.abs().sqrt()
    for layer, prelu, d in zip(model.encoder.convs, model.encoder.activations, (1, 2, 4)):
        x = prelu(F.conv2d(x, layer.conv.weight, layer.conv.bias, padding=d, dilation=d))
    whole, mapped = model.encoder.activations[3:]
    rows, channels = args["n_rows"], args["channels"][-1]
    kernel = model.encoder.aggregate.weight.unflatten(1, (channels, -1, 1))
    x = whole(F.conv2d(x, kernel, model.encoder.aggregate.bias))
    x = x.squeeze(2).unflatten(1, (-1, rows))
    x = mapped(F.conv2d(x, model.encoder.remap.weight[..., None, None], model.encoder.remap.bias))
    for index, (layer, d) in enumerate(zip(model.middle, dilations)):
        if index == 1:
            x = torch.cat((x, z.view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])), 1)
        x = F.conv2d(x, layer.conv.weight, layer.conv.bias, padding=(d, 0), dilation=d)
        half = x.shape[1] // 2
        x = model.gate(x[:, :half]) * x[:, half:].sigmoid() if index else model.before_noise(x)
    kernel = model.spread.weight.T.unflatten(1, (channels, -1, 1))
    x = F.conv_transpose2d(x.flatten(1, 2).unsqueeze(2), kernel, model.bias.flatten())
    for layer, prelu, d in zip(model.decoder, model.activations, (4, 2, 1)):
        x = F.conv2d(prelu(x), layer.conv.weight, layer.conv.bias, padding=d, dilation=d)
    x = torch.sign(x) * x.square()
    spec = F.pad(torch.complex(x[:, 0], x[:, 1]), (0, 0, 0, 1))
    return torch.istft(spec, window, hop, window=hann, length=n_samples)


def test_it_is_the_layer_table(model):
    wav, z = tone(4000), torch.randn(4)
    with torch.no_grad():
        assert snr(model(wav, z), plain(model, wav, z)) > 90


def test_the_square_root_has_a_slope_at_zero():
    x = torch.tensor([-4.0, 0.0, 9.0], requires_grad=True)
    compress(x).sum().backward()
    assert compress(x).tolist() == [-2, 0, 3]
    torch.testing.assert_close(x.grad, torch.tensor([1 / 4, 0, 1 / 6]))
    torch.testing.assert_close(expand(compress(x)), x)


# ---------------------------------------------------------------------------------- what it hears


def test_receptive_field(model):
    """A sample reaches as far as convolutions and windows do, and no further."""
    reach = model.n_ahead * 64 + 256
    assert model.n_ahead == 7 + (1 + 2 + 1 + 2) + 7 and model.latency == reach
    assert SRGAN(**TINY_SRGAN | dict(dilations=(1, 2, 4, 8, 16) * 2)).filterbank.margin == 62
    wav = tone(6000, 1)
    other = wav.clone()
    other[:, 3000] += 0.5
    with torch.no_grad():
        moved = (model(other) - model(wav)).abs()[0] > 1e-9
    first, *_, last = moved.nonzero().flatten().tolist()
    assert 3000 - reach <= first < 3000 - reach + 192 and 3000 + reach - 192 < last <= 3000 + reach


def test_a_stream_is_behind_by_its_latency(model):
    state, wav, n_out = None, tone(6000), 0
    for block in wav.split(200, -1):
        out, state = model.step(block, state, last=False)
        n_out += out.shape[-1]
    assert 6000 - model.latency <= n_out < 6000 - model.latency + 256


@pytest.mark.parametrize("block_seconds", [1e-3, 0.01, 0.05, 10.0, None])
@pytest.mark.parametrize("options", [{}, dict(n_draws=2, residual=True)])
def test_blocks_equal_the_whole(options, block_seconds):
    model, wav = tiny_srgan(**options), tone(3333)
    with torch.no_grad():
        assert snr(model.restore(wav, block_seconds), model(wav)) >= 90


def test_state_does_not_grow(model):
    state, sizes = None, []
    for _ in range(60):
        _, state = model.step(torch.randn(1, 64), state, last=False)
        sizes.append(sum(t.numel() for t in tree_leaves(state) if torch.is_tensor(t)))
    assert len(set(sizes[40:])) == 1


@pytest.mark.parametrize("shape", [(1,), (2, 2), (2, 63), (2, 64), (2, 2, 900)])
def test_every_length_and_shape(model, shape):
    with torch.no_grad():
        out = model(0.1 * torch.randn(shape))
    assert out.shape == shape and torch.isfinite(out).all()


def test_channels_are_independent_and_silence_is_silent(model):
    wav = tone(4000)
    wav[1] = 0
    with torch.no_grad():
        together = model(wav)
        assert snr(model(wav[0]), together[0]) > 100 and not together[1].any()


def test_gradients_reach_every_parameter():
    model, wav = tiny_srgan(), tone(3000)
    wav[:, 1000:2000] = 0  # where the square root is steepest
    wav.requires_grad_()
    model(wav, torch.randn(4)).abs().sum().backward()
    assert torch.isfinite(wav.grad).all() and wav.grad.any()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


def test_residual_adds_to_the_compressed_spectrum():
    """An output layer of zeros gives the input back, but for Nyquist's bin."""
    model, wav = tiny_srgan(residual=True), tone(6000)
    torch.nn.init.zeros_(model.decoder[-1].conv.weight)
    torch.nn.init.zeros_(model.decoder[-1].conv.bias)
    with torch.no_grad():
        assert snr(model(wav), wav) > 25
        assert snr(tiny_srgan()(wav), wav) < 1


# ------------------------------------------------------------------------------------- the noise


def test_a_seed_is_a_restoration():
    wav = tone(3000)
    with torch.no_grad():
        once, again, other = (tiny_srgan(noise_seed=seed)(wav) for seed in (3, 3, 4))
    assert torch.equal(once, again) and not torch.equal(once, other)
    torch.manual_seed(9)
    assert torch.equal(tiny_srgan(noise_seed=3).noise(1), tiny_srgan(noise_seed=3).noise(1))


def test_draws_are_averaged():
    wav, model, several = tone(3000), tiny_srgan(), tiny_srgan(n_draws=3)
    with torch.no_grad():
        one_by_one = torch.stack([model(wav, z) for z in model.noise(3)])
        assert snr(several(wav), one_by_one.mean(0)) > 90
    assert one_by_one.std(0).mean() > 1e-3 * one_by_one.abs().mean()


def test_the_best_draw_is_the_nearest(model):
    wav = tone(3000)
    draws = [model.restore(wav, z=z) for z in model.noise(4)]
    for original in (draws[2] + 1e-3 * draws[0], draws[1] + 1e-3 * draws[3]):
        best = model.best_draw(wav, original, 4)
        assert si_sdr(best, original) == max(si_sdr(draw, original) for draw in draws)
    assert torch.equal(best, draws[1])


def test_an_item_has_a_z_of_its_own(model):
    wav, z = tone(3000).expand(2, 2, -1), model.noise(2)
    with torch.no_grad():
        out = model(wav, z)
        for item in range(2):
            assert snr(out[item], model(wav[item], z[item])) > 90


# ----------------------------------------------------------------------- what Apollo does, it does


def test_asteroid_knows_it():
    import asteroid

    assert asteroid.models.get("SRGAN") is SRGAN is apollo_plugin.srgan.SRGAN
    assert issubclass(SRGAN, asteroid.models.base_models.BaseModel)


@pytest.mark.parametrize("kind", ["serialize", "safetensors", "folder"])
def test_saved_and_loaded(kind, tmp_path, model):
    if kind == "serialize":
        path = tmp_path / "model.pth"
        torch.save(model.serialize(), path)
    elif kind == "safetensors":
        path = tmp_path / "model.safetensors"
        checkpoints.save(model, path)
    else:
        path = model.save_pretrained(tmp_path / "folder", license="mit")
        card = (path / "README.md").read_text()
        assert "SRGAN.from_pretrained" in card and "107,332" in card and "SR-GAN" in card
    wav = tone(2000)
    for cls in (SRGAN, RestorationModel):
        loaded = cls.from_pretrained(path)
        assert type(loaded) is SRGAN and loaded.get_model_args() == model.get_model_args()
        with torch.no_grad():
            assert torch.equal(loaded(wav), model(wav))
    assert SRGAN.from_pretrained(path, n_draws=2).get_model_args()["n_draws"] == 2


def test_separate(model, tmp_path):
    wav = tone(3000)
    level = 2 * wav.abs().max()
    assert torch.equal(model.separate(wav), level * model.restore(wav / level))
    z = model.noise(2)[1]
    assert torch.equal(model.separate(wav, z=z), level * model.restore(wav / level, z=z))
    assert torch.equal(model.separate(wav, keep_level=True), model.restore(wav))
    soundfile.write(tmp_path / "a.wav", wav.T.numpy(), 44100, "FLOAT")
    model.separate(tmp_path / "a.wav")
    assert snr(load(tmp_path / "a_est1.wav")[0], restore_audio(model, wav, 44100)) > 100


def test_the_command_takes_it(model, tmp_path):
    from apollo_plugin.cli import main

    soundfile.write(tmp_path / "a.wav", tone(3000).T.numpy(), 44100, "FLOAT")
    checkpoints.save(model, tmp_path / "srgan.safetensors")
    assert main([str(tmp_path / "a.wav"), "--checkpoint", str(tmp_path / "srgan.safetensors")]) == 0
    written, _ = load(tmp_path / "a_restored.wav")
    assert snr(written, restore_audio(model, tone(3000), 44100)) > 100


@pytest.mark.parametrize("precision, least", [("bf16", 25), ("int8", 15)])
def test_lower_precision(model, precision, least):
    wav = tone(4000)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # where bfloat16 is slow
        assert least < snr(convert(model, precision)(wav), model(wav)) < 100


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("shape", [(3,), (5,), (3, 4), (0, 4), (1, 1, 4), ()])
def test_a_z_of_the_wrong_size(model, shape):
    with pytest.raises(ValueError, match=r"z of shape .* does not fit 2 channel\(s\).*\(4,\) or"):
        model(tone(1000), torch.zeros(shape))
    with pytest.raises(ValueError, match="z of shape"):
        model.restore(tone(1000), z=torch.zeros(shape))


@pytest.mark.parametrize(
    "options, complaint",
    [
        (dict(window=255), "window 255 has to be even"),
        (dict(window=2, hop=1), "window 2 has to be even"),
        (dict(hop=129), "hop 129 half of it at most"),
        (dict(hop=-1), "hop -1"),
        (dict(channels=(4, 6, 6, 6)), "have to be three"),
        (dict(n_rows=0), "n_rows 0 and noise_dim 4 have to be 1 or more, width 16 even"),
        (dict(width=0), "width 0 even"),
        (dict(hop=200), "hop 200 half of it at most"),
        (dict(hop=0), "hop 0"),
        (dict(channels=(4, 6)), r"channels \[4, 6\] have to be three"),
        (dict(channels=(4, 0, 6)), "from 1 up"),
        (dict(width=15), "width 15 even"),
        (dict(noise_dim=0), "noise_dim 0"),
        (dict(dilations=(1,)), r"dilations \[1\] have to be two or more"),
        (dict(dilations=(0, 1)), "from 1 up"),
        (dict(n_draws=0), "n_draws 0"),
        (dict(sample_rate=0), "sample_rate 0"),
    ],
)
def test_settings_that_make_no_network(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        SRGAN(**TINY_SRGAN | options)


def test_the_smallest_network():
    sizes = dict(window=4, hop=2, channels=(1, 1, 1), n_rows=1, width=2, noise_dim=1)
    model, wav = SRGAN(**sizes, dilations=(1, 1), sample_rate=0.5).eval(), tone(50)
    with torch.no_grad():
        assert snr(model(wav), plain(model, wav, model.noise(1)[0])) > 90


def test_no_signal(model):
    with pytest.raises(ValueError, match="holds no samples"):
        model(torch.zeros(2, 0))
    with pytest.raises(TypeError, match="floating point"):
        model(torch.zeros(2, 10, dtype=torch.int16))
    with pytest.raises(ValueError, match="time is the last axis"):
        model(torch.zeros(1000, 2))


def test_no_draw_is_the_best(model):
    with pytest.raises(ValueError, match="n_draws 0 has to be 1 or more"):
        model.best_draw(tone(100), tone(100), 0)
    with pytest.raises(ValueError, match=r"\(2, 100\) and \(2, 99\) the same"):
        model.best_draw(tone(100), tone(100)[:, 1:], 2)


def test_one_model_given_as_the_other(model, tiny_checkpoint, tmp_path):
    checkpoints.save(model, tmp_path / "srgan.safetensors")
    with pytest.raises(CheckpointError, match="'.*srgan.*' holds an SRGAN, not an Apollo; load"):
        Apollo.from_pretrained(tmp_path / "srgan.safetensors")
    with pytest.raises(CheckpointError, match="holds an Apollo, not an SRGAN; load it with Apollo"):
        SRGAN.from_pretrained(tiny_checkpoint)
    with pytest.raises(CheckpointError, match="holds an Apollo, not an SRGAN"):
        SRGAN.from_pretrained("apollo-small")


def test_a_file_of_another_rate(model, tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(3000).T.numpy(), 22050)
    with pytest.raises(ValueError, match="sample_rate 22050 of '.*a.wav' does not match"):
        model.separate(tmp_path / "a.wav")


def test_arguments_that_do_not_fit_the_weights(model, tmp_path):
    package = model.serialize()
    for change, complaint in (
        (dict(noise_dim=5), "middle.1.conv.weight has shape"),
        (dict(window=10**7), "shape"),
        (dict(dilations=[1, 2] * 2000), "larger model"),
        (dict(channels="abc"), "its channels is 'abc'"),
        (dict(noise_seed=None), "its noise_seed is None"),
    ):
        broken = {**package, "model_args": package["model_args"] | change}
        with pytest.raises(CheckpointError, match=complaint):
            SRGAN.from_pretrained(broken)


def test_too_little_memory(model, tmp_path, monkeypatch):
    from apollo_plugin.checkpoints import loading

    checkpoints.save(model, tmp_path / "srgan.safetensors")
    answers = [1000, 10**9, 1000]
    monkeypatch.setattr(loading, "available_bytes", lambda: answers.pop(0))
    for n_left in (2, 0):  # for the file, for the model
        with pytest.raises(CheckpointError, match="srgan.*' needs 0.0 GB of memory and 0.0 GB are"):
            SRGAN.from_pretrained(tmp_path / "srgan.safetensors")
        assert len(answers) == n_left

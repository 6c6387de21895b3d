"""The toolkits' own contracts, for every public class: what Asteroid and asteroid-filterbanks test
of theirs, written anew for ours."""

import inspect
import sys

import asteroid
import asteroid_filterbanks
import numpy as np
import pytest
import scipy.signal
import torch
from asteroid.dsp.overlap_add import LambdaOverlapAdd
from asteroid.scripts import asteroid_cli
from asteroid.separate import numpy_separate, separate, torch_separate
from asteroid_filterbanks import make_enc_dec, transforms
from helpers import load, save, small_model, snr, tiny_srgan, tone

from apollo_plugin import SRGAN, Apollo
from apollo_plugin.errors import SettingError
from apollo_plugin.model import OneSource, RestorationModel

MAKERS = {"Apollo": small_model, "SRGAN": tiny_srgan}
SMALL_BANK = dict(n_filters=64, kernel_size=64, bands=4)


@pytest.fixture(params=MAKERS)
def model(request):
    return MAKERS[request.param]()


@pytest.fixture
def wav():
    return tone(9000)[:1]


def test_every_public_model_is_looked_at():
    assert {cls.__name__ for cls in (Apollo, SRGAN)} == set(MAKERS)
    assert all(issubclass(cls, RestorationModel) for cls in (Apollo, SRGAN))


# --------------------------------------------------------------------------------------- Asteroid


def test_a_package_and_back(model, wav, tmp_path):
    """As Asteroid's own: saved, loaded by its BaseModel, found by name, the same numbers."""
    torch.save(model.serialize(), tmp_path / "model.pth")
    again = asteroid.models.BaseModel.from_pretrained(str(tmp_path / "model.pth"))
    assert type(again) is type(model) is asteroid.models.get(type(model).__name__)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(wav), model(wav))
    assert again.get_model_args() == model.get_model_args()
    assert set(inspect.signature(type(model)).parameters) == set(model.get_model_args())


@pytest.mark.parametrize("shape", [(9000,), (1, 9000), (2, 9000), (3, 1, 9000), (2, 2, 9000)])
def test_separate_keeps_shape_and_kind(model, shape):
    x = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert separate(model, x).shape == x.shape
    assert model.separate(x).shape == model.separate(x.numpy()).shape == x.shape
    assert isinstance(numpy_separate(model, x.numpy()), np.ndarray)
    assert torch_separate(model, x).shape == x.shape


def test_a_wrong_rate_is_a_runtime_error_and_a_value_error(model, tmp_path):
    file = save(tmp_path / "slow.wav", tone(8000), 16000)
    for kind in (RuntimeError, ValueError):
        with pytest.raises(kind, match="sample_rate 16000 of .*; pass resample=True"):
            model.separate(str(file))
    model.separate(str(file), resample=True)
    assert (tmp_path / "slow_est1.wav").is_file()


def test_the_rate_can_be_set_with_a_warning(model, tmp_path):
    own = model.sample_rate
    with pytest.warns(UserWarning, match=f"layers stay made for {own:g} Hz"):
        model.sample_rate = 16000
    assert model.sample_rate == 16000
    model.separate(str(save(tmp_path / "a.wav", tone(8000), 16000)))
    # What is saved can be loaded: it is the model as it was made.
    assert type(model).from_pretrained(model.serialize()).sample_rate == own


@pytest.mark.parametrize("window, hop", [("hann", None), ("hann", 1024), (None, 4096)])
@pytest.mark.parametrize("batch", [1, 3])
def test_overlap_add(model, batch, window, hop):
    """Against the sum of windowed segments, made here."""
    x = 0.1 * torch.randn(batch, 1, 15000, generator=torch.Generator().manual_seed(batch))
    added = LambdaOverlapAdd(model, 1, 4096, hop, window, reorder_chunks=False)
    est = added(x)
    assert est.shape == x.shape
    hop = hop or 2048
    weight = torch.ones(4096) * hop / 4096
    if window:
        weight = torch.from_numpy(scipy.signal.get_window(window, 4096)).float()
    padded = torch.nn.functional.pad(x[:, 0], (4096, 2 * 4096))
    expected = torch.zeros_like(padded)
    with torch.no_grad():
        for start in range(0, 15000 + 4096 + 1, hop):
            part = slice(start, start + 4096)
            expected[:, part] += weight * model(padded[:, part])
    assert snr(est[:, 0], expected[:, 4096 : 4096 + 15000]) > 100


def test_overlap_add_of_other_models_stays_as_it_was():
    added = LambdaOverlapAdd(lambda x: torch.stack((x, -x), 1), 2, 64)
    assert added(torch.ones(1, 1, 300)).shape == (1, 2, 300)
    net = asteroid.models.ConvTasNet(n_src=2, n_repeats=1, n_blocks=1)
    assert LambdaOverlapAdd(net, 2, 64).nnet is net


def test_asteroid_infer_in_windows(model, tmp_path, monkeypatch):
    def infer(*arguments):
        monkeypatch.setattr(sys, "argv", ["asteroid-infer", *arguments])
        asteroid_cli.infer()

    torch.save(model.serialize(), tmp_path / "model.pth")
    file = save(tmp_path / "song.wav", tone(20000)[:1])
    (tmp_path / "out").mkdir()
    options = [
        "--ola-window",
        "8192",
        "--ola-window-type",
        "hann",
        "-o",
        str(tmp_path / "out"),
        "-d",
        "cpu",
    ]
    infer(str(tmp_path / "model.pth"), "--files", str(file), *options)
    (out,) = (tmp_path / "out").iterdir()
    assert load(out)[0].shape == (1, 20000)
    # Two channels would be one after the other for Asteroid.
    stereo = save(tmp_path / "stereo.wav", tone(20000))
    with pytest.raises(RuntimeError, match="supports 1-channel inputs"):
        infer(str(tmp_path / "model.pth"), "--files", str(stereo), *options)


def test_the_axes_of_separators(model):
    one = OneSource(model)
    shapes = [one(torch.zeros(shape)).shape for shape in ((900,), (3, 900), (3, 1, 900))]
    assert shapes == [(1, 900), (3, 1, 900), (3, 1, 900)]
    assert one.sample_rate == model.sample_rate and one.in_channels == 1


def test_an_argument_is_called_as_the_user_called_it():
    with pytest.raises(
        ValueError, match="^envelope_dim 8 is less than twice the 88 bands.*0 for none"
    ):
        Apollo(feature_dim=16, n_layers=1, n_heads=2, excitation=True, envelope_dim=8)


# --------------------------------------------------------------------------- asteroid-filterbanks


@pytest.fixture
def pair():
    return make_enc_dec("apollo_stft", **SMALL_BANK)


SHAPES = [(1000,), (2, 1000), (2, 1, 1500), (2, 3, 1500), (2, 2, 2, 900)]


@pytest.mark.parametrize("shape", SHAPES)
def test_encoder_and_decoder(pair, shape):
    """Perfect reconstruction for any axes, with the shapes that Encoder's docstring promises."""
    encoder, decoder = pair
    x = torch.randn(shape)
    spec = encoder(x)
    leading = shape[:1] if len(shape) == 3 and shape[1] == 1 else shape[:-1]
    assert spec.shape == (*leading, 66, 1 + shape[-1] // 32)
    wav = decoder(spec, length=shape[-1])
    torch.testing.assert_close(wav.reshape(x.shape), x, rtol=0, atol=1e-5)


def test_filters_and_configuration(pair):
    encoder, _ = pair
    assert encoder.filterbank.filters().shape == (66, 1, 64)
    config = dict(encoder.get_config())
    assert config.pop("is_pinv") is False
    again = asteroid_filterbanks.get(config.pop("fb_name").lower().replace("stft", "_stft"))
    assert again(**config).get_config() == encoder.filterbank.get_config()
    with pytest.raises(NotImplementedError):
        encoder.filterbank(torch.zeros(1, 1, 100))


def test_the_window_is_an_array_as_in_stft(pair):
    bank = pair[0].filterbank
    expected = scipy.signal.get_window("hann", 64)
    assert isinstance(bank.window, np.ndarray)
    np.testing.assert_allclose(bank.window, expected, atol=1e-12)
    theirs = asteroid_filterbanks.STFTFB(64, 64)
    assert type(theirs.window) is type(bank.window) and theirs.window.shape == bank.window.shape
    assert isinstance(small_model().filterbank.window, np.ndarray)
    assert isinstance(tiny_srgan().filterbank.window, np.ndarray)


def test_magnitudes_and_masks(pair):
    """asteroid-filterbanks' transforms on what ours gives, against torch.stft."""
    x = torch.randn(2, 1, 1000)
    spec = pair[0](x)
    expected = torch.stft(x[:, 0], 64, 32, window=torch.hann_window(64), return_complex=True)
    torch.testing.assert_close(transforms.mag(spec), expected.abs(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.view_as_complex(transforms.to_torchaudio(spec)), expected)
    masked = transforms.apply_mag_mask(spec, torch.full_like(expected.abs(), 0.5))
    torch.testing.assert_close(pair[1](masked, length=1000), 0.5 * x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("traced_with", SHAPES[:4])
def test_traces_serve_any_axes_and_length(pair, traced_with):
    encoder, decoder = pair
    with torch.no_grad():
        x = torch.randn(traced_with)
        traced = torch.jit.trace(encoder, x, check_trace=False)
        back = torch.jit.trace(decoder, encoder(x), check_trace=False)
        for shape in [
            (1000,),
            (700,),
            (2, 1000),
            (4, 1500),
            (2, 1, 900),
            (2, 3, 900),
            (1, 2, 2, 800),
        ]:
            other = torch.randn(shape)
            spec = encoder(other)
            torch.testing.assert_close(traced(other), spec, rtol=0, atol=1e-4)
            torch.testing.assert_close(back(spec), decoder(spec), rtol=0, atol=1e-4)


def test_the_pseudo_inverse_is_the_decoder_itself():
    x = torch.randn(2, 1, 1000)
    encoder, decoder = make_enc_dec("apollo_stft", **SMALL_BANK, who_is_pinv="dec")
    torch.testing.assert_close(decoder(encoder(x), length=1000), x, rtol=0, atol=1e-5)
    encoder, _ = make_enc_dec("apollo_stft", **SMALL_BANK, who_is_pinv="enc")
    with pytest.raises(SettingError, match="leave who_is_pinv='enc' away"):
        encoder(x)


def test_gradients_and_types(pair):
    x = torch.randn(1, 1, 500, requires_grad=True)
    pair[0](x).square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    double = pair[0](torch.randn(1, 1, 500, dtype=torch.float64))
    assert double.dtype == torch.float64

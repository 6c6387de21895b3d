"""Apollo against the published implementation's numbers and the laws it has to keep."""

import importlib
import subprocess

import asteroid
import numpy as np
import pytest
import soundfile
import torch
from asteroid.models.base_models import BaseModel
from helpers import at_one_level, small_model, snr, tone
from torch.utils._pytree import tree_leaves

import apollo_plugin
from apollo_plugin import Apollo
from apollo_plugin.audio import AudioError
from apollo_plugin.restore import restore_audio

VARIANTS = {
    "published": {},
    "causal": dict(causal=True),
    "residual": dict(residual=True, band_gain=True),
    "paper bands": dict(bands="160 Hz", residual=True, band_gain=True),
    "8 kHz": dict(sample_rate=8000, bands=20),
    "odd window": dict(sample_rate=22050, bands=30, kernel_size=3, tcn_blocks=1),
}


@pytest.fixture(params=VARIANTS, scope="module")
def variant(request) -> Apollo:
    return small_model(**VARIANTS[request.param])


def test_parameters_of_the_paper():
    with torch.device("meta"):
        n_params = sum(p.numel() for p in Apollo().parameters())
    assert round(n_params / 1e6, 2) == 16.54


def test_numbers_of_the_published_implementation(published, golden):
    with torch.no_grad():
        assert snr(published(golden["input"]), golden["output"]) >= 90


@pytest.mark.parametrize("shape", [(3000,), (1, 3000), (2, 3000), (6, 3000), (2, 2, 3000), (2, 1)])
def test_output_has_the_shape_of_the_input(variant, shape):
    with torch.no_grad():
        assert variant(torch.randn(shape)).shape == shape


@pytest.mark.parametrize("n_samples", [1, 2, 3, 440, 441, 442, 881, 882, 883, 1322, 1323])
def test_every_length_from_one_sample_up(variant, n_samples):
    with torch.no_grad():
        out = variant(tone(n_samples))
    assert out.shape == (2, n_samples)
    assert torch.isfinite(out).all()


def test_channels_are_independent(variant):
    wav = tone(4000)
    with torch.no_grad():
        together = variant(wav)
        for channel in range(2):
            assert snr(variant(wav[channel]), together[channel]) > 100


def test_silence_is_finite_and_silent(variant):
    with torch.no_grad():
        assert not variant(torch.zeros(2, 5000)).any()
        wav = tone(9000)
        wav[:, 3000:6000] = 0
        out = variant(wav)
    assert torch.isfinite(out).all()
    assert not out[:, 3900:5100].any()  # a window in from the edges
    assert out[:, :3000].any()


@pytest.mark.parametrize("n_samples", [44100 // 100 * k + 440 for k in (5, 9)])
def test_no_click_at_the_end(published, n_samples):
    """At these lengths the inverse STFT divides by a window of 1e-5 for the last sample."""
    with torch.no_grad():
        out = published(tone(n_samples))
    assert out[:, -3:].abs().max() < 3 * out[:, :-100].abs().max()


def test_gradients_reach_every_parameter(variant):
    model = small_model(**{**variant.get_model_args(), "n_layers": 1})
    wav = tone(3000).requires_grad_()
    model(wav).square().sum().backward()
    assert torch.isfinite(wav.grad).all() and wav.grad.any()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if "envelope" not in name:
            assert parameter.grad.any(), name


def test_residual_starts_close_to_the_input():
    wav = tone(8000)
    with torch.no_grad():
        assert snr(small_model(residual=True, band_gain=True)(wav), wav) > 20
        assert snr(small_model()(wav), wav) < 5


def test_residual_adds_to_the_spectrum():
    """The same weights with and without: the difference is the input."""
    plain, residual = small_model(), small_model(residual=True)
    wav = tone(8000)
    with torch.no_grad():
        difference = residual(wav) - plain(wav)
    assert snr(difference[:, :-441], wav[:, :-441]) > 60


def test_band_gain_is_what_the_decoder_says():
    """One neper more in the decoders' last bias is a factor of e at the output."""
    model = small_model(band_gain=True)
    wav = tone(6000)
    with torch.no_grad():
        before = model(wav)
        for decoder in model.decoders:
            decoder[-1].bias[:, -1] += 1
        after = model(wav)
    assert snr(after[:, :-441], torch.e * before[:, :-441]) > 60


def test_band_gain_envelope_maps_the_input_levels():
    """Identity times c: the output of each band moves by c times the input's level in nepers."""
    model = small_model(band_gain=True)
    spec, x = torch.randn(1, 1, 442, 2), torch.randn(1, 1, 80, 16)
    with torch.no_grad():
        base = model.decode(x, spec)
        model.envelope.weight.copy_(0.5 * torch.eye(80))
        moved = model.decode(x, spec)
    for band in (0, 41, 79):
        bins = slice(5 * band, 5 * band + 5 if band < 79 else None)
        level = (spec[0, 0, bins].square().sum() + 1.19e-7).sqrt()
        torch.testing.assert_close(moved[0, 0, bins], base[0, 0, bins] * level**0.5)


# ------------------------------------------------------------------------------- blocks == whole


@pytest.mark.parametrize("block_seconds", [1e-9, 1e-4, 0.0099, 0.01, 0.05, 0.123, 10.0, None])
def test_blocks_equal_the_whole(variant, block_seconds):
    wav = tone(1500 if block_seconds and block_seconds < 1e-3 else 4444)
    with torch.no_grad():
        whole = variant(wav)
    assert snr(variant.restore(wav, block_seconds=block_seconds), whole) >= 90


def test_restore_reports_progress(variant, capsys):
    told = []
    variant.restore(tone(5000), block_seconds=0.05, progress=lambda *step: told.append(step))
    total = 5000 / variant.sample_rate
    assert {(step, of) for step, _, of in told} == {("restoring", total)}
    seconds = [done for _, done, _ in told]
    assert len(seconds) > 1 and seconds == sorted(seconds) and seconds[-1] == total
    variant.restore(tone(5000), block_seconds=0.05, progress=True)
    assert "restoring" in capsys.readouterr().err


def test_state_does_not_grow(variant):
    state, sizes = None, []
    for _ in range(200):
        _, state = variant.step(torch.randn(1, variant.filterbank.stride), state, last=False)
        sizes.append(sum(t.numel() for t in tree_leaves(state) if torch.is_tensor(t)))
    assert len(set(sizes[60:])) == 1


# ------------------------------------------------------------------------------------- precision


def test_bfloat16_weights(published, golden):
    model = Apollo.from_pretrained(published.serialize()).bfloat16()
    wav = golden["input"]
    with torch.no_grad():
        out = model(wav)
        assert out.dtype == torch.float32
        assert model(wav.bfloat16()).dtype == torch.bfloat16
    assert snr(out, golden["output"]) > 25


def test_autocast(variant):
    wav = tone(5000)
    with torch.no_grad():
        expected = variant(wav)
        with torch.autocast("cpu", torch.bfloat16):
            out = variant(wav)
    assert out.dtype == torch.float32
    assert snr(out, expected) > 25


def test_float64_weights_agree_with_float32(variant):
    model = small_model(**variant.get_model_args()).double()
    wav = tone(5000)
    with torch.no_grad():
        out = model(wav.double())
        assert out.dtype == torch.float64
        assert snr(variant(wav), out) > 90


def test_compiles_without_graph_breaks():
    model = small_model(n_layers=1, residual=True, band_gain=True)
    wav = tone(5000)
    with torch.no_grad():
        out = torch.compile(model, fullgraph=True)(wav)
        assert snr(out, model(wav)) > 90


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda(published, golden):
    model = Apollo.from_pretrained(published.serialize()).cuda()
    with torch.no_grad():
        assert snr(model(golden["input"].cuda()).cpu(), golden["output"]) > 60
    assert snr(model.restore(golden["input"]), golden["output"]) > 60


# -------------------------------------------------------------------------- Asteroid's interface


@pytest.mark.parametrize(
    "imports",
    [
        "import apollo_plugin, asteroid",
        "import asteroid, apollo_plugin",
        "import apollo_plugin; from asteroid.models.publisher import save_publishable",
        "import apollo_plugin.model",
    ],
)
def test_registered_in_every_order_of_imports(imports, python):
    look = "import asteroid; print(asteroid.models.get('apollo'))"
    done = subprocess.run([python, "-c", f"{imports}; {look}"], capture_output=True, text=True)
    assert done.stdout.strip() == "<class 'apollo_plugin.model.Apollo'>", done.stderr


def test_asteroid_finds_it_after_the_import():
    assert asteroid.models.get("apollo") is Apollo
    assert asteroid.models.get("Apollo") is Apollo
    importlib.reload(apollo_plugin)
    importlib.reload(importlib.import_module("apollo_plugin.network.filterbank"))
    assert asteroid.models.get("apollo") is Apollo


def test_asteroid_round_trip(variant, tmp_path):
    path = str(tmp_path / "model.pth")
    torch.save(variant.serialize(), path)
    model = BaseModel.from_pretrained(path)
    assert isinstance(model, Apollo)
    wav = tone(3000)
    with torch.no_grad():
        assert torch.equal(model.eval()(wav), variant(wav))


@pytest.mark.parametrize("shape", [(3000,), (2, 3000), (2, 2, 3000), (2, 1, 3000)])
def test_separate_keeps_level_and_shape(variant, shape):
    wav = 0.1 * torch.randn(shape)
    signals = wav.reshape(-1, *shape[-2:]) if wav.ndim > 2 else wav[None]
    with torch.no_grad():
        expected = torch.stack([at_one_level(variant, one) for one in signals]).reshape(shape)
        as_it_is = variant(wav)
    for out in (variant.separate(wav), variant.torch_separate(wav)):
        assert snr(out, expected) > 90
    assert snr(variant.separate(wav, keep_level=True), as_it_is) > 90
    for out in (variant.separate(wav.numpy()), variant.numpy_separate(wav.numpy())):
        assert isinstance(out, np.ndarray)
        assert snr(torch.from_numpy(out), expected) > 90
    assert not variant.separate(torch.zeros(shape)).any()


def test_file_separate(variant, tmp_path):
    rate = int(variant.sample_rate)
    wav = tone(3000)
    path = tmp_path / "a b.wav"
    soundfile.write(path, wav.T.numpy(), rate, "FLOAT")
    before = path.read_bytes()
    variant.separate(str(path))
    out, out_rate = soundfile.read(tmp_path / "a b_est1.wav", dtype="float32")
    assert out_rate == rate
    assert snr(torch.from_numpy(out.T), restore_audio(variant, wav, rate)) > 90
    # A file and its samples are one thing.
    assert snr(variant.separate(wav), torch.from_numpy(out.T)) > 120
    variant.separate(path, str(tmp_path / "kept"), keep_level=True)
    kept = soundfile.read(tmp_path / "kept" / "a b_est1.wav", dtype="float32")[0]
    assert snr(torch.from_numpy(kept.T), variant.restore(wav)) > 90
    with pytest.warns(UserWarning, match="exists already"):
        variant.file_separate(path)
    variant.file_separate(path, output_dir=str(tmp_path / "new"), force_overwrite=True)
    assert (tmp_path / "new" / "a b_est1.wav").is_file()
    assert path.read_bytes() == before
    other = tmp_path / "other.wav"
    soundfile.write(other, wav.T.numpy(), 16000, "FLOAT")
    with pytest.raises(AudioError, match="resample=True"):
        variant.file_separate(other)
    variant.file_separate(other, resample=True)
    assert soundfile.info(tmp_path / "other_est1.wav").frames == 3000


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "wav", [torch.zeros(0), torch.zeros(2, 0), torch.zeros(0, 5), torch.tensor(1.0)]
)
def test_empty_input_is_refused(variant, wav):
    for run in (variant, variant.restore, variant.separate):
        with pytest.raises(ValueError, match="no samples"):
            run(wav)


def test_integers_are_refused(variant):
    with pytest.raises(TypeError, match="floating point"):
        variant(torch.zeros(2, 100, dtype=torch.int16))
    with pytest.raises(TypeError, match="floating point tensor"):
        variant(np.zeros(100))


def test_nan_stays_where_it_is(variant):
    """A broken sample must not spread beyond the network's reach, nor raise."""
    wav = tone(40000, 1)
    wav[0, 20000] = float("nan")
    with torch.no_grad():
        out = variant(wav)
    reach = variant.latency + variant.filterbank.kernel_size
    assert torch.isnan(out).any()
    assert torch.isfinite(out[:, : 20000 - reach]).all()


@pytest.mark.parametrize("block_seconds", [0, -1, float("nan")])
def test_impossible_blocks_are_refused(variant, block_seconds):
    with pytest.raises(ValueError, match="block_seconds"):
        variant.restore(tone(100), block_seconds=block_seconds)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(feature_dim=20),
        dict(feature_dim=0),
        dict(kernel_size=4),
        dict(kernel_size=-1),
        dict(n_layers=0),
        dict(tcn_blocks=0),
        dict(n_heads=0),
        dict(bands=1000),
        dict(sample_rate=50),
    ],
)
def test_impossible_models_are_refused(arguments):
    with pytest.raises(ValueError):
        Apollo(**arguments)


# ------------------------------------------------------------------------------- too little memory


def test_out_of_memory_halves_the_block_and_goes_on(monkeypatch):
    model, wav = small_model(), tone(30000)
    expected = model.restore(wav)
    real, lengths = model.step, []

    def limited(block, state, last):
        lengths.append(block.shape[-1])
        if block.shape[-1] > 3000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(block, state, last)

    monkeypatch.setattr(model, "step", limited)
    told = []
    with pytest.warns(UserWarning, match="out of memory on cpu; going on with blocks of"):
        restored = model.restore(
            wav, block_seconds=10000 / 44100, progress=lambda *step: told.append(step)
        )
    assert lengths[:3] == [10000, 5000, 2500] and told[-1][1:] == (30000 / 44100,) * 2
    assert snr(restored, expected) > 110


def test_out_of_memory_for_good(monkeypatch):
    model, lengths = small_model(), []

    def never(block, *_):
        lengths.append(block.shape[-1])
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "step", never)
    with pytest.warns(UserWarning) as warned, pytest.raises(torch.OutOfMemoryError):
        model.restore(tone(100))
    assert lengths == [100, 50, 25, 13, 7, 4, 2, 1]
    lines = [str(each.message) for each in warned]
    assert (
        lines[1] == "out of memory on cpu; going on with blocks of 0.000567 s" and len(lines) == 7
    )

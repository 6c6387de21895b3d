"""Band layout, excitation and envelope path as options of the network: the laws hold for all."""

import numpy as np
import pytest
import torch
from helpers import small_model, tone

from apollo_plugin import Apollo, checkpoints
from apollo_plugin.network.base import RestorationNetwork
from apollo_plugin.network.highs.gain_bands import TARGET_START
from apollo_plugin.network.older import in_todays_names

LEAN = [5] * 16 + [10] * 8 + [15] * 8 + [20] * 7 + [22]
OPTIONS = [
    dict(bands=LEAN),
    dict(gain_shape="bin", bands="160 Hz"),
    dict(bands=LEAN, excitation=True),
    dict(excitation=True, envelope_dim=176, bands=80),
    dict(bands=LEAN, excitation=True, envelope_dim=176),
    # the path waits for the tokens
    dict(bands=LEAN, excitation=True, envelope_dim=176, kernel_size=45),
    dict(bands=LEAN, excitation=True, envelope_dim=176, causal=True),
    dict(bands=LEAN, excitation=True, envelope_dim=176, envelope_kernel=5),
    dict(bands=LEAN, excitation=True, residual=False),
]


def model(seed=0, **options):
    torch.manual_seed(seed)
    made = Apollo(
        **{
            **dict(feature_dim=8, n_layers=1, n_heads=2, tcn_blocks=1, residual=True),
            **dict(band_gain=True, kernel_size=3),
            **options,
        }
    ).eval()
    with torch.no_grad():  # what starts from zero, too, has a part
        for parameter in made.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return made


def coded(n_samples=30011, edge=5000, channels=2):
    """Noise with nothing above an edge in Hz, with a rest in the middle."""
    generator = torch.Generator().manual_seed(1)
    wav = 0.1 * torch.randn(channels, n_samples, generator=generator)
    spec = torch.fft.rfft(wav)
    spec[:, int(edge * n_samples / 44100) :] = 0
    wav = torch.fft.irfft(spec, n=n_samples)
    wav[:, 12000:16000] = 0
    return wav


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_blocks_and_streams_are_the_whole(options):
    net, wav = model(**options), coded()
    whole = net(wav)
    assert torch.equal(whole, net(wav))
    torch.testing.assert_close(net.restore(wav, block_seconds=0.13), whole, rtol=0, atol=3e-5)
    for size in (441, 3000, 70):
        streamer, short = net.streamer(2), wav[:, :4000] if size == 70 else wav
        parts, n_out = [], 0
        for n_in, block in enumerate(short.split(size, -1), 1):
            parts.append(streamer.feed(block))
            n_out += parts[-1].shape[-1]
            assert n_out >= min(n_in * size, short.shape[-1]) - net.latency
        parts.append(streamer.flush())
        torch.testing.assert_close(torch.cat(parts, -1), net(short), rtol=0, atol=3e-5)
    # A channel does not know what is restored beside it.
    torch.testing.assert_close(net(wav[1]), whole[1], rtol=0, atol=3e-5)


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_comes_later_changes_nothing_before_its_latency(options):
    net, wav = model(**options), coded()
    changed = wav.clone()
    changed[:, 20000:] = -0.3 * wav[:, 20000:]
    same = 20000 - net.latency
    difference = (net(changed) - net(wav)).abs().amax(0)
    assert difference[:same].max() < 1e-6 and difference[20000:].max() > 1e-3


def test_latency_is_the_longer_look_ahead():
    with_path = model(excitation=True, envelope_dim=176)
    path_ahead = sum(block.conv.kernel_size[0] // 2 for block in with_path.highs.path.blocks)
    assert 1 < path_ahead < 30
    frames = {
        1: model(),
        path_ahead: with_path,
        30: model(excitation=True, envelope_dim=176, kernel_size=61),
        0: model(excitation=True, envelope_dim=176, causal=True),
    }
    for n_frames, net in frames.items():
        assert net.latency == n_frames * 441 + 882


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_silence_stays_silence(options):
    net = model(**options)
    assert not net(torch.zeros(2, 5000)).any()
    rest = net(coded())[:, 12000 + 882 : 16000 - 882]
    assert not rest.any()


@torch.no_grad()
def test_excitation_fills_what_is_empty_and_only_that():
    torch.manual_seed(0)
    net = Apollo(
        feature_dim=8, n_layers=1, n_heads=2, residual=True, bands=LEAN, excitation=True
    ).eval()
    for decoder in net.decoders:  # the excitation alone
        decoder[-1].weight.zero_()
        decoder[-1].bias.zero_()
    wav = coded()
    out = net(wav)
    wav, out = wav[:, 22000:], out[:, 22000:]  # by then the edge has been found
    window = torch.hann_window(882)

    def bands(x):
        power = torch.stft(x, 882, 441, window=window, return_complex=True).abs().square()
        return 10 * power[:, :440, 2:-2].unflatten(1, (88, 5)).sum(2).mean((0, 2)).log10()

    before, after = bands(wav), bands(out)
    torch.testing.assert_close(after[:19], before[:19], rtol=0, atol=0.01)
    # White noise goes on, 9 dB an octave down from 3.25 kHz.
    centre = torch.arange(24, 86) + 0.5
    expected = before[9:TARGET_START].mean() - 9 * torch.log2(centre / 13)
    # Log energies of noise lie some tenths of a dB under the logarithm of their mean.
    torch.testing.assert_close(after[24:86], expected, rtol=0, atol=2.0)


@pytest.mark.parametrize("options", OPTIONS[1:7], ids=str)
def test_gradients_reach_everything(options):
    net = model(**options).train()
    net(coded(9000)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    "older, bands",
    [
        (dict(n_bands=40), 40),
        (dict(n_bands=80, band_width_hz=None, band_bins=None), 80),
        (dict(n_bands=80, band_width_hz=160, band_bins=None), "160 Hz"),
        (dict(band_width_hz=160.0), "160 Hz"),
        (dict(band_width_hz=123.456789), "123.456789 Hz"),
        (dict(n_bands=80, band_width_hz=None, band_bins=tuple(LEAN)), LEAN),
    ],
    ids=str,
)
def test_older_arguments_of_bands_mean_what_they_meant(older, bands, tmp_path):
    """In a call, in a file's arguments, and in place of a file's."""
    net = model(bands=bands)
    n_bins, width = 442, older.get("band_width_hz")
    if isinstance(bands, str):  # edges at the multiples of the width, in bins of 50 Hz
        edges = [round(k * width / 50) for k in range(net.filterbank.n_bands)] + [n_bins]
        expected = np.diff(edges).tolist()
        assert abs(n_bins - len(expected) * width / 50) <= width / 100 + 1e-9
    else:
        expected = LEAN if bands is LEAN or bands == LEAN else [441 // bands] * (bands - 1)
        expected = expected if expected is LEAN else [*expected, n_bins - sum(expected)]
    assert net.filterbank.band_widths == expected
    wav = coded(3000)
    again = model(**older)
    assert again.get_model_args() == net.get_model_args() and torch.equal(again(wav), net(wav))
    package = net.serialize()
    del package["model_args"]["bands"]
    package["model_args"] |= {k: list(v) if type(v) is tuple else v for k, v in older.items()}
    torch.save(package, tmp_path / "older.pth")
    read = Apollo.from_pretrained(tmp_path / "older.pth")
    assert read.get_model_args() == net.get_model_args() and torch.equal(read(wav), net(wav))
    package["model_args"] |= dict(n_bands=7, band_width_hz=None, band_bins=None)
    assert torch.equal(Apollo.from_pretrained(package, bands=bands)(wav), net(wav))
    assert torch.equal(Apollo.from_pretrained(package, **older)(wav), net(wav))


def test_older_heads_that_differ_are_layers_of_their_own():
    """A tonality that all outputs had alike is a parameter today."""
    name = "excitation.heads.{}.1.bias"
    heads = {"x.excitation.heads.0.0.weight": torch.ones(3)}
    for index, shares in enumerate(([0.5, 0.5], [0.5])):
        none = [0.0] * len(shares)
        heads["x." + name.format(index)] = torch.tensor(none + shares + none)
    found = in_todays_names({**heads, "x.other": torch.ones(1)}, "x.")
    assert set(found) == {"x.other", "x.highs.excitation.tonality"}
    assert found["x.highs.excitation.tonality"] == 0.5
    other = heads | {"x." + name.format(1): torch.tensor([0.0, 0.6, 0.0])}
    with pytest.raises(ValueError, match="^excitation.heads are trained, and this version has no"):
        in_todays_names(other, "x.")
    for place in (0, 2):
        level = torch.zeros(3)
        level[place] = 0.1
        with pytest.raises(ValueError, match="heads.1.1.bias is trained, and this version has no"):
            in_todays_names(heads | {"x." + name.format(1): level}, "x.")


def test_a_network_says_what_a_step_is():
    bare = RestorationNetwork(dict(self=1, sample_rate=5))
    assert bare.get_model_args() == dict(sample_rate=5) and bare.products is bare and not bare.adds
    for ask in (lambda: bare.n_ahead, lambda: bare.frame_bytes, lambda: bare.step(None, None, 0)):
        with pytest.raises(NotImplementedError):
            ask()


def test_checkpoints_keep_the_options(tmp_path):
    net, wav = model(**OPTIONS[4]), coded(4000)
    checkpoints.save(net, tmp_path / "lean.safetensors")
    again = Apollo.from_pretrained(tmp_path / "lean.safetensors")
    assert again.get_model_args() == net.get_model_args()
    assert again.get_model_args()["bands"] == LEAN
    assert torch.equal(again(wav), net(wav))
    assert torch.equal(Apollo.from_pretrained(net.serialize())(wav), net(wav))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(bands=LEAN[:-1]), "bands sum to 420; the bands have to share .* 442 bins"),
        (
            dict(bands=[442, 0]),
            r"bands \[442, 0\] has to be .*, or a list of whole numbers from 1 up",
        ),
        (dict(bands=[221.0, 221.0]), "list of whole numbers"),
        (dict(bands="442"), "'442' is no frequency; it has to be written as '160 Hz' is"),
        (dict(bands=442), "bands 442 must lie between 1 and 441, the STFT's bins"),
        (dict(bands=0), "bands 0 must lie between 1 and 441"),
        (dict(bands="49.9 Hz"), "bands of 49.9 Hz are narrower"),
        (dict(bands=True), "bands True has to be a number of bands"),
        (dict(bands="20 Hz"), "bands of 20 Hz are narrower than the distance of two bins, 50 Hz"),
        (dict(band_bins=442), "band_bins 442 has to be a list"),
        (dict(band_bins="80"), "band_bins 80 has to be a list"),
        (dict(bands="1e400 Hz"), "'1e400 Hz' is no frequency"),
        (dict(band_width_hz="wide"), "band_width_hz is 'wide'; it has to be a number of Hz"),
        (dict(band_bins=LEAN, band_width_hz=160), "both lay out bands"),
        (dict(excitation=True, envelope_dim=100), "envelope_dim 100 is less than twice"),
        (dict(excitation=True, envelope_dim=-1), "envelope_dim -1 is less"),
        (dict(envelope_dim=176), "envelope_dim 176 is for the excitation; set that, or 0"),
        (dict(envelope_dim=176, envelope_kernel=8), "envelope_kernel 8 must be odd"),
        (dict(kernel_size=0), "kernel_size 0 must be odd"),
        (dict(kernel_size=-1), "kernel_size -1 must be odd"),
        (dict(kernel_size=4), "kernel_size 4 must be odd"),
        (dict(n_layers=0), "n_layers and tcn_blocks must be 1 or more"),
        (dict(tcn_blocks=0), "n_layers and tcn_blocks must be 1 or more"),
        (dict(feature_dim=10), "feature_dim 10 must be a multiple of 4"),
        (dict(feature_dim=0), "feature_dim 0 must be a multiple of 4"),
        (dict(win_ms=0.09), "win_ms 0.09 at 44100 Hz is a window of 3 samples; it takes 4 or more"),
        (dict(excitation=True, envelope_dim=175), "175 is less than twice the 88 .* take 176 or"),
        (dict(excitation=True, sample_rate=8000), "no room above the source region"),
        (dict(excitation=True, sample_rate=22050), "no two hops"),
    ],
)
def test_settings_that_make_no_network(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)


def test_a_window_of_four_samples_is_a_model():
    net = model(win_ms=0.1, bands=1, kernel_size=1, envelope_kernel=1)
    assert net.filterbank.kernel_size == 4 and net.latency == 4
    assert net(tone(50)).shape == (2, 50)


def test_one_head_is_a_model():
    assert small_model(n_heads=1)(tone(2000)).shape == (2, 2000)
    with pytest.raises(ValueError, match="multiple of 0"):
        small_model(n_heads=0)

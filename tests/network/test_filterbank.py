"""The filterbank against torch.stft and torch.istft, and its features against a slow loop."""

import math

import asteroid_filterbanks
import pytest
import torch
from asteroid_filterbanks import make_enc_dec

from apollo_plugin.network.bands import BandSplit, lay_out_bands
from apollo_plugin.network.filterbank import ApolloSTFT
from apollo_plugin.network.stft import finish


def stft(wav, window, hop):
    hann = torch.hann_window(window, dtype=wav.dtype)
    return torch.stft(wav, window, hop, window=hann, return_complex=True, pad_mode="reflect")


def istft(spec, window, hop, length):
    return torch.istft(spec, window, hop, window=torch.hann_window(window), length=length)


def whole(bank, wav):
    """Analysis and synthesis in one step each."""
    spec, _ = bank.analysis(wav, bank.initial_analysis(wav.shape[0], wav), last=True)
    total, envelope, _ = bank.synthesis(spec, bank.initial_synthesis(wav.shape[0], wav), last=True)
    return spec, total[:, : wav.shape[-1]] / envelope[: wav.shape[-1]]


@pytest.mark.parametrize("window, hop", [(882, 441), (160, 80), (441, 220), (960, 240), (64, 10)])
@pytest.mark.parametrize("extra", [0, 1, 23, 200])
def test_numbers_of_torch_stft_and_istft(window, hop, extra):
    bank = ApolloSTFT(window, window, stride=hop, bands=8)
    wav = torch.randn(2, 3 * window + extra)
    spec, back = whole(bank, wav)
    expected = stft(wav, window, hop)
    torch.testing.assert_close(spec.transpose(1, 2), expected, atol=1e-4, rtol=1e-4)
    expected_back = istft(spec.transpose(1, 2), window, hop, wav.shape[-1])
    # Both divide by a window that goes to zero at the very end: compare in front of it.
    keep = wav.shape[-1] - window // 8
    torch.testing.assert_close(back[:, :keep], expected_back[:, :keep], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n_samples", [1, 2, 3, 79, 80, 81, 82, 159, 160, 161, 240, 1000, 1001])
@pytest.mark.parametrize("window", [160, 161])
def test_perfect_reconstruction_of_every_length(n_samples, window):
    bank = ApolloSTFT(window, window, bands=4)
    wav = torch.randn(3, n_samples, dtype=torch.float64)
    torch.testing.assert_close(whole(bank, wav)[1], wav, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("block", [1, 7, 80, 81, 500])
@pytest.mark.parametrize("n_samples", [1, 79, 80, 161, 400, 1234])
@pytest.mark.parametrize("window, hop", [(160, 80), (161, 80), (160, 40)])
def test_steps_equal_one_step(window, hop, n_samples, block):
    bank = ApolloSTFT(window, window, stride=hop, bands=4)
    wav = torch.randn(2, n_samples, dtype=torch.float64)
    expected_spec, expected = whole(bank, wav)
    analysis, synthesis = bank.initial_analysis(2, wav), bank.initial_synthesis(2, wav)
    specs, out = [], []
    blocks = [*wav.split(block, -1), wav[:, :0]]
    for index, part in enumerate(blocks):
        last = index == len(blocks) - 1
        spec, analysis = bank.analysis(part, analysis, last)
        specs.append(spec)
        total, envelope, synthesis = bank.synthesis(spec, synthesis, last)
        out.append(total / envelope.clamp(min=1e-11))
    torch.testing.assert_close(torch.cat(specs, 1), expected_spec)
    torch.testing.assert_close(torch.cat(out, -1)[:, :n_samples], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("shape", [(1500,), (1, 1500), (3, 1, 1500), (2, 2, 1500)])
@pytest.mark.filterwarnings("ignore:Input tensor was 2D")
def test_encoder_and_decoder_of_asteroid(shape):
    encoder, decoder = make_enc_dec("apollo_stft", 160, 160, sample_rate=8000.0, bands=10)
    wav = torch.randn(shape)
    spec = encoder(wav)
    real, imag = spec.chunk(2, -2)
    expected = stft(wav.reshape(-1, 1500), 160, 80)
    got = torch.complex(real, imag).reshape(expected.shape)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert spec.shape[-2] == encoder.n_feats_out == 162
    back = decoder(spec, length=1500).reshape(wav.shape)
    torch.testing.assert_close(back, wav, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        decoder(2 * spec, length=1500).flatten(), 2 * back.flatten(), atol=1e-4, rtol=1e-4
    )


def test_fast_filters_are_the_filters_they_claim_to_be():
    """The FFT path against a plain convolution with the same numbers."""
    bank = ApolloSTFT(64, 64, bands=4)
    filters = bank.filters()
    plain = torch.tensor(filters.tolist())
    wav = torch.randn(2, 1, 640)
    expected = torch.nn.functional.conv1d(wav, plain, stride=32)
    torch.testing.assert_close(
        torch.nn.functional.conv1d(wav, filters, stride=32), expected, atol=1e-4, rtol=1e-4
    )
    spec = torch.randn(2, 66, 19)
    torch.testing.assert_close(
        torch.nn.functional.conv_transpose1d(spec, filters, stride=32),
        torch.nn.functional.conv_transpose1d(spec, plain, stride=32),
        atol=1e-3,
        rtol=1e-4,
    )
    # With padding, where the FFT has no counterpart, it is an ordinary convolution.
    torch.testing.assert_close(
        torch.nn.functional.conv1d(wav, filters, stride=32, padding=5),
        torch.nn.functional.conv1d(wav, plain, stride=32, padding=5),
    )


def test_gradients_pass_through_encoder_and_decoder():
    encoder, decoder = make_enc_dec("apollo_stft", 160, 160, bands=4)
    wav = torch.randn(1, 1, 800, requires_grad=True)
    decoder(encoder(wav), length=800).square().sum().backward()
    torch.testing.assert_close(wav.grad, 2 * wav.detach(), atol=1e-3, rtol=1e-3)


def test_registered_and_reproducible_from_its_config():
    assert asteroid_filterbanks.get("apollo_stft") is ApolloSTFT
    bank = ApolloSTFT(960, 960, sample_rate=48000.0, bands="160 Hz")
    config = bank.get_config()
    assert asteroid_filterbanks.get(config.pop("fb_name")) is ApolloSTFT
    assert ApolloSTFT(**config).band_widths == bank.band_widths


def test_published_bands():
    bank = ApolloSTFT()
    assert bank.band_widths == [5] * 79 + [47]
    assert len(bank.band_edges_hz) == 81
    assert bank.band_edges_hz[:2] == [0.0, 225.0]
    assert bank.band_edges_hz[-1] == 22050.0


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000, 96000])
def test_the_papers_160_hz_bands_at_any_rate(rate):
    window = int(rate * 0.02)
    bank = ApolloSTFT(window, window, sample_rate=rate, bands="160 Hz")
    assert sum(bank.band_widths) == window // 2 + 1
    assert min(bank.band_widths) >= 1
    widths_hz = [hi - lo for lo, hi in zip(bank.band_edges_hz[1:-2], bank.band_edges_hz[2:-1])]
    assert all(abs(width - 160) <= rate / window for width in widths_hz)
    assert abs(sum(widths_hz) / len(widths_hz) - 160) < 2


@pytest.mark.parametrize("options", [{}, {"band_width_hz": 160.0}])
def test_features_against_a_loop_over_bands(options):
    bank = ApolloSTFT(**options)
    spec = torch.randn(1, 3, 442, dtype=torch.complex64) * 3
    groups = bank.bands.split(spec)
    by_band = bank.bands.to_frequency_order(torch.cat([g[..., -1:] for g in groups], -2))[..., 0]
    start = 0
    for band, width in enumerate(bank.band_widths):
        part = spec[..., start : start + width]
        gain = (part.abs().square().sum(-1) + 1.1920929e-07).sqrt()
        torch.testing.assert_close(by_band[..., band], gain.log())
        index = bank.bands.groups[width].index(band)
        feature = groups[list(bank.bands.groups).index(width)][..., index, :]
        expected = torch.cat((part.real / gain[..., None], part.imag / gain[..., None]), -1)
        torch.testing.assert_close(feature[..., :-1], expected)
        start += width
    shapes = [torch.cat((g[..., :-1] * g[..., -1:].exp(),), -1) for g in groups]
    torch.testing.assert_close(torch.view_as_complex(bank.bands.merge(shapes)), spec)


def test_features_of_bins_as_eq_2_is_printed():
    """Real part and imaginary part over the magnitude, and its logarithm, of each bin."""
    bank = ApolloSTFT(bands="160 Hz", gain_shape="bin")
    spec = torch.randn(1, 3, 442, dtype=torch.complex64) * 3
    gain = (spec.real.square() + spec.imag.square() + 1.1920929e-07).sqrt()
    values = (spec.real / gain, spec.imag / gain, gain.log())
    groups = bank.bands.split(spec)
    for (width, bands), group in zip(bank.bands.groups.items(), groups):
        assert group.shape == (1, 3, len(bands), 3 * width)
        for index, band in enumerate(bands):
            start = sum(bank.band_widths[:band])
            expected = torch.cat([value[..., start : start + width] for value in values], -1)
            torch.testing.assert_close(group[..., index, :], expected)
    levels = bank.bands.levels(spec)
    torch.testing.assert_close(levels, ApolloSTFT(bands="160 Hz").bands.levels(spec))
    band = ApolloSTFT(bands="160 Hz").bands.split(spec)
    torch.testing.assert_close(levels, torch.cat([group[..., -1] for group in band], -1))


def test_a_cast_to_bfloat16_leaves_the_window_alone():
    bank = ApolloSTFT().to(torch.bfloat16)
    window = bank.hann(torch.zeros(1))
    expected = 0.5 - 0.5 * math.cos(2 * math.pi * 100 / 882)
    assert abs(window[100].item() - expected) < 1e-6


def test_the_smallest_windows_and_the_longest_hops():
    for window, hop, bands in ((4, 1, 2), (4, 2, 1), (5, 2, 1), (882, 441, 441)):
        bank = ApolloSTFT(window, window, stride=hop, bands=bands)
        wav = torch.randn(1, 50, dtype=torch.float64)
        torch.testing.assert_close(whole(bank, wav)[1], wav, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    "bands, widths",
    [
        (1, [442]),
        (441, [1] * 440 + [2]),
        ("50 Hz", [1] * 442),
        ("30000 Hz", [442]),
        ("1000000 Hz", [442]),
        # From half a band on the rest is a band of its own: 442 bins are 2.5 of 8840 Hz.
        ("8840 Hz", [177, 265]),
        ("8839 Hz", [177, 177, 88]),
    ],
)
def test_bands_at_the_ends_of_what_is_possible(bands, widths):
    assert lay_out_bands(bands, 882, 44100) == widths


@pytest.mark.parametrize("widths", [[], [0], [3, -1]])
def test_bands_without_bins(widths):
    with pytest.raises(ValueError) as caught:
        BandSplit(widths)
    assert str(caught.value) == f"bands of {widths} bins: each takes one bin or more"


@pytest.mark.parametrize("adds", [False, True])
def test_where_windows_run_out_the_input_takes_their_place(adds):
    """Sums of squared windows below a twentieth are filled up to it."""
    total, source = torch.tensor([[0.3, 0.2, 0.6]]), torch.tensor([[5.0, 6.0, 7.0]])
    envelope = torch.tensor([0.02, 0.05, 1.2])
    expected = [(0.3 + 0.03 * 5) / 0.05, 0.2 / 0.05, 0.6 / 1.2]
    if adds:
        expected = [5 + 0.3 / 0.05, 6 + 0.2 / 0.05, 7 + 0.6 / 1.2]
    torch.testing.assert_close(finish(total, envelope, source, adds), torch.tensor([expected]))


@pytest.mark.parametrize(
    "arguments",
    [
        dict(n_filters=882, kernel_size=800),
        dict(n_filters=2, kernel_size=2),
        dict(n_filters=3, kernel_size=3),
        dict(stride=442),
        dict(stride=-1),
        dict(bands=0),
        dict(bands=442),
        dict(bands="20 Hz"),
        dict(gain_shape="both"),
    ],
)
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match=r"kernel_size|bands|gain_shape 'both'"):
        ApolloSTFT(**arguments)

"""The envelope path: streaming is whole, causal is causal, features and levels by closed forms."""

import pytest
import torch

from apollo_plugin.network.bands import BandSplit, lay_out_bands
from apollo_plugin.network.filterbank import ApolloSTFT
from apollo_plugin.network.highs.envelope import ENERGY_FLOOR, EnvelopePath


def trained(**options):
    """A path whose every weight does something."""
    torch.manual_seed(0)
    path = EnvelopePath(n_features=180, **options).double()
    for parameter in path.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return path.eval()


def spectra(n_streams=2, n_frames=90, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_streams, n_frames, 442, 2, generator=generator).double()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [[1] * 90, [7, 0, 40, 43], [90, 0], [30, 60]])
def test_steps_are_one_step(causal, sizes):
    path, spec = trained(causal=causal, kernel_size=7), spectra()
    whole, _ = path(path.features(spec), path.initial_contexts(2), last=True)
    contexts, parts, start = path.initial_contexts(2), [], 0
    for size in sizes:
        new = path.features(spec[:, start : start + size])
        start += size
        part, contexts = path(new, contexts, last=start == 90 and size == sizes[-1])
        parts.append(part)
        if start < 90:
            assert sum(p.shape[1] for p in parts) == max(0, start - path.ahead)
    if sum(p.shape[1] for p in parts) < 90:  # the last step brought no frame
        parts.append(path(path.features(spec[:, :0]), contexts, last=True)[0])
    joined = torch.cat(parts, 1)[:, :90]
    assert whole.shape == joined.shape == (2, 90, 88)
    torch.testing.assert_close(joined, whole, rtol=0, atol=1e-11)


@pytest.mark.parametrize("causal, ahead", [(True, 0), (False, 12)])
def test_looks_ahead_as_far_as_it_says(causal, ahead):
    path, spec = trained(causal=causal, kernel_size=7), spectra(1)
    changed = spec.clone()
    changed[:, 50:] *= 2
    first, second = (
        path(path.features(x), path.initial_contexts(1), last=True)[0] for x in (spec, changed)
    )
    assert path.ahead == ahead
    torch.testing.assert_close(first[:, : 50 - ahead], second[:, : 50 - ahead], rtol=0, atol=0)
    assert not torch.equal(first[:, 50 - ahead], second[:, 50 - ahead])


def test_untrained_it_hands_on_what_came_in():
    path, spec = EnvelopePath(), spectra().float()
    est, _ = path(path.features(spec), path.initial_contexts(2), last=True)
    torch.testing.assert_close(est, path.log_gains(spec), rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_a_linear_map_is_what_it_says(causal):
    path, spec = EnvelopePath(causal=causal), spectra().float()
    weight, before = 0.1 * torch.randn(2, 88, path.n_in)
    bias = torch.randn(88)
    path.set_linear_map(weight, bias, before)
    features = path.features(spec)
    est, _ = path(features, path.initial_contexts(2), last=True)
    smooth = path.smooth(features)
    # Half of the mean over 31 frames and half of that over the newest 9.
    expected = (features[:, 20:51].mean(1) + features[:, 42:51].mean(1)) / 2
    torch.testing.assert_close(smooth[:, 50], expected, rtol=1e-4, atol=1e-4)
    expected = features @ weight.T + bias + smooth @ before.T
    torch.testing.assert_close(est, expected, rtol=1e-3, atol=1e-3)


def test_log_gains_are_the_filterbank_s():
    path = EnvelopePath(n_bins=442, band_bins=5)
    bands = BandSplit(lay_out_bands(88, 882, 44100))
    assert path.band_widths == lay_out_bands(88, 882, 44100)
    spec = spectra()
    theirs = torch.cat([group[..., -1] for group in bands.split(spec)], -1)
    torch.testing.assert_close(path.log_gains(spec), theirs, rtol=0, atol=1e-5)


def frame(wav):
    """The spectrum of one windowed frame, ``(1, 1, bins, 2)``."""
    stft = ApolloSTFT(882, 882)
    return torch.view_as_real(stft.frames_to_spec(wav))[None, None]


def named(features):
    return features[0, 0].unflatten(0, (5, 88))


def test_features_tell_early_from_late():
    path = EnvelopePath()
    for sample in (200, 441, 680):
        wav = torch.zeros(882)
        wav[sample] = 100.0
        _, empty, middle, side, _ = named(path.features(frame(wav)))
        assert not empty.any()
        # A click at sample t: adjacent bins differ by exp(-2 pi i t / 882).
        angle = torch.tensor(2 * torch.pi * sample / 882)
        torch.testing.assert_close(middle[10], -angle.cos(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(side[10].abs(), angle.sin().abs(), rtol=1e-3, atol=1e-3)
    early, late = (torch.zeros(882) for _ in range(2))
    early[200], late[682] = 100.0, 100.0
    sides = [named(path.features(frame(wav)))[3, 10] for wav in (early, late)]
    torch.testing.assert_close(sides[0], -sides[1], rtol=1e-3, atol=1e-3)


def test_features_tell_tonal_from_noisy():
    path = EnvelopePath()
    click = torch.zeros(882)
    click[441] = 100.0
    time = torch.arange(882)
    tone = torch.cos(2 * torch.pi * 52 * time / 882)  # bin 52, of band 10
    flat = named(path.features(frame(click)))[4, 10]
    peaked = named(path.features(frame(tone)))[4, 10]
    assert flat == pytest.approx(0, abs=1e-3)
    # Bins of 1/16, 1/4, 1/16 of the power and two at the floor: far below.
    assert peaked < -1


def test_empty_bands_are_told_apart_by_nothing_else():
    path = EnvelopePath()
    spec = spectra(1, 5).float()
    spec[:, :, 100:] = 1e-5 * spec[:, :, 100:]
    level, empty, *rest = path.features(spec)[0].unflatten(-1, (5, 88)).unbind(1)
    assert not empty[:, :20].any() and (empty[:, 20:] == 1).all()
    assert all((part[:, 20:] == 0).all() for part in rest)
    floor = 0.5 * torch.tensor(ENERGY_FLOOR).log()
    torch.testing.assert_close(level[:, 20:], floor.expand(5, 68), rtol=0, atol=0.01)


@pytest.mark.parametrize("spec", [torch.zeros(1, 3, 442, 2), torch.full((1, 3, 442, 2), 1e6)])
def test_features_and_gradients_are_finite(spec):
    path, spec = EnvelopePath(), spec.clone().requires_grad_()
    est, _ = path(path.features(spec), path.initial_contexts(1), last=True)
    est.sum().backward()
    assert torch.isfinite(est).all() and torch.isfinite(spec.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in path.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"n_features": 175}, "^n_features 175 is less than twice the 88 bands$"),
        ({"n_bins": 9}, "^9 bins make no two bands of 5$"),
    ],
)
def test_sizes_that_make_no_path(options, reason):
    assert EnvelopePath(n_features=176).n_bands == 88 and EnvelopePath(n_bins=10).n_bands == 2
    with pytest.raises(ValueError, match=reason):
        EnvelopePath(**options)

"""SNR in closed form: of everything, below a frequency, below the cut-off of each item."""

import math

import pytest
import torch
from helpers import tone

from apollo_plugin.data.codecs import mp3
from apollo_plugin.data.demo import mixture
from apollo_plugin.losses import Signal, SNRLoss
from apollo_plugin.metrics import si_sdr


def test_snr_is_a_tenth_of_decibels():
    ref = torch.randn(1, 1, 44100)
    noise = torch.randn(1, 1, 44100)
    noise -= (noise * ref).sum() / ref.square().sum() * ref
    est = ref + 0.1 * noise
    assert abs(-10 * SNRLoss()(est, ref).item() - si_sdr(est[0], ref[0])) < 0.05
    silence = torch.zeros(1, 1, 100)
    assert SNRLoss()(silence, silence) == 0


def test_bins_below_a_frequency_and_the_unit_of_their_energy():
    """The bin at the frequency does not count. A noise of power 1e-9 is twice what is added."""
    ref = 10**-4.5 * torch.randn(1, 1, 200000)
    for below, n_bins in ((100 * 44100 / 2048, 100), (100.1 * 44100 / 2048, 101), (1e9, 1025)):
        loss = SNRLoss(below)
        assert loss._counted(Signal(ref), None).sum() == n_bins
    assert SNRLoss(1e9)(ref, ref).item() == pytest.approx(-math.log10(2), abs=0.01)
    assert SNRLoss()(ref, ref).item() == pytest.approx(-math.log10(2), abs=0.01)


def sine(hertz, level, n_samples=44100):
    return level * torch.sin(2 * torch.pi * hertz * torch.arange(n_samples) / 44100)


def test_snr_below_a_frequency_does_not_see_what_lies_above():
    """Two tones by hand: the lower one with a tenth of an error, the upper one missing."""
    ref = (sine(1000, 0.5) + sine(9000, 0.2))[None, None]
    est = sine(1000, 0.45)[None, None]
    low = 10 * torch.log10(torch.tensor(0.5**2 / 0.05**2)).item()
    full = 10 * torch.log10(torch.tensor((0.5**2 + 0.2**2) / (0.05**2 + 0.2**2))).item()
    assert -10 * SNRLoss(4000)(est, ref).item() == pytest.approx(low, abs=0.02)
    for loss in (SNRLoss(), SNRLoss(22050.1)):
        assert -10 * loss(est, ref).item() == pytest.approx(full, abs=0.05)


def test_snr_below_the_cut_off_of_each_item():
    """Items of one batch, cut at 3 and 8 kHz and not at all, against band-passes by FFT."""
    torch.manual_seed(0)
    ref = torch.randn(3, 2, 44100)
    ref[:, 1] *= 0.01
    hertz = torch.fft.rfftfreq(44100, 1 / 44100)

    def below(wav, edge):
        return torch.fft.irfft(torch.fft.rfft(wav) * (hertz < edge), wav.shape[-1])

    edges = (3000, 8000, 22051)
    coded = torch.stack([below(wav, edge) for wav, edge in zip(ref, edges)])
    est = coded + 0.1 * ref.std(-1, keepdim=True) * torch.randn_like(ref)
    expected = []
    for i, edge in enumerate(edges):
        power = below(ref[i], edge).square().sum(-1)
        expected.append((power / below(est[i] - ref[i], edge).square().sum(-1)).log10().mean())
    got = SNRLoss("cutoff")(est, ref, coded)
    # What is missing, 20 dB above the noise, leaks into the last bin of a Hann window.
    torch.testing.assert_close(got, -torch.stack(expected).mean(), rtol=0, atol=0.05)
    est.requires_grad_()
    SNRLoss("cutoff")(est, ref, coded).backward()
    gradient = torch.fft.rfft(torch.hann_window(44100) * est.grad[0, 0]).abs()
    assert gradient[hertz > 3500].max() < 1e-3 * gradient[hertz < 2900].max()


def test_real_mp3_is_cut_where_lame_cuts():
    ref = torch.from_numpy(mixture(2.0, 3))
    counted = SNRLoss("cutoff")._counted
    for kbps, edge in ((24, 4400), (48, 7700), (64, 11200)):
        bins = counted(Signal(ref[None]), mp3(ref, 44100, kbps)[None])[0]
        edges = bins.sum(-1) * 44100 / 2048
        # LAME's edges are those of -70 dB; its slopes are half a kilohertz wide and more.
        assert edge - 1000 < edges.min() and edges.max() < edge + 250, (kbps, edges)


def test_snr_of_silence_below_a_cut_off():
    silence, wav = torch.zeros(1, 1, 4000), tone(4000, 1)[None]
    for est, ref, coded in ((silence,) * 3, (wav, silence, silence), (silence, wav, silence)):
        est = est.clone().requires_grad_()
        loss = SNRLoss("cutoff")(est, ref, coded)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(est.grad).all()


@pytest.mark.parametrize("below", ["edge", 0, -5, float("nan"), float("inf"), True, [4000]])
def test_an_snr_below_nothing(below):
    with pytest.raises(ValueError, match="has to be a frequency in Hz, 'cutoff', or null"):
        SNRLoss(below)


def test_an_snr_below_the_cut_off_needs_the_coded_signal():
    with pytest.raises(ValueError, match="needs the coded signal"):
        SNRLoss("cutoff")(tone(3000)[None], tone(3000)[None])

"""Closed forms, textbook versions, a batch as the mean of its items, bad input."""

import numpy as np
import pytest
import torch
from helpers import tone

from apollo_plugin.losses import (
    BandEnergyLoss,
    EnvelopeLoss,
    LogSpectralLoss,
    MelLoss,
    ReconstructionLoss,
    Signal,
    SNRLoss,
)


def test_reconstruction_of_a_scaled_signal_is_the_scale():
    wav = torch.stack((tone(5000), 3 * tone(5001)[:, 1:]))
    for per_item in (False, True):
        assert abs(ReconstructionLoss(per_item=per_item)(0.75 * wav, wav) - 0.25) < 1e-5
    assert ReconstructionLoss()(wav, wav) == 0


@pytest.mark.parametrize("loss", [ReconstructionLoss(per_item=True), EnvelopeLoss(per_item=True)])
def test_a_batch_is_the_mean_of_its_items(loss):
    est, ref = torch.stack((tone(4000), 0.01 * tone(4001)[:, 1:])), torch.randn(2, 2, 4000)
    ref[1] *= 0.02
    whole = loss(est, ref)
    torch.testing.assert_close(whole, (loss(est[:1], ref[:1]) + loss(est[1:], ref[1:])) / 2)
    loss.per_item = False
    assert abs(loss(est, ref) - whole) > 1e-3


def test_mel_is_the_mean_error_of_log_powers(torchaudio):
    est, ref = 0.3 * torch.randn(2, 1, 8000), torch.randn(2, 1, 8000)
    mel = torchaudio.transforms.MelSpectrogram(44100, 2048, hop_length=512, n_mels=64)
    expected = (mel(est).log() - mel(ref).log()).abs().mean()
    torch.testing.assert_close(MelLoss()(est, ref), expected, rtol=1e-4, atol=1e-4)
    # Masked: 60 dB below a tone in the same frames.
    loud = 10 * tone(8000)[:1, None]
    assert MelLoss()(loud + 1e-4 * ref[:1], loud) < 1e-3


def test_a_tone_in_the_middle_of_a_mel_band_lies_in_no_other():
    """At the edges that HTK's book gives: 2595 lg(1 + f / 700 Hz) in equal steps."""
    bands = MelLoss(44100, 2048, 8).bands
    mels = [2595 * np.log10(1 + 22050 / 700) * k / 9 for k in range(10)]
    for k in range(8):
        low, middle, high = (700 * (10 ** (m / 2595) - 1) / 44100 * 2048 for m in mels[k : k + 3])
        expected = np.interp(np.arange(1025), [low, middle, high], [0, 1, 0])
        np.testing.assert_allclose(bands[:, k], expected, atol=1e-6)


def test_log_spectral_loss_is_the_textbook_s():
    torch.manual_seed(1)
    est, ref = torch.randn(2, 1, 3000), 0.3 * torch.randn(2, 1, 3000)
    window = torch.hann_window(512)
    p_est, p_ref = (
        torch.stft(x[:, 0], 512, 128, window=window, return_complex=True).abs() ** 2
        for x in (est, ref)
    )
    total = 0.0
    _, n_bins, n_frames = p_ref.shape
    for f in range(n_bins):
        for t in range(n_frames):
            around = p_ref[:, max(0, f - 4) : f + 5, max(0, t - 2) : t + 3].mean((1, 2))
            floor = 0.01 * around
            error = ((p_est[:, f, t] + floor) / (p_ref[:, f, t] + floor)).log().abs()
            total = total + error.mean() / (n_bins * n_frames)
    got = LogSpectralLoss((512,))(est, ref)
    torch.testing.assert_close(got, total, rtol=1e-4, atol=1e-5)
    assert LogSpectralLoss()(ref, ref) == 0


def test_log_spectral_loss_sees_what_the_mel_loss_does_not():
    """The same power in fewer bins: half of the lines of a noise, 3 dB louder."""
    torch.manual_seed(2)
    ref, other = torch.randn(1, 1, 44100), torch.randn(1, 1, 44100)
    spectrum = torch.fft.rfft(other)
    comb = (torch.arange(spectrum.shape[-1]) // 86 % 2).float()  # four STFT bins of every eight
    combed = torch.fft.irfft(spectrum * comb * 2**0.5, 44100)
    assert MelLoss()(combed, ref) < 1.5 * MelLoss()(other, ref)
    loss = LogSpectralLoss((2048,))
    assert loss(combed, ref) > 1.2 * loss(other, ref)


# --------------------------------------------------------------------------------- band energies


def test_band_energies_are_the_textbook_s():
    """Frame by frame and band by band, with NumPy's FFT."""
    torch.manual_seed(3)
    est, ref = 0.3 * torch.randn(1, 1, 6000), torch.randn(1, 1, 6000)
    total = []
    for hop in (40, 160):
        n, window = 2 * hop, np.hanning(2 * hop + 1)[:-1]
        energies = []
        for wav in (est, ref):
            padded = np.pad(wav[0, 0].double().numpy(), hop, mode="reflect")
            starts = range(0, len(padded) - n + 1, hop)
            power = np.abs([np.fft.rfft(window * padded[i : i + n]) for i in starts]) ** 2
            band = np.minimum((np.arange(hop + 1) * 8000 / n) // 250, 15).astype(int)
            energies.append(np.stack([power[:, band == b].sum(1) for b in range(16)], 1))
        floor = 1e-4 * energies[1].sum(1).mean() + 1e-9 * hop
        total.append(np.abs(np.log((energies[0] + floor) / (energies[1] + floor))).mean())
    loss = BandEnergyLoss(8000, hops_ms=(5.0, 20.0), floor_db=40.0)
    assert loss(est, ref).item() == pytest.approx(np.mean(total), rel=1e-4)
    assert loss(ref, ref) == 0


def sine(hertz, n_samples=44100):
    return torch.sin(2 * torch.pi * hertz * torch.arange(n_samples) / 44100)


def test_band_energies_hear_time_smeared_highs_and_no_phase():
    """Noise bursts above 8 kHz: another noise is better than the same energy without gaps."""
    torch.manual_seed(4)
    n = 44100
    bursts = (torch.arange(n) % 8820 < 882).float()
    hertz = torch.fft.rfftfreq(n, 1 / 44100)

    def highs(gate):
        return gate * torch.fft.irfft(torch.fft.rfft(torch.randn(n)) * (hertz > 8000), n)

    lows = sine(440)
    ref, other = lows + highs(bursts), lows + highs(bursts)
    smeared = lows + highs(torch.full((n,), bursts.mean().sqrt().item()))
    loss = BandEnergyLoss()
    same, flat = (loss(x[None, None], ref[None, None]) for x in (other, smeared))
    assert same < 0.4 * flat
    inverted = -other
    torch.testing.assert_close(loss(inverted[None, None], ref[None, None]), same)


def test_band_energies_below_the_floor_do_not_count():
    ref = sine(500)[None, None]
    est = ref + 1e-6 * torch.randn(1, 1, 44100)
    assert BandEnergyLoss()(est, ref) < 0.02
    # The floor follows the level of the original.
    assert BandEnergyLoss()(0.01 * est, 0.01 * ref) < 0.05
    assert BandEnergyLoss()(ref + 0.01 * torch.randn(1, 1, 44100), ref) > 1


def test_a_signal_is_longer_than_half_a_window():
    for n_samples, window, fits in ((16, 32, False), (17, 32, True), (1, 2, False), (2, 2, True)):
        signal = Signal(torch.ones(1, 1, n_samples))
        if fits:
            frames = 1 + n_samples // (window // 2)
            assert signal.stft(window).shape == (1, 1, window // 2 + 1, frames)
            continue
        words = f"^{n_samples} samples are too few for an STFT window of {window}$"
        with pytest.raises(ValueError, match=words):
            signal.stft(window)
    with pytest.raises(ValueError, match="an STFT window of 1$"):
        Signal(torch.ones(1, 1, 9)).stft(1)
    signal = Signal(torch.randn(2, 3, 100))
    torch.testing.assert_close(signal.power(16), signal.stft(16, 4).abs().square())


def test_band_energies_of_what_does_not_fit():
    # 2 ms are 16 samples at 8 kHz: bins of 250 Hz just fit.
    assert BandEnergyLoss(8000, hops_ms=(2.0,)).windows == (32,)
    with pytest.raises(ValueError, match="a hop of 1.9 ms is too short for bands of 250 Hz"):
        BandEnergyLoss(8000, hops_ms=(1.9,))
    assert BandEnergyLoss(8000, hops_ms=(0.01,), band_hz=4000.0).windows == (2,)
    with pytest.raises(ValueError, match="a hop of 1 ms is too short for bands of 250 Hz"):
        BandEnergyLoss(hops_ms=(1.0,))
    with pytest.raises(ValueError, match="too few for an STFT window"):
        BandEnergyLoss()(tone(1000)[None], tone(1000)[None])


@pytest.mark.parametrize("loss", [MelLoss(), BandEnergyLoss(), SNRLoss(5000)])
def test_autocast_does_not_touch_powers(loss):
    ref = tone(5000)[None]
    est = ref + 1e-3 * torch.randn(1, 2, 5000)
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss(est, ref)
    assert torch.equal(rough, loss(est, ref))


def test_time_scales_are_5_10_and_40_ms():
    assert BandEnergyLoss().windows == (440, 882, 3528)
    # What is shorter than a window of the longest is no signal for it; one sample more is.
    wav = torch.randn(1, 1, 2 * 1764)
    assert BandEnergyLoss()(2 * wav, wav) > 0

"""Eq. (6): the published numbers, weights and parts, silence, bad weights."""

import numpy as np
import pytest
import torch
from helpers import tone
from scipy import signal

from apollo_plugin.losses import GeneratorLoss, Signal, SRGANLoss


def test_published_losses(numbers, published_judge):
    est, ref = Signal(numbers["est"]), Signal(numbers["ref"])
    with torch.no_grad():
        judged_est, judged = published_judge.judge(est, ref)
        loss = GeneratorLoss()
        total, parts = loss(est, ref, judged_est, judged)
        d_loss = loss.adversarial.discriminator_loss(judged_est.scores, judged.scores)
    for name, value in dict(
        loss_reconstruction=parts["reconstruction"],
        loss_adversarial=parts["adversarial"],
        loss_discriminator=d_loss,
        loss_generator_total=total,
    ).items():
        torch.testing.assert_close(value, numbers[name].squeeze(), rtol=1e-4, atol=0)
    feature_matching = total - parts["reconstruction"] - parts["adversarial"]
    torch.testing.assert_close(parts["feature_matching"], feature_matching, rtol=1e-4, atol=1e-5)


def test_snr_and_envelope_are_a_textbook_s():
    """By SciPy's frames: relative L1 of magnitudes to the power 0.3, mean over windows, less tenths
    of the SNR in dB."""
    ref = tone(6000, 1)[None]
    est = ref + 0.05 * torch.randn(1, 1, 6000)
    a, b = (x.flatten().double().numpy() for x in (est, ref))
    envelope = []
    for window in (256, 1024, 2048):
        hann = signal.get_window("hann", window)
        stft = signal.ShortTimeFFT(hann, window // 4, 44100)
        around = [np.pad(x, window // 2, mode="reflect") for x in (a, b)]
        n = 1 + 6000 // (window // 4)
        est_mag, ref_mag = (
            (np.abs(stft.stft(x, p0=2, p1=2 + n, padding="zeros")) ** 2 + 1e-9) ** 0.15
            for x in around
        )
        envelope.append(np.abs(est_mag - ref_mag).mean() / ref_mag.mean())
    snr = np.log10(np.square(b).mean() / np.square(a - b).mean())
    total, parts = GeneratorLoss(0, 0, 0, snr=1.5, envelope=1)(est, ref)
    assert set(parts) == {"snr", "envelope"}
    assert parts["envelope"].item() == pytest.approx(np.mean(envelope), rel=1e-4)
    assert total.item() == pytest.approx(np.mean(envelope) - 1.5 * snr, rel=1e-4)


def test_weights_and_parts():
    est, ref = tone(4000)[None], 2 * tone(4000)[None]
    total, parts = GeneratorLoss(reconstruction=2, snr=0.5)(est, ref)
    assert set(parts) == {"reconstruction", "snr"}
    torch.testing.assert_close(total, 2 * parts["reconstruction"] + 0.5 * parts["snr"])


@pytest.mark.parametrize("silent", ["est", "ref", "both"])
def test_silence_gives_finite_losses_and_gradients(silent):
    est = torch.zeros(1, 2, 4000) if silent != "ref" else tone(4000)[None]
    ref = torch.zeros(1, 2, 4000) if silent != "est" else tone(4000)[None]
    est.requires_grad_()
    total, _ = GeneratorLoss(1, 0, 0, snr=1, envelope=1, mel=1, log_spectral=1, band_energy=1)(
        est, ref
    )
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(est.grad).all()


def test_weights_that_make_no_loss():
    with pytest.raises(ValueError, match="loss weight snr is -1"):
        GeneratorLoss(snr=-1)
    with pytest.raises(ValueError, match="loss weight envelope is nan"):
        GeneratorLoss(envelope=float("nan"))
    with pytest.raises(ValueError, match="has to exceed 0"):
        GeneratorLoss(reconstruction=0)


_ALL = dict(snr=1, envelope=1, mel=1, log_spectral=1, band_energy=1)


@pytest.mark.parametrize("name", ["reconstruction", *_ALL])
@pytest.mark.parametrize(
    "shapes", [((2, 1, 4000), (2, 2, 4000)), ((1, 2, 4000), (4, 2, 4000)), ((1, 2, 1), (1, 2, 40))]
)
def test_nothing_is_broadcast(name, shapes):
    """Either way round; what is compared has to be of one shape."""
    loss = GeneratorLoss().comparisons[name]
    for one, other in (shapes, shapes[::-1]):
        with pytest.raises(ValueError, match="differ; a loss compares equal shapes") as caught:
            loss(torch.ones(one), torch.ones(other))
        assert "\n" not in str(caught.value) and str(one) in str(caught.value)


def test_the_coded_signal_has_the_shape_too():
    wav = tone(4000)[None]
    loss = GeneratorLoss(0, 0, 0, snr=1, snr_below="cutoff")
    with pytest.raises(ValueError, match="compares equal shapes"):
        loss(wav, wav, coded=wav[:, :1])


def test_feature_maps_and_spectra_are_not_broadcast():
    feature_matching = GeneratorLoss().feature_matching
    maps = torch.ones(2, 8, 5, 5)
    with pytest.raises(ValueError, match="compares equal shapes"):
        feature_matching([[maps]], [[maps[:1]]])
    parts = torch.ones(2, 2, 9, 5)
    for loss in (SRGANLoss(0, reconstruction=1), SRGANLoss(0, magnitude=1)):
        with pytest.raises(ValueError, match="compares equal shapes"):
            loss(parts, parts[:1])


@pytest.mark.parametrize(
    "wav", [torch.ones(4000), torch.ones(2, 4000), torch.ones(1, 2, 4000).int(), "sound", None]
)
def test_what_is_no_signal(wav):
    with pytest.raises(ValueError, match=r"floating point tensors \(batch, channels, time\)$"):
        GeneratorLoss()(wav, wav)

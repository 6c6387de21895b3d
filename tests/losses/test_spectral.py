"""The published numbers, closed forms, a batch as the mean of its items, bad input."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import torchaudio
from helpers import tone

from apollo_plugin.losses import (
    AdversarialLoss,
    EnvelopeLoss,
    FeatureMatchingLoss,
    GeneratorLoss,
    LogSpectralLoss,
    MelLoss,
    ReconstructionLoss,
    Signal,
    SNRLoss,
)
from apollo_plugin.metrics import si_sdr


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


def test_reconstruction_of_a_scaled_signal_is_the_scale():
    wav = torch.stack((tone(5000), 3 * tone(5001)[:, 1:]))
    for per_item in (False, True):
        assert abs(ReconstructionLoss(per_item=per_item)(0.75 * wav, wav) - 0.25) < 1e-5
    assert ReconstructionLoss()(wav, wav) == 0


def test_adversarial_losses_of_known_scores():
    fake, real = [torch.tensor([0.5, 0.0]), torch.tensor([2.0])], [torch.ones(2), torch.zeros(1)]
    loss = AdversarialLoss()
    assert loss.discriminator_loss(fake, real).item() == pytest.approx((0.125 + 0 + 4 + 1) / 2)
    assert loss.generator_loss(fake).item() == pytest.approx(((0.25 + 1) / 2 + 1) / 2)


def test_feature_matching_sends_no_gradient_to_the_original():
    fake, real = (
        torch.tensor([1.0, 3.0]).requires_grad_(),
        torch.tensor([2.0, 2.0]).requires_grad_(),
    )
    loss = FeatureMatchingLoss()([[fake]], [[real]])
    loss.backward()
    assert loss.item() == pytest.approx(0.5) and real.grad is None and fake.grad is not None


def test_snr_and_envelope_are_those_of_the_bundled_checkpoint():
    script = Path(__file__).parents[2] / "recipes" / "apollo_small" / "train.py"
    spec = importlib.util.spec_from_file_location("apollo_small_train", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    est, ref = tone(6000, 1)[None] + 0.05 * torch.randn(1, 1, 6000), tone(6000, 1)[None]
    expected = module.loss_function(est[0], ref[0], 1.5)
    total, parts = GeneratorLoss(0, 0, 0, snr=1.5, envelope=1)(est, ref)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-6)
    assert set(parts) == {"snr", "envelope"}


def test_snr_is_a_tenth_of_decibels():
    ref = torch.randn(1, 1, 44100)
    noise = torch.randn(1, 1, 44100)
    noise -= (noise * ref).sum() / ref.square().sum() * ref
    est = ref + 0.1 * noise
    assert abs(-10 * SNRLoss()(est, ref).item() - si_sdr(est[0], ref[0])) < 0.05
    silence = torch.zeros(1, 1, 100)
    assert SNRLoss()(silence, silence) == 0


@pytest.mark.parametrize("loss", [ReconstructionLoss(per_item=True), EnvelopeLoss(per_item=True)])
def test_a_batch_is_the_mean_of_its_items(loss):
    est, ref = torch.stack((tone(4000), 0.01 * tone(4001)[:, 1:])), torch.randn(2, 2, 4000)
    ref[1] *= 0.02
    whole = loss(est, ref)
    torch.testing.assert_close(whole, (loss(est[:1], ref[:1]) + loss(est[1:], ref[1:])) / 2)
    loss.per_item = False
    assert abs(loss(est, ref) - whole) > 1e-3


def test_mel_is_the_mean_error_of_log_powers():
    est, ref = 0.3 * torch.randn(2, 1, 8000), torch.randn(2, 1, 8000)
    mel = torchaudio.transforms.MelSpectrogram(44100, 2048, hop_length=512, n_mels=64)
    expected = (mel(est).log() - mel(ref).log()).abs().mean()
    torch.testing.assert_close(MelLoss()(est, ref), expected, rtol=1e-4, atol=1e-4)
    # Masked: 60 dB below a tone in the same frames.
    loud = 10 * tone(8000)[:1, None]
    assert MelLoss()(loud + 1e-4 * ref[:1], loud) < 1e-3


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
    total, _ = GeneratorLoss(1, 0, 0, snr=1, envelope=1, mel=1, log_spectral=1)(est, ref)
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(est.grad).all()


def test_weights_that_make_no_loss():
    with pytest.raises(ValueError, match="loss weight snr is -1"):
        GeneratorLoss(snr=-1)
    with pytest.raises(ValueError, match="loss weight envelope is nan"):
        GeneratorLoss(envelope=float("nan"))
    with pytest.raises(ValueError, match="has to exceed 0"):
        GeneratorLoss(reconstruction=0)

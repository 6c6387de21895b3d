"""SR-GAN's critic and losses against counts, closed forms and finite differences."""

import math

import numpy as np
import pytest
import torch
from helpers import TINY_SRGAN, tiny_srgan, tone

from apollo_plugin.losses import (
    Draws,
    GradientPenalty,
    ProfileLoss,
    SRGANCritic,
    SRGANLoss,
    WassersteinLoss,
    compressed_spectrum,
)

SIZES = {key: value for key, value in TINY_SRGAN.items() if key not in ("hop", "noise_dim")}


def tiny_critic(**options):
    torch.manual_seed(0)
    return SRGANCritic(**SIZES, **options)


def count(critic):
    return sum(p.numel() for p in critic.parameters())


def test_parameters_by_the_layer_table():
    def conv(n_in, n_out):
        return 9 * n_in * n_out + n_out

    encoder = conv(4, 18) + conv(18, 38) + conv(38, 38) + 38 * 1024 * 4096 + 4096
    middle = 128 * 256 + 256 + 2 * conv(256, 256) + 8 * conv(128, 256)
    with torch.device("meta"):
        critic, unconditional = SRGANCritic(), SRGANCritic(conditional=False)
    assert count(critic) == encoder + middle + conv(128, 256) + 32 * 256 + 1 + 8 == 163_285_439
    # The open implementation has a PReLU more, on the score.
    assert count(unconditional) == 163_285_116 - 1
    assert count(tiny_critic()) == 58_341
    assert [conv.dilation for conv in critic.middle] == 2 * [1, 2, 4, 8, 16]


def spectra(*wavs):
    return [compressed_spectrum(wav, 256, 64) for wav in wavs]


def test_scores_are_of_frames_and_channels():
    wav = tone(6400).expand(3, 2, -1)
    wav, coded = spectra(wav, wav.flip(-1))
    critic = tiny_critic()
    scores = critic(wav, coded)
    assert scores.shape == (6, 101)
    torch.testing.assert_close(scores[:2], scores[2:4])
    assert not torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores, critic(wav, wav))
    alone = tiny_critic(conditional=False)
    assert torch.equal(alone(wav, coded), alone(wav, wav))


# --------------------------------------------------------------------------------------- penalty


def test_the_slope_of_a_plane_is_its_normal():
    """The slope of a linear critic is its weights, wherever it is taken."""
    weights = torch.tensor([3.0, 4.0])
    est, ref, share = torch.randn(5, 2), torch.randn(5, 2), torch.rand(5)
    for scale in (0.0, 0.1, 1.0):
        penalty = GradientPenalty()(lambda x, s=scale: s * (x * weights), est, ref, share)
        # The mean of two scores halves it.
        assert penalty.item() == pytest.approx((scale * 5 / 2 - 1) ** 2, rel=1e-5)


def test_where_the_slope_is_taken():
    """The slope of half a square is the place."""
    est, ref = torch.zeros(3, 1), torch.tensor([[2.0], [3.0], [4.0]])
    share = torch.tensor([0.0, 0.5, 1.0])
    penalty = GradientPenalty()(lambda x: x.square() / 2, est, ref, share)
    assert penalty.item() == pytest.approx(((0 - 1) ** 2 + (1.5 - 1) ** 2 + (4 - 1) ** 2) / 3)


def test_penalty_against_finite_differences():
    critic = tiny_critic().double()
    est, ref, coded = torch.randn(3, 1, 2, 128, 2, dtype=torch.float64)
    share = torch.tensor([0.3], dtype=torch.float64)

    def scores(x):
        return critic(x, coded.expand(len(x), -1, -1, -1))

    with torch.no_grad():
        place, step = est + 0.3 * (ref - est), 1e-6
        steps = step * torch.eye(place.numel(), dtype=torch.float64).view(-1, *place.shape[1:])
        rises = [scores(place + s * steps).mean(1) for s in (1, -1)]
        slope = (rises[0] - rises[1]) / (2 * step)
    penalty = GradientPenalty()(scores, est, ref, share)
    assert penalty.item() == pytest.approx((slope.norm().item() - 1) ** 2, rel=1e-5)

    # And its own slope, along a random direction of all weights: products, convolutions, gates.
    penalty.backward()
    directions = [torch.randn_like(p) for p in critic.parameters()]
    # What only shifts the score has no part in its slope.
    along = sum(
        (p.grad * d).sum() for p, d in zip(critic.parameters(), directions) if p.grad is not None
    )
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(critic.parameters(), directions):
                p += sign * step * d
        values.append(GradientPenalty()(scores, est, ref, share).item())
        with torch.no_grad():
            for p, d in zip(critic.parameters(), directions):
                p -= sign * step * d
    assert along.item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3)


# ---------------------------------------------------------------------------------------- losses


def test_wasserstein():
    fake, real, loss = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 8.0]]), WassersteinLoss()
    assert loss.critic_loss(fake, real) == -4.5 and loss.generator_loss(fake) == -1.5


def test_compressed_spectrum():
    wav = torch.randn(3, 2, 4000)
    padded = np.pad(wav.double().numpy(), ((0, 0), (0, 0), (128, 128)), mode="reflect")
    frames = np.stack([padded[..., i : i + 256] for i in range(0, 4001, 64)], -2)
    spec = np.fft.rfft(frames * np.hanning(257)[:-1])[..., :-1]
    parts = np.stack((spec.real, spec.imag), 2)
    expected = parts.reshape(6, 2, 63, 128).swapaxes(2, 3)  # of (batch, channels, 2, frames, bins)
    (got,) = spectra(wav)
    np.testing.assert_allclose(got * got.abs(), expected, atol=1e-4)


def test_the_generator_is_judged_by_what_it_says():
    """Its own compressed spectrum is that of its signal, where that has one: overlapping frames
    agree. With a residual path and an output of zeros they do."""
    model = tiny_srgan(residual=True)
    torch.nn.init.zeros_(model.decoder[-1].conv.weight)
    torch.nn.init.zeros_(model.decoder[-1].conv.bias)
    wav = tone(4000).unsqueeze(0)
    torch.testing.assert_close(model.spectrum(wav), spectra(wav)[0], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        z = model.noise(2)
        assert model.spectrum(wav.expand(2, -1, -1), z).shape == (4, 2, 128, 63)


def test_profile():
    one, other = spectra(*torch.randn(2, 1, 1, 4000))
    z, other_z = torch.zeros(1, 4), torch.tensor([[3.0, 0.0, 4.0, 0.0]])
    # Squared parts of the spectrum, with their signs.
    magnitudes = [(x * x.abs()).square().sum(1).sqrt()[0] for x in (one, other)]
    roots = [x.sqrt() for x in magnitudes]
    profiles = [(roots[0].mean(axis) - roots[1].mean(axis)).abs() for axis in (0, 1)]
    expected = sum(5 / (d**p).sum() ** (1 / p) for d, p in zip(profiles, (1.3, 1.6)))
    loss = ProfileLoss()
    value = loss(one, other, z, other_z).item()
    assert value == pytest.approx(expected.item(), rel=1e-2)
    assert loss(one, other, z, 2 * other_z).item() == pytest.approx(2 * value)
    # Two channels of one item have its noise.
    two = loss(one.repeat(2, 1, 1, 1), other.repeat(2, 1, 1, 1), z, other_z).item()
    assert two == pytest.approx(value)


def test_profile_of_one_answer_is_high_and_finite():
    (parts,) = spectra(torch.randn(1, 1, 4000))
    parts[..., :30] = 0
    parts.requires_grad_()
    z, loss = torch.randn(2, 1, 4), ProfileLoss()
    value = loss(parts, parts.detach().clone(), *z)
    value.backward()
    assert torch.isfinite(parts.grad).all()
    assert value > 10 * loss(parts, *spectra(torch.randn(1, 1, 4000)), *z)


def test_sums_and_parts():
    est, ref, coded, other = spectra(*torch.randn(4, 1, 1, 4000))
    critic, share, z = tiny_critic(), torch.rand(1), torch.randn(2, 1, 4)
    loss = SRGANLoss(1.0, 7.0, 2.0, 0.0, 3.0)
    total, parts = loss(est, ref, critic(est, coded), Draws(other, *z))
    assert set(parts) == {"reconstruction", "adversarial", "profile"}
    assert parts["reconstruction"].item() == pytest.approx((est - ref).abs().mean().item())
    assert total.item() == pytest.approx(
        2 * parts["reconstruction"].item()
        + parts["adversarial"].item()
        + 3 * parts["profile"].item(),
        rel=1e-5,
    )
    total, parts = loss.critic_loss(critic, est, ref, coded, share)
    assert total.item() == pytest.approx(
        7 * parts["gradient_penalty"].item() - parts["distance"].item(), rel=1e-4
    )
    plain, parts = SRGANLoss(1.0, 0.0).critic_loss(critic, est, ref, coded, share)
    assert set(parts) == {"distance"} and plain == -parts["distance"]


def test_magnitudes_know_no_phase():
    """A turned spectrum has the same; for parts of 3 and 4 it is 5."""
    ref = torch.randn(1, 2, 5, 6)
    turned = torch.stack((-ref[:, 1], ref[:, 0]), 1)
    loss = SRGANLoss(0.0, magnitude=1.0)
    assert loss(turned, ref)[0].item() == pytest.approx(0, abs=1e-6)
    one = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    assert loss(one, 0 * one)[0].item() == pytest.approx(5, abs=2e-3)


def test_the_critic_learns_to_tell_them_apart():
    torch.manual_seed(0)
    critic, loss = tiny_critic(), SRGANLoss()
    optimizer = torch.optim.Adam(critic.parameters(), 1e-3)
    wav = tone(3000).unsqueeze(0)
    est, ref = spectra(wav + 0.05 * torch.randn_like(wav), wav)
    distances = []
    for _ in range(15):
        optimizer.zero_grad()
        total, parts = loss.critic_loss(critic, est, ref, ref, torch.rand(2))
        total.backward()
        optimizer.step()
        distances.append(parts["distance"].item())
    assert distances[-1] > distances[0] + 0.1


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "name", ["adversarial", "gradient_penalty", "reconstruction", "magnitude", "profile"]
)
@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_weights_that_make_no_sense(name, weight):
    with pytest.raises(ValueError, match=f"loss weight {name} is {weight}; it has to be 0 or more"):
        SRGANLoss(**{name: weight})


def test_nothing_to_learn_from():
    with pytest.raises(ValueError, match="adversarial, reconstruction and magnitude has to"):
        SRGANLoss(adversarial=0.0, profile=1.0)
    with pytest.raises(
        ValueError,
        match=r"without a critic .*in warmup_steps.* one of the weights reconstruction and mag",
    ):
        SRGANLoss()(*torch.randn(2, 1, 2, 128, 3))


def test_too_short_a_signal():
    with pytest.raises(ValueError, match="100 samples are too few for an STFT window of 256"):
        SRGANLoss(window=256, hop=64).spectrum(torch.zeros(1, 1, 100))


def test_silence_is_finite():
    (nothing,), critic = spectra(torch.zeros(1, 1, 3000)), tiny_critic()
    total, _ = SRGANLoss().critic_loss(critic, nothing, nothing, nothing, torch.rand(1))
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in critic.parameters() if p.grad is not None)

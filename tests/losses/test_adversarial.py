"""The published numbers, unit energy, one power iteration a judgement, bad input."""

import pytest
import torch
from helpers import tone
from torch import nn

from apollo_plugin import MultiResolutionSTFTDiscriminator
from apollo_plugin.losses import (
    WINDOWS,
    AdversarialLoss,
    FeatureMatchingLoss,
    Signal,
    STFTDiscriminator,
)


def test_published_numbers(numbers, published_judge):
    with torch.no_grad():
        judgements = published_judge.judge(numbers["est"], numbers["ref"])
    for name, judgement in zip(("est", "ref"), judgements):
        for index, window in enumerate((32, 128)):
            expected = numbers[f"score_{name}_{window}"]
            torch.testing.assert_close(judgement.scores[index], expected, rtol=0, atol=1e-6)
    for index, window in enumerate((32, 128)):
        for layer in range(6):
            feature = judgements[0].features[index][layer][:, :, :2, :2]
            expected = numbers[f"feature_est_{window}_{layer}"]
            torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-6)


def test_table_one():
    """Channels, strides and padding of Table I with F = 8, seven windows."""
    judge = MultiResolutionSTFTDiscriminator()
    assert judge.windows == (32, 64, 128, 256, 512, 1024, 2048)
    convs = [*judge.discriminators[0].convs, judge.discriminators[0].score]
    assert [conv.out_channels for conv in convs] == [8, 16, 32, 64, 128, 256, 1]
    assert [conv.stride[0] for conv in convs] == [1, 2, 1, 2, 1, 2, 1]
    assert {conv.kernel_size for conv in convs} == {(3, 3)} and convs[0].in_channels == 4
    judgement = judge(tone(4410)[None])
    assert len(judgement.scores) == 7 and [len(maps) for maps in judgement.features] == [6] * 7
    for window, score in zip(WINDOWS, judgement.scores):
        bins, frames = window // 2 + 1, 4410 // (window // 2) + 1
        for _ in range(3):
            bins, frames = (bins + 1) // 2, (frames + 1) // 2
        assert score.shape == (1, 1, bins, frames)


def test_level_does_not_matter_and_silence_is_judged():
    judge = MultiResolutionSTFTDiscriminator(windows=(64,)).eval()
    wav = tone(3000)[None]
    torch.testing.assert_close(judge(wav).scores, judge(1e-3 * wav).scores)
    silence = torch.zeros(1, 2, 3000, requires_grad=True)
    score = judge(silence).scores[0]
    score.sum().backward()
    assert torch.isfinite(score).all() and torch.isfinite(silence.grad).all()


def test_the_spectral_norm_is_one():
    torch.manual_seed(0)
    judge = STFTDiscriminator().train()
    maps = torch.randn(1, 4, 9, 9)
    for _ in range(50):
        judge(maps)
    for conv in judge.eval().convs:
        norm = torch.linalg.matrix_norm(conv.weight.flatten(1), 2)
        assert abs(norm - 1) < 0.02


def test_one_power_iteration_for_all_signals_judged_together():
    judge = MultiResolutionSTFTDiscriminator(windows=(64,)).train()
    twin = MultiResolutionSTFTDiscriminator(windows=(64,)).train()
    twin.load_state_dict(judge.state_dict())
    wavs = tone(3000)[None], tone(3001)[None, :, 1:]
    together = judge.judge(*wavs)
    batch = twin(torch.cat(wavs))
    scores = torch.cat([judgement.scores[0] for judgement in together])
    torch.testing.assert_close(scores, batch.scores[0])
    for key, value in judge.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key


def test_spectra_are_computed_once(monkeypatch):
    calls = []
    stft = torch.stft
    monkeypatch.setattr(torch, "stft", lambda *args, **kw: calls.append(1) or stft(*args, **kw))
    judge, signal = MultiResolutionSTFTDiscriminator(windows=(64, 128)), Signal(tone(3000)[None])
    judge.judge(signal, signal.detach())
    judge(signal)
    assert len(calls) == 4  # those of the constant copy, taken before there were any, count
    judge(signal.detach())
    assert len(calls) == 4


def test_no_gradient_for_frozen_weights():
    judge = MultiResolutionSTFTDiscriminator(windows=(64,)).requires_grad_(False)
    wav = tone(3000)[None].requires_grad_()
    constant, judged = judge.judge(wav.detach(), wav)
    assert not constant.scores[0].requires_grad
    judged.scores[0].mean().backward()
    assert wav.grad.abs().sum() > 0
    assert all(p.grad is None for p in judge.parameters())


def test_channels_and_windows_are_options():
    judge = MultiResolutionSTFTDiscriminator(windows=(50,), n_channels=1, channels=2)
    assert judge(tone(500, 1)[None]).features[0][-1].shape[1] == 64
    assert isinstance(judge.discriminators[0].convs[0], nn.Conv2d)


def test_signals_that_do_not_fit():
    judge = MultiResolutionSTFTDiscriminator()
    for n_channels in (1, 3):
        with pytest.raises(
            ValueError, match=f"{n_channels} channels do not fit a discriminator of 2"
        ):
            judge(torch.randn(1, n_channels, 5000))
    with pytest.raises(ValueError, match="1024 samples are too few for an STFT window of 2048"):
        judge(torch.randn(1, 2, 1024))


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

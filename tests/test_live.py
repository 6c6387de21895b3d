"""A live signal of any rate is the whole one, block by block."""

import numpy as np
import pytest
import soxr
import torch
from helpers import small_model, snr, tone

from apollo_plugin.live import LiveRestorer
from apollo_plugin.restore import restore_audio


@pytest.fixture(scope="module")
def model():
    return small_model(causal=True, residual=True)


@torch.no_grad()
def whole(model, wav, rate):
    """The change at the model's rate, added at the signal's, by soxr on all of it; full scale is
    0.5 to the model."""
    if rate == 44100:
        return 2 * model(wav / 2)
    source = torch.from_numpy(soxr.resample(wav.T.numpy(), rate, 44100)).T.contiguous()
    change = soxr.resample((2 * model(source / 2) - source).T.numpy(), 44100, rate)[: wav.shape[1]]
    return wav + torch.from_numpy(np.pad(change, ((0, wav.shape[1] - len(change)), (0, 0)))).T


@pytest.mark.parametrize("rate", [44100, 48000, 22050, 96000])
@pytest.mark.parametrize("n_block", [441, 3000])
def test_it_is_the_whole(model, rate, n_block):
    wav = tone(rate // 2 + 7, 2, rate)
    wav = wav / wav.abs().max()
    live = LiveRestorer(model, rate, 2)
    n_in, parts = 0, []
    for block in np.array_split(wav.numpy(), range(n_block, wav.shape[1], n_block), 1):
        n_in += block.shape[1]
        parts.append(live.feed(block))
        n_out = sum(part.shape[1] for part in parts)
        assert n_in - live.latency <= n_out <= n_in
    out = torch.from_numpy(np.concatenate([*parts, live.flush()], 1))
    assert out.shape == wav.shape
    expected = whole(model, wav, rate)
    assert snr(out, expected) > 90 and snr(wav, expected) < 30
    # Whose filters are longer: other near the highest frequencies.
    assert snr(out, restore_audio(model, wav, rate)) > 35


def test_levels_are_left_alone_where_that_is_wanted(model):
    wav = tone(6000, 1)
    for live in (
        LiveRestorer(model, 44100, 1, keep_level=True),
        LiveRestorer(small_model(causal=True, residual=True, input_peak=None), 44100),
    ):
        out = np.concatenate((live.feed(wav.numpy()), live.flush()), 1)
        with torch.no_grad():
            assert snr(out, model(wav)) > 90


def test_latency_is_the_models_and_the_resamplers(model):
    assert LiveRestorer(model, 44100).latency == 882
    # Two filters of soxr's.
    assert 0.03 < LiveRestorer(model, 48000).latency / 48000 < 0.1


@pytest.mark.parametrize("rate", [8000, 48000, 96000])
def test_latency_is_enough_and_hardly_more(rate):
    live = LiveRestorer(small_model(n_layers=1, causal=True, residual=True), rate)
    n_late, block = [0], np.zeros((1, rate // 1000), np.float32)
    for _ in range(2000):
        n_late.append(n_late[-1] + block.shape[1] - live.feed(block).shape[1])
    assert 0.93 * live.latency <= max(n_late) <= live.latency


@pytest.mark.parametrize("rate", [44100, 48000])
@pytest.mark.parametrize("n_samples", [0, 1, 50])
def test_next_to_nothing(model, rate, n_samples):
    live, wav = LiveRestorer(model, rate, 1), tone(50, 1)[:, :n_samples].numpy()
    out = np.concatenate((live.feed(wav), live.flush()), 1)
    assert out.shape == wav.shape and np.isfinite(out).all()


@pytest.mark.parametrize("rate", [44100, 48000])
def test_after_its_end_another_signal_begins(model, rate):
    live, wavs = LiveRestorer(model, rate, 2), [tone(n).numpy() for n in (9000, 5000)]
    wavs[1] = wavs[1][:, ::-1]
    for wav in wavs:
        alone = LiveRestorer(model, rate, 2)
        expected, out = (
            np.concatenate((each.feed(wav), each.flush()), 1) for each in (alone, live)
        )
        assert out.shape == wav.shape and np.array_equal(out, expected)


@pytest.mark.parametrize("rate", [44100, 48000])
def test_bad_input(model, rate):
    with pytest.raises(ValueError, match="1 or more"):
        LiveRestorer(model, 44100, 0)
    for block in (np.zeros((1, 10), np.float32), np.zeros(10, np.float32)):
        live = LiveRestorer(model, rate, 2)
        with pytest.raises(ValueError, match="2 channel"):
            live.feed(block)

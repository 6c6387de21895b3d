"""Streams equal whole files; delay and causality are what they are said to be."""

import random

import pytest
import torch
from helpers import small_model, snr, tone

from apollo_plugin import Apollo, ApolloStreamer


def run(streamer, blocks):
    return torch.cat([*(streamer.feed(block) for block in blocks), streamer.flush()], -1)


@pytest.fixture(params=["look-ahead", "causal", "residual", "odd window"], scope="module")
def model(request):
    options = dict(
        causal=dict(causal=True),
        residual=dict(residual=True, band_gain=True),
    )
    options["odd window"] = dict(sample_rate=22050, bands=30)
    return small_model(**options.get(request.param, {}))


@pytest.mark.parametrize("size", [64, 441, 500, 882, 4096, 100000])
def test_stream_equals_whole(model, size):
    wav = tone(12345)
    with torch.no_grad():
        whole = model(wav)
    out = run(model.streamer(2), wav.split(size, -1))
    assert out.shape == wav.shape
    assert snr(out, whole) >= 90


def test_single_samples(model):
    wav = tone(2000, 1)
    with torch.no_grad():
        whole = model(wav)
    assert snr(run(model.streamer(1), wav.split(1, -1)), whole) >= 90


def test_random_blocks_and_reuse(model):
    chance = random.Random(5)
    streamer = model.streamer(2)
    for n_samples in (9000, 1, 440, 883, 7001):
        wav, start, blocks = tone(n_samples), 0, []
        while start < n_samples:
            size = chance.choice([0, 1, 3, 440, 441, 442, 2000])
            blocks.append(wav[:, start : start + size])
            start += size
        with torch.no_grad():
            whole = model(wav)
        out = run(streamer, blocks)
        assert out.shape == wav.shape
        assert snr(out, whole) >= 90


def test_published_weights_stream(published, golden):
    out = run(published.streamer(2), golden["input"][0].split(1000, -1))
    assert snr(out, golden["output"][0]) >= 90


def test_a_vector_is_one_channel(model):
    wav = tone(3000, 1)[0]
    out = run(ApolloStreamer(model), wav.split(700))
    with torch.no_grad():
        assert snr(out, model(wav)) >= 90


def test_latency_of_the_papers_sizes():
    with torch.device("meta"):
        assert Apollo().latency == 54 * 441 + 882
        assert Apollo(causal=True).latency == 882


def test_latency_is_kept_at_every_sample(model):
    streamer = model.streamer(1)
    n_in = n_out = 0
    worst = 0
    for block in tone(model.latency + 3000, 1).split(7, -1):
        n_in += block.shape[-1]
        n_out += streamer.feed(block).shape[-1]
        worst = max(worst, n_in - n_out)
    assert worst <= model.latency
    # and it is no more than it has to be: within a block of what is stated
    assert worst >= model.latency - 8


def test_causal_output_never_looks_ahead():
    model = small_model(causal=True)
    wav = tone(8000, 1)
    changed = wav.clone()
    changed[:, 5000:] = torch.randn(3000)
    with torch.no_grad():
        first, second = model(wav), model(changed)
    window = model.filterbank.kernel_size
    assert torch.equal(first[:, : 5000 - window], second[:, : 5000 - window])
    assert not torch.equal(first[:, 5000:], second[:, 5000:])


def test_look_ahead_is_what_latency_says():
    model = small_model()
    wav = tone(30000, 1)
    changed = wav.clone()
    changed[:, 20000:] = 0.3 * torch.randn(10000)
    with torch.no_grad():
        first, second = model(wav), model(changed)
    reach = 20000 - model.latency
    assert torch.equal(first[:, :reach], second[:, :reach])
    assert not torch.equal(first[:, reach : 20000 - 441], second[:, reach : 20000 - 441])


def test_streams_do_not_disturb_each_other(model):
    one, two = tone(5000, 1), tone(5001, 1)
    first, second = model.streamer(1), model.streamer(1)
    out = []
    for a, b in zip(one.split(300, -1), two.split(300, -1)):
        out.append(first.feed(a))
        second.feed(b)
    with torch.no_grad():
        assert snr(torch.cat([*out, first.flush()], -1), model(one)) >= 90


def test_reset_forgets(model):
    streamer = model.streamer(1)
    streamer.feed(tone(3000, 1))
    streamer.reset()
    wav = tone(2000, 1)
    with torch.no_grad():
        assert snr(run(streamer, [wav]), model(wav)) >= 90


# ------------------------------------------------------------------------------------- bad input


def test_nothing_fed_gives_nothing(model):
    streamer = model.streamer(2)
    assert streamer.flush().shape == (2, 0)
    assert streamer.feed(torch.zeros(2, 0)).shape == (2, 0)
    assert streamer.flush().shape == (2, 0)


def test_silence(model):
    assert not run(model.streamer(2), torch.zeros(2, 4000).split(100, -1)).any()


@pytest.mark.parametrize("shape", [(3, 100), (1, 2, 100), (1, 100), ()])
def test_wrong_channels_are_refused(model, shape):
    streamer = model.streamer(2)
    with pytest.raises(ValueError, match="2 channel"):
        streamer.feed(torch.zeros(shape))


def test_integers_are_refused(model):
    with pytest.raises(TypeError, match="floating point"):
        model.streamer(1).feed(torch.zeros(1, 10, dtype=torch.int16))


def test_no_channels_are_refused(model):
    with pytest.raises(ValueError, match="n_channels"):
        model.streamer(0)

"""The bundled checkpoint on songs it never heard (seeds beyond those of its training)."""

import pytest
import torch
from conftest import tone

from apollo_plugin import Apollo
from apollo_plugin.data.codecs import mp3
from apollo_plugin.data.demo import mixture
from apollo_plugin.metrics import lsd, si_sdr


@pytest.fixture(scope="module")
def model():
    return Apollo.from_pretrained("apollo-small")


@pytest.mark.parametrize("kbps", [24, 32, 48, 64, 96])
def test_it_beats_the_mp3(model, kbps):
    original = torch.from_numpy(mixture(5.0, seed=1000 + kbps))
    coded = mp3(original, kbps=kbps)
    restored = model.restore(coded)
    assert lsd(restored, original) < 0.7 * lsd(coded, original)
    assert si_sdr(restored, original) > si_sdr(coded, original) - 0.3


def test_level_does_not_matter_much(model):
    original = torch.from_numpy(mixture(4.0, seed=1001))
    coded = mp3(original, kbps=48)
    for gain in (0.1, 1.0):
        restored = model.restore(gain * coded) / gain
        assert lsd(restored, original) < 0.8 * lsd(coded, original)


def test_silence_and_short_input(model):
    with torch.no_grad():
        assert not model(torch.zeros(2, 10000)).any()
        assert torch.isfinite(model(tone(1))).all()

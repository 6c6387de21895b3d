"""Resampling is what the continuous signal says."""

import pytest
import torch
from helpers import snr, tone

from apollo_plugin import audio


@pytest.mark.parametrize(
    "old, new", [(48000, 44100), (8000, 44100), (192000, 44100), (44100, 44099)]
)
def test_resampled_sine_is_the_sine_at_the_other_rate(old, new):
    hertz = 440.0
    wav = torch.sin(2 * torch.pi * hertz * torch.arange(old).double() / old)[None].float()
    got = audio.resample(wav, old, new)
    assert got.shape == (1, new)
    expected = torch.sin(2 * torch.pi * hertz * torch.arange(new).double() / new)[None]
    middle = slice(new // 10, -new // 10)
    assert snr(got[:, middle], expected[:, middle]) > 90


@pytest.mark.parametrize("n_samples", [1, 2, 17, 1000])
def test_resampling_there_and_back_keeps_the_length(n_samples):
    wav = tone(n_samples, 3)
    there = audio.resample(wav, 48000, 44100)
    assert there.shape[1] == -(-n_samples * 44100 // 48000)
    assert audio.resample(there, 44100, 48000, n_samples).shape == wav.shape
    samples = wav.numpy()
    assert audio.resample(samples, 44100, 44100) is samples

"""Restoration of live signals of any rate."""

import math
from typing import Any

import numpy as np
import soxr

from .engine.protocol import Wav, check_block
from .restore import as_engine

# 20 bits, by soxr's documentation; its VHQ doubles the delay.
_QUALITY = "HQ"
# For measuring a resampler's delay: blocks per second, and seconds.
_PROBE_HZ, _PROBE_SECONDS = 1000, 1


class LiveRestorer:
    """An engine's stream with resampling and level: the samples equal those of
    :func:`apollo_plugin.restore.restore_audio` on the whole signal, if its peak is 1: the peak of a
    live signal is unknown, so full scale is scaled to the model's ``input_peak``, and back.

    At the model's own rate this is its stream. Otherwise the model's change is computed at its
    rate and added to the signal at the signal's, so that nothing above the model's range is lost.

    Args:
        model: an engine or an :class:`~apollo_plugin.Apollo`, at best a causal one.
        sample_rate: of the signal, in Hz.
        n_channels: of the signal.
        keep_level: give the signal to the model at its own level.

    Attributes:
        latency: delay in samples of the signal: after ``n`` samples in, at least ``n - latency``
            are out.

    Example:
        >>> from apollo_plugin import Apollo
        >>> model = Apollo(feature_dim=8, n_layers=1, n_heads=2, causal=True).eval()
        >>> live = LiveRestorer(model, 48000, 1)
        >>> wav = np.zeros((1, 9000), np.float32)
        >>> parts = [live.feed(wav[:, n : n + 500]) for n in range(0, 9000, 500)] + [live.flush()]
        >>> np.concatenate(parts, 1).shape
        (1, 9000)
    """

    def __init__(self, model: Any, sample_rate: int, n_channels: int = 1, keep_level: bool = False):
        engine = as_engine(model)
        rate, self._n_channels = engine.sample_rate, n_channels
        self._scale = np.float32(1.0 if keep_level else engine.input_peak or 1.0)
        self._stream = engine.stream(n_channels)
        self._same = rate == sample_rate
        self.latency = self._stream.latency
        if not self._same:
            delays = _delay(sample_rate, rate) + _delay(rate, sample_rate)
            self.latency = math.ceil((self.latency / rate + delays) * sample_rate)
            self._rates = sample_rate, rate
            self._begin()

    def _begin(self) -> None:
        self._down = _Resampler(*self._rates, self._n_channels)
        self._up = _Resampler(*self._rates[::-1], self._n_channels)
        # Unchanged samples that are not out yet, and those that the model has not returned.
        self._came = self._at_model = np.zeros((self._n_channels, 0), np.float32)

    def feed(self, block: Wav) -> Wav:
        """See :meth:`.engine.protocol.Stream.feed`."""
        if self._same:
            return self._stream.feed(block * self._scale) / self._scale
        check_block(block, self._n_channels)
        return self._add(block, last=False)

    def flush(self) -> Wav:
        """See :meth:`.engine.protocol.Stream.flush`. What is fed then begins a new signal."""
        if self._same:
            return self._stream.flush() / self._scale
        out = self._add(self._came[:, :0], last=True)
        # The resampler rounds lengths differently, by a sample at most.
        out = np.concatenate((out, self._came), 1)
        self._begin()
        return out

    def _add(self, block: Wav, last: bool) -> Wav:
        source = self._down(block, last)
        self._came = np.concatenate((self._came, block), 1)
        self._at_model = np.concatenate((self._at_model, source), 1)
        restored = self._stream.feed(source * self._scale)
        if last:
            restored = np.concatenate((restored, self._stream.flush()), 1)
        restored = restored / self._scale
        change = restored - self._at_model[:, : restored.shape[-1]]
        self._at_model = self._at_model[:, restored.shape[-1] :]
        change = self._up(change, last)[:, : self._came.shape[-1]]
        out = self._came[:, : change.shape[-1]] + change
        self._came = self._came[:, change.shape[-1] :]
        return out


class _Resampler:
    """soxr's streaming resampler, on ``(channels, time)``."""

    def __init__(self, old_rate: int, new_rate: int, n_channels: int):
        self._stream = soxr.ResampleStream(old_rate, new_rate, n_channels, "float32", _QUALITY)

    def __call__(self, wav: Wav, last: bool = False) -> Wav:
        samples = np.ascontiguousarray(wav.T, np.float32)
        return self._stream.resample_chunk(samples, last).reshape(-1, len(wav)).T


def _delay(old_rate: int, new_rate: int) -> float:
    """Largest delay of a resampler in seconds: it works in blocks of its own."""
    resample = _Resampler(old_rate, new_rate, 1)
    n = max(1, old_rate // _PROBE_HZ)
    n_in = n_out = 0
    delay = 0.0
    while n_in < _PROBE_SECONDS * old_rate:
        n_in += n
        n_out += resample(np.zeros((1, n), np.float32)).shape[1]
        delay = max(delay, n_in / old_rate - n_out / new_rate)
    return delay

"""Loudness and true peak of a signal, block by block (ITU-R BS.1770-5)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import soxr

from .filtering import Filter
from .layouts import weights

# The two sections of K-weighting (annex 1) as analogue prototypes: Hz and Q; dB of the shelf. They
# give the standard's table at 48 kHz, and its response at other rates.
_SHELF_HZ, _SHELF_Q, _SHELF_DB = 1681.974450955533, 0.7071752369554196, 3.999843853973347
_SHELF_BEND = 0.4996667741545416
_PASS_HZ, _PASS_Q = 38.13547087602444, 0.5003270373238773
_OFFSET = -0.691
# Absolute gate in LUFS, and relative gate in LU.
_ABSOLUTE_GATE, _RELATIVE_GATE = -70.0, -10.0
# A gating block is 0.4 s long, the next begins 0.1 s later.
_STEPS_A_SECOND, _STEPS_A_BLOCK = 10, 4
# Lowest sample rate with room for the shelf below the Nyquist frequency.
_MIN_RATE = 4000
# From this rate on no oversampling is needed for true peaks (annex 2).
_PEAK_RATE = 192_000
# Seconds in which the weighting's impulse response decays below 1e-9.
_RESPONSE_SECONDS = 0.1
# Samples collected before filtering: short transforms are inefficient.
_GATHERED = 1 << 16


@dataclass(frozen=True)
class Level:
    """Measured level of a signal.

    Args:
        true_peak: largest absolute value, between samples too; full scale is 1.0.
        powers: K-weighted power of each gating block, float32 ``(blocks,)``; none of signals
            shorter than 0.4 s.
    """

    true_peak: float
    powers: np.ndarray

    @property
    def loudness(self) -> float | None:
        """Gated loudness in LUFS; None for silence."""
        return album_loudness([self])


def album_loudness(levels: Iterable[Level]) -> float | None:
    """Gated loudness in LUFS of an album of one or more signals; None for silence."""
    powers = np.concatenate([np.empty(0, np.float32), *(each.powers for each in levels)])
    powers = powers[powers > _power(_ABSOLUTE_GATE)].astype(np.float64)
    if not len(powers):
        return None
    powers = powers[powers > powers.mean() * 10 ** (_RELATIVE_GATE / 10)]
    return _OFFSET + 10 * math.log10(powers.mean())


def _power(lufs: float) -> float:
    return 10 ** ((lufs - _OFFSET) / 10)


class Meter:
    """Loudness meter of a signal in blocks of any length; stores one number for each 0.1 s.

    Args:
        sample_rate: in Hz.
        n_channels: number of channels.
        layout: of the channels, as in :mod:`.layouts`; the usual one unless given.

    Example:
        >>> meter = Meter(48000, 1)
        >>> meter.add(np.sin(2 * np.pi * 997 / 48000 * np.arange(48000))[:, None])
        >>> round(meter.level().loudness, 2)
        -3.01
    """

    def __init__(self, sample_rate: int, n_channels: int, layout: str = ""):
        self._weights = np.array(weights(layout, n_channels))
        self._filter: Filter | None = None
        if sample_rate >= _MIN_RATE:
            sections = _k_weighting(sample_rate)
            self._filter = Filter(_response(sections, sample_rate), n_channels)
        self._parts: list[np.ndarray] = []
        self._n_step = round(sample_rate / _STEPS_A_SECOND)
        self._rest, self._steps = np.empty((0, n_channels)), [np.empty(0)]
        self._peak = 0.0
        factor = min(4, -(-_PEAK_RATE // sample_rate))
        self._finer = (
            soxr.ResampleStream(sample_rate, factor * sample_rate, n_channels, "float32")
            if factor > 1
            else None
        )

    def add(self, samples: np.ndarray) -> None:
        """Add the next ``(time, channels)`` samples."""
        self._look(samples)
        if self._finer:
            self._look(self._finer.resample_chunk(np.ascontiguousarray(samples, np.float32)))
        if self._filter:
            self._parts.append(samples)
            if sum(map(len, self._parts)) >= _GATHERED:
                self._weigh(self._filter)

    def _weigh(self, k_weighting: Filter) -> None:
        samples, self._parts = np.concatenate(self._parts), []
        weighted = k_weighting(samples.T).T
        weighted = np.concatenate((self._rest, weighted))
        n_steps = len(weighted) // self._n_step
        whole, self._rest = np.split(weighted, [n_steps * self._n_step])
        power = np.square(whole).reshape(n_steps, self._n_step, whole.shape[1]).mean(1)
        self._steps.append(power @ self._weights)

    def level(self) -> Level:
        """Level of all added samples; ends the measurement."""
        if self._finer:
            none = np.empty((0, len(self._weights)), np.float32)
            self._look(self._finer.resample_chunk(none, last=True))
        if self._filter and self._parts:
            self._weigh(self._filter)
        steps = np.concatenate(self._steps)
        n_blocks = max(0, len(steps) - _STEPS_A_BLOCK + 1)
        shifted = [steps[begin : begin + n_blocks] for begin in range(_STEPS_A_BLOCK)]
        return Level(self._peak, np.mean(shifted, 0).astype(np.float32))

    def _look(self, samples: np.ndarray) -> None:
        self._peak = max(self._peak, float(np.abs(samples).max(initial=0.0)))


def _k_weighting(sample_rate: int) -> np.ndarray:
    """Second-order sections of K-weighting, by the bilinear transform."""
    k = math.tan(math.pi * _SHELF_HZ / sample_rate)
    high = 10 ** (_SHELF_DB / 20)
    bend = high**_SHELF_BEND
    shelf = (
        high + bend * k / _SHELF_Q + k * k,
        2 * (k * k - high),
        high - bend * k / _SHELF_Q + k * k,
    )
    below = (1 + k / _SHELF_Q + k * k, 2 * (k * k - 1), 1 - k / _SHELF_Q + k * k)
    k = math.tan(math.pi * _PASS_HZ / sample_rate)
    # The standard does not normalise the numerator of the second section.
    scale = 1 + k / _PASS_Q + k * k
    high_pass = (scale, -2 * scale, scale)
    resonance = (scale, 2 * (k * k - 1), 1 - k / _PASS_Q + k * k)
    sections = np.array([shelf + below, high_pass + resonance])
    return sections / sections[:, 3:4]


def _response(sections: np.ndarray, sample_rate: int) -> np.ndarray:
    """Impulse response of sections, until it has decayed."""
    n_taps = round(_RESPONSE_SECONDS * sample_rate)
    # Sampled finely enough over frequency for the response to decay before it repeats.
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(4 * n_taps))
    response = np.ones(len(z), complex)
    for section in sections:
        response *= np.polyval(section[2::-1], z) / np.polyval(section[:2:-1], z)
    return np.fft.irfft(response, 4 * n_taps)[:n_taps]

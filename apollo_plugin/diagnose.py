"""Detection of a lossy codec's cut-off in a signal.

A codec's low-pass is a cliff: within a few hundred hertz the spectrum falls from music to nothing,
and stays there. Music alone slopes. The method: take the spectrum of the louder frames (within
40 dB of the loudest; at each frequency the level that a tenth of them exceed), and in it the
largest fall from one half kilohertz to the next, by medians, so that single partials do not count
as a cliff.

Results on five stereo excerpts of real music and the 195 CC0 samples that come with Sonic Pi:

* The originals look uncoded, all five. Coded as MP3 at 24 to 128 kbit/s, an edge is found in all
  thirty, up to 96 kbit/s within 0.25 kHz of LAME's -70 dB edges except one (1 kHz too low). The
  same MP3s faded, between silences, mono or in 16 bits differ by 0.2 kHz at most.
* Of the samples, many a fraction of a second long, 187 of 195 look uncoded; the other eight end at
  an edge of their own. Coded at 24 to 96 kbit/s, an edge is found in 187 to 190.
* Not found: an edge below the noise of a 16-bit file that is 30 to 40 dB too quiet, or under
  clipping by 12 dB.
"""

import math
from dataclasses import dataclass

import numpy as np

from .sounds import array
from .spectra import hann

# Lower edges are pitches rather than codecs'; higher ones leave nothing worth restoring.
_LOWEST_HZ = 2500.0
FULL_BAND_HZ = 19000.0
_FULL_BAND = 0.86  # of the Nyquist frequency, if that is lower
# Fall in dB that counts as a cliff; and a smaller one, with the flatness in dB required above it.
_CLIFF = 30.0
_SMALL_CLIFF, _FLAT = 15.0, 6.0
_BAND_HZ, _GAP_HZ = 500.0, 150.0
_LOUD = 1e-4
_QUANTILE = 0.9
_WINDOW_SECONDS = 0.09
# Frames analysed of a long file, spread evenly.
_MAX_FRAMES = 3000
# LAME's low-pass edges (-70 dB) in Hz for stereo, by kbit/s.
MP3_EDGES = {24: 4400, 32: 5700, 48: 7700, 64: 11200, 96: 15200, 128: 16500}


@dataclass(frozen=True)
class Diagnosis:
    """Result of :func:`diagnose`.

    Args:
        cutoff: frequency in Hz above which there is nothing; None without a codec's edge.
        drop: height of the edge in dB.
        sample_rate: of the file, in Hz.
        silent: True if there is no sound to analyse.
        coding: the file's coding, if it is so coarse that something is missing although no edge
            shows it: some codecs fill with noise what they left out.
    """

    cutoff: float | None
    drop: float
    sample_rate: int
    silent: bool = False
    coding: str = ""

    @property
    def uncoded(self) -> bool:
        """True if no codec seems to have removed anything."""
        return self.cutoff is None and not self.coding

    @property
    def like_kbps(self) -> int | None:
        """Bit rate at which LAME cuts stereo off there; None if there is none."""
        near = (kbps for kbps, hz in MP3_EDGES.items() if abs((self.cutoff or 0) - hz) < 0.07 * hz)
        return next(near, None)

    def __str__(self) -> str:
        if self.silent:
            return "silent: nothing to judge by, nothing to restore"
        if self.cutoff is None and self.coding:
            return f"coded ({self.coding}), with no edge: it is filled up to the top"
        if self.cutoff is None:
            limit = min(FULL_BAND_HZ, _FULL_BAND * self.sample_rate / 2)
            return f"looks uncoded: no edge below {limit / 1000:.1f} kHz, nothing to restore above"
        like = f", as MP3 at {self.like_kbps} kbit/s has it in stereo" if self.like_kbps else ""
        return f"cut off at {self.cutoff / 1000:.1f} kHz (by {self.drop:.0f} dB){like}"


def diagnose(wav: np.ndarray, sample_rate: int) -> Diagnosis:
    """Estimate the coding cut-off of a signal.

    Args:
        wav: ``(channels, time)``, full scale 1.0.
        sample_rate: in Hz.

    Example:
        >>> from apollo_plugin.data.codecs import mp3
        >>> noise = 0.1 * np.random.default_rng(0).standard_normal((2, 88200), np.float32)
        >>> print(diagnose(noise, 44100))
        looks uncoded: no edge below 19.0 kHz, nothing to restore above
        >>> round(diagnose(mp3(noise, 44100, 64), 44100).cutoff / 1000)
        11
    """
    level, step = _spectrum(wav, sample_rate)
    if level is None:
        # A single sample is lost at the window's edge.
        return Diagnosis(None, 0.0, sample_rate, silent=not np.any(array(wav)))
    band, gap, first = (math.ceil(hz / step) for hz in (_BAND_HZ, _GAP_HZ, _LOWEST_HZ))
    medians = np.median(np.lib.stride_tricks.sliding_window_view(level, band), axis=-1)
    # medians[i] is the band that begins at i: one ends a gap below the edge, one begins above.
    edges = np.arange(first, len(level) - band - gap)
    if not len(edges):
        return Diagnosis(None, 0.0, sample_rate)
    falls = medians[edges - gap - band] - medians[edges + gap]
    best = int(falls.argmax())
    drop, edge = float(falls[best]), int(edges[best])
    above = medians[edge + gap : int(0.95 * len(medians))]
    flat = len(above) > 0 and np.ptp(above) <= _FLAT
    cutoff = _refine(level, edge, band, gap) * step
    full = cutoff >= min(FULL_BAND_HZ, _FULL_BAND * sample_rate / 2)
    if full or not (drop >= _CLIFF or (drop >= _SMALL_CLIFF and flat)):
        return Diagnosis(None, drop, sample_rate)
    return Diagnosis(cutoff, drop, sample_rate)


def _refine(level: np.ndarray, edge: int, band: int, gap: int) -> int:
    """Last bin in which the spectrum lies above the middle of the fall."""
    start = edge - gap - band
    around = level[start : edge + gap + band]
    middle = (np.median(around[:band]) + np.median(around[-band:])) / 2
    # Smoothed over some bins, so that a single partial or a click does not count.
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(around, 5), axis=-1)
    return start + 2 + int(np.flatnonzero(smooth > middle).max(initial=0))


def _spectrum(wav: np.ndarray, sample_rate: int) -> tuple[np.ndarray | None, float]:
    """Level in dB over frequency, and the width of a bin in Hz; None for silence."""
    n_fft = 1 << round(math.log2(_WINDOW_SECONDS * sample_rate))
    wav = np.pad(array(wav), ((0, 0), (0, max(0, n_fft - wav.shape[-1]))))
    frames = np.lib.stride_tricks.sliding_window_view(wav, n_fft, -1)[:, :: n_fft // 2]
    frames = frames[:, :: -(-frames.shape[1] // _MAX_FRAMES)]
    window = hann(n_fft)
    # Frame by frame: the sum of the channels' powers, independent of their phases.
    power = np.stack(
        [
            np.square(np.abs(np.fft.rfft(frames[:, index] * window))).sum(0)
            for index in range(frames.shape[1])
        ]
    )
    energy = power.sum(-1)
    if energy.max() == 0:
        return None, 0.0
    loud = power[energy > _LOUD * energy.max()]
    level = np.quantile(loud, _QUANTILE, axis=0) / np.square(window).sum()
    return 10 * np.log10(level + 1e-20), sample_rate / n_fft

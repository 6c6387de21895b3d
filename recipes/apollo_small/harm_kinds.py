"""Kinds of files that people have: coded, uncoded, dark, quiet, and rounded to 16 bits."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from apollo_plugin.audio.writing import integers
from apollo_plugin.data import codecs

PEAKS = (1.0, 0.3, 0.1, 0.03)
DARK_HZ, QUIET = 2000.0, 10 ** (-30 / 20)


class Source(NamedTuple):
    """A file to restore.

    Args:
        wav: its samples, ``(channels, time)``.
        original: the signal it was made from.
        gain: factor of the file and of its restoration before they are measured.
        plain: the file at the original's level, before rounding; itself unless given.
    """

    wav: torch.Tensor
    original: torch.Tensor
    gain: float = 1.0
    plain: torch.Tensor | None = None


# Functions of an original and its sample rate.
Kind = Callable[[torch.Tensor, int], Source]
Coding = Callable[[torch.Tensor, int], torch.Tensor]


def coded(original: torch.Tensor, sample_rate: int, coding: Coding) -> Source:
    return Source(coding(original, sample_rate), original)


def quiet(original: torch.Tensor, sample_rate: int, coding: Coding) -> Source:
    """Lower the original by 30 dB."""
    return coded(QUIET * original, sample_rate, coding)


def dark(original: torch.Tensor, sample_rate: int, coding: Coding) -> Source:
    """Attenuate by 18 dB per octave above 2 kHz, without an edge: little is left at 16 kHz."""
    hertz = torch.fft.rfftfreq(original.shape[-1], 1 / sample_rate)
    gain = (1 + (hertz / DARK_HZ) ** 6) ** -0.5
    darker = torch.fft.irfft(torch.fft.rfft(original.double()) * gain, original.shape[-1])
    return coded(darker.float(), sample_rate, coding)


def rounded(original: torch.Tensor, sample_rate: int, peak: float, dithered: bool) -> Source:
    """Make a 16-bit file of a decoded MP3 of 48 kbit/s, measured at the level of the MP3."""
    decoded = codecs.mp3(original, sample_rate, 48)
    gain = peak / max(decoded.abs().max().item(), 1e-6)
    random = np.random.default_rng(0) if dithered else None
    steps = integers((gain * decoded).numpy(), 16, random) / 2.0**31
    return Source(torch.from_numpy(steps).float(), original, 1 / gain, decoded)


def untouched(original: torch.Tensor, sample_rate: int) -> torch.Tensor:
    return original


def lowpass_16k(original: torch.Tensor, sample_rate: int) -> torch.Tensor:
    # kbit/s at which its edge lies at 16 kHz.
    return codecs.lowpass(original, sample_rate, 24 + 104 * 12000 / 14000)


def at(codec: Callable[..., torch.Tensor], kbps: float) -> Coding:
    return lambda original, sample_rate: codec(original, sample_rate, kbps)


CODINGS: dict[str, Coding] = {
    "mp3_48": at(codecs.mp3, 48),
    **{f"mp3_{kbps}": at(codecs.mp3, kbps) for kbps in (96, 128, 160, 192, 256, 320)},
    **{f"mp3_v{quality}": at(codecs.mp3_quality, quality) for quality in (0, 2)},
    **{f"aac_{kbps}": at(codecs.aac, kbps) for kbps in (64, 128, 192)},
    **{f"opus_{kbps}": at(codecs.opus, kbps) for kbps in (48, 96, 128)},
    # Qualities of -q1, -q4 and -q6.
    **{f"vorbis_{kbps}": at(codecs.vorbis, kbps) for kbps in (80, 128, 192)},
    "uncoded": untouched,
    "lowpass_16k": lowpass_16k,
}
_ALSO = ("uncoded", "mp3_128", "mp3_320")
KINDS: dict[str, Kind] = {
    **{name: partial(coded, coding=coding) for name, coding in CODINGS.items()},
    **{f"dark_{name}": partial(dark, coding=CODINGS[name]) for name in _ALSO},
    **{f"quiet_{name}": partial(quiet, coding=CODINGS[name]) for name in _ALSO},
    **{
        f"rounded_{peak:g}{'_dither' * dithered}": partial(rounded, peak=peak, dithered=dithered)
        for peak in PEAKS
        for dithered in (False, True)
    },
}

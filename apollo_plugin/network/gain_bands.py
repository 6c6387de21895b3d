"""Bands of 250 Hz, for each of which gains are expected and set."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from .bands import BandSplit
from .envelope import EnvelopePath, log_gains, sum_bands, widths_of_bins
from .layers import BandLinear

GAIN_BAND_HZ = 250.0
# The source region of the excitation, which every bit rate keeps, is so many bands from such a one
# up: 2.25 to 4.25 kHz. Its targets are all above.
SOURCE_START, SOURCE_BANDS = 9, 8
TARGET_START = SOURCE_START + SOURCE_BANDS
# What music loses on the way up, before anything is learnt: 9 dB an octave.
_SLOPE = 9 / 20 * math.log(10)


class GainBands(nn.Module):
    """The bands of 250 Hz that gains are set for, and how the network's bands share them.

    A band of the network that is wide enough for several is cut into sub-bands of as many bins, the
    last with what remains; where edges do not meet, both ways go by the bins in common.

    Args:
        bands: the network's.
        kernel_size: of the STFT, in samples.
        sample_rate: in Hz.

    Attributes:
        width: bins of a gain band; the last one takes what remains, too.
        widths: bins of each.
        n_sub_bands: sub-bands of each band, for each group of the network's bands.

    Raises:
        ValueError: where the spectrum ends with the source region, and for odd windows.
    """

    to_bins: torch.Tensor
    _up: torch.Tensor
    _down: torch.Tensor

    def __init__(self, bands: BandSplit, kernel_size: int, sample_rate: float):
        super().__init__()
        n_bins = kernel_size // 2 + 1
        self.width = max(1, round(GAIN_BAND_HZ * kernel_size / sample_rate))
        n_gains = n_bins // self.width
        if kernel_size % 2:
            raise ValueError(
                f"a window of {kernel_size} samples at {sample_rate:g} Hz is no two hops; "
                "excitation and envelope path take an even number, see win_ms"
            )
        if n_gains <= TARGET_START:
            raise ValueError(
                f"a sample rate of {sample_rate:g} Hz leaves no room above the source region, "
                f"which ends at {TARGET_START * self.width * sample_rate / kernel_size:g} Hz"
            )
        self.widths = widths_of_bins(n_bins, self.width)
        self.n_sub_bands = [max(1, width // self.width) for width in bands.groups]
        edges = [sum(bands.widths[:band]) for band in range(len(bands.widths))]
        sub_bands = []  # of all groups, one after the other: first bin and number of bins
        for width, members in bands.groups.items():
            for band in members:
                start = edges[band]
                for part in widths_of_bins(width, self.width):
                    sub_bands.append((start, part))
                    start += part
        of_gains = _membership([(k * self.width, w) for k, w in enumerate(self.widths)], n_bins)
        common = _membership(sub_bands, n_bins) @ of_gains.T
        self._counts = [
            len(members) * n for members, n in zip(bands.groups.values(), self.n_sub_bands)
        ]
        self.register_buffer("to_bins", of_gains, persistent=False)
        self.register_buffer("_up", common / common.sum(0), persistent=False)
        self.register_buffer("_down", common.T / common.sum(1), persistent=False)

    def energies(self, spec: torch.Tensor) -> torch.Tensor:
        """``(..., bins, 2)`` -> energy of each gain band, ``(..., gain bands)``."""
        return sum_bands(spec.square().sum(-1), self.widths)

    def log_gains(self, spec: torch.Tensor) -> torch.Tensor:
        """Natural logarithm of each gain band's norm, ``(..., bins, 2) -> (..., gain bands)``."""
        return log_gains(spec, self.widths)

    def to_groups(self, gains: torch.Tensor) -> list[torch.Tensor]:
        """``(..., gain bands)`` -> for each group of bands ``(..., bands, sub-bands)``."""
        parts = (gains @ self._down.to(gains)).split(self._counts, -1)
        return [part.unflatten(-1, (-1, n)) for part, n in zip(parts, self.n_sub_bands)]

    def from_groups(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """For each group ``(..., bands, sub-bands)`` -> ``(..., gain bands)``."""
        joined = torch.cat([part.flatten(-2) for part in parts], -1)
        return joined @ self._up.to(joined)


def _membership(bands: list[tuple[int, int]], n_bins: int) -> torch.Tensor:
    """``(bands, bins)``: 1 where a bin is in a band of first bin and number of bins, else 0."""
    member = torch.zeros(len(bands), n_bins)
    for row, (start, width) in zip(member, bands):
        row[start : start + width] = 1
    return member


def extrapolation(n_gains: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log gains from log gains before anything is learnt, as a linear map.

    Up to the end of the source region a band is what it is; above, it is the mean of the source
    bands, falling by 9 dB an octave.

    Args:
        n_gains: gain bands.

    Returns:
        weight ``(n_gains, n_gains)`` and bias ``(n_gains,)``.
    """
    weight, bias = torch.eye(n_gains), torch.zeros(n_gains)
    weight[TARGET_START:] = 0
    weight[TARGET_START:, SOURCE_START:TARGET_START] = 1 / SOURCE_BANDS
    octaves = torch.log2((torch.arange(n_gains) + 0.5) / (SOURCE_START + SOURCE_BANDS / 2))
    bias[TARGET_START:] = -_SLOPE * octaves[TARGET_START:]
    return weight, bias


def starting_path(gain_bands: GainBands, width: int, kernel: int, causal: bool) -> EnvelopePath:
    """An envelope path that says what :func:`extrapolation` does before it is trained.

    Args:
        gain_bands: of the network.
        width: features of the path.
        kernel: of its convolutions.
        causal: no look-ahead.
    """
    n_bands = sum(gain_bands.widths) // gain_bands.width
    if width < 2 * n_bands:
        raise ValueError(
            f"envelope_dim {width} is less than twice the {n_bands} bands whose levels it expects; "
            f"take {2 * n_bands} or more, or 0 for none"
        )
    path = EnvelopePath(sum(gain_bands.widths), gain_bands.width, width, kernel, causal=causal)
    weight, bias = extrapolation(path.n_bands)
    path.set_linear_map(nn.functional.pad(weight, (0, path.n_in - path.n_bands)), bias)
    return path


class TokenGuide(nn.Module):
    """What is known of gain bands, as features for the tokens' own to be added to. Before training
    it adds nothing.

    Args:
        bands: the network's.
        gain_bands: of the same.
        feature_dim: N of the paper.
        n_known: numbers that are known of each gain band.
    """

    def __init__(self, bands: BandSplit, gain_bands: GainBands, feature_dim: int, n_known: int):
        super().__init__()
        self.gain_bands = gain_bands
        self.maps = nn.ModuleList(
            BandLinear(len(members), n_known * n, feature_dim)
            for members, n in zip(bands.groups.values(), gain_bands.n_sub_bands)
        )
        for layer in self.maps:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, known: Sequence[torch.Tensor]) -> torch.Tensor:
        """Each ``(streams, frames, gain bands)`` -> ``(streams, frames, bands, features)``; bands
        in the order of the groups."""
        groups = zip(*(self.gain_bands.to_groups(part) for part in known))
        return torch.cat([layer(torch.cat(part, -1)) for layer, part in zip(self.maps, groups)], -2)

"""Bands of 250 Hz, for each of which gains are expected and set."""

import math

import torch
from torch import nn

from .bands import BandSplit
from .layers import BandLinear

GAIN_BAND_HZ = 250.0
# The source region of the excitation, which every bit rate keeps, is so many bands from such a one
# up: 2.25 to 4.25 kHz. Its targets are all above.
SOURCE_START, SOURCE_BANDS = 9, 8
TARGET_START = SOURCE_START + SOURCE_BANDS
# Added to energies before the logarithm: rounding to 16 bits leaves 1e-7 in 250 Hz of a frame, and
# full-scale music makes 1e4.
ENERGY_FLOOR = 1e-6
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
        ValueError: where the spectrum ends below the source region's end.
    """

    def __init__(self, bands: BandSplit, kernel_size: int, sample_rate: float):
        super().__init__()
        n_bins = kernel_size // 2 + 1
        self.width = max(1, round(GAIN_BAND_HZ * kernel_size / sample_rate))
        n_gains = n_bins // self.width
        if n_gains <= TARGET_START:
            raise ValueError(
                f"a sample rate of {sample_rate:g} Hz leaves no room above the source region, "
                f"which ends at {TARGET_START * self.width * sample_rate / kernel_size:g} Hz"
            )
        self.widths = _cut(n_bins, self.width)
        self.n_sub_bands = [max(1, width // self.width) for width in bands.groups]
        edges = [sum(bands.widths[:band]) for band in range(len(bands.widths))]
        sub_bands = []  # of all groups, one after the other: first bin and number of bins
        for width, members in bands.groups.items():
            for band in members:
                start = edges[band]
                for part in _cut(width, self.width):
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
        power = spec.square().sum(-1)
        split = (len(self.widths) - 1) * self.width
        equal = power[..., :split].unflatten(-1, (-1, self.width)).sum(-1)
        return torch.cat((equal, power[..., split:].sum(-1, keepdim=True)), -1)

    def log_gains(self, spec: torch.Tensor) -> torch.Tensor:
        """Natural logarithm of each gain band's norm, ``(..., bins, 2) -> (..., gain bands)``."""
        return 0.5 * (self.energies(spec) + ENERGY_FLOOR).log()

    def to_groups(self, gains: torch.Tensor) -> list[torch.Tensor]:
        """``(..., gain bands)`` -> for each group of bands ``(..., bands, sub-bands)``."""
        parts = (gains @ self._down.to(gains)).split(self._counts, -1)
        return [part.unflatten(-1, (-1, n)) for part, n in zip(parts, self.n_sub_bands)]

    def from_groups(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """For each group ``(..., bands, sub-bands)`` -> ``(..., gain bands)``."""
        joined = torch.cat([part.flatten(-2) for part in parts], -1)
        return joined @ self._up.to(joined)


def _cut(n_bins: int, width: int) -> list[int]:
    """Bins of bands of equal width, the last one with what remains."""
    n_bands = max(1, n_bins // width)
    return [width] * (n_bands - 1) + [n_bins - width * (n_bands - 1)]


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


class TokenGuide(nn.Module):
    """What the envelope path predicts, as features for the encoders' own to be added to.

    Of each sub-band it tells the log gain that is expected, and by how much that exceeds the
    input's. Before training it adds nothing.

    Args:
        bands: the network's.
        gain_bands: of the same.
        feature_dim: N of the paper.
    """

    def __init__(self, bands: BandSplit, gain_bands: GainBands, feature_dim: int):
        super().__init__()
        self.gain_bands = gain_bands
        self.maps = nn.ModuleList(
            BandLinear(len(members), 2 * n, feature_dim)
            for members, n in zip(bands.groups.values(), gain_bands.n_sub_bands)
        )
        for layer in self.maps:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, spec: torch.Tensor, log_gain: torch.Tensor) -> list[torch.Tensor]:
        """For each group of bands ``(streams, frames, bands, features)``.

        Args:
            spec: the input's, ``(streams, frames, bins, 2)``.
            log_gain: expected of the original, ``(streams, frames, gain bands)``.
        """
        lacking = log_gain - self.gain_bands.log_gains(spec).to(log_gain)
        expected, lacking = (self.gain_bands.to_groups(part) for part in (log_gain, lacking))
        pairs = zip(self.maps, expected, lacking)
        return [layer(torch.cat(pair, -1)) for layer, *pair in pairs]

"""Bands of 250 Hz, for each of which gains are expected and set."""

import math

import torch
from torch import nn

from .envelope import EnvelopePath, log_gains, sum_bands, widths_of_bins

GAIN_BAND_HZ = 250.0
# The source region of the excitation, which every bit rate keeps, is so many bands from such a one
# up: 2.25 to 4.25 kHz. Its targets are all above.
SOURCE_START, SOURCE_BANDS = 9, 8
TARGET_START = SOURCE_START + SOURCE_BANDS
# What music loses on the way up, before anything is learnt: 9 dB an octave.
_SLOPE = 9 / 20 * math.log(10)


class GainBands(nn.Module):
    """The bands of 250 Hz that gains are expected and set for.

    Args:
        kernel_size: of the STFT, in samples.
        sample_rate: in Hz.

    Attributes:
        width: bins of a gain band; the last one takes what remains, too.
        widths: bins of each.
        to_bins: ``(gain bands, bins)``, 1 where a bin is in a band, else 0.

    Raises:
        ValueError: where the spectrum ends with the source region, and for odd windows.
    """

    to_bins: torch.Tensor

    def __init__(self, kernel_size: int, sample_rate: float):
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
        band = (torch.arange(n_bins) // self.width).clamp(max=n_gains - 1)
        of_gains = (torch.arange(n_gains)[:, None] == band).float()
        self.register_buffer("to_bins", of_gains, persistent=False)

    def energies(self, spec: torch.Tensor) -> torch.Tensor:
        """``(..., bins, 2)`` -> energy of each gain band, ``(..., gain bands)``."""
        return sum_bands(spec.square().sum(-1), self.widths)

    def log_gains(self, spec: torch.Tensor) -> torch.Tensor:
        """Natural logarithm of each gain band's norm, ``(..., bins, 2) -> (..., gain bands)``."""
        return log_gains(spec, self.widths)


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

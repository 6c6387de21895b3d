"""Bands of a spectrum and their gain-shape features, eq. (1) of the paper."""

import math
import re
from collections.abc import Sequence

import torch
from torch import nn

# Keeps the gain of a silent band away from log(0); the published model has the same figure.
_GAIN_EPS = torch.finfo(torch.float32).eps
_HERTZ = re.compile(r"\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*hz\s*", re.I)


# Number of bands of equal width, a width with its unit, or the bins of each band.
Bands = int | str | Sequence[int]


def lay_out_bands(bands: Bands, kernel_size: int, sample_rate: float) -> list[int]:
    """Lay out bands on the bins of an STFT.

    Args:
        bands: a number of bands, of equal width, the last one with what remains (the published
            split, where Nyquist's bin is not counted for the width); or a width such as ``"160
            Hz"``, at whose multiples, rounded to bins, the edges are (section III-B of the paper);
            or a list of the bins of each band.
        kernel_size: window length in samples.
        sample_rate: in Hz.

    Returns:
        bins of each band, from 0 Hz up.

    Raises:
        ValueError: where that is none of these, or does not fit the bins.
    """
    n_bins = kernel_size // 2 + 1
    if type(bands) is int:
        if not 1 <= bands < n_bins:
            raise ValueError(f"bands {bands} must lie between 1 and {n_bins - 1}, the STFT's bins")
        width = (n_bins - 1) // bands
        return [width] * (bands - 1) + [n_bins - width * (bands - 1)]
    if isinstance(bands, str):
        return _widths_of_hz(parse_hertz(bands), kernel_size, sample_rate)
    widths = list(bands) if isinstance(bands, (list, tuple)) else [0]
    if not all(type(width) is int and width > 0 for width in widths):
        raise ValueError(
            f"bands {bands!r} has to be a number of bands, a width such as '160 Hz', or a list of "
            "whole numbers from 1 up, the bins of each band"
        )
    if sum(widths) != n_bins:
        raise ValueError(
            f"bands sum to {sum(widths)}; the bands have to share the STFT's {n_bins} bins"
        )
    return widths


def parse_hertz(text: str) -> float:
    """Read a frequency such as ``160 Hz``."""
    match = _HERTZ.fullmatch(text)
    if match and math.isfinite(hertz := float(match[1])):
        return hertz
    raise ValueError(f"'{text}' is no frequency; it has to be written as '160 Hz' is")


def _widths_of_hz(hertz: float, kernel_size: int, sample_rate: float) -> list[int]:
    n_bins = kernel_size // 2 + 1
    bins_per_band = hertz * kernel_size / sample_rate
    if bins_per_band < 1:
        raise ValueError(
            f"bands of {hertz:g} Hz are narrower than the distance of two bins, "
            f"{sample_rate / kernel_size:g} Hz"
        )
    n_bands = max(1, math.ceil(n_bins / bins_per_band - 0.5))
    edges = [round(band * bins_per_band) for band in range(n_bands)] + [n_bins]
    return [upper - lower for lower, upper in zip(edges, edges[1:])]


class BandSplit(nn.Module):
    """A spectrum's bins as bands of several widths.

    Bands of equal width are a group: they share one batched matrix product. Within a group bands
    keep their order; where groups change the order of all bands, :meth:`to_groups` and
    :meth:`to_frequency_order` go between the two.

    Args:
        widths: bins of each band, from 0 Hz up.
        gain_shape: ``"band"`` for a gain over the bins of a band, as in the published code and in
            Gull; ``"bin"`` for one of each bin, as eq. (2) is printed.

    Attributes:
        widths: the same.
        groups: the bands of each width, ``{width: [band, ...]}``.

    Raises:
        ValueError: for a band without bins, or another ``gain_shape``.
    """

    _bands_grouped: torch.Tensor | None
    _bands_sorted: torch.Tensor | None
    _bins_grouped: torch.Tensor | None
    _bins_sorted: torch.Tensor | None

    def __init__(self, widths: Sequence[int], gain_shape: str = "band"):
        super().__init__()
        if gain_shape not in ("band", "bin"):
            raise ValueError(f"gain_shape '{gain_shape}' has to be 'band' or 'bin'")
        self.gain_shape = gain_shape
        self.widths = list(widths)
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"bands of {self.widths} bins: each takes one bin or more")
        self.groups: dict[int, list[int]] = {}
        for band, width in enumerate(self.widths):
            self.groups.setdefault(width, []).append(band)
        edges = [sum(self.widths[:band]) for band in range(len(self.widths) + 1)]
        bands = [band for members in self.groups.values() for band in members]
        bins = [bin_ for band in bands for bin_ in range(edges[band], edges[band + 1])]
        # None where grouping changes no order (the published layout), so nothing is copied.
        changed = bands != sorted(bands)
        for name, order in (("bands", torch.tensor(bands)), ("bins", torch.tensor(bins))):
            self.register_buffer(f"_{name}_grouped", order if changed else None, persistent=False)
            back = torch.argsort(order) if changed else None
            self.register_buffer(f"_{name}_sorted", back, persistent=False)

    def to_groups(self, x: torch.Tensor) -> torch.Tensor:
        """Bands (axis -2) from the order of frequency to that of the groups."""
        return _ordered(x, self._bands_grouped)

    def to_frequency_order(self, x: torch.Tensor) -> torch.Tensor:
        """Bands (axis -2) from the order of the groups to that of frequency."""
        return _ordered(x, self._bands_sorted)

    def n_features(self, width: int) -> int:
        """Features of a band of so many bins."""
        return 2 * width + 1 if self.gain_shape == "band" else 3 * width

    def split(self, spec: torch.Tensor) -> list[torch.Tensor]:
        """Gain-shape features of each group.

        Args:
            spec: complex spectrum ``(streams, frames, bins)``, or its real view with a last axis
                of 2.

        Returns:
            for each group a real tensor ``(streams, frames, bands, n_features(width))``: real parts
            and imaginary parts over the gain, log gain.
        """
        features = []
        for band in self._grouped(spec):
            axes = (-2, -1) if self.gain_shape == "band" else (-1,)
            gain = (band.square().sum(axes, keepdim=True) + _GAIN_EPS).sqrt()
            shape = (band / gain).transpose(-2, -1).flatten(-2)
            features.append(torch.cat((shape, gain.log().flatten(-2)), -1))
        return features

    def levels(self, spec: torch.Tensor) -> torch.Tensor:
        """Log gains of the bands, ``(streams, frames, bands)``, group by group."""
        powers = [band.square().sum((-2, -1)) for band in self._grouped(spec)]
        return (torch.cat(powers, -1) + _GAIN_EPS).sqrt().log()

    def _grouped(self, spec: torch.Tensor) -> list[torch.Tensor]:
        """For each group ``(streams, frames, bands, bins, 2)``."""
        spec = torch.view_as_real(spec) if spec.is_complex() else spec
        sizes = [width * len(bands) for width, bands in self.groups.items()]
        parts = _ordered(spec, self._bins_grouped).split(sizes, -2)
        return [part.unflatten(-2, (-1, width)) for part, width in zip(parts, self.groups)]

    def merge(self, bands: list[torch.Tensor]) -> torch.Tensor:
        """Inverse of the grouping: ``(streams, frames, bands, 2 * width)`` tensors, real parts
        before imaginary parts, to the real view of a spectrum, ``(streams, frames, bins, 2)``."""
        parts = [band.unflatten(-1, (2, -1)).transpose(-2, -1).flatten(-3, -2) for band in bands]
        return _ordered(torch.cat(parts, -2).contiguous(), self._bins_sorted)


def _ordered(x: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    return x if order is None else x.index_select(-2, order)

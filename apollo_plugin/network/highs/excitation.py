"""Filling of empty high bands: shapes of the mids tiled upward, and noise beside them.

A codec's low-pass leaves nothing above its edge, and a network that has to draw every bin there
draws blurs. So the fine structure is taken from where it is free, the source region that every bit
rate keeps and noise, and what is learnt is how loud and how noisy each 250 Hz of each frame is.
"""

import torch
from torch import nn

from .envelope import EMPTY, ENERGY_FLOOR
from .evidence import Findings
from .gain_bands import (
    SOURCE_BANDS,
    SOURCE_START,
    TARGET_START,
    GainBands,
    extrapolation,
)

# The STFT of full-scale music reaches about exp(5).
_MAX_LOG_GAIN = 6.0
# A band is filled where it lacks more than this (natural logarithm, 15 dB) of what is expected of
# it, and how steeply it begins.
_DEFICIT, _STEEPNESS = 1.7, 4.0
# What tokens put into an empty band is so much quieter than expected (natural logarithm, 2 dB).
_QUIETER = 0.25
# Keeps the norm of nothing away from a division by 0.
_TINY = 1e-12


def tiled(spec: torch.Tensor, width: int) -> torch.Tensor:
    """The whitened source region, repeated up to the last bin.

    A shift by an even number of bins is in phase from frame to frame where the hop is half of the
    window: it is a product with ``exp(2 pi i * shift * time / window)``, whose phase at the frames'
    starts, ``pi * shift * frame``, is a whole number of turns.

    Args:
        spec: ``(streams, frames, bins, 2)``.
        width: bins of a gain band.

    Returns:
        ``(streams, frames, bins above the source region, 2)``; the bands of a tile are of unit norm
        where the source is not silent.
    """
    n_bins, start, stop = spec.shape[-2], SOURCE_START * width, TARGET_START * width
    source = spec[..., start:stop, :].unflatten(-2, (SOURCE_BANDS, width))
    energy = source.square().sum((-2, -1), keepdim=True)
    white = (source * (energy + ENERGY_FLOOR).rsqrt()).flatten(-3, -2)
    n_tiles = -(-(n_bins - stop) // (stop - start))
    return torch.cat([white] * n_tiles, -2)[..., : n_bins - stop, :]


class Excitation(nn.Module):
    """Fills what a codec emptied above the source region.

    The whitened source, each of its bands of unit norm, is tiled upward by multiples of its width.
    White noise is a function of the absolute position in the signal and the same for all streams,
    so that a channel is restored the same whatever is restored beside it, and what lies in the
    middle of a stereo mix stays there. The two are mixed to unit norm in each gain band and frame,
    and scaled by ``exp`` of a log gain where the input lacks as much and lies above a codec's edge,
    see :class:`~apollo_plugin.network.highs.evidence.Evidence`.

    Args:
        gain_bands: of the network.
        expects: whether an envelope path will give the expected log gains; else a linear map of the
            input's, which starts from :func:`extrapolation`, stands in for them.

    Attributes:
        tonality: log odds of the tile's share in the energy, at first 0, a half.
    """

    def __init__(self, gain_bands: GainBands, expects: bool):
        super().__init__()
        self.gain_bands = gain_bands
        self.tonality = nn.Parameter(torch.zeros(()))
        self.level: nn.Linear | None = None
        if not expects:
            n_gains = len(gain_bands.widths)
            self.level = nn.Linear(n_gains, n_gains)
            with torch.no_grad():
                for parameter, value in zip(self.level.parameters(), extrapolation(n_gains)):
                    parameter.copy_(value)

    def forward(
        self,
        spec: torch.Tensor,
        noise: torch.Tensor,
        log_gain: torch.Tensor | None,
        above: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the spectrum to add.

        Args:
            spec: the input's without its noise floor, ``(streams, frames, bins, 2)``.
            noise: spectrum of :class:`~.noise.WhiteNoise` in these frames, ``(frames, bins, 2)``.
            log_gain: expected of the original, ``(streams, frames, gain bands)``.
            above: how surely each gain band lies above a codec's edge, 0 to 1, ``(streams, frames,
                gain bands)``.

        Returns:
            ``(streams, frames, bins, 2)``, zeros below the end of the source region; how much of
            each bin it fills, from 0 to 1, ``(streams, frames, bins, 1)``.
        """
        present = self.gain_bands.log_gains(spec)
        log_gain = self._expected(present, log_gain)
        target = slice(TARGET_START, None)
        present, level = present[..., target], log_gain.to(spec.dtype)[..., target]
        fills = (_STEEPNESS * (level - present - _DEFICIT)).sigmoid() * above[..., target]
        amplitude = level.clamp(max=_MAX_LOG_GAIN).exp() * fills
        to_bins = self.gain_bands.to_bins[target].to(fills)
        tonality = torch.zeros_like(level) + self.tonality.to(level)
        filled = self.mix(spec, noise, amplitude, tonality)
        return filled, (fills @ to_bins).unsqueeze(-1)

    def share_of_tokens(
        self,
        restored: torch.Tensor,
        spec: torch.Tensor,
        log_gain: torch.Tensor | None,
        found: Findings,
    ) -> torch.Tensor:
        """Compute the share of the tokens' change that is kept: all of it where coding was coarse;
        in bands that are empty also where it left holes, but no louder there than is expected.

        Args:
            restored: what the tokens change, ``(streams, frames, bins, 2)``.
            spec: the input's without its noise floor, of the same shape.
            log_gain: expected of the original, ``(streams, frames, gain bands)``.
            found: of the same frames.

        Returns:
            ``(streams, frames, bins, 1)``, 0 to 1.
        """
        bands = self.gain_bands
        most = self._expected(bands.log_gains(spec), log_gain) - _QUIETER
        most = (most.to(spec) - bands.log_gains(restored)).clamp(max=0).exp()
        coarse, holes = found.coarse.to(spec), found.holes.to(spec)
        share = torch.where(
            bands.energies(spec) < EMPTY, torch.maximum(coarse, holes) * most, coarse
        )
        return (share @ bands.to_bins.to(spec)).unsqueeze(-1)

    def _expected(self, present: torch.Tensor, log_gain: torch.Tensor | None) -> torch.Tensor:
        """Log gains of the original: the envelope path's, or the linear map's."""
        if self.level is not None:
            return self.level(present.to(self.level.weight.dtype))
        assert log_gain is not None  # the envelope path's where there is no map
        return log_gain

    def mix(
        self,
        spec: torch.Tensor,
        noise: torch.Tensor,
        amplitude: torch.Tensor,
        tonality: torch.Tensor,
    ) -> torch.Tensor:
        """Tile and noise of a given norm in each target band and frame.

        Args:
            spec: the input's, ``(streams, frames, bins, 2)``.
            noise: ``(frames, bins, 2)``.
            amplitude: norms, ``(streams, frames, target bands)``.
            tonality: log odds of the tile's share in the energy, of the same shape. What the source
                lacks where it is silent is the noise's too.

        Returns:
            ``(streams, frames, bins, 2)``.
        """
        bottom = TARGET_START * self.gain_bands.width
        to_bins = self.gain_bands.to_bins[TARGET_START:, bottom:].to(spec)
        tile = tiled(spec, self.gain_bands.width)
        grain = noise[..., bottom:, :].to(spec)
        grain = grain * (to_bins.T @ (_energies(grain, to_bins) + _TINY).rsqrt().unsqueeze(-1))
        odds = torch.stack((tonality, -tonality), -2)
        weights = (0.5 * nn.functional.logsigmoid(odds)).exp() @ to_bins
        of_tile, of_grain = weights.unsqueeze(-1).unbind(-3)
        mixed = of_tile * tile + of_grain * grain
        scale = amplitude * (_energies(mixed, to_bins) + _TINY).rsqrt()
        filled = mixed * (scale @ to_bins).unsqueeze(-1)
        return nn.functional.pad(filled, (0, 0, bottom, 0))


def _energies(bins: torch.Tensor, to_bins: torch.Tensor) -> torch.Tensor:
    return bins.square().sum(-1) @ to_bins.T

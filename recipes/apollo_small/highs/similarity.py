"""ViSQOL's similarity as a loss on band energies: local means and local correlation of levels in
bands of hearing, over 80 ms every 20 ms (NSIM; Hines and Harte, 2012)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from apollo_plugin.network.highs.gain_bands import GAIN_BAND_HZ

# As ViSQOL has them: bands, frames of 10 ms, how far levels count below the loudest band.
N_BANDS, WINDOW, HOP, RANGE_DB = 32, 8, 2, 45.0
LOWEST_HZ, HIGHEST_HZ = 50.0, 22000.0
# Slopes of ViSQOL's score over the similarity of each of its uppermost bands, 4.3 to 21 kHz, mean
# of restored clips of 24 to 96 kbit/s; up to 6 kHz its slopes are 0, which is not what ears say.
SLOPES = (0.1, 0.1, 0.1, 0.1, 0.29, 0.35, 0.44, 0.53, 0.54, 0.42, 0.35, 0.23)
# How the excitation's energy in a gain band varies by chance: it has the norm that is asked for in
# each frame, so what ViSQOL sees varies by a third of what it would if it were noise (5.0).
CHANCE = 45.0
# ViSQOL's own are 1e-4 and 4.5e-4 dB squared, whose gradients are wild.
_C1, _C3 = 0.1, 0.03


def hearing_bands(n_bands: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies of gain bands to those behind gammatone filters, ``(n_bands, N_BANDS)``, and the
    filters' centres in Hz."""
    edges = torch.tensor([LOWEST_HZ, HIGHEST_HZ])
    low, high = (21.4 * torch.log10(1 + 0.00437 * edges)).tolist()
    centres = (10 ** (torch.linspace(low, high, N_BANDS) / 21.4) - 1) / 0.00437
    width = 1.019 * 24.7 * (1 + 0.00437 * centres)
    hertz = (torch.arange(n_bands) + 0.5)[:, None] * GAIN_BAND_HZ
    return (1 + ((hertz - centres) / width).square()).pow(-4), centres


class Dissimilarity(nn.Module):
    """1 - NSIM above 4 kHz, bands weighted by :data:`SLOPES`.

    Args:
        n_bands: gain bands.
        noise: energies of the estimate vary by chance as those of noise in a gain band do.

    Shape:
        log gains of estimate and original, ``(items, frames, n_bands)``.
    """

    def __init__(self, n_bands: int, noise: bool = True):
        super().__init__()
        weight, _ = hearing_bands(n_bands)
        slopes = torch.tensor(SLOPES)
        kernel = torch.hann_window(WINDOW + 2, periodic=False)[1:-1]
        around = torch.exp(-0.5 * (torch.arange(3) - 1.0).square() / 0.25)
        around = torch.outer(around, around)
        self.noise = noise
        self.register_buffer("weight", weight, False)
        self.register_buffer("kernel", (kernel / kernel.sum())[None, None], False)
        self.register_buffer("around", (around / around.sum())[None, None], False)
        self.register_buffer("slopes", (slopes / slopes.sum())[:, None], False)
        self.counted = slice(N_BANDS - len(SLOPES), N_BANDS)

    def forward(
        self, est: torch.Tensor, target: torch.Tensor, filled: torch.Tensor
    ) -> torch.Tensor:
        """``filled``: 1 where the estimate is made of noise, else 0."""
        energies = [torch.exp(2 * x.clamp(max=8.0)) for x in (est, target)]
        if self.noise:
            chance = torch._standard_gamma(torch.full_like(est, CHANCE)) / CHANCE
            energies[0] = energies[0] * torch.where(filled > 0, chance, 1.0)
        est_db, ref_db = (self._levels(energy) for energy in energies)
        floor = torch.maximum(est_db, ref_db).amax(1, keepdim=True).detach() - RANGE_DB
        est_db, ref_db = (torch.maximum(x, floor) for x in (est_db, ref_db))
        lowest = torch.minimum(est_db, ref_db).amin((1, 2), keepdim=True).detach()
        est_db, ref_db = ((x - lowest)[:, self.counted] for x in (est_db, ref_db))
        one, other = self._mean(est_db), self._mean(ref_db)
        own, of_ref = (
            (self._mean(x.square()) - mean.square()).clamp(min=1e-3)
            for x, mean in ((est_db, one), (ref_db, other))
        )
        both = self._mean(est_db * ref_db) - one * other
        intensity = (2 * one * other + _C1) / (one.square() + other.square() + _C1)
        structure = (both + _C3) / ((own * of_ref).sqrt() + _C3)
        return 1 - (intensity * structure * self.slopes).sum(1).mean()

    def _levels(self, energy: torch.Tensor) -> torch.Tensor:
        """``(items, frames, gain bands)`` -> dB, ``(items, N_BANDS, windows)``."""
        heard = (energy @ self.weight).transpose(1, 2)
        rows = F.conv1d(heard.flatten(0, 1).unsqueeze(1), self.kernel, stride=HOP)
        return 10 / math.log(10) * (rows.unflatten(0, heard.shape[:2]).squeeze(2) + 1e-6).log()

    def _mean(self, x: torch.Tensor) -> torch.Tensor:
        padded = F.pad(x.unsqueeze(1), (1, 1, 1, 1), mode="replicate")
        return F.conv2d(padded, self.around).squeeze(1)

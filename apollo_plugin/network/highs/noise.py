"""Noise as a function of the position in a signal."""

import math
from functools import lru_cache

import torch
from torch import nn

# The noise repeats after so many hops, ten seconds for hops of 10 ms, which nobody hears: nothing
# in it stands out, and each band of each frame gets a level of its own.
NOISE_PERIOD = 2**10
_PRIME = 2**31 - 1
# Factor and term of each round.
_ROUNDS = ((1103515245, 12345), (1597334677, 907633385), (741103597, 1013904223))
_LEVELS = 2**8


class WhiteNoise(nn.Module):
    """Noise as a function of the position in the signal alone, the same wherever it is asked for.

    It is noise in time because the spectra of one noise's frames keep their energy in the inverse
    STFT. Spectra drawn for each frame anew would lose half of it, where frames overlap by half.

    It is kept as a table of 8 bits a sample, so that every machine and every runtime comes to the
    same numbers, and a hop costs a look into it.

    Args:
        hop: samples of a hop.

    Example:
        >>> import torch
        >>> noise = WhiteNoise(10)
        >>> long, short = (noise(torch.tensor(k), 5 - k) for k in (0, 3))
        >>> torch.equal(long[3:], short)
        True
    """

    table: torch.Tensor

    def __init__(self, hop: int):
        super().__init__()
        self.register_buffer("table", _table(hop), persistent=False)

    def forward(self, first: torch.Tensor, n_hops: int) -> torch.Tensor:
        """Look noise up.

        Args:
            first: integer scalar, index of the first hop; its period is :data:`NOISE_PERIOD`.
            n_hops: how many hops.

        Returns:
            float32 ``(n_hops, hop)``, uniform with mean 0 and variance 1.
        """
        index = first + torch.arange(n_hops, dtype=first.dtype, device=first.device)
        levels = self.table.index_select(0, index.bitwise_and(NOISE_PERIOD - 1))
        return (levels.to(torch.float32) - (_LEVELS - 1) / 2) * math.sqrt(12 / (_LEVELS**2 - 1))


@lru_cache
def _table(hop: int) -> torch.Tensor:
    """Levels of all samples of a period, uint8 ``(hops, hop)``: their positions, mixed modulo a
    prime below ``2 ** 31``, so that no product leaves 64 bits."""
    x = torch.arange(NOISE_PERIOD * hop, device="cpu").remainder(_PRIME)
    for factor, term in _ROUNDS:
        x = (x * factor + term).remainder(_PRIME)
        x = (x * x + term).remainder(_PRIME)
    return (x * _LEVELS // _PRIME).to(torch.uint8).view(NOISE_PERIOD, hop)

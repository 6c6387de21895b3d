"""The STFT's transform and its inverse in real arithmetic, for programs that have no FFT."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .filterbank import ApolloSTFT


class Fourier(nn.Module):
    """Windowed frames to a spectrum and back, each as two small DFTs (Cooley and Tukey, 1965).

    With ``N = N1 N2``, ``n = N2 n1 + n2`` and ``k = k1 + N1 k2``, a DFT of ``N`` is ``N2`` of
    ``N1``, a product with ``exp(-2 pi i n2 k1 / N)``, and ``N1`` of ``N2``. The window of 882
    samples takes 21 times 42: a fifth of the products, and a fiftieth of the constants, that
    the DFT as one matrix takes.

    Args:
        bank: whose window and sizes these are.
    """

    window: torch.Tensor
    turn: torch.Tensor
    over_few: torch.Tensor
    from_many: torch.Tensor
    to_many: torch.Tensor
    weight: torch.Tensor

    def __init__(self, bank: ApolloSTFT):
        super().__init__()
        n, self.n_bins = bank.kernel_size, bank.n_bins
        few = max(d for d in range(1, math.isqrt(n) + 1) if n % d == 0)
        many = n // few
        # Columns of k2 that hold all bins up to the Nyquist frequency, and some more.
        kept = many // 2 + 1
        self.few, self.many, self.kept = few, many, kept
        # Rotations by an angle as matrices of real and imaginary part, (..., 2, 2).
        turn = _rotation(few, many, n)  # (k1, n2)
        few_dft = _rotation(few, few, few)  # (k1, n1)
        many_dft = _rotation(many, kept, many)  # (n2, k2)
        constants = {
            "window": bank.hann(torch.empty(0, dtype=torch.float64)),
            # What a part of the product takes of the same part, and of the other.
            "turn": torch.stack((turn.diagonal(0, -2, -1), turn.flip(-1).diagonal(0, -2, -1))),
            "over_few": few_dft[..., 0].transpose(1, 2),  # (k1, part, n1)
            "from_many": many_dft.permute(3, 0, 1, 2),  # (part, n2, k2, part)
            "to_many": many_dft.permute(1, 2, 3, 0),  # (k2, part, part, n2)
            "weight": bank.pre_synthesis(torch.ones(2 * self.n_bins, 1, dtype=torch.float64)),
        }
        constants["turn"] = constants["turn"].transpose(-2, -1)  # (2, k1, part, n2)
        constants["weight"] = constants["weight"][: self.n_bins].expand(-1, 2)
        swapped = constants["over_few"].flip(1)
        constants["over_few"] = torch.stack((constants["over_few"], swapped)).flatten(1, 2)
        swapped = constants["to_many"].flip(2)
        constants["to_many"] = torch.stack((constants["to_many"], swapped)).flatten(3).flatten(1, 2)
        constants["from_many"] = constants["from_many"].flatten(2).flatten(0, 1)
        for name, value in constants.items():
            self.register_buffer(name, value.to(torch.float32).contiguous())

    def spectrum(self, frames: torch.Tensor) -> torch.Tensor:
        """``(streams, frames, kernel_size)`` -> ``(streams, frames, bins, 2)``."""
        x = (frames * self.window).unflatten(-1, (self.few, self.many))
        same, other = self.over_few
        parts = [(part @ x).unflatten(-2, (self.few, 2)) for part in (same, other)]
        turned = (parts[0] * self.turn[0] + parts[1] * self.turn[1]).flatten(-2)
        spec = (turned @ self.from_many).unflatten(-1, (self.kept, 2))
        return spec.transpose(-3, -2).flatten(-3, -2)[..., : self.n_bins, :]

    def of_hops(self, hops: torch.Tensor) -> torch.Tensor:
        """The spectrum of frames of two hops each, ``(streams, frames + 1, hop) -> (streams,
        frames, bins, 2)``."""
        return self.spectrum(torch.cat((hops[:, :-1], hops[:, 1:]), -1))

    def frames(self, spec: torch.Tensor) -> torch.Tensor:
        """``(streams, frames, bins, 2)`` -> windowed ``(streams, frames, kernel_size)``."""
        n_more = self.few * self.kept - self.n_bins
        spec = F.pad(spec * self.weight, (0, 0, 0, n_more)).unflatten(-2, (self.kept, self.few))
        spec = spec.transpose(-3, -2).flatten(-2)  # (streams, frames, k1, k2 and part)
        parts = [(spec @ part).unflatten(-1, (2, self.many)) for part in self.to_many]
        turned = (parts[0] * self.turn[0] - parts[1] * self.turn[1]).flatten(-3, -2)
        return (self.over_few[0].T @ turned).flatten(-2) * self.window


def _rotation(rows: int, columns: int, n: int) -> torch.Tensor:
    """``exp(-2 pi i row column / n)`` as matrices from parts to parts, ``(rows, columns, 2, 2)``:
    the first of the last axes is the part of the result."""
    turns = torch.arange(rows)[:, None] * torch.arange(columns) % n
    angle = turns.to(torch.float64) * (2 * math.pi / n)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((torch.stack((cos, sin), -1), torch.stack((-sin, cos), -1)), -2)

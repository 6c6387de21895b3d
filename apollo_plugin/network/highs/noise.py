"""Noise as a function of the position in a signal: with 64-bit integers, and without."""

import math

import torch

from ...errors import ExportError
from ..fourier import Fourier

# The noise repeats after so many hops, three hours, which keeps its counter bounded.
NOISE_PERIOD = 2**20
_PRIME = 2**31 - 1
# Factor and term of each round.
_ROUNDS = ((1103515245, 12345), (1597334677, 907633385), (741103597, 1013904223))
# Bits of the digits that float32 calculates with: sums of three products stay below 2 ** 24.
_DIGITS = (11, 11, 9)
# The longest hop whose positions do, too.
LONGEST_HOP = 2**14 - 2


def white_noise(first: torch.Tensor, n_hops: int, hop: int) -> torch.Tensor:
    """Noise as a function of the position in the signal alone, the same wherever it is asked for.

    It is noise in time because the spectra of one noise's frames keep their energy in the inverse
    STFT. Spectra drawn for each frame anew would lose half of it, where frames overlap by half.

    Integers are mixed modulo a prime below ``2 ** 31``, so no product leaves 64 bits and every
    machine comes to the same numbers.

    Args:
        first: int64 scalar, index of the first hop; its period is :data:`NOISE_PERIOD`.
        n_hops: how many hops.
        hop: samples of a hop.

    Returns:
        float32 ``(n_hops * hop,)``, uniform with mean 0 and variance 1.

    Example:
        >>> import torch
        >>> long, short = (white_noise(torch.tensor(k), 5 - k, 10) for k in (0, 3))
        >>> torch.equal(long[30:], short)
        True
    """
    position = torch.arange(hop, device=first.device)
    index = (first + torch.arange(n_hops, device=first.device)).remainder(NOISE_PERIOD)
    x = (index[:, None] * hop + position).flatten().remainder(_PRIME)
    for factor, term in _ROUNDS:
        x = (x * factor + term).remainder(_PRIME)
        x = (x * x + term).remainder(_PRIME)
    return (x.to(torch.float32) * (1 / _PRIME) - 0.5) * math.sqrt(12)


def white_noise_in_float32(first: torch.Tensor, n_hops: int, hop: int) -> torch.Tensor:
    """The numbers of :func:`white_noise` without 64-bit integers, which some runtimes narrow.

    Integers are vectors of three digits in float32, all of whose sums are exact. The prime is
    ``2 ** 31 - 1``, so ``2 ** 31`` is 1: what a digit carries beyond the highest one belongs to
    the lowest.

    Args:
        first: int32 scalar, index of the first hop; its period is :data:`NOISE_PERIOD`.
        n_hops: how many hops.
        hop: samples of a hop, at most :data:`LONGEST_HOP`.

    Returns:
        float32 ``(n_hops * hop,)``.

    Example:
        >>> import torch
        >>> first = torch.tensor(1234567)
        >>> exact = white_noise(first, 3, 441)
        >>> torch.equal(white_noise_in_float32(first.to(torch.int32), 3, 441), exact)
        True
    """
    position = torch.arange(hop, dtype=torch.float32)
    # Not the remainder, for which runtimes divide in float32.
    index = (first + torch.arange(n_hops, dtype=torch.int32)).bitwise_and(NOISE_PERIOD - 1)
    index = index.to(torch.float32)
    upper = (index / 1024).floor()
    low, high = hop * (index - 1024 * upper), hop * upper
    half = (high / 2).floor()
    low = (low + 1024 * (high - 2 * half))[:, None] + position
    middle = half[:, None].expand_as(low)
    x = _carried(torch.stack((low, middle, torch.zeros_like(low))).flatten(1))
    for factor, term in _ROUNDS:
        x = _carried(_shifts(_digits(factor)).squeeze(-1).T @ x + _digits(term))
        x = _carried((_shifts(x) * x.unsqueeze(1)).sum(0) + _digits(term))
    low, middle, high = _carried(x)
    # One rounding, the last sum's.
    x = (high * 2.0 ** _DIGITS[1] + middle) * 2.0 ** _DIGITS[0] + low
    return (x * (1 / _PRIME) - 0.5) * math.sqrt(12)


def _digits(number: int) -> torch.Tensor:
    low, middle, _ = _DIGITS
    digits = number % 2**low, (number >> low) % 2**middle, number >> (low + middle)
    return torch.tensor(digits, dtype=torch.float32)[:, None]


def _carried(x: torch.Tensor) -> torch.Tensor:
    """Digits below ``2 ** 24`` to those of :data:`_DIGITS`, give or take what a second carry
    adds, ``(3, n)``."""
    size = torch.tensor([2.0**bits for bits in _DIGITS])
    carry = torch.eye(3).roll(1, 0) - size.diag()
    for _ in range(2):
        x = x + carry @ (x * (1 / size)[:, None]).floor()
    return x


def _shifts(x: torch.Tensor) -> torch.Tensor:
    """A number's digits times the values of the three digits, ``(3, n) -> (3, 3, n)``. Powers
    beyond the highest digit are 4 times those of a lower one: ``2 ** 33`` is 4, ``2 ** 44`` is
    ``4 * 2 ** 11``."""
    once = torch.tensor([[0.0, 0.0, 4.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    return (torch.cat((torch.eye(3), once, once @ once)) @ x).unflatten(0, (3, 3))


def spectrum_in_float32(fourier: Fourier, first: torch.Tensor, n_frames: int) -> torch.Tensor:
    """Spectrum of :func:`white_noise_in_float32` from a frame on, ``(frames, bins, 2)``.

    Args:
        fourier: the STFT's transform.
        first: scalar, index of the first frame.
        n_frames: how many.

    Raises:
        ExportError: for hops longer than :data:`LONGEST_HOP`.
    """
    hop = len(fourier.window) // 2
    if hop > LONGEST_HOP:
        raise ExportError(f"hops of {hop} samples cannot be exported, {LONGEST_HOP} at most can")
    noise = white_noise_in_float32(first.to(torch.int32), n_frames + 1, hop)
    hops = noise.unflatten(0, (-1, hop))
    return fourier.spectrum(torch.cat((hops[:-1], hops[1:]), -1)[None])[0]

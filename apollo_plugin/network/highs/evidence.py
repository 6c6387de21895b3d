"""Detection of what a codec did to a signal, so that nothing else is changed.

A codec's low-pass leaves an edge: bands that sound, and from one band to the next nothing. Music
falls gradually, and where it has an edge of its own that lies near 21 kHz. Coarse coding leaves
holes: single bands that vanish for a moment between bands that go on. Music that was never coded
has next to none. Both show in band energies alone, whatever the level and the noise floor.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from .envelope import sum_bands

# Frames that a decision looks back on, look-ahead included: 4 s.
WINDOW = 400
_DB = math.log(10) / 10
# Energy of a band that counts as nothing: some 10 dB above the noise of 16 bits.
_NOTHING = 10**-7.2
# An edge: the mean level of so many bands above the highest level from two bands further up on.
# Of 69 never-coded recordings and mixes the highest is 19.5 dB, of MP3 up to 128 kbit/s the median
# 37 to 62 dB. Single instruments end as steeply where their partials do: from the first to the
# second of these bands (4 and 7 kHz) an edge needs less and less of so much more.
_EDGE_BANDS, _EDGE_FROM, _EDGE_TO = 4, 18 * _DB, 24 * _DB
_PARTIALS, _STEEPER = (16, 28), 8 * _DB
# Music goes on falling above its partials, where a codec leaves next to nothing: as far as the
# kilohertz from so many bands further up lies more than this above the last band, it counts against
# an edge. Dark solo instruments, never coded, stand 22 to 31 dB above it, nine in ten MP3s up to 5,
# AAC of 64 kbit/s up to 15. Of 81 dark clips five passed for cut without this, two do now, less.
_FURTHER, _GOES_ON = 6, 10 * _DB
# Without holes of coarse coding an edge needs so much more: of 112 clips that were never coded four
# passed for cut, by up to 0.4 of all bands; two do now, by 0.004. Where no codec cuts by default it
# needs still more: this comes in from 7.5 to 9 kHz and goes from 10.5 to 12, in bands. Songs end
# there by themselves (one lost 0.05 of Zimtohrli at 192 kbit/s).
_FINER, _FINER_THERE, _COMES, _GOES = 6 * _DB, 9 * _DB, (30, 36), (48, 42)
# Rounding noise hides how deep an edge of a quiet file is. Where nothing beyond exceeds white noise
# by 3 dB (in part by 5) and coding left holes, an edge may be less deep by what that noise lies
# above nothing, at most by so much. Never-coded quiet files, dithered, fall into the noise by up to
# 6 dB, one song that ends early by 20; MP3s of 32 and 48 kbit/s by 12 to 48.
_WHITE, _HIDDEN = (5 * _DB, 3 * _DB), 10 * _DB
# Music that falls by so much within so many bands ends by itself, and what a codec cut above was
# little: less and less is filled. This comes in between these bands (6.5 and 7.5 kHz): below,
# single instruments fall as much from partial to partial.
_ENDING, _WITHIN, _ENDS_ABOVE = (15 * _DB, 25 * _DB), 8, (26, 30)
# The two bands at an edge lie above it only as far as they have fallen themselves, and what is
# above them: a filter's slope may begin in the second.
_FALLEN_FROM, _FALLEN_TO = 5 * _DB, 10 * _DB
# Edges are looked for between these bands: up to 16.5 kHz, where LAME cuts off at 128 kbit/s. Above
# it little is missed, and edges of the music begin.
_LOWEST_EDGE, _HIGHEST_EDGE = 14, 66
# What lies above an edge is filled in full up to the first of these bands (14 kHz), less and less
# up to the second, by so much: there ears miss little, and Zimtohrli falls where the guess is
# wrong. Of 64 clips the worst of MP3 of 96 kbit/s lost 0.058 when it began at 15.25 kHz, and loses
# 0.008 now; of 59 others 0.008, and 0.005 now.
_SPARED, _SPARING = (56, 64), 0.65
# Tokens change what came through where the edge lies below the first of these bands (11.25 kHz,
# LAME at 64 kbit/s), less and less up to the second; empty bands likewise (15 kHz, 96 kbit/s).
_COARSE, _IN_HOLES = (45, 49), (62, 64)
# A hole lies so far below the medians of the two bands beside it and of the four frames before it,
# and those sound. Share of cells: up to 0.0002 in music that was never coded, 0.002 to 0.006 in the
# median of MP3 of 24 to 64 kbit/s.
_HOLE, _SOUNDS = math.exp(-20 * _DB), 10**-3.5
_FEW, _MANY, _FIRST_CELLS = 3e-4, 8e-4, 1000
# Sounding frames before anything is decided, and until it counts in full.
_FRAMES_FROM, _FRAMES_TO = 20, 45
# Bands below so many times the noise floor hold nothing else, nor do those below this energy, where
# the rounding of single precision begins, which differs from engine to engine.
_ABOVE_FLOOR, _ROUNDING = 4.0, 1e-7
# From there they come in over so much of it: where the energy is percents of rounding, a step would
# be taken by one engine and not by another.
_COMES_IN = 0.25


class Findings(NamedTuple):
    """Of each frame, ``(streams, frames, n)``.

    Args:
        floor: energy of a bin of white noise such as rounding to 16 bits, ``n`` = 1.
        above: for each gain band, how surely it lies above a codec's edge and is missed, 0 to 1.
        coarse: how surely what lies below was coded coarsely, 0 to 1, ``n`` = 1.
        holes: how surely bands that are empty below the edge are holes of the codec, likewise.
    """

    floor: torch.Tensor
    above: torch.Tensor
    coarse: torch.Tensor
    holes: torch.Tensor

    def newest(self, n: int) -> "Findings":
        """Of the last ``n`` frames."""
        return Findings(*(part[:, part.shape[1] - n :] for part in self))

    def first(self, n: int) -> "Findings":
        """Of the first ``n`` frames."""
        return Findings(*(part[:, :n] for part in self))


class Evidence(nn.Module):
    """Finds a codec's traces in the last four seconds, as a step with state.

    Findings of a frame rest on frames up to ``ahead`` frames later, as the network's output does,
    and on silence where there are none: blocks, streams and whole signals agree.

    Args:
        widths: bins of each gain band.

    Example:
        >>> import torch
        >>> evidence = Evidence([5] * 87 + [7])
        >>> music = torch.randn(1, 500, 442, 2)
        >>> cut = music * (torch.arange(442) < 220).unsqueeze(-1)  # at 11 kHz
        >>> for spec in (music, cut):
        ...     found, _ = evidence(spec, evidence.initial_memory(spec, 1))
        ...     print(found.above[0, -1, [40, 80]].tolist())
        [0.0, 0.0]
        [0.0, 1.0]
    """

    _n_bins: torch.Tensor

    def __init__(self, widths: list[int]):
        super().__init__()
        self.widths = widths
        self.register_buffer("_n_bins", torch.tensor(widths).float(), persistent=False)

    def initial_memory(self, like: torch.Tensor, n_streams: int) -> torch.Tensor:
        """State before the first frame: zeros, ``(streams, frames, columns)``."""
        return like.new_zeros(n_streams, WINDOW - 1, len(self.widths) + 4)

    def forward(
        self,
        spec: torch.Tensor,
        memory: torch.Tensor,
        more: int = 0,
        valid: torch.Tensor | None = None,
    ) -> tuple[Findings, torch.Tensor]:
        """A step.

        Args:
            spec: of new frames, ``(streams, frames, bins, 2)``.
            memory: from the step before, at first :meth:`initial_memory`.
            more: frames of silence that are seen after the last one.
            valid: 1 for frames that the signal has, else 0, ``(frames, 1)``.

        Returns:
            findings of as many frames as there are new ones and ``more``; memory.
        """
        energies = sum_bands(spec.square().sum(-1), self.widths).to(memory)
        ones = torch.ones_like(energies[..., :1])
        there = ones if valid is None else ones * valid
        # Not the first frame: a signal that begins in the middle of a sound clicks there.
        inside = torch.cat((memory[:, -1:, -1:], there), 1)[:, : there.shape[1]]
        rows = self._rows(energies * inside, memory[:, -4:, : len(self.widths)])
        rows = torch.cat((rows, ones), -1) * there
        memory = torch.cat((memory, rows), 1)
        seen = nn.functional.pad(memory, (0, 0, 0, more)) if more else memory
        if seen.shape[1] < WINDOW:  # no new frames
            nothing = energies[:, :0]
            found = Findings(nothing[..., :1], nothing, nothing[..., :1], nothing[..., :1])
        else:
            found = self._findings(self.means(seen))
        return found, memory[:, rows.shape[1] :]

    @staticmethod
    def means(rows: torch.Tensor) -> torch.Tensor:
        """Means over :data:`WINDOW` rows each, ``(streams, frames, columns)``."""
        return nn.functional.avg_pool1d(rows.transpose(1, 2), WINDOW, 1).transpose(1, 2)

    def _rows(self, energies: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Energies of bands, numbers of holes and of cells that sound, and whether any does."""
        around = _median(self.neighbours(energies, before)).amin(1)[..., 4:]
        sounds = (around > _SOUNDS).to(energies)
        holes = sounds * (energies[..., 4:] < _HOLE * around).to(energies)
        counts = [part.sum(-1, keepdim=True) for part in (holes, sounds)]
        any_sounds = (counts[1] > 0).to(energies)
        return torch.cat((energies, *counts, any_sounds), -1)

    def neighbours(self, energies: torch.Tensor, before: torch.Tensor) -> Sequence[torch.Tensor]:
        """Of each band of each frame five energies of its own and of the frames before, and five of
        its own and of the bands beside it, ``(streams, frames, bands)`` each.

        Args:
            energies: of new frames.
            before: of the four frames before them.

        Returns:
            the five, ``(streams, 2, frames, bands)`` each.
        """
        n, n_bands = energies.shape[1:]
        in_time = torch.cat((before, energies), 1)
        beside = nn.functional.pad(energies, (2, 2))
        return [
            torch.stack((in_time[:, k : k + n], beside[..., k : k + n_bands]), 1) for k in range(5)
        ]

    def _findings(self, means: torch.Tensor) -> Findings:
        energies, holes, cells, sounding, frames = means.split([len(self.widths), 1, 1, 1, 1], -1)
        energies = energies / frames.clamp(min=1 / WINDOW)
        of_bins = (energies / self._n_bins).transpose(1, 2)
        floor = nn.functional.avg_pool1d(of_bins.transpose(1, 2), 4, 1).amin(-1, keepdim=True)
        level = (energies + _NOTHING).log()
        highest = _running_maximum(level.flip(-1)).flip(-1)[..., _LOWEST_EDGE:]
        below = nn.functional.avg_pool1d(level, _EDGE_BANDS, 1)[..., _LOWEST_EDGE - _EDGE_BANDS :]
        n = min(highest.shape[-1] - 2, _HIGHEST_EDGE - _LOWEST_EDGE)
        number = torch.arange(_LOWEST_EDGE, _LOWEST_EDGE + n, device=level.device).to(level)
        at, next_to, beyond = (below[..., :n] - highest[..., k : n + k] for k in range(3))
        steeper = _STEEPER * _ramp(number, *_PARTIALS[::-1])
        further = below[..., _FURTHER + _EDGE_BANDS :][..., :n]
        falling = (further - level[..., -1:] - _GOES_ON).clamp(min=0)
        falling = nn.functional.pad(falling, (0, n - falling.shape[-1]))
        coarsely = _ramp(holes / (cells + _FIRST_CELLS / WINDOW), _FEW, _MANY)
        there = _ramp(number, *_COMES) * _ramp(number, *_GOES)
        finer = (_FINER + _FINER_THERE * there) * (1 - coarsely)
        noise = (self.widths[0] * floor + _NOTHING).log()
        white = _ramp(highest[..., 2 : n + 2] - noise, *_WHITE)
        hidden = (noise - math.log(_NOTHING)).clamp(max=_HIDDEN) * white * coarsely
        edge = _ramp(beyond + hidden - steeper - falling - finer, _EDGE_FROM, _EDGE_TO)
        edge = edge * _ramp(WINDOW * sounding, _FRAMES_FROM, _FRAMES_TO)
        before = nn.functional.pad(below, (_WITHIN, 0))[..., :n]
        ending = _ramp(before - below[..., :n], *_ENDING) * _ramp(number, *_ENDS_ABOVE)
        missed = edge * (1 - _SPARING * _ramp(number, *_SPARED)) * (1 - ending)
        above = _running_maximum(self._placed(missed, 2))
        for k, fall in enumerate((at, next_to)):
            fallen = _ramp(fall, _FALLEN_FROM, _FALLEN_TO)
            above = torch.maximum(above, self._placed(missed * fallen, k))
        coarse, in_holes = (
            coarsely * (edge * _ramp(number, fine, coarse)).amax(-1, keepdim=True)
            for coarse, fine in (_COARSE, _IN_HOLES)
        )
        return Findings(floor, above, coarse, in_holes)

    def _placed(self, edge: torch.Tensor, further: int) -> torch.Tensor:
        """Among all bands, so many bands further up."""
        start = _LOWEST_EDGE + further
        return nn.functional.pad(edge, (start, len(self.widths) - start - edge.shape[-1]))

    def clean(self, spec: torch.Tensor, floor: torch.Tensor, to_bins: torch.Tensor) -> torch.Tensor:
        """Leaves out bands that hold nothing but a noise floor, as a decoder would.

        Args:
            spec: ``(streams, frames, bins, 2)``.
            floor: of the same frames, see :class:`Findings`.
            to_bins: ``(gain bands, bins)``, 1 where a bin is in a band.
        """
        energies = sum_bands(spec.square().sum(-1), self.widths)
        least = (_ABOVE_FLOOR * floor.to(energies) * self._n_bins).clamp(min=_ROUNDING)
        heard = _ramp(energies / least, 1, 1 + _COMES_IN).to(spec)
        return spec * (heard @ to_bins.to(spec)).unsqueeze(-1)


def _ramp(x: torch.Tensor, begin: float, end: float) -> torch.Tensor:
    return ((x - begin) / (end - begin)).clamp(0, 1)


def _median(five: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of five tensors, in operators that every runtime has."""
    a, b, c, d, e = five
    low = torch.maximum(torch.minimum(a, b), torch.minimum(c, d))
    high = torch.minimum(torch.maximum(a, b), torch.maximum(c, d))
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    return torch.maximum(low, torch.minimum(high, e))


def _running_maximum(x: torch.Tensor) -> torch.Tensor:
    """Of each value and all before it, along the last axis; finite ones."""
    n = x.shape[-1]
    least = torch.finfo(x.dtype).min
    return nn.functional.max_pool1d(nn.functional.pad(x, (n - 1, 0), value=least), n, 1)

"""The envelope path: the log energies that the original had, from what the codec left of it.

How loud each 250 Hz of the original was in each frame can be told from far less than its spectrum:
from the energies of all bands, from which of them are empty, from onsets inside a frame and from
how tonal a band is, some frames before and after. So this is a small dense network on a few numbers
a band, beside the band-sequence network, which sees every bin and costs forty times as much.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from ..layers import TemporalBlock

# Added to energies before the logarithm: what rounding to 16 bits leaves in a band of 5 bins is
# 1e-7, with full-scale music at 1e4 and the STFT's window unscaled. Bands at it are empty.
ENERGY_FLOOR = 1e-6
EMPTY = 4 * ENERGY_FLOOR
# log energy, empty, two of the temporal shape, flatness
_N_FEATURES = 5
_FLATTEST = -8.0
# Frames that the linear map may look back on, and how: by the mean of all and that of the newest 9.
_SPAN, _NEAR = 31, 9


def widths_of_bins(n_bins: int, width: int) -> list[int]:
    """Bins of bands that are ``width`` bins wide, the last one with what remains."""
    n_bands = max(1, n_bins // width)
    return [width] * (n_bands - 1) + [n_bins - width * (n_bands - 1)]


def sum_bands(bins: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
    """Sums over the bins of bands as :func:`widths_of_bins` gives them, ``(..., bins) -> (...,
    bands)``."""
    split = (len(widths) - 1) * widths[0]
    equal = bins[..., :split].unflatten(-1, (len(widths) - 1, widths[0])).sum(-1)
    return torch.cat((equal, bins[..., split:].sum(-1, keepdim=True)), -1)


def log_gains(spec: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
    """Natural logarithm of the norm of each band, ``(..., bins, 2) -> (..., bands)``."""
    return 0.5 * (sum_bands(spec.square().sum(-1), widths) + ENERGY_FLOOR).log()


class _Smoothing(nn.Module):
    """A linear depthwise convolution over the past, a step with state like ``TemporalBlock``; at
    first it smooths features ``begin`` to ``end`` and leaves the others as they are.

    ``(streams, frames, features)`` and state -> as many frames, state.
    """

    def __init__(self, n_features: int, begin: int, end: int):
        super().__init__()
        self.behind = _SPAN - 1
        weight = torch.zeros(n_features, 1, _SPAN)
        weight[:, :, -1] = 1
        weight[begin:end] = self.kernel()
        self.weight = nn.Parameter(weight)

    @staticmethod
    def kernel() -> torch.Tensor:
        """``(frames,)``, sum 1, the oldest frame first."""
        kernel = torch.full((_SPAN,), 0.5 / _SPAN)
        kernel[-_NEAR:] += 0.5 / _NEAR
        return kernel

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.cat((state, x), 1)
        n_out = x.shape[1] - self.behind
        if n_out == 0:
            return x[:, :0], x
        # In two dimensions, as the other convolutions: onnxruntime takes half of the time.
        columns = x.unsqueeze(2).permute(0, 3, 1, 2)
        y = nn.functional.conv2d(columns, self.weight.unsqueeze(-1), groups=x.shape[-1])
        return y.permute(0, 2, 3, 1).squeeze(2), x[:, n_out:]


class EnvelopePath(nn.Module):
    """Predicts the log gain of each band of the original spectrum, frame by frame.

    A log gain is the natural logarithm of a band's norm over its bins, the unit of
    ``BandSplit.split``; :data:`ENERGY_FLOOR` is added to the squared norm. Bands are numbered from
    0 Hz, each ``band_bins`` bins wide and the last one with what remains: 88 of 250 Hz for the
    published STFT. They need not be the bands of the tokens.

    Everything about it is a step with state, like the ``TemporalBlock`` that it is made of:
    ``features`` of new frames and the contexts of the step before give as many frames as are due,
    ``ahead`` frames later than they came in, and the rest after ``last``. With nothing trained it
    predicts the log gains of its input; :meth:`set_linear_map` puts a closed form in their place.

    Args:
        n_bins: bins of the spectrum.
        band_bins: bins of a band.
        n_features: width; at least twice the number of bands.
        kernel_size: frames of each convolution; odd.
        n_blocks: convolutions, one after the other.
        ratio: width of a block's MLP over ``n_features``.
        causal: no look-ahead.

    Attributes:
        n_bands: number of bands.
        band_widths: bins of each band.
        n_in: features that :meth:`features` gives for a frame.
        ahead: look-ahead in frames.

    Example:
        >>> import torch
        >>> path = EnvelopePath()
        >>> spec = torch.randn(2, 10, 442, 2)  # (streams, frames, bins, 2)
        >>> contexts = path.initial_contexts(2)
        >>> log_gain, contexts = path(path.features(spec), contexts, last=True)
        >>> log_gain.shape
        torch.Size([2, 10, 88])
    """

    def __init__(
        self,
        n_bins: int = 442,
        band_bins: int = 5,
        n_features: int = 256,
        kernel_size: int = 13,
        n_blocks: int = 4,
        ratio: int = 1,
        causal: bool = False,
    ):
        super().__init__()
        self.n_bands = n_bins // band_bins
        if self.n_bands < 2:
            raise ValueError(f"{n_bins} bins make no two bands of {band_bins}")
        self.band_bins = band_bins
        self.band_widths = widths_of_bins(n_bins, band_bins)
        # A recorded step on a GPU takes nothing from the CPU.
        self.register_buffer("_widths", torch.tensor(self.band_widths), persistent=False)
        if n_features < 2 * self.n_bands:
            raise ValueError(f"n_features {n_features} is less than twice the {self.n_bands} bands")
        self.n_in = _N_FEATURES * self.n_bands
        self.encoder = nn.Linear(self.n_in, n_features)
        self.smoothing = _Smoothing(n_features, self.n_bands, 2 * self.n_bands)
        blocks = [TemporalBlock(n_features, kernel_size, causal, ratio) for _ in range(n_blocks)]
        self.blocks = cast(Sequence[TemporalBlock], nn.ModuleList(blocks))
        self.decoder = nn.Linear(n_features, self.n_bands)
        self.ahead = sum(block.ahead for block in self.blocks)
        with torch.no_grad():
            # The blocks add to what they are given, so a linear map of a frame and one of the
            # frames before it reach the output unchanged until training says otherwise.
            self.decoder.weight.zero_()
            for start in (0, self.n_bands):
                self.decoder.weight[:, start : start + self.n_bands].fill_diagonal_(1)
            self.decoder.bias.zero_()
            for block in self.blocks:
                block.mlp_out.weight.zero_()
                block.mlp_out.bias.zero_()
        self.set_linear_map(torch.eye(self.n_bands, self.n_in), torch.zeros(self.n_bands))

    @torch.no_grad()
    def set_linear_map(
        self, weight: torch.Tensor, bias: torch.Tensor, before: torch.Tensor | None = None
    ) -> None:
        """Starts from a linear map of features to log gains, ridge regression's.

        Args:
            weight: of a frame's own features, ``(n_bands, n_in)``.
            bias: ``(n_bands,)``.
            before: of the features smoothed by :meth:`smooth`, ``(n_bands, n_in)``; zeros unless
                given.
        """
        before = torch.zeros_like(weight) if before is None else before
        self.encoder.weight[: 2 * self.n_bands] = torch.cat((weight, before))
        self.encoder.bias[: 2 * self.n_bands] = torch.cat((bias, torch.zeros_like(bias)))

    def smooth(self, features: torch.Tensor) -> torch.Tensor:
        """Features ``(streams, frames, n_in)`` of a whole signal as the linear map sees those up to
        each frame: smoothed over time, with zeros before the signal."""
        rows = nn.functional.pad(features, (0, 0, self.smoothing.behind, 0))
        rows = rows.transpose(1, 2).flatten(0, 1).unsqueeze(1)
        smooth = nn.functional.conv1d(rows, self.smoothing.kernel().to(rows)[None, None])
        return smooth.unflatten(0, (-1, features.shape[-1])).squeeze(2).transpose(1, 2)

    def initial_contexts(self, n_streams: int) -> list[torch.Tensor]:
        """State before the first frame: zeros, ``(streams, frames, features)`` for the
        smoothing, then ``(streams, frames, 1, features)`` for each block."""
        weight = self.encoder.weight
        n_features = weight.shape[0]
        return [
            weight.new_zeros(n_streams, self.smoothing.behind, n_features),
            *(weight.new_zeros(n_streams, b.behind, 1, n_features) for b in self.blocks),
        ]

    def features(self, spec: torch.Tensor) -> torch.Tensor:
        """Input features of each frame.

        For each band: its log gain; 1 where it is empty; two numbers for when in the frame its
        energy lies; its flatness. Empty bands are told apart by nothing but being empty.

        Args:
            spec: real view of a spectrum, ``(streams, frames, bins, 2)``.

        Returns:
            ``(streams, frames, n_in)``, the bands of the first feature first.
        """
        spec = spec.to(torch.promote_types(spec.dtype, torch.float32))
        power = spec.square().sum(-1)
        energy = sum_bands(power, self.band_widths)
        empty = energy < EMPTY
        log_gain = 0.5 * (energy + ENERGY_FLOOR).log()
        # The product of a bin and the conjugate of the one below it, summed over a band, is the
        # first Fourier coefficient of the band's energy over the frame. Its sign is that of an
        # energy in the middle; the imaginary part tells early from late.
        upper, lower = spec[..., 1:, :], spec[..., :-1, :]
        middle = -(upper * lower).sum(-1)
        side = upper[..., 0] * lower[..., 1] - upper[..., 1] * lower[..., 0]
        energy = energy.clamp(min=EMPTY)
        padded = [nn.functional.pad(part, (0, 1)) for part in (middle, side)]
        shape = [sum_bands(part, self.band_widths) / energy for part in padded]
        widths = self.get_buffer("_widths")
        flatness = sum_bands((power + 0.01 * ENERGY_FLOOR).log(), self.band_widths) / widths
        flatness = (flatness - (energy / widths + 0.01 * ENERGY_FLOOR).log()).clamp(min=_FLATTEST)
        rest = [part.masked_fill(empty, 0.0).clamp(-2, 2) for part in (*shape, flatness / 4)]
        return torch.cat((log_gain, empty.to(log_gain), *rest), -1)

    def log_gains(self, spec: torch.Tensor) -> torch.Tensor:
        """Those of a spectrum itself, of which :meth:`forward` predicts the original's.

        Args:
            spec: real view of a spectrum, ``(streams, frames, bins, 2)``.

        Returns:
            ``(streams, frames, n_bands)``.
        """
        return log_gains(spec, self.band_widths)

    def forward(
        self,
        features: torch.Tensor,
        contexts: Sequence[torch.Tensor],
        last: bool,
        masks: Sequence[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """A step.

        Args:
            features: of new frames, ``(streams, frames, n_in)``; see :meth:`features`.
            contexts: from the step before, at first :meth:`initial_contexts`.
            last: no frame follows.
            masks: factors for the frames that go into the smoothing and into each block,
                ``(frames, 1)``; for programs of fixed shapes, which hold frames that are none.

        Returns:
            log gains of the original, ``(streams, frames that are due, n_bands)``, and contexts.
        """
        x = self.encoder(features.to(self.encoder.weight.dtype))
        x, context = self.smoothing(x if masks is None else x * masks[0], contexts[0])
        x, new = x.unsqueeze(-2), [context]
        for index, block in enumerate(self.blocks, 1):
            x = x if masks is None else x * masks[index].unsqueeze(-1)
            x, context = block(x, contexts[index], last)
            new.append(context)
        return self.decoder(x.squeeze(-2)), new

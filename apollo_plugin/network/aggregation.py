"""Layers shared by SR-GAN's generator and critic: convolutions over bins and frames, and all
bins of a frame as one vector."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from .linear import linear

# Of the convolutions between bins and vector.
DILATIONS = (1, 2, 4)
# Keeps the slope of the square root finite. No STFT of sound is so small and not zero.
_LEAST = 1e-12


def compress(x: torch.Tensor) -> torch.Tensor:
    """The square root of the magnitude, sign kept; zero has a slope of zero."""
    return x.sign() * x.abs().clamp(min=_LEAST).sqrt()


def expand(x: torch.Tensor) -> torch.Tensor:
    """Undoes :func:`compress`."""
    return x * x.abs()


def gated(x: torch.Tensor, activation: nn.Module) -> torch.Tensor:
    """The first half of the channels, activated, times the sigmoid of the second."""
    value, gate = x.chunk(2, 1)
    return activation(value) * gate.sigmoid()


class Conv(nn.Module):
    """A dilated convolution over bins and frames, as a step with state.

    Args:
        n_in, n_out: channels.
        dilation: of both axes; bins are zero-padded by as much.
        same: frames are zero-padded too; without, the signal loses ``dilation`` at either end.
    """

    def __init__(self, n_in: int, n_out: int, dilation: int, same: bool):
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=(dilation, 0), dilation=dilation)
        nn.init.kaiming_normal_(self.conv.weight)
        self.dilation, self.same = dilation, same

    def initial_context(self, n_streams: int, n_bins: int, like: torch.Tensor) -> torch.Tensor:
        """State before the first frame."""
        n_frames = self.dilation if self.same else 0
        return like.new_zeros(n_streams, self.conv.in_channels, n_bins, n_frames)

    def forward(
        self, x: torch.Tensor, context: torch.Tensor, last: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``(streams, n_in, bins, frames)`` and the frames before it -> as many frames as are due,
        ``(streams, n_out, bins, frames)``, and the context of the next step."""
        x = torch.cat((context, x), -1)
        if last and self.same:
            x = F.pad(x, (0, self.dilation))
        n_frames = x.shape[-1]
        context = x[..., max(0, n_frames - 2 * self.dilation) :]
        if n_frames <= 2 * self.dilation:
            return x.new_zeros(len(x), self.conv.out_channels, x.shape[2], 0), context
        return self.conv(x), context

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        """A whole signal in one step."""
        return self(x, self.initial_context(len(x), x.shape[2], x), True)[0]


class FrequencyAggregation(nn.Module):
    """From the bins of a spectrum to a map of few rows: convolutions, and all bins of a frame in
    one product. Generator and critic both begin so.

    Args:
        n_in: channels of the spectrum.
        n_bins: bins of it.
        channels: of the three convolutions.
        n_rows: rows of the map.
        width: channels of the map.
        product: a linear layer's.
    """

    def __init__(
        self,
        n_in: int,
        n_bins: int,
        channels: Sequence[int],
        n_rows: int,
        width: int,
        product: Callable[[torch.Tensor, nn.Module], torch.Tensor] = linear,
    ):
        super().__init__()
        self.n_bins, self.n_rows, self.product = n_bins, n_rows, product
        convs = nn.ModuleList(
            Conv(one, other, dilation, same=True)
            for one, other, dilation in zip((n_in, *channels), channels, DILATIONS)
        )
        self.convs = cast(Sequence[Conv], convs)
        self.aggregate = nn.Linear(channels[-1] * n_bins, n_rows * width // 2)
        self.remap = nn.Linear(width // 2, width)
        for layer in (self.aggregate, self.remap):
            nn.init.kaiming_normal_(layer.weight)
        self.activations = nn.ModuleList(nn.PReLU() for _ in range(len(DILATIONS) + 2))

    def initial_contexts(self, n_streams: int, like: torch.Tensor) -> list[torch.Tensor]:
        return [conv.initial_context(n_streams, self.n_bins, like) for conv in self.convs]

    def forward(
        self, x: torch.Tensor, contexts: list[torch.Tensor], last: bool
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """``(streams, n_in, bins, frames)`` -> ``(streams, width, rows, frames)`` and contexts."""
        new = []
        for conv, activation, context in zip(self.convs, self.activations, contexts):
            x, context = conv(x, context, last)
            x = activation(x)
            new.append(context)
        whole, mapped = self.activations[len(DILATIONS) :]
        # The products may be those of another precision.
        x = whole(self.product(x.permute(0, 3, 1, 2).flatten(2), self.aggregate).to(x))
        x = self.product(x.unflatten(-1, (-1, self.n_rows)).transpose(-1, -2), self.remap).to(x)
        return mapped(x).permute(0, 3, 2, 1), new

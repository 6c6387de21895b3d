"""SR-GAN's critic, which scores the frames of a restoration, given its input."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from ..network.aggregation import Conv, FrequencyAggregation, compress, gated
from .signal import Signal


def compressed_spectrum(wav: Signal | torch.Tensor, window: int, hop: int) -> torch.Tensor:
    """Compute the compressed spectrum, the input of SR-GAN's networks.

    Args:
        wav: ``(batch, channels, time)``.
        window, hop: of the STFT in samples.

    Returns:
        square roots of real and imaginary parts, signs kept, without Nyquist's bin, ``(batch *
        channels, 2, bins - 1, frames)``.
    """
    spec = Signal.of(wav).stft(window, hop).flatten(0, 1)[:, :-1]
    return compress(torch.view_as_real(spec).permute(0, 3, 1, 2))


class SRGANCritic(nn.Module):
    """Critic that scores each frame of each channel, given the coded signal.

    Its structure is the generator's, with sums over the gated convolutions and without noise;
    163 285 439 parameters at the generator's default sizes.

    Args:
        window: of the STFT in samples.
        channels, n_rows, width, dilations: as in
            :class:`~apollo_plugin.network.srgan.SRGANNetwork`.
        conditional: give it the coded signal. The open implementation does not, and so has nothing
            that ties a restoration to its input.

    Shape:
        two results of :func:`compressed_spectrum`, ``(streams, 2, bins, frames)``, to scores
        ``(streams, frames)``.

    Example:
        >>> import torch
        >>> critic = SRGANCritic(256, (4, 6, 6), 8, 16, (1, 2))
        >>> coded, restored = (compressed_spectrum(x, 256, 64) for x in torch.randn(2, 3, 2, 6400))
        >>> critic(restored, coded).shape
        torch.Size([6, 101])
    """

    def __init__(
        self,
        window: int = 2048,
        channels: Sequence[int] = (18, 38, 38),
        n_rows: int = 32,
        width: int = 256,
        dilations: Sequence[int] = (1, 2, 4, 8, 16, 1, 2, 4, 8, 16),
        conditional: bool = True,
    ):
        super().__init__()
        self.conditional = conditional
        # Plain products, as the gradient penalty needs second derivatives.
        self.encoder = FrequencyAggregation(
            4 if conditional else 2, window // 2, channels, n_rows, width, product=_plain
        )
        inputs = [width, width] + [width // 2] * (len(dilations) - 2)
        middle = nn.ModuleList(
            Conv(n_in, width, dilation, same=True) for n_in, dilation in zip(inputs, dilations)
        )
        self.middle = cast(Sequence[Conv], middle)
        self.last = Conv(width // 2, width, 1, same=True)
        self.score = nn.Conv2d(width, 1, (n_rows, 1))
        self.before_gates, self.gate, self.before_score = nn.PReLU(), nn.PReLU(), nn.PReLU()

    def forward(self, parts: torch.Tensor, coded: torch.Tensor) -> torch.Tensor:
        """Score the compressed spectrum of a signal, given that of its coded version."""
        x = torch.cat((parts, coded), 1) if self.conditional else parts
        x, _ = self.encoder(x, self.encoder.initial_contexts(len(x), x), True)
        first, *others = self.middle
        x = self.before_gates(first.whole(x))
        total = None
        for conv in others:
            total = conv.whole(x) if total is None else total + conv.whole(x)
            x = gated(total, self.gate)
        return self.score(self.before_score(self.last.whole(x)))[:, 0, 0]


def _plain(x: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    return layer(x)

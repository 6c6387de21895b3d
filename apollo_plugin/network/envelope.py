"""The envelope path: the log energies that the original had, from what the codec left of it.

How loud each 250 Hz of the original was in each frame can be told from far less than its spectrum:
from the energies of all bands, from which of them are empty, from onsets inside a frame and from
how tonal a band is, some frames before and after. So this is a small dense network on a few numbers
a band, beside the band-sequence network, which sees every bin and costs forty times as much.
"""

import torch
from torch import nn

from .layers import TemporalBlock

# Added to energies before the logarithm: what rounding to 16 bits leaves in a band of 5 bins is
# 1e-7, with full-scale music at 1e4 and the STFT's window unscaled. Bands at it are empty.
ENERGY_FLOOR = 1e-6
EMPTY = 4 * ENERGY_FLOOR
# log energy, empty, two of the temporal shape, flatness
_N_FEATURES = 5
_FLATTEST = -8.0


class EnvelopePath(nn.Module):
    """Predicts the log gain of each band of the original spectrum, frame by frame.

    A log gain is the natural logarithm of a band's norm over its bins, as ``BandSplit.split`` has it;
    :data:`ENERGY_FLOOR` is added to the squared norm. Bands are numbered from 0 Hz, each
    ``band_bins`` bins wide and the last one with what remains: 88 of 250 Hz for the published STFT.
    They need not be the bands of the tokens.

    Everything about it is a step with state, like the ``TemporalBlock`` that it is made of:
    ``features`` of new frames and the contexts of the step before give as many frames as are due,
    ``ahead`` frames later than they came in, and the rest after ``last``. With nothing trained it
    predicts the log gains of its input; :meth:`set_linear_map` puts a closed form in their place.

    Args:
        n_bins: bins of the spectrum.
        band_bins: bins of a band.
        n_features: width; has to exceed the number of bands.
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
        kernel_size: int = 15,
        n_blocks: int = 4,
        ratio: int = 1,
        causal: bool = False,
    ):
        super().__init__()
        self.n_bands = n_bins // band_bins
        if self.n_bands < 2:
            raise ValueError(f"{n_bins} bins make no two bands of {band_bins}")
        self.band_bins = band_bins
        self.band_widths = [band_bins] * (self.n_bands - 1)
        self.band_widths.append(n_bins - sum(self.band_widths))
        if n_features < self.n_bands:
            raise ValueError(f"n_features {n_features} is less than the {self.n_bands} bands")
        self.n_in = _N_FEATURES * self.n_bands
        self.encoder = nn.Linear(self.n_in, n_features)
        self.blocks = nn.ModuleList(
            TemporalBlock(n_features, kernel_size, causal, ratio) for _ in range(n_blocks)
        )
        self.decoder = nn.Linear(n_features, self.n_bands)
        self.ahead = sum(block.ahead for block in self.blocks)
        with torch.no_grad():
            # The blocks add to what they are given, so a linear map of the input reaches the
            # output unchanged through the first features until training says otherwise.
            self.decoder.weight.zero_().fill_diagonal_(1)
            self.decoder.bias.zero_()
            for block in self.blocks:
                block.mlp_out.weight.zero_()
                block.mlp_out.bias.zero_()
        self.set_linear_map(torch.eye(self.n_bands, self.n_in), torch.zeros(self.n_bands))

    @torch.no_grad()
    def set_linear_map(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Starts from a linear map of a frame's features to its log gains, ridge regression's.

        Args:
            weight: ``(n_bands, n_in)``.
            bias: ``(n_bands,)``.
        """
        self.encoder.weight[: self.n_bands] = weight
        self.encoder.bias[: self.n_bands] = bias

    def initial_contexts(self, n_streams: int) -> list[torch.Tensor]:
        """What stands before the first frame: zeros, ``(streams, frames, 1, features)`` a block."""
        weight = self.encoder.weight
        return [
            weight.new_zeros(n_streams, block.behind, 1, weight.shape[0]) for block in self.blocks
        ]

    def features(self, spec: torch.Tensor) -> torch.Tensor:
        """What the path is told about each frame.

        For each band: its log gain; 1 where it is empty; two numbers for when in the frame its
        energy lies; its flatness. Empty bands are told apart by nothing but being empty.

        Args:
            spec: real view of a spectrum, ``(streams, frames, bins, 2)``.

        Returns:
            ``(streams, frames, n_in)``, the bands of the first feature first.
        """
        spec = spec.to(torch.promote_types(spec.dtype, torch.float32))
        power = spec.square().sum(-1)
        energy = self._sum(power)
        empty = energy < EMPTY
        log_gain = 0.5 * (energy + ENERGY_FLOOR).log()
        # The product of a bin and the conjugate of the one below it, summed over a band, is the
        # first Fourier coefficient of the band's energy over the frame. Its sign is that of an
        # energy in the middle; the imaginary part tells early from late.
        upper, lower = spec[..., 1:, :], spec[..., :-1, :]
        middle = -(upper * lower).sum(-1)
        side = upper[..., 0] * lower[..., 1] - upper[..., 1] * lower[..., 0]
        energy = energy.clamp(min=EMPTY)
        shape = [self._sum(nn.functional.pad(part, (0, 1))) / energy for part in (middle, side)]
        widths = torch.tensor(self.band_widths, device=spec.device)
        flatness = self._sum((power + 0.01 * ENERGY_FLOOR).log()) / widths
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
        return 0.5 * (self._sum(spec.square().sum(-1)) + ENERGY_FLOOR).log()

    def forward(
        self, features: torch.Tensor, contexts: list[torch.Tensor], last: bool
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """A step.

        Args:
            features: of new frames, ``(streams, frames, n_in)``; see :meth:`features`.
            contexts: from the step before, at first :meth:`initial_contexts`.
            last: no frame follows.

        Returns:
            log gains of the original, ``(streams, frames that are due, n_bands)``, and contexts.
        """
        x = self.encoder(features.to(self.encoder.weight.dtype)).unsqueeze(-2)
        new = []
        for block, context in zip(self.blocks, contexts):
            x, context = block(x, context, last)
            new.append(context)
        return self.decoder(x.squeeze(-2)), new

    def _sum(self, bins: torch.Tensor) -> torch.Tensor:
        """Sums over the bins of each band, ``(..., bins) -> (..., n_bands)``."""
        split = (self.n_bands - 1) * self.band_bins
        equal = bins[..., :split].unflatten(-1, (self.n_bands - 1, self.band_bins)).sum(-1)
        return torch.cat((equal, bins[..., split:].sum(-1, keepdim=True)), -1)

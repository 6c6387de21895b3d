"""Multi-resolution STFT discriminator (section II-E and Table I of the paper)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from ..errors import SettingError
from .signal import WINDOWS, Signal, _relative_error

_SLOPE = 0.2
# Smallest norm to divide by: silence cannot be scaled to unit energy.
_LEAST_NORM = 1e-8


class Judgement(NamedTuple):
    """Output of the discriminators for a signal.

    Args:
        scores: one tensor ``(batch, 1, bins, frames)`` for each window; 1 means an original.
        features: six feature maps for each window.
    """

    scores: list[torch.Tensor]
    features: list[list[torch.Tensor]]


class STFTDiscriminator(nn.Module):
    """Table I: six spectrally normalised 3x3 convolutions, every second of stride 2, and one more.

    Args:
        in_channels: twice the number of audio channels.
        channels: of the first layer; each later one has twice as many.
    """

    def __init__(self, in_channels: int = 4, channels: int = 8):
        super().__init__()
        widths = [in_channels] + [channels * 2**layer for layer in range(6)]
        self.convs = nn.ModuleList(
            spectral_norm(nn.Conv2d(width, wider, 3, stride=1 + layer % 2, padding=1))
            for layer, (width, wider) in enumerate(zip(widths, widths[1:]))
        )
        self.score = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, maps: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """``(batch, in_channels, bins, frames)`` -> score and the six feature maps."""
        features = []
        for conv in self.convs:
            maps = F.leaky_relu(conv(maps), _SLOPE)
            features.append(maps)
        return self.score(maps), features


class MultiResolutionSTFTDiscriminator(nn.Module):
    """Discriminators of real and imaginary parts of STFTs at several resolutions.

    The signal is scaled to unit energy over channels and time first.

    Args:
        windows: in samples, one discriminator each; hops are half of them.
        n_channels: audio channels.
        channels: F of Table I.

    Shape:
        ``(batch, n_channels, time)``, a tensor or a :class:`~apollo_plugin.losses.Signal`.

    Raises:
        ValueError: for another number of channels, or too short a signal.

    Example:
        >>> import torch
        >>> judge = MultiResolutionSTFTDiscriminator(windows=(64, 128))
        >>> [score.shape[-2:] for score in judge(torch.randn(1, 2, 6400)).scores]
        [torch.Size([5, 26]), torch.Size([9, 13])]
    """

    def __init__(self, windows: Sequence[int] = WINDOWS, n_channels: int = 2, channels: int = 8):
        super().__init__()
        self.windows, self.n_channels = tuple(windows), n_channels
        self.discriminators = nn.ModuleList(
            STFTDiscriminator(2 * n_channels, channels) for _ in self.windows
        )

    def forward(self, wav: Signal | torch.Tensor) -> Judgement:
        return self.judge(wav)[0]

    def judge(self, *signals: Signal | torch.Tensor) -> list[Judgement]:
        """Judge several signals with the same weights: one power iteration of the spectral norm
        for all of them. A signal without gradient builds no graph if the weights have none."""
        with parametrize.cached():
            return [self._judge(Signal.of(signal)) for signal in signals]

    def _judge(self, signal: Signal) -> Judgement:
        n_channels = signal.wav.shape[-2]
        if n_channels != self.n_channels:
            raise SettingError(
                f"{n_channels} channels do not fit a discriminator of {self.n_channels}"
            )
        norm = torch.linalg.vector_norm(signal.wav.float(), dim=(-2, -1)).clamp(min=_LEAST_NORM)
        judgement = Judgement([], [])
        for window, discriminator in zip(self.windows, self.discriminators):
            # Scaling the spectrum equals scaling the signal, and the losses reuse the spectrum.
            parts = torch.view_as_real(signal.stft(window) / norm[:, None, None, None])
            score, features = discriminator(parts.permute(0, 1, 4, 2, 3).flatten(1, 2))
            judgement.scores.append(score)
            judgement.features.append(features)
        return judgement


class AdversarialLoss(nn.Module):
    """Least squares between scores and their targets [31]: eq. (3), with means for sums.

    A score is a list of one tensor for each discriminator.
    """

    def discriminator_loss(
        self, est_scores: Sequence[torch.Tensor], scores: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Compute the discriminator's loss: originals should score 1, estimates 0."""
        losses = [
            (real.float() - 1).square().mean() + fake.float().square().mean()
            for fake, real in zip(est_scores, scores)
        ]
        return torch.stack(losses).mean()

    def generator_loss(self, est_scores: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute the generator's loss: estimates should score 1."""
        return torch.stack([(fake.float() - 1).square().mean() for fake in est_scores]).mean()


class FeatureMatchingLoss(nn.Module):
    """Relative error of the discriminators' feature maps, mean over layers: eq. (5).

    Args:
        per_item: see the module.
    """

    def __init__(self, per_item: bool = False):
        super().__init__()
        self.per_item = per_item

    def forward(
        self,
        est_features: Sequence[Sequence[torch.Tensor]],
        features: Sequence[Sequence[torch.Tensor]],
    ) -> torch.Tensor:
        """Compare feature maps of estimate and original, for each discriminator and layer."""
        errors = [
            _relative_error(est, ref.detach(), self.per_item)
            for est_layers, layers in zip(est_features, features)
            for est, ref in zip(est_layers, layers)
        ]
        return torch.stack(errors).mean()

"""Losses of SR-GAN: Wasserstein distance, gradient penalty, and optional ones."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import nn

from ..errors import SettingError
from .critic import SRGANCritic, compressed_spectrum
from .generator import check_weights
from .signal import WINDOWS, Signal, require_equal_shapes

_EPS = 1e-6


class WassersteinLoss(nn.Module):
    """Difference of mean scores (Arjovsky et al., 2017): the critic raises originals above
    estimates, the generator raises its estimates."""

    def critic_loss(self, est_scores: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return est_scores.float().mean() - scores.float().mean()

    def generator_loss(self, est_scores: torch.Tensor) -> torch.Tensor:
        return -est_scores.float().mean()


class GradientPenalty(nn.Module):
    """Mean squared distance to 1 of the gradient norm of a critic's mean score, at random points
    between estimate and original (Gulrajani et al., 2017)."""

    def forward(
        self,
        critic: Callable[[torch.Tensor], torch.Tensor],
        est: torch.Tensor,
        ref: torch.Tensor,
        share: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the penalty.

        Args:
            critic: function from signals to scores, ``(batch, ...)``.
            est: estimates, ``(batch, ...)``.
            ref: originals of the same shape.
            share: share of the original, 0 to 1, ``(batch,)``.
        """
        require_equal_shapes(est, ref)
        share = share.view(-1, *[1] * (est.ndim - 1))
        # The penalty is differentiated again: in float32 at least.
        with torch.autocast(est.device.type, enabled=False):
            between = torch.lerp(est.detach(), ref.detach(), share).requires_grad_()
            scores = critic(between).flatten(1).mean(1)
            (slope,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
            return (torch.linalg.vector_norm(slope.flatten(1), dim=1) - 1).square().mean()


class ProfileLoss(nn.Module):
    """Distance of two draws of the noise relative to the change of output, against mode collapse.

    For P the square root of a spectrum's magnitudes, ``|z - z'| / ||mean P - mean P'||_p`` for the
    mean over bins with p = 1.3, and over frames with p = 1.6, summed. The open implementation
    defines it without calling it.
    """

    # Axis of (streams, bins, frames) -> p.
    _PROFILES = ((1, 1.3), (2, 1.6))

    def forward(
        self, one: torch.Tensor, other: torch.Tensor, z: torch.Tensor, other_z: torch.Tensor
    ) -> torch.Tensor:
        """Compare two compressed spectra of the same signals, ``(streams, 2, bins, frames)``, with
        the noise of both, ``(batch, noise_dim)``."""
        require_equal_shapes(one, other)
        # The fourth power of a compressed part is the square of the part.
        roots = [(parts.pow(4).sum(1) + _EPS).pow(0.25) for parts in (one, other)]
        distance = torch.linalg.vector_norm((z - other_z).float(), dim=-1)
        distance = distance.repeat_interleave(len(one) // len(z))
        ratios = []
        for axis, p in self._PROFILES:
            change = roots[0].mean(axis) - roots[1].mean(axis)
            # Regularised: a power below 2 has a steep gradient at zero.
            norm = (change.square() + _EPS).pow(p / 2).sum(1).pow(1 / p)
            ratios.append(distance / norm)
        return torch.stack(ratios).sum(0).mean()


class MagnitudeLoss(nn.Module):
    """Mean absolute error of the magnitudes of compressed parts. If phase is unpredictable, the
    error of the parts is smallest for silence; this error is not. Not in a source."""

    def forward(self, est: torch.Tensor, ref: torch.Tensor) -> torch.Tensor:
        """Compare compressed spectra, ``(streams, 2, bins, frames)``."""
        require_equal_shapes(est, ref)
        magnitudes = [(parts.square().sum(1) + _EPS).sqrt() for parts in (est, ref)]
        return (magnitudes[0] - magnitudes[1]).abs().mean()


class Draws(NamedTuple):
    """A second restoration of the same signals, as a compressed spectrum, and the noise of both."""

    other: torch.Tensor
    z: torch.Tensor
    other_z: torch.Tensor


class SRGANLoss(nn.Module):
    """Weighted sums for SR-GAN's two networks, of compressed spectra.

    Args:
        adversarial: weight of :class:`WassersteinLoss`.
        gradient_penalty: weight of :class:`GradientPenalty`; 10 in Gulrajani et al., 100 in the
            open implementation.
        reconstruction: weight of the mean absolute error; not in a source.
        magnitude: weight of :class:`MagnitudeLoss`.
        profile: weight of :class:`ProfileLoss`; the open implementation names none.
        window, hop: of the STFT in samples.
        windows: windows of the reconstruction loss of :class:`~apollo_plugin.losses.GeneratorLoss`,
            which validation reports too.

    Raises:
        ValueError: if a weight is negative, or those of adversarial, reconstruction and magnitude
            are all 0.
    """

    def __init__(
        self,
        adversarial: float = 1.0,
        gradient_penalty: float = 10.0,
        reconstruction: float = 0.0,
        magnitude: float = 0.0,
        profile: float = 0.0,
        window: int = 2048,
        hop: int = 512,
        windows: tuple[int, ...] = WINDOWS,
    ):
        super().__init__()
        self.weights = dict(
            adversarial=adversarial,
            gradient_penalty=gradient_penalty,
            reconstruction=reconstruction,
            magnitude=magnitude,
            profile=profile,
        )
        check_weights(self.weights)
        if not adversarial and not reconstruction and not magnitude:
            raise SettingError(
                "one of the weights adversarial, reconstruction and magnitude has to exceed 0"
            )
        self.window, self.hop, self.windows = window, hop, tuple(windows)
        self.adversarial, self.gradient_penalty = WassersteinLoss(), GradientPenalty()
        self.reconstruction, self.magnitude = nn.L1Loss(), MagnitudeLoss()
        self.profile = ProfileLoss()

    def spectrum(self, wav: Signal | torch.Tensor) -> torch.Tensor:
        """Compute :func:`~apollo_plugin.losses.compressed_spectrum`."""
        return compressed_spectrum(wav, self.window, self.hop)

    def critic_loss(
        self,
        critic: SRGANCritic,
        est: torch.Tensor,
        ref: torch.Tensor,
        coded: torch.Tensor,
        share: torch.Tensor,
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Compute the critic's loss and its parts.

        Args:
            critic: the critic to train.
            est: the generator's output, detached.
            ref: the original.
            coded: the generator's input.
            share: shares of :class:`GradientPenalty`, one for each stream.
        """
        distance = self.adversarial.critic_loss(critic(est, coded), critic(ref, coded))
        parts = {"distance": -distance}
        total = distance
        if self.weights["gradient_penalty"]:
            penalty = self.gradient_penalty(lambda x: critic(x, coded), est, ref, share)
            parts["gradient_penalty"] = penalty
            total = total + self.weights["gradient_penalty"] * penalty
        return total, parts

    def forward(
        self,
        est: torch.Tensor,
        ref: torch.Tensor,
        est_scores: torch.Tensor | None = None,
        draws: Draws | None = None,
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Compute the generator's loss and its parts; a part of weight 0 is not computed.

        Args:
            est: the generator's output.
            ref: the original.
            est_scores: the critic's scores of the output; without them no adversarial part.
            draws: a second output for other noise, for the profile loss.

        Raises:
            SettingError: if all parts have weight 0.
        """
        require_equal_shapes(est, ref)
        parts: dict[str, torch.Tensor] = {}
        for name, loss in (("reconstruction", self.reconstruction), ("magnitude", self.magnitude)):
            if self.weights[name]:
                parts[name] = loss(est, ref)
        if est_scores is not None and self.weights["adversarial"]:
            parts["adversarial"] = self.adversarial.generator_loss(est_scores)
        if not parts:
            raise SettingError(
                "without a critic (adversarial_training: false, or in warmup_steps) one of the "
                "weights reconstruction and magnitude has to exceed 0"
            )
        if draws is not None and self.weights["profile"]:
            parts["profile"] = self.profile(est, *draws)
        total = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return total, parts

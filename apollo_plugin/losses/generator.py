"""The generator's loss: eq. (6) of the paper, with optional terms."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..errors import SettingError
from .adversarial import AdversarialLoss, FeatureMatchingLoss, Judgement
from .signal import WINDOWS, Signal
from .spectral import (
    BandEnergyLoss,
    EnvelopeLoss,
    LogSpectralLoss,
    MelLoss,
    ReconstructionLoss,
    SNRLoss,
)


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise a SettingError for a weight that is negative, infinite or NaN."""
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise SettingError(f"loss weight {name} is {weight}; it has to be 0 or more")


class GeneratorLoss(nn.Module):
    """Weighted sum of named losses, by default eq. (6).

    Args:
        reconstruction: alpha of the paper, weight of :class:`ReconstructionLoss`.
        feature_matching: beta, weight of :class:`FeatureMatchingLoss`.
        adversarial: gamma, weight of :class:`AdversarialLoss`.
        snr: weight of :class:`SNRLoss`.
        envelope: weight of :class:`EnvelopeLoss`.
        mel: weight of :class:`MelLoss`.
        log_spectral: weight of :class:`LogSpectralLoss`.
        band_energy: weight of :class:`BandEnergyLoss`.
        snr_below: upper limit of the SNR: None, a frequency in Hz, or ``"cutoff"``; see
            :class:`SNRLoss`.
        windows: windows of the reconstruction loss.
        per_item: see the module.
        sample_rate: of the signals, in Hz.

    Raises:
        ValueError: if a weight is negative, or all losses that need no discriminator have weight 0.
    """

    def __init__(
        self,
        reconstruction: float = 1.0,
        feature_matching: float = 1.0,
        adversarial: float = 1.0,
        snr: float = 0.0,
        envelope: float = 0.0,
        mel: float = 0.0,
        log_spectral: float = 0.0,
        band_energy: float = 0.0,
        snr_below: float | str | None = None,
        windows: Sequence[int] = WINDOWS,
        per_item: bool = False,
        sample_rate: float = 44100,
    ):
        super().__init__()
        self.windows = tuple(windows)
        self.comparisons = nn.ModuleDict(
            dict(
                reconstruction=ReconstructionLoss(windows, per_item),
                snr=SNRLoss(snr_below, sample_rate),
                envelope=EnvelopeLoss(per_item=per_item),
                mel=MelLoss(sample_rate),
                log_spectral=LogSpectralLoss(),
                band_energy=BandEnergyLoss(sample_rate),
            )
        )
        self.weights: dict[str, float] = dict(
            reconstruction=reconstruction,
            feature_matching=feature_matching,
            adversarial=adversarial,
            snr=snr,
            envelope=envelope,
            mel=mel,
            log_spectral=log_spectral,
            band_energy=band_energy,
        )
        check_weights(self.weights)
        if not any(self.weights[name] for name in self.comparisons):
            raise SettingError(
                f"one of the weights {', '.join(self.comparisons)} has to exceed 0: the "
                "discriminators alone do not compare with the original"
            )
        self.adversarial = AdversarialLoss()
        self.feature_matching = FeatureMatchingLoss(per_item)

    def forward(
        self,
        est_targets: Signal | torch.Tensor,
        targets: Signal | torch.Tensor,
        est_judgement: Judgement | None = None,
        judgement: Judgement | None = None,
        coded: Signal | torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Compute the sum and its parts; a part of weight 0 is not computed.

        Args:
            est_targets: the generator's output.
            targets: the original.
            est_judgement: the discriminators' judgement of the output; without it the sum has no
                adversarial part.
            judgement: their judgement of the original.
            coded: the generator's input, for ``snr_below="cutoff"``.
        """
        est, ref = Signal.pair(est_targets, targets)
        parts: dict[str, torch.Tensor] = {}
        for name, loss in self.comparisons.items():
            if self.weights[name]:
                parts[name] = loss(est, ref, coded) if name == "snr" else loss(est, ref)
        if est_judgement is not None and self.weights["adversarial"]:
            parts["adversarial"] = self.adversarial.generator_loss(est_judgement.scores)
        if est_judgement is not None and judgement is not None and self.weights["feature_matching"]:
            parts["feature_matching"] = self.feature_matching(
                est_judgement.features, judgement.features
            )
        total = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return total, parts

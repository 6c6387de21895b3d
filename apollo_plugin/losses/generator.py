"""The generator's loss: eq. (6) of the paper, and what may join it."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from .adversarial import AdversarialLoss, FeatureMatchingLoss
from .signal import WINDOWS, Signal
from .spectral import EnvelopeLoss, LogSpectralLoss, MelLoss, ReconstructionLoss, SNRLoss


class GeneratorLoss(nn.Module):
    """Weighted sum of named losses: eq. (6) unless told otherwise.

    Args:
        reconstruction: alpha of the paper, weight of :class:`ReconstructionLoss`.
        feature_matching: beta, weight of :class:`FeatureMatchingLoss`.
        adversarial: gamma, weight of :class:`AdversarialLoss`.
        snr: weight of :class:`SNRLoss`.
        envelope: weight of :class:`EnvelopeLoss`.
        mel: weight of :class:`MelLoss`.
        log_spectral: weight of :class:`LogSpectralLoss`.
        windows: of the reconstruction loss.
        per_item: see the module.
        sample_rate: of the signals, in Hz.

    Raises:
        ValueError: where a weight is negative, or none of the losses that need no discriminator
            is positive.
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
        windows: Sequence[int] = WINDOWS,
        per_item: bool = False,
        sample_rate: float = 44100,
    ):
        super().__init__()
        self.weights = dict(
            reconstruction=reconstruction,
            feature_matching=feature_matching,
            adversarial=adversarial,
            snr=snr,
            envelope=envelope,
            mel=mel,
            log_spectral=log_spectral,
        )
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"loss weight {name} is {weight}; it has to be 0 or more")
        if not reconstruction + snr + envelope + mel + log_spectral > 0:
            raise ValueError(
                "one of the weights reconstruction, snr, envelope, mel and log_spectral has to "
                "exceed 0"
            )
        self.comparisons = nn.ModuleDict(
            dict(
                reconstruction=ReconstructionLoss(windows, per_item),
                snr=SNRLoss(),
                envelope=EnvelopeLoss(per_item=per_item),
                mel=MelLoss(sample_rate),
                log_spectral=LogSpectralLoss(),
            )
        )
        self.adversarial = AdversarialLoss()
        self.feature_matching = FeatureMatchingLoss(per_item)

    def forward(
        self,
        est_targets: Signal | torch.Tensor,
        targets: Signal | torch.Tensor,
        est_judgement: tuple[Sequence, Sequence] | None = None,
        judgement: tuple[Sequence, Sequence] | None = None,
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """The sum and its parts; a part of weight 0 is not computed.

        Args:
            est_targets: the generator's output.
            targets: the original.
            est_judgement: scores and features that the discriminators give the output; without
                them the sum has no adversarial part.
            judgement: those of the original.
        """
        est, ref = Signal.of(est_targets), Signal.of(targets)
        parts = {
            name: loss(est, ref) for name, loss in self.comparisons.items() if self.weights[name]
        }
        if est_judgement is not None:
            if self.weights["adversarial"]:
                parts["adversarial"] = self.adversarial.generator_loss(est_judgement[0])
            if self.weights["feature_matching"]:
                parts["feature_matching"] = self.feature_matching(est_judgement[1], judgement[1])
        return sum(self.weights[name] * part for name, part in parts.items()), parts

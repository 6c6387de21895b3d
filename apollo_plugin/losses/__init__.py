"""Section II-E of the paper: discriminators, what they are trained with, and losses of ours."""

from .adversarial import (
    AdversarialLoss,
    FeatureMatchingLoss,
    Judgement,
    MultiResolutionSTFTDiscriminator,
    STFTDiscriminator,
)
from .generator import GeneratorLoss
from .signal import WINDOWS, Signal
from .spectral import EnvelopeLoss, LogSpectralLoss, MelLoss, ReconstructionLoss, SNRLoss

__all__ = [
    "WINDOWS",
    "AdversarialLoss",
    "EnvelopeLoss",
    "FeatureMatchingLoss",
    "GeneratorLoss",
    "Judgement",
    "LogSpectralLoss",
    "MelLoss",
    "MultiResolutionSTFTDiscriminator",
    "ReconstructionLoss",
    "SNRLoss",
    "STFTDiscriminator",
    "Signal",
]

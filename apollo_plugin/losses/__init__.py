"""Section II-E of the paper: discriminators, what they are trained with, and losses of ours."""

from .adversarial import Judgement, MultiResolutionSTFTDiscriminator, STFTDiscriminator
from .spectral import (
    WINDOWS,
    AdversarialLoss,
    EnvelopeLoss,
    FeatureMatchingLoss,
    GeneratorLoss,
    LogSpectralLoss,
    MelLoss,
    ReconstructionLoss,
    Signal,
    SNRLoss,
)

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

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
from .snr import SNRLoss
from .spectral import (
    BandEnergyLoss,
    EnvelopeLoss,
    LogSpectralLoss,
    MelLoss,
    ReconstructionLoss,
)

__all__ = [
    "WINDOWS",
    "AdversarialLoss",
    "BandEnergyLoss",
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

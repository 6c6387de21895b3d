"""Discriminators and losses of section II-E of the paper, further losses, and those of SR-GAN."""

from .adversarial import (
    AdversarialLoss,
    FeatureMatchingLoss,
    Judgement,
    MultiResolutionSTFTDiscriminator,
    STFTDiscriminator,
)
from .critic import SRGANCritic, compressed_spectrum
from .generator import GeneratorLoss
from .signal import WINDOWS, Signal
from .spectral import (
    BandEnergyLoss,
    EnvelopeLoss,
    LogSpectralLoss,
    MelLoss,
    ReconstructionLoss,
    SNRLoss,
)
from .wasserstein import (
    Draws,
    GradientPenalty,
    MagnitudeLoss,
    ProfileLoss,
    SRGANLoss,
    WassersteinLoss,
)

__all__ = [
    "WINDOWS",
    "AdversarialLoss",
    "BandEnergyLoss",
    "Draws",
    "EnvelopeLoss",
    "FeatureMatchingLoss",
    "GeneratorLoss",
    "GradientPenalty",
    "Judgement",
    "LogSpectralLoss",
    "MagnitudeLoss",
    "MelLoss",
    "MultiResolutionSTFTDiscriminator",
    "ProfileLoss",
    "ReconstructionLoss",
    "SNRLoss",
    "SRGANCritic",
    "SRGANLoss",
    "STFTDiscriminator",
    "Signal",
    "WassersteinLoss",
    "compressed_spectrum",
]

"""The signal-to-noise ratio as a loss, over the whole band or over the band that a codec kept."""

import math

import torch
from torch import nn

from ..errors import SettingError
from .signal import _POWER_EPS, Signal, _in_bands


class SNRLoss(nn.Module):
    """Negative log10 of the signal-to-noise ratio, mean over channels and items.

    It is sensitive to phase and dominated by energy, so quiet highs hardly count. Over the whole
    band it favours highs that are too quiet: their phase cannot be predicted, so any energy there
    counts as noise. ``below`` leaves the highs to the other losses. Not in the paper.

    Args:
        below: upper limit of the band: None for the whole band; a frequency in Hz; ``"cutoff"`` for
            the codec's cut-off, measured for each item and channel on its coded signal.
        sample_rate: in Hz.

    Raises:
        ValueError: for any other ``below``, and if the coded signal is needed and missing.

    Example:
        >>> import torch
        >>> ref = torch.randn(1, 2, 8000)
        >>> [round(loss(1.1 * ref, ref).item(), 3) for loss in (SNRLoss(), SNRLoss(4000))]
        [-2.0, -2.0]
    """

    # Window of the spectra.
    _WINDOW = 2048
    # Energy of a signal of power 1 in half of the bins, with a Hann window.
    _ENERGY = 0.375 * _WINDOW**2 / 2
    _BAND_HZ = 250.0
    # The codec kept a band if half of its energy is left. Energy 100 dB below the whole signal is
    # rounding.
    _KEPT, _ROUNDING = 0.5, 1e-10

    def __init__(self, below: float | str | None = None, sample_rate: float = 44100):
        super().__init__()
        number = isinstance(below, (int, float)) and not isinstance(below, bool)
        if not (below is None or below == "cutoff" or (number and 0 < float(below) < math.inf)):
            raise SettingError(
                f"an SNR below {below!r}: it has to be a frequency in Hz, 'cutoff', or null"
            )
        self.below, self.sample_rate = below, sample_rate

    def forward(
        self,
        est_targets: Signal | torch.Tensor,
        targets: Signal | torch.Tensor,
        coded: Signal | torch.Tensor | None = None,
    ) -> torch.Tensor:
        est, ref = Signal.pair(est_targets, targets)
        if self.below is None:
            noise = (est.wav - ref.wav).square().mean(-1)
            power = ref.wav.square().mean(-1)
        else:
            counted = self._counted(ref, coded)
            specs = [signal.stft(self._WINDOW, self._WINDOW // 4) for signal in (est, ref)]
            power, noise = (
                ((spec.real.square() + spec.imag.square()).mean(-1) * counted).sum(-1)
                / self._ENERGY
                for spec in (specs[1], specs[0] - specs[1])
            )
        return -((power + _POWER_EPS) / (noise + _POWER_EPS)).log10().mean()

    def _counted(self, ref: Signal, coded: Signal | torch.Tensor | None) -> torch.Tensor:
        """Mask of the bins that count: ``(bins,)`` or ``(batch, channels, bins)``."""
        n_bins = self._WINDOW // 2 + 1
        hertz = torch.arange(n_bins, device=ref.wav.device) * self.sample_rate / self._WINDOW
        if self.below != "cutoff":
            return (hertz < float(self.below or 0)).float()
        if coded is None:
            raise SettingError("an SNR below the cut-off needs the coded signal")
        with torch.no_grad():
            band = (hertz / self._BAND_HZ).long()
            kept, whole = (
                _in_bands(signal.power(self._WINDOW), nn.functional.one_hot(band)).mean(-2)
                for signal in Signal.pair(coded, ref)
            )
            there = kept > self._KEPT * whole + self._ROUNDING * whole.sum(-1, keepdim=True)
            # All bands up to the highest that was kept.
            return (there.flip(-1).cumsum(-1).flip(-1) > 0).to(kept.dtype)[..., band]

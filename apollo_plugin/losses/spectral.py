"""Losses on spectra: the reconstruction loss of section II-E, and optional ones.

A loss compares two :class:`Signal`, which compute each spectrum once for all losses and
discriminators. With ``per_item`` the ratios are taken for each item of a batch and then averaged,
so that the loss of a batch is the mean of its items: gradients do not depend on how items are
distributed over processes or accumulated. The published training has one item per process, which is
equivalent.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from ..errors import SettingError
from .signal import _POWER_EPS, WINDOWS, Signal, _in_bands, _relative_error


class _Comparison(nn.Module):
    """Mean over windows, or time scales, of the errors that a subclass defines."""

    windows: Sequence[int]

    def forward(
        self, est_targets: Signal | torch.Tensor, targets: Signal | torch.Tensor
    ) -> torch.Tensor:
        est, ref = Signal.pair(est_targets, targets)
        return torch.stack([self._error(est, ref, window) for window in self.windows]).mean()

    def _error(self, est: Signal, ref: Signal, window: int) -> torch.Tensor:
        raise NotImplementedError


class ReconstructionLoss(_Comparison):
    """Relative error of magnitudes, mean over STFT resolutions: eq. (4).

    Args:
        windows: in samples; hops are half of them.
        per_item: see the module.

    Shape:
        estimate and original ``(batch, channels, time)``, tensors or :class:`Signal`.

    Example:
        >>> import torch
        >>> ref = torch.randn(1, 2, 3000)
        >>> round(ReconstructionLoss()(0.9 * ref, ref).item(), 4)
        0.1
    """

    def __init__(self, windows: Sequence[int] = WINDOWS, per_item: bool = False):
        super().__init__()
        self.windows, self.per_item = tuple(windows), per_item

    def _error(self, est: Signal, ref: Signal, window: int) -> torch.Tensor:
        return _relative_error(est.stft(window).abs(), ref.stft(window).abs(), self.per_item)


class EnvelopeLoss(_Comparison):
    """Relative error of compressed magnitudes, mean over STFT resolutions.

    Quiet highs count as much as loud lows; phase does not matter. Not in the paper.

    Args:
        windows: in samples; hops are a quarter of them.
        power: exponent of the magnitudes.
        per_item: see the module.
    """

    def __init__(
        self, windows: Sequence[int] = (256, 1024, 2048), power: float = 0.3, per_item: bool = False
    ):
        super().__init__()
        self.windows, self.power, self.per_item = tuple(windows), power, per_item

    def _error(self, est: Signal, ref: Signal, window: int) -> torch.Tensor:
        one, other = ((x.power(window) + _POWER_EPS).pow(self.power / 2) for x in (est, ref))
        return _relative_error(one, other, self.per_item)


class MelLoss(_Comparison):
    """Mean error of natural log powers in mel bands; phase and fine structure do not matter.

    Its minimum is at the right power, while that of :class:`EnvelopeLoss`, an error of single bins,
    is slightly below it. Levels more than 50 dB below the loudest band of their frame are masked
    and clamped. Not in the paper.

    Args:
        sample_rate: in Hz.
        window: in samples; the hop is a quarter of it.
        n_mels: number of bands up to half of the sample rate.

    Example:
        >>> import torch
        >>> ref = torch.randn(1, 2, 8000)
        >>> round(MelLoss()(ref * 2.718281828, ref).item(), 3)  # twice the log of the amplitude
        2.0
    """

    _FLOOR = 1e-5

    def __init__(self, sample_rate: float = 44100, window: int = 2048, n_mels: int = 64):
        super().__init__()
        self.windows = (window,)
        bands = _mel_bands(window // 2 + 1, sample_rate / 2, n_mels)
        self.register_buffer("bands", bands, persistent=False)

    def _error(self, est: Signal, ref: Signal, window: int) -> torch.Tensor:
        mels, ref_mels = (_in_bands(x.power(window), self.get_buffer("bands")) for x in (est, ref))
        floor = self._FLOOR * ref_mels.amax(-1, keepdim=True) + _POWER_EPS
        return (
            (torch.maximum(mels, floor).log() - torch.maximum(ref_mels, floor).log()).abs().mean()
        )


def _mel_bands(n_bins: int, top_hz: float, n_mels: int) -> torch.Tensor:
    """Triangles of height 1 that overlap by half, equally wide in mel (O'Shaughnessy 1987, as in
    HTK): m = 2595 lg(1 + f / 700 Hz); ``(n_bins, n_mels)``, from 0 Hz to the top."""
    mels = torch.linspace(0, 2595 * math.log10(1 + top_hz / 700), n_mels + 2, dtype=torch.float64)
    low, middle, high = (700 * (10 ** (mels / 2595) - 1)).unfold(0, n_mels, 1)
    hertz = torch.linspace(0, top_hz, n_bins, dtype=torch.float64)[:, None]
    rising, falling = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0).float()


class LogSpectralLoss(_Comparison):
    """Mean error of the natural log powers of single bins, mean over STFT resolutions.

    The power in a mel band can be right while most of its bins are too low and a few too high; this
    loss weights all bins equally. Phase does not matter. A floor 20 dB below the original's mean
    power around each bin is added, so that the random depth of notches does not drive the gradient.
    Not in the paper.

    Args:
        windows: in samples; hops are a quarter of them.

    Example:
        >>> import torch
        >>> ref = torch.randn(1, 2, 8000)
        >>> 1.9 < LogSpectralLoss()(ref * 2.718281828, ref).item() <= 2.0
        True
    """

    _FLOOR = 0.01
    _AROUND = (9, 5)  # bins, frames

    def __init__(self, windows: Sequence[int] = (1024, 2048)):
        super().__init__()
        self.windows = tuple(windows)

    def _error(self, est: Signal, ref: Signal, window: int) -> torch.Tensor:
        est_power, ref_power = est.power(window), ref.power(window)
        bins, frames = self._AROUND
        around = nn.functional.avg_pool2d(
            ref_power, self._AROUND, 1, (bins // 2, frames // 2), count_include_pad=False
        )
        floor = self._FLOOR * around + _POWER_EPS
        return ((est_power + floor).log() - (ref_power + floor).log()).abs().mean()


class BandEnergyLoss(_Comparison):
    """Mean error of the natural log energies of bands of equal width, mean over time scales.

    It compares temporal envelopes: short hops resolve onsets, long ones the level. Phase and fine
    structure do not matter. A floor relative to the original is added to both energies, so that
    silence neither counts nor drives the gradient. Not in the paper.

    Args:
        sample_rate: in Hz.
        hops_ms: time scales in milliseconds; windows are twice as long.
        band_hz: width of the bands, from 0 Hz to half of the sample rate.
        floor_db: distance of the floor below the original's energy over all bands and the whole
            item, for each channel.

    Shape:
        estimate and original ``(batch, channels, time)``, tensors or :class:`Signal`.

    Raises:
        ValueError: for bands too narrow for a hop, and for too short a signal.

    Example:
        >>> import torch
        >>> ref = torch.randn(1, 2, 8000)
        >>> round(BandEnergyLoss()(ref * 2.718281828, ref).item(), 3)  # twice that of the amplitude
        2.0
    """

    def __init__(
        self,
        sample_rate: float = 44100,
        hops_ms: Sequence[float] = (5.0, 10.0, 40.0),
        band_hz: float = 250.0,
        floor_db: float = 80.0,
    ):
        super().__init__()
        hops = [max(1, round(hop / 1000 * sample_rate)) for hop in hops_ms]
        self.windows = tuple(2 * hop for hop in hops)
        self.floor = 10 ** (-floor_db / 10)
        for hop, hop_ms in zip(hops, hops_ms):
            if sample_rate / (2 * hop) > band_hz:
                raise SettingError(
                    f"a hop of {hop_ms:g} ms is too short for bands of {band_hz:g} Hz"
                )
            hertz = torch.arange(hop + 1) * sample_rate / (2 * hop)
            # The bin at half of the sample rate joins the last band.
            band = (hertz / band_hz).long().clamp(max=math.ceil(sample_rate / 2 / band_hz) - 1)
            # A product with a matrix, as indexing is slow to differentiate.
            self.register_buffer(f"bands_{2 * hop}", nn.functional.one_hot(band).float(), False)

    def _error(self, est: Signal, ref: Signal, window: int) -> torch.Tensor:
        hop, bands = window // 2, self.get_buffer(f"bands_{window}")
        energies = [_in_bands(signal.power(window, hop), bands) for signal in (est, ref)]
        # In units of the spectrum: 1e-9 of power in the waveform is 1e-9 * hop in a bin.
        whole = energies[1].sum(-1, keepdim=True).mean(-2, keepdim=True)
        floor = self.floor * whole + _POWER_EPS * hop
        return ((energies[0] + floor).log() - (energies[1] + floor).log()).abs().mean()


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

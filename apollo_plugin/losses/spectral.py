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


class ReconstructionLoss(nn.Module):
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

    def forward(
        self, est_targets: Signal | torch.Tensor, targets: Signal | torch.Tensor
    ) -> torch.Tensor:
        est, ref = Signal.pair(est_targets, targets)
        errors = [
            _relative_error(est.stft(window).abs(), ref.stft(window).abs(), self.per_item)
            for window in self.windows
        ]
        return torch.stack(errors).mean()


class EnvelopeLoss(nn.Module):
    """Relative error of compressed magnitudes, mean over STFT resolutions.

    Quiet highs count as much as loud lows; phase does not matter. Not in the paper.

    Args:
        windows: in samples; hops are a quarter of them.
        power: exponent of the magnitudes.
        per_item: see the module.
    """

    def __init__(
        self,
        windows: Sequence[int] = (256, 1024, 2048),
        power: float = 0.3,
        per_item: bool = False,
    ):
        super().__init__()
        self.windows, self.power, self.per_item = tuple(windows), power, per_item

    def forward(
        self, est_targets: Signal | torch.Tensor, targets: Signal | torch.Tensor
    ) -> torch.Tensor:
        est, ref = Signal.pair(est_targets, targets)
        errors = [
            _relative_error(
                self._compressed(est, window), self._compressed(ref, window), self.per_item
            )
            for window in self.windows
        ]
        return torch.stack(errors).mean()

    def _compressed(self, signal: Signal, window: int) -> torch.Tensor:
        return (signal.power(window) + _POWER_EPS).pow(self.power / 2)


class MelLoss(nn.Module):
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
        self.window = window
        bands = _mel_bands(window // 2 + 1, sample_rate / 2, n_mels)
        self.register_buffer("bands", bands, persistent=False)

    def forward(
        self, est_targets: Signal | torch.Tensor, targets: Signal | torch.Tensor
    ) -> torch.Tensor:
        est, ref = (self._powers(signal) for signal in Signal.pair(est_targets, targets))
        floor = self._FLOOR * ref.amax(-1, keepdim=True) + _POWER_EPS
        return (torch.maximum(est, floor).log() - torch.maximum(ref, floor).log()).abs().mean()

    def _powers(self, signal: Signal) -> torch.Tensor:
        """Powers in mel bands, ``(batch, channels, frames, mels)``."""
        return _in_bands(signal.power(self.window), self.get_buffer("bands"))


def _mel_bands(n_bins: int, top_hz: float, n_mels: int) -> torch.Tensor:
    """Triangles of height 1 that overlap by half, equally wide in mel (O'Shaughnessy 1987, as in
    HTK): m = 2595 lg(1 + f / 700 Hz); ``(n_bins, n_mels)``, from 0 Hz to the top."""
    mels = torch.linspace(0, 2595 * math.log10(1 + top_hz / 700), n_mels + 2, dtype=torch.float64)
    low, middle, high = (700 * (10 ** (mels / 2595) - 1)).unfold(0, n_mels, 1)
    hertz = torch.linspace(0, top_hz, n_bins, dtype=torch.float64)[:, None]
    rising, falling = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0).float()


class LogSpectralLoss(nn.Module):
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

    def forward(
        self, est_targets: Signal | torch.Tensor, targets: Signal | torch.Tensor
    ) -> torch.Tensor:
        est, ref = Signal.pair(est_targets, targets)
        return torch.stack([self._error(est, ref, window) for window in self.windows]).mean()

    def _error(self, est: Signal, ref: Signal, window: int) -> torch.Tensor:
        est_power, ref_power = est.power(window), ref.power(window)
        bins, frames = self._AROUND
        around = nn.functional.avg_pool2d(
            ref_power, self._AROUND, 1, (bins // 2, frames // 2), count_include_pad=False
        )
        floor = self._FLOOR * around + _POWER_EPS
        return ((est_power + floor).log() - (ref_power + floor).log()).abs().mean()


class BandEnergyLoss(nn.Module):
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
        self.hops = tuple(max(1, round(hop / 1000 * sample_rate)) for hop in hops_ms)
        self.floor = 10 ** (-floor_db / 10)
        for index, hop in enumerate(self.hops):
            if sample_rate / (2 * hop) > band_hz:
                raise SettingError(
                    f"a hop of {hops_ms[index]:g} ms is too short for bands of {band_hz:g} Hz"
                )
            hertz = torch.arange(hop + 1) * sample_rate / (2 * hop)
            # The bin at half of the sample rate joins the last band.
            band = (hertz / band_hz).long().clamp(max=math.ceil(sample_rate / 2 / band_hz) - 1)
            # A product with a matrix, as indexing is slow to differentiate.
            self.register_buffer(f"bands_{index}", nn.functional.one_hot(band).float(), False)

    def forward(
        self, est_targets: Signal | torch.Tensor, targets: Signal | torch.Tensor
    ) -> torch.Tensor:
        est, ref = Signal.pair(est_targets, targets)
        return torch.stack([self._error(est, ref, i) for i in range(len(self.hops))]).mean()

    def _error(self, est: Signal, ref: Signal, index: int) -> torch.Tensor:
        hop, bands = self.hops[index], self.get_buffer(f"bands_{index}")
        energies = [_in_bands(signal.power(2 * hop, hop), bands) for signal in (est, ref)]
        # In units of the spectrum: 1e-9 of power in the waveform is 1e-9 * hop in a bin.
        whole = energies[1].sum(-1, keepdim=True).mean(-2, keepdim=True)
        floor = self.floor * whole + _POWER_EPS * hop
        return ((energies[0] + floor).log() - (energies[1] + floor).log()).abs().mean()

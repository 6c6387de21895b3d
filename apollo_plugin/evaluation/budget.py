"""The error budget of a restoration: errors of level above the coding cut-off, by their kind.

Bands of 5 bins of a 20 ms window (250 Hz) every 10 ms; the difference of their levels in dB, from
the cut-off to 20 kHz or to the end of the original's spectrum, is split into a part that a volume
control would correct (bias), one that an equaliser would correct (band), and one that changes from
frame to frame (time). ViSQOL is most sensitive to the last. Two noises of equal envelope differ by
about 3 dB over time, so a smaller error is chance. The signal below the cut-off is rated by SI-SNR.
"""

import math
from typing import NamedTuple

import torch

from ..metrics import si_sdr

# A full-scale sine has an energy of some 7e4 in its band, rounding to 16 bits one of 1e-7.
ENERGY_FLOOR = 1e-6
_WINDOW_SECONDS = 0.02
_BAND_BINS = 5
TOP_HZ = 20000.0
# An original ends with the last band that exceeds the floor by so many dB in that share of frames.
_CONTENT_DB, _CONTENT_SHARE = 10.0, 0.01


class ErrorBudget(NamedTuple):
    """Errors of a restoration in dB.

    Args:
        bias: mean difference of the levels, negative if the estimate is too quiet.
        band: root mean square over bands of each band's mean difference, less the bias.
        time: root mean square of the remainder, which changes over time.
        si_sdr_below: SI-SNR of the signal below the cut-off; NaN if not requested.
    """

    bias: float
    band: float
    time: float
    si_sdr_below: float = math.nan


def error_budget(
    est: torch.Tensor, ref: torch.Tensor, sample_rate: int, cutoff_hz: float
) -> ErrorBudget:
    """Split the errors of an estimate by their kind.

    Args:
        est: estimate ``(channels, time)``.
        ref: reference of the same shape.
        sample_rate: in Hz.
        cutoff_hz: frequency above which the codec left nothing.

    Raises:
        ValueError: for unequal shapes, or if no band lies between the cut-off and 20 kHz.

    Example:
        >>> import torch
        >>> ref = torch.randn(2, 44100)
        >>> round(error_budget(0.5 * ref, ref, 44100, 8000).bias, 3)
        -6.021
    """
    if est.shape != ref.shape:
        raise ValueError(f"est of shape {tuple(est.shape)} and ref of {tuple(ref.shape)} differ")
    levels = [band_levels(wav, sample_rate) for wav in (est, ref)]
    bands = bands_above(cutoff_hz, sample_rate)
    if not len(bands):
        raise ValueError(f"no band of 250 Hz lies between the cut-off {cutoff_hz} Hz and 20 kHz")
    stop = min(bands.stop, _n_sounding(levels[1]))
    stop = bands.stop if stop <= bands.start else stop
    errors = level_errors(*(level[:, bands.start : stop] for level in levels))
    low = [below(wav, sample_rate, cutoff_hz) for wav in (est, ref)]
    return errors._replace(si_sdr_below=si_sdr(*low))


def level_errors(est_db: torch.Tensor, ref_db: torch.Tensor) -> ErrorBudget:
    """Split the errors of band levels, see :func:`band_levels`; without SI-SNR.

    Args:
        est_db: in dB, ``(channels, bands, frames)``.
        ref_db: reference of the same shape.
    """
    difference = (est_db - ref_db).double()
    bias = difference.mean()
    of_band = difference.mean(-1)
    band = (of_band.mean(0) - bias).square().mean().sqrt()
    time = (difference - of_band.unsqueeze(-1)).square().mean().sqrt()
    return ErrorBudget(bias.item(), band.item(), time.item())


def band_levels(wav: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """Compute the levels of bands of 250 Hz every 10 ms.

    Args:
        wav: ``(channels, time)``.
        sample_rate: in Hz.

    Returns:
        in dB, ``(channels, bands, frames)``; :data:`ENERGY_FLOOR` is added to energies.
    """
    n = round(_WINDOW_SECONDS * sample_rate / 2) * 2
    wav = torch.nn.functional.pad(wav.double(), (0, max(0, n - wav.shape[-1])))
    window = torch.hann_window(n, dtype=wav.dtype, device=wav.device)
    power = torch.stft(wav, n, n // 2, window=window, return_complex=True).abs().square()
    n_bands = power.shape[-2] // _BAND_BINS
    energy = power[:, : n_bands * _BAND_BINS].unflatten(1, (n_bands, _BAND_BINS)).sum(2)
    return 10 * (energy + ENERGY_FLOOR).log10()


def _n_sounding(levels_db: torch.Tensor) -> int:
    """Count the bands up to the highest with content: if the original is low-passed itself, no
    model can know that the bands above it should stay empty."""
    floor_db = 10 * math.log10(ENERGY_FLOOR)
    share = (levels_db > floor_db + _CONTENT_DB).double().mean(-1).amax(0)
    return (
        int((share > _CONTENT_SHARE).nonzero().max()) + 1 if (share > _CONTENT_SHARE).any() else 0
    )


def bands_above(cutoff_hz: float, sample_rate: int, top_hz: float = TOP_HZ) -> range:
    """Indices of the bands from the cut-off to ``top_hz``, or to the end of the spectrum."""
    n = round(_WINDOW_SECONDS * sample_rate / 2) * 2
    width_hz = _BAND_BINS * sample_rate / n
    top = min(round(top_hz / width_hz), (n // 2 + 1) // _BAND_BINS)
    return range(math.ceil(cutoff_hz / width_hz), top)


def below(wav: torch.Tensor, sample_rate: int, cutoff_hz: float) -> torch.Tensor:
    """Low-pass a signal ``(..., time)`` below a codec's cut-off and its slope."""
    spectrum = torch.fft.rfft(wav.double())
    hertz = torch.fft.rfftfreq(wav.shape[-1], 1 / sample_rate).to(wav.device)
    # The codec's slope is some hundred hertz wide.
    return torch.fft.irfft(spectrum * (hertz < cutoff_hz - 300), wav.shape[-1])

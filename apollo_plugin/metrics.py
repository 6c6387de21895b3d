"""Metrics of a restoration, compared with the original.

============= ================================================================== ===============
``si_sdr``    scale-invariant SDR, zero mean: the paper's SI-SNR                 dB, higher
``snr``       signal-to-noise ratio                                              dB, higher
``sdr``       BSSEval v3, zero mean, filter of 512 taps, whole file: the paper's dB, higher
              SDR (needs fast-bss-eval)
``sdr_v4``    BSSEval v4, median over frames of 1 s; other numbers than ``sdr``  dB, higher
              (needs museval, and so ffmpeg and ffprobe)
``lsd``       log-spectral distance                                              lower
``visqol``    ViSQOL, audio mode, mono mix at 48 kHz (needs visqol-python)       1 to 4.7, higher
``zimtohrli`` Zimtohrli, mono mix at 48 kHz: made for just audible differences;  1 to 5, higher
              no loss here is made of it (needs zimtohrli)
============= ================================================================== ===============

``si_sdr``, ``snr``, ``sdr`` and ``lsd`` are means over channels, the first three over those whose
reference is not silent. Equal signals give infinity (``lsd`` 0, ``visqol`` and ``zimtohrli`` their
maxima). If the whole reference is silent, only ``lsd`` is a number and the others are NaN; if only
the estimate is, ``si_sdr``, ``sdr`` and ``sdr_v4`` are minus infinity (it contains nothing of the
reference), ``visqol`` and ``zimtohrli`` are 1 and ``snr`` is 0 dB. A constant counts as silent,
except for ``snr``.
"""

import importlib.util
import inspect
import math
import shutil
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import NamedTuple

import numpy as np

from . import hearing
from .errors import install, one_line
from .sounds import Sound, alike
from .spectra import stft

# Warning filters belong to the process, and threads that change them undo one another's changes.
_one_at_a_time = threading.Lock()


class Metric(NamedTuple):
    """Label of a metric: name, unit, 1 if higher is better or -1; and the package it needs."""

    label: str
    unit: str
    better: int
    package: str | None = None


# By names of the functions below.
ABOUT = {
    "si_sdr": Metric("SI-SNR", "dB", 1),
    "snr": Metric("SNR", "dB", 1),
    "sdr": Metric("SDR", "dB", 1, "fast_bss_eval"),
    "sdr_v4": Metric("SDR v4", "dB", 1, "museval"),
    "lsd": Metric("LSD", "", -1),
    "visqol": Metric("ViSQOL", "", 1, "visqol"),
    "zimtohrli": Metric("Zimtohrli", "", 1, "zimtohrli"),
}
METRICS = tuple(ABOUT)


class MetricWarning(UserWarning):
    """A metric that cannot be computed: one line with the reason and, if there is one, the cure."""


def evaluate(
    est: Sound,
    ref: Sound,
    sample_rate: int,
    metrics: Sequence[str] = METRICS,
    reasons: dict[str, str] | None = None,
) -> dict[str, float]:
    """Measure an estimate; the module's docstring describes the metrics and their edge cases.

    Args:
        est: estimate ``(channels, time)``, or ``(time,)`` for one channel.
        ref: reference of the same shape.
        sample_rate: in Hz.
        metrics: names from :data:`METRICS`.
        reasons: receives the lines by metric, in place of warnings.

    Returns:
        a float for each metric; NaN, after a :class:`MetricWarning` of one line, if its package is
        missing or fails on this sound.

    Raises:
        ValueError: for an unknown metric, signals of different shapes, empty or with NaN, and
            arrays ``(time, channels)``.

    Example:
        >>> ref = np.random.default_rng(0).standard_normal((2, 44100))
        >>> evaluate(2 * ref, ref, 44100, metrics=("snr", "si_sdr"))
        {'snr': 0.0, 'si_sdr': inf}
    """
    failed = unavailable(metrics)
    est, ref = alike(est, ref)
    for name, wav in (("est", est), ("ref", ref)):
        if not np.isfinite(wav).all():
            raise ValueError(f"{name} holds NaN or infinity")
    rate = dict.fromkeys(("sdr_v4", "visqol", "zimtohrli"), (sample_rate,))
    figures = dict.fromkeys(metrics, math.nan)
    for name in figures:
        if name not in failed:
            try:
                figures[name] = inspect.unwrap(globals()[name])(est, ref, *rate.get(name, ()))
            except Exception as error:
                if ABOUT[name].package is None:
                    raise
                failed[name] = _reason(name, error)
    for name, reason in failed.items():
        if reasons is None:
            warnings.warn(reason, MetricWarning, stacklevel=2)
        else:
            reasons[name] = reason
    return figures


def unavailable(metrics: Sequence[str] = METRICS) -> dict[str, str]:
    """Metrics that cannot be computed on this machine, each with a line on the reason."""
    reasons = {}
    for name in metrics:
        if name not in ABOUT:
            raise ValueError(f"unknown metric '{name}'; known: {', '.join(METRICS)}")
        package = ABOUT[name].package
        if package and importlib.util.find_spec(package) is None:
            reasons[name] = f"metric {name} is left out: {package} is missing; {install('eval')}"
    # musdb, which museval imports, searches for both at import, and fails without.
    lacking = " and ".join(tool for tool in ("ffmpeg", "ffprobe") if not shutil.which(tool))
    if "sdr_v4" in metrics and lacking:
        line = f"museval needs {lacking} on the PATH; install FFmpeg"
        reasons.setdefault("sdr_v4", f"metric sdr_v4 is left out: {line}")
    return reasons


def _reason(name: str, error: Exception) -> str:
    return f"metric {name} is no number: {ABOUT[name].package} says: {one_line(error, 160)}"


def _by_library(function: Callable[..., float]) -> Callable[..., float]:
    """Decorate a metric: NaN, after a :class:`MetricWarning`, if its library raises an error."""

    @wraps(function)
    def guarded(*args, **kwargs) -> float:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            warnings.warn(_reason(function.__name__, error), MetricWarning, stacklevel=2)
            return math.nan

    return guarded


def _of_sounds(function: Callable[..., float]) -> Callable[..., float]:
    """Decorate a metric to take arrays and tensors of any device, as :func:`evaluate` does."""

    @wraps(function)
    def converted(est: Sound, ref: Sound, *args) -> float:
        return function(*alike(est, ref), *args)

    return converted


@_of_sounds
def si_sdr(est: np.ndarray, ref: np.ndarray) -> float:
    """Scale-invariant SDR (Le Roux et al. 2019) in dB, the paper's SI-SNR: zero mean, with
    ``a = <est, ref> / <ref, ref>``: ``|a ref|^2 / |est - a ref|^2``, mean over channels.

    Args:
        est: estimate ``(channels, time)``.
        ref: reference of the same shape.

    Example:
        >>> ref = np.array([[1.0, -1.0, 1.0, -1.0]])
        >>> round(si_sdr(ref + np.array([[0.1, 0.1, -0.1, -0.1]]), ref), 3)
        20.0
    """
    est, ref = _centred(est), _centred(ref)
    with np.errstate(all="ignore"):  # silence
        target = (est * ref).sum(-1, keepdims=True) / np.square(ref).sum(-1, keepdims=True) * ref
        return _mean(_decibels(target, est - target), est, ref)


@_of_sounds
def snr(est: np.ndarray, ref: np.ndarray) -> float:
    """Signal-to-noise ratio in dB, mean over channels; arguments are those of :func:`si_sdr`."""
    est, ref = est.astype(np.float64), ref.astype(np.float64)
    return _mean(_decibels(ref, est - ref), None, ref)


@_of_sounds
@_by_library
def sdr(est: np.ndarray, ref: np.ndarray) -> float:
    """Signal-to-distortion ratio of BSSEval v3 in dB (Vincent et al. 2006), which allows filtering
    of the reference by 512 taps. Zero mean, whole file, mean over channels. The paper's SDR;
    arguments are those of :func:`si_sdr`."""
    import fast_bss_eval

    est, ref = _centred(est), _centred(ref)
    ratios = np.full(len(ref), math.inf)
    for channel, (one, other) in enumerate(zip(est, ref)):
        # Equal, silent and merely filtered signals would make the library divide by zero.
        odd = np.array_equal(one, other) or _is_silent(one) or _is_silent(other)
        if not odd and len(one) > 2:
            taps = min(512, len(one))
            # Unlike the library's sdr(), its loss does not permute channels. It
            # needs levels far above 1e-10.
            one, other = one / np.abs(one).max(), other / np.abs(other).max()
            ratios[channel] = -fast_bss_eval.sdr_loss(one, other, taps)
    return _mean(ratios, est, ref)


@_of_sounds
@_by_library
def sdr_v4(est: np.ndarray, ref: np.ndarray, sample_rate: int) -> float:
    """BSSEval v4's SDR of all channels together, as in museval and the SiSEC campaigns.

    Args:
        est: estimate ``(channels, time)``.
        ref: reference of the same shape.
        sample_rate: in Hz.
    """
    if _is_silent(ref):
        return math.nan
    if _is_silent(est) or np.array_equal(est, ref):
        return -math.inf if _is_silent(est) else math.inf
    return bss_eval_v4(ref[None], est[None], sample_rate)[0]


def bss_eval_v4(references: np.ndarray, estimates: np.ndarray, sample_rate: int) -> list[float]:
    """SDR of BSSEval v4: one filter of 512 taps for the whole signal, median over frames of 1 s.

    Args:
        references: ``(sources, channels, time)``.
        estimates: likewise.
        sample_rate: in Hz.

    Returns:
        dB for each source; NaN if it or its estimate is silent in every frame.
    """
    frame = min(sample_rate, references.shape[-1])
    with _one_at_a_time, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        import museval

        sources = (np.moveaxis(part, 1, 2).astype(np.float64) for part in (references, estimates))
        ratios, *_ = museval.evaluate(*sources, win=frame, hop=frame)
        return [float(median) for median in np.nanmedian(ratios, 1)]  # NaN for silent frames


@_of_sounds
def lsd(est: np.ndarray, ref: np.ndarray) -> float:
    """Log-spectral distance, mean over frames and channels; 0 for equal signals.

    STFT of 2048 samples, hop 512, Hann; ``sqrt(mean_f (log10 |S|^2 - log10 |S_est|^2)^2)`` with
    1e-8 added to the powers; short signals are padded. Arguments are those of :func:`si_sdr`.
    """

    def log_power(x: np.ndarray) -> np.ndarray:
        x = np.pad(x.astype(np.float64), ((0, 0), (0, max(0, 1025 - x.shape[-1]))))
        spec = stft(np.pad(x, ((0, 0), (1024, 1024)), "reflect"), 2048, 512)
        return np.log10(np.square(spec.real) + np.square(spec.imag) + 1e-8)

    return float(np.sqrt(np.square(log_power(ref) - log_power(est)).mean(-1)).mean())


@_of_sounds
@_by_library
def visqol(est: np.ndarray, ref: np.ndarray, sample_rate: int) -> float:
    """ViSQOL (Chinen et al. 2020), audio mode: mean opinion score, 1 (bad) to about 4.7, of the
    mono mix at 48 kHz. NaN for less than a second, which is too short to score. Arguments are those
    of :func:`sdr_v4`."""
    return _heard(hearing.visqol, est, ref, sample_rate)


@_of_sounds
@_by_library
def zimtohrli(est: np.ndarray, ref: np.ndarray, sample_rate: int) -> float:
    """Zimtohrli (Google, 2022 to 2026): mean opinion score, 1 (bad) to 5 (equal), of the mono mix
    at 48 kHz; for more than half a minute the mean of parts. It depends on the level: an error is
    less audible in quiet sound. NaN for less than a second. Arguments are those of
    :func:`sdr_v4`."""
    return _heard(hearing.zimtohrli, est, ref, sample_rate)


def _heard(score: hearing.Score, est: np.ndarray, ref: np.ndarray, sample_rate: int) -> float:
    if est.shape[-1] < sample_rate or _is_silent(ref.mean(0)):
        return math.nan
    if _is_silent(est.mean(0)):
        return 1.0
    return score(*(hearing.mono(x.astype(np.float64), sample_rate) for x in (est, ref)))


@np.errstate(all="ignore")
def _decibels(signal: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Ratio of energies in dB, ``(channels,)``."""
    return 10 * np.log10(np.square(signal).sum(-1) / np.square(error).sum(-1))


def _centred(wav: np.ndarray) -> np.ndarray:
    # A constant has to become exactly zero; subtracting its rounded mean would leave a remainder.
    wav = wav.astype(np.float64) - wav[..., :1].astype(np.float64)
    return wav - wav.mean(-1, keepdims=True)


def _is_silent(wav: np.ndarray) -> bool:
    return bool((wav == wav[..., :1]).all())


def _mean(ratios: np.ndarray, est: np.ndarray | None, ref: np.ndarray) -> float:
    """Mean over channels whose reference is not silent; minus infinity for a silent estimate."""
    if est is not None:
        ratios = np.where(np.abs(est).max(-1) > 0, ratios, -math.inf)
    ratios = ratios[np.abs(ref).max(-1) > 0]
    infinite = (ratios == -math.inf).any()
    return -math.inf if infinite else float(ratios.mean()) if len(ratios) else math.nan

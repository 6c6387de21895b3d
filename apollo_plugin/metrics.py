"""How far a restoration is from the original.

============ ===================================================================== ===============
``si_sdr``   scale-invariant SDR, zero mean: the paper's SI-SNR [34]               dB, higher
``snr``      signal-to-noise ratio                                                 dB, higher
``sdr``      BSSEval v3, zero mean, filter of 512 taps, whole file: the paper's    dB, higher
             SDR [35] (needs fast-bss-eval)
``sdr_v4``   BSSEval v4, median over frames of 1 s; other numbers than ``sdr``     dB, higher
             (needs museval, and so ffmpeg and ffprobe)
``lsd``      log-spectral distance                                                 lower
``visqol``   ViSQOL, audio mode, mono mix at 48 kHz [36]; hears nothing above      1 to 4.7, higher
             15 kHz (needs visqol-python)
============ ===================================================================== ===============

``si_sdr``, ``snr``, ``sdr`` and ``lsd`` are means over channels, the first three over those whose
reference is not silent. Equal signals are at infinity (``lsd`` at 0, ``visqol`` at its maximum).
Where the whole reference is silent only ``lsd`` is a number and the others are NaN; where only the
estimate is, ``si_sdr``, ``sdr`` and ``sdr_v4`` are minus infinity (nothing of the reference is in
it), ``visqol`` is 1 and ``snr`` 0 dB. A constant is silent, except to ``snr``.
"""

import importlib.util
import math
import shutil
import threading
import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import soxr
import torch

METRICS = ("si_sdr", "snr", "sdr", "sdr_v4", "lsd", "visqol")
_EXTRA = "pip install 'apollo-plugin[eval]'"
_PACKAGES = {"sdr": "fast_bss_eval", "sdr_v4": "museval", "visqol": "visqol"}
_VISQOL_RATE = 48000
# The kernels of visqol run in numba's "workqueue", which two threads must not enter.
_visqol_lock = threading.Lock()


class MetricWarning(UserWarning):
    """A metric that cannot be computed here: one line with the reason and the cure."""


def evaluate(
    est: torch.Tensor | np.ndarray,
    ref: torch.Tensor | np.ndarray,
    sample_rate: int,
    metrics: Sequence[str] = METRICS,
) -> dict[str, float]:
    """Measures an estimate; the metrics and their edge cases stand at the head of the module.

    Args:
        est: estimate ``(channels, time)``, or ``(time,)`` for one channel.
        ref: reference of the same shape.
        sample_rate: in Hz.
        metrics: which of :data:`METRICS`.

    Returns:
        a float for each metric. One whose package is missing is NaN, after a
        :class:`MetricWarning` of one line.

    Raises:
        ValueError: for an unknown metric, unequal lengths or channels, an empty signal, NaN.

    Example:
        >>> import torch
        >>> ref = torch.randn(2, 44100)
        >>> evaluate(2 * ref, ref, 44100, metrics=("snr", "si_sdr"))
        {'snr': 0.0, 'si_sdr': inf}
    """
    est, ref = (_checked(x, name) for x, name in ((est, "est"), (ref, "ref")))
    if est.shape != ref.shape:
        raise ValueError(
            f"est of shape {tuple(est.shape)} and ref of shape {tuple(ref.shape)} differ; "
            "a comparison needs signals of the same channels and length"
        )
    missing = unavailable(metrics)
    for reason in missing.values():
        warnings.warn(reason, MetricWarning, stacklevel=2)
    measures = {
        "si_sdr": lambda: si_sdr(est, ref),
        "snr": lambda: snr(est, ref),
        "sdr": lambda: sdr(est, ref),
        "sdr_v4": lambda: sdr_v4(est, ref, sample_rate),
        "lsd": lambda: lsd(est, ref),
        "visqol": lambda: visqol(est, ref, sample_rate),
    }
    return {name: math.nan if name in missing else measures[name]() for name in metrics}


def unavailable(metrics: Sequence[str] = METRICS) -> dict[str, str]:
    """Which metrics cannot be computed on this machine, each with a line that says why.

    Raises:
        ValueError: for an unknown metric.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ValueError(f"unknown metric '{unknown[0]}'; known: {', '.join(METRICS)}")
    reasons = {}
    for name in metrics:
        package = _PACKAGES.get(name)
        if package and importlib.util.find_spec(package) is None:
            reasons[name] = f"metric {name} is left out: {package} is missing; {_EXTRA}"
    # musdb, which museval imports, looks for both when it is imported, and gives up.
    lacking = [tool for tool in ("ffmpeg", "ffprobe") if shutil.which(tool) is None]
    if "sdr_v4" in metrics and "sdr_v4" not in reasons and lacking:
        reasons["sdr_v4"] = (
            f"metric sdr_v4 is left out: museval needs {' and '.join(lacking)} on the PATH; "
            "install FFmpeg"
        )
    return reasons


def si_sdr(est: torch.Tensor, ref: torch.Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio [34] in dB, zero mean, mean over channels.

    The paper's SI-SNR. With ``a = <est, ref> / <ref, ref>``: ``|a ref|^2 / |est - a ref|^2``.

    Args:
        est: estimate ``(channels, time)``.
        ref: reference of the same shape.

    Example:
        >>> import torch
        >>> ref = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
        >>> round(si_sdr(ref + torch.tensor([[0.1, 0.1, -0.1, -0.1]]), ref), 3)
        20.0
    """
    est, ref = _centred(est), _centred(ref)
    scale = (est * ref).sum(-1, keepdim=True) / ref.square().sum(-1, keepdim=True)
    target = scale * ref
    ratio = target.square().sum(-1) / (est - target).square().sum(-1)
    return _mean(10 * ratio.log10(), est, ref)


def snr(est: torch.Tensor, ref: torch.Tensor) -> float:
    """Signal-to-noise ratio in dB, ``|ref|^2 / |est - ref|^2``, mean over channels.

    Args:
        est: estimate ``(channels, time)``.
        ref: reference of the same shape.
    """
    est, ref = est.double(), ref.double()
    ratio = ref.square().sum(-1) / (est - ref).square().sum(-1)
    return _mean(10 * ratio.log10(), None, ref)


def sdr(est: torch.Tensor, ref: torch.Tensor) -> float:
    """Signal-to-distortion ratio [35] in dB as BSSEval v3 has it: what a filter of 512 taps makes
    of the reference counts as right. Zero mean, whole file, mean over channels. The paper's SDR.

    Args:
        est: estimate ``(channels, time)``.
        ref: reference of the same shape.
    """
    import fast_bss_eval

    est, ref = _centred(est), _centred(ref)
    ratios = torch.full((len(ref),), math.inf, dtype=torch.float64)
    for channel, (one, other) in enumerate(zip(est, ref)):
        # What is equal, silent or nothing but filter would make the library divide by zero.
        if not (torch.equal(one, other) or _is_silent(one) or _is_silent(other) or len(one) <= 2):
            taps = min(512, len(one))
            # Unlike the library's sdr(), its loss permutes nothing: each channel is itself.
            ratios[channel] = -fast_bss_eval.sdr_loss(one, other, taps)
    return _mean(ratios, est, ref)


def sdr_v4(est: torch.Tensor, ref: torch.Tensor, sample_rate: int) -> float:
    """BSSEval v4 as museval and the SiSEC campaigns have it: all channels together, one filter for
    the file, median over frames of 1 s, those without sound left out.

    Args:
        est: estimate ``(channels, time)``.
        ref: reference of the same shape.
        sample_rate: in Hz.
    """
    if _is_silent(ref):
        return math.nan
    if _is_silent(est):
        return -math.inf
    if torch.equal(est, ref):
        return math.inf
    import museval

    frame = min(sample_rate, est.shape[-1])
    sources = (x.double().T.numpy()[None] for x in (ref, est))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ratios, *_ = museval.evaluate(*sources, win=frame, hop=frame)
        return float(np.nanmedian(ratios))


def lsd(est: torch.Tensor, ref: torch.Tensor) -> float:
    """Log-spectral distance, mean over frames and channels; 0 for equal signals.

    STFT of 2048 samples, hop 512, Hann; ``sqrt(mean_f (log10 |S|^2 - log10 |S_est|^2)^2)`` with
    1e-8 added to the powers. Shorter signals are padded with silence.

    Args:
        est: estimate ``(channels, time)``.
        ref: reference of the same shape.
    """
    window = torch.hann_window(2048, dtype=torch.float64)

    def log_power(x):
        x = torch.nn.functional.pad(x.double(), (0, max(0, 1025 - x.shape[-1])))
        spec = torch.stft(x, 2048, 512, window=window, return_complex=True)
        return (spec.real.square() + spec.imag.square() + 1e-8).log10()

    return (log_power(ref) - log_power(est)).square().mean(-2).sqrt().mean().item()


def visqol(est: torch.Tensor, ref: torch.Tensor, sample_rate: int) -> float:
    """ViSQOL [36], audio mode: mean opinion score, 1 (bad) to about 4.7; of the mono mix at 48 kHz.

    NaN for less than a second, which is too short to be scored.

    Args:
        est: estimate ``(channels, time)``.
        ref: reference of the same shape.
        sample_rate: in Hz.
    """
    if est.shape[-1] < sample_rate or _is_silent(ref.mean(0)):
        return math.nan
    if _is_silent(est.mean(0)):
        return 1.0
    mono = (
        soxr.resample(x.double().mean(0).numpy(), sample_rate, _VISQOL_RATE, quality="VHQ")
        for x in (ref, est)
    )
    with _visqol_lock:
        return float(_visqol_api().measure_from_arrays(*mono, _VISQOL_RATE).moslqo)


@lru_cache(maxsize=1)
def _visqol_api():
    from visqol import VisqolApi

    api = VisqolApi()
    api.create(mode="audio")
    return api


def _checked(wav: torch.Tensor | np.ndarray, name: str) -> torch.Tensor:
    wav = torch.as_tensor(wav).detach().cpu()
    wav = wav.unsqueeze(0) if wav.ndim == 1 else wav
    if wav.ndim != 2 or wav.numel() == 0 or not wav.is_floating_point():
        raise ValueError(
            f"{name} of shape {tuple(wav.shape)} and type {wav.dtype} is no sound; "
            "it takes floating point (channels, time)"
        )
    if not torch.isfinite(wav).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return wav


def _centred(wav: torch.Tensor) -> torch.Tensor:
    # A constant has to become zero exactly, which its mean, rounded, does not see to.
    wav = wav.double() - wav[..., :1].double()
    return wav - wav.mean(-1, keepdim=True)


def _is_silent(wav: torch.Tensor) -> bool:
    return bool((wav == wav[..., :1]).all())


def _mean(ratios: torch.Tensor, est: torch.Tensor | None, ref: torch.Tensor) -> float:
    """Mean of the channels whose reference sounds; minus infinity where the estimate does not."""
    sounding = ref.abs().amax(-1) > 0
    if est is not None:
        ratios = torch.where(est.abs().amax(-1) > 0, ratios, -math.inf)
    mean = ratios[sounding].mean().item()
    return -math.inf if (ratios[sounding] == -math.inf).any() else mean

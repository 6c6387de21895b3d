"""Models of hearing: ViSQOL and Zimtohrli as their libraries have them, of mono sound at 48 kHz."""

import math
import threading
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import soxr

RATE = 48000
# Zimtohrli aligns by dynamic time warping: time and memory grow with the square of the length.
_LONGEST_PART = 30 * RATE
# The kernels of visqol run in numba's "workqueue", which two threads must not enter.
_visqol_lock = threading.Lock()

# Of an estimate and a reference, each ``(time,)`` at RATE.
Score = Callable[[np.ndarray, np.ndarray], float]


def mono(wav: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mix of channels at 48 kHz.

    Args:
        wav: ``(channels, time)``, full scale 1.0.
        sample_rate: of ``wav``, in Hz.
    """
    return soxr.resample(wav.mean(0), sample_rate, RATE, quality="VHQ")


def visqol(est: np.ndarray, ref: np.ndarray) -> float:
    """Score of ViSQOL's audio mode, 1 to about 4.7.

    Args:
        est: estimate ``(time,)`` at 48 kHz, a second or longer.
        ref: reference, likewise.
    """
    with _visqol_lock:
        return float(_visqol_api().measure_from_arrays(ref, est, RATE).moslqo)


@lru_cache(maxsize=1)
def _visqol_api():
    from visqol import VisqolApi

    api = VisqolApi()
    api.create(mode="audio")
    return api


def zimtohrli(est: np.ndarray, ref: np.ndarray) -> float:
    """Score of Zimtohrli, 1 to 5; mean over equal parts of half a minute at most.

    Args:
        est: estimate ``(time,)`` at 48 kHz, a second or longer.
        ref: reference of the same length.

    Raises:
        ValueError: for what would end the process inside the library: NaN, infinity, signals
            shorter than a second, or of two lengths.
    """
    from zimtohrli import mos_from_signals

    if (
        len(est) != len(ref)
        or len(est) < RATE
        or not np.isfinite(est).all() & np.isfinite(ref).all()
    ):
        raise ValueError("zimtohrli takes two finite signals of one length, a second or longer")
    n_parts = math.ceil(len(est) / _LONGEST_PART)
    parts = zip(*(np.array_split(x.astype(np.float32), n_parts) for x in (ref, est)))
    return float(np.mean([mos_from_signals(*part) for part in parts]))

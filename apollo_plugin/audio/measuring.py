"""Loudness and true peak of a file."""

import os

from .loudness import Level, Meter
from .reading import read_all


def measure(path: str | os.PathLike) -> Level:
    """Measure a file as it is decoded.

    Raises:
        AudioError: if it cannot be read.
    """
    reading = read_all(path)
    meter = Meter(reading.sample_rate, reading.wav.shape[0], reading.layout)
    for begin in range(0, reading.wav.shape[1], reading.sample_rate):
        meter.add(reading.wav[:, begin : begin + reading.sample_rate].T)
    return meter.level()

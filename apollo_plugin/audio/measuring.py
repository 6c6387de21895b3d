"""Loudness and true peak of a file."""

import os

from .loudness import Level, Meter
from .reading import read_all


def measure(path: str | os.PathLike) -> Level:
    """Measures a file as it will be heard.

    Raises:
        AudioError: where it cannot be read.
    """
    reading = read_all(path)
    meter = Meter(reading.sample_rate, reading.wav.shape[0], reading.layout)
    for block in reading.wav.split(reading.sample_rate, -1):
        meter.add(block.T.numpy())
    return meter.level()

"""The interface that files, streams and pipelines see of a model: NumPy arrays in and out."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

# Called as work goes on, with the name of the step, the seconds of audio done and the total.
Progress = Callable[[str, float, float], None]
# Default for models that give none: the middle of the levels that the bundled ones were trained at.
INPUT_PEAK = 0.5
# Samples of one stream or file, float32 ``(channels, time)``, full scale 1.0.
Wav = np.ndarray


class Stream(Protocol):
    """A live signal at the engine's rate and level.

    Attributes:
        latency: delay in samples: after ``n`` samples in, at least ``n - latency`` are out.
    """

    latency: int

    def feed(self, block: Wav) -> Wav:
        """Take new samples and return those that are finished.

        Args:
            block: float32 ``(n_channels, n)``, any ``n`` from 0 up.

        Returns:
            ``(n_channels, m)``; ``m`` may be 0.

        Raises:
            ValueError: for another number of channels.
        """
        ...

    def flush(self) -> Wav:
        """End the signal and return the rest; in total as many samples as went in."""
        ...


class Engine(Protocol):
    """A model ready to run.

    Attributes:
        name: ``"onnx"`` or ``"torch"``.
        origin: name and digest of its checkpoint, for the mark in a result's tags.
        n_bytes: memory of its weights.
    """

    name: str
    origin: str
    n_bytes: int

    @property
    def device(self) -> str:
        """``"cpu"``, ``"cuda"`` or ``"mps"``."""
        ...

    @property
    def sample_rate(self) -> int:
        """The model's sample rate in Hz."""
        ...

    @property
    def input_peak(self) -> float | None:
        """Peak that recordings are scaled to for the model; None to leave levels as they are."""
        ...

    @property
    def latency(self) -> int:
        """Delay of a stream in samples."""
        ...

    @property
    def adds(self) -> bool:
        """True if the model's output is added to the signal, so that samples stay bit-identical
        where it is zero."""
        ...

    def restore(self, wav: Wav, level: float = 1.0, progress: Progress | None = None) -> Wav:
        """Restore a signal of any length at the engine's rate.

        Memory beyond the signal and its restoration does not grow with the length.

        Args:
            wav: float32 ``(channels, time)``.
            level: divisor of the model's input and factor of its output.
            progress: called after each block; an exception from it ends the work.

        Returns:
            a new array of the same shape.

        Raises:
            ValueError: for an empty signal, or one whose last axis is not time.
        """
        ...

    def stream(self, n_channels: int) -> Stream:
        """Begin a live signal.

        Raises:
            CheckpointError: for a model that cannot stream.
        """
        ...


def check_block(block: Any, n_channels: int) -> None:
    """Raise a ValueError for a block that is not ``(n_channels, samples)``."""
    if block.ndim != 2 or len(block) != n_channels:
        raise ValueError(
            f"a block of shape {tuple(block.shape)} came to a stream of {n_channels} channel(s); "
            f"it takes ({n_channels}, samples)"
        )


def scaled(source: Any, restored: Any, level: float, adds: bool) -> Any:
    """Bring a model's output back to the level of the signal.

    Args:
        source: samples of the signal, an array or a tensor.
        restored: the model's output for ``source / level``, likewise.
        level: as above.
        adds: see :attr:`Engine.adds`.
    """
    if level == 1:
        return restored
    if adds:  # unchanged samples stay bit-identical
        return source + (restored - source / level) * level
    return restored * level

"""PyTorch as an engine, for any network of restoration, device and precision."""

from typing import Any

import numpy as np
import torch

from ..blocks import restore_wav
from ..errors import CheckpointError
from ..network.apollo import ApolloNetwork
from ..network.base import RestorationNetwork
from ..network.streaming import ApolloStreamer
from .protocol import Progress, Wav

# Steps of a stream are short, and several threads would wait for each other. With other work on a
# core, two were seen to wait 15 times as long as one worked on a model of a million parameters.
_MOST_THREADS, _SMALL = 2, 4_000_000


class TorchEngine:
    """A network of restoration; see :class:`~apollo_plugin.engine.protocol.Engine`.

    Args:
        model: an Apollo or an SRGAN, used in its present mode, device and precision.
        n_threads: of PyTorch in this process; left alone unless given.
    """

    name = "torch"

    def __init__(self, model: RestorationNetwork, n_threads: int | None = None):
        self.model = model
        self.origin = model.origin
        self.n_bytes = sum(weight.nbytes for weight in model.parameters())
        if n_threads is not None:
            torch.set_num_threads(n_threads)

    @property
    def device(self) -> str:
        return next(self.model.parameters()).device.type

    @property
    def sample_rate(self) -> int:
        return int(self.model.sample_rate)

    @property
    def input_peak(self) -> float | None:
        return self.model.input_peak

    @property
    def latency(self) -> int:
        return self.model.latency

    @property
    def adds(self) -> bool:
        return self.model.adds

    def restore(self, wav: Wav, level: float = 1.0, progress: Progress | None = None) -> Wav:
        """See :meth:`.protocol.Engine.restore`."""
        samples = torch.from_numpy(np.asarray(wav, np.float32))
        return restore_wav(self.model, samples, progress=progress, level=level).numpy()

    def stream(self, n_channels: int) -> "TorchStream":
        """See :meth:`.protocol.Engine.stream`."""
        if not isinstance(self.model, ApolloNetwork):
            kind, name = type(self.model).__name__, self.origin.partition(" ")[0]
            raise CheckpointError(f"'{name}' is no Apollo: {kind} cannot stream")
        return TorchStream(self.model, n_channels)


class TorchStream:
    """A live signal; see :class:`~apollo_plugin.engine.protocol.Stream`.

    Args:
        model: an Apollo.
        n_channels: of the signal.
    """

    def __init__(self, model: ApolloNetwork, n_channels: int):
        self._streamer = ApolloStreamer(model, n_channels)
        self.latency = self._streamer.latency
        self._n_threads = _MOST_THREADS
        if sum(weight.numel() for weight in model.parameters()) < _SMALL:
            self._n_threads = 1

    def feed(self, block: Wav) -> Wav:
        """See :meth:`.protocol.Stream.feed`."""
        return self._run(lambda: self._streamer.feed(torch.from_numpy(block)))

    def flush(self) -> Wav:
        """See :meth:`.protocol.Stream.flush`."""
        return self._run(self._streamer.flush)

    def _run(self, step: Any) -> Wav:
        before = torch.get_num_threads()
        torch.set_num_threads(min(before, self._n_threads))
        try:
            return step().numpy()
        finally:
            torch.set_num_threads(before)

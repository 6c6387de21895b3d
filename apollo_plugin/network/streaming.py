"""Live restoration: blocks of any size in, restored samples out."""

import warnings
from functools import partial
from typing import TYPE_CHECKING

import torch

from .graphs import RecordedStep, Recorder, cuda_graph, settled

if TYPE_CHECKING:
    from .apollo import ApolloNetwork


class ApolloStreamer:
    """Feeds a live signal to a model, block by block; the samples equal ``model(whole_signal)``.

    Args:
        model: an :class:`~apollo_plugin.Apollo`; it is used in its present mode and device. On
            CUDA, blocks of one length, a multiple of the hop, are replayed from a graph.
        n_channels: audio channels of the stream.

    Attributes:
        latency: delay in samples: after feeding ``n`` samples at least ``n - latency`` are out.

    Example:
        >>> import torch
        >>> from apollo_plugin import Apollo
        >>> model = Apollo(feature_dim=8, n_layers=1, n_heads=2, causal=True).eval()
        >>> streamer = model.streamer(n_channels=1)
        >>> wav = torch.randn(1, 3000)
        >>> parts = [streamer.feed(block) for block in wav.split(512, -1)] + [streamer.flush()]
        >>> torch.cat(parts, -1).shape
        torch.Size([1, 3000])
    """

    def __init__(self, model: "ApolloNetwork", n_channels: int = 1):
        if n_channels < 1:
            raise ValueError(f"n_channels {n_channels} has to be 1 or more")
        self.model = model
        self.n_channels = n_channels
        self.latency = model.latency
        device = next(model.parameters()).device
        self._recorder: Recorder | None = None
        if device.type == "cuda":
            self._recorder = partial(cuda_graph, device=device)
        self.reset()

    def reset(self) -> None:
        """Forgets everything fed so far."""
        self._state = None
        self._recorded: RecordedStep | None = None
        self._last_shape: torch.Size | None = None
        # Of the shape, type and device that blocks come in.
        self._nothing = torch.zeros(self.n_channels, 0)

    def feed(self, block: torch.Tensor) -> torch.Tensor:
        """Takes new samples and gives back those that are finished.

        Args:
            block: ``(n_channels, n)``, or ``(n,)`` for a single channel, any ``n`` from 0 up.

        Returns:
            ``(n_channels, m)`` or ``(m,)`` on the block's device; ``m`` may be 0.

        Raises:
            ValueError: where the channels are not those of the stream.
            TypeError: for integers.
        """
        return self._step(block, last=False)

    def flush(self) -> torch.Tensor:
        """Ends the signal and gives back what is left, shaped as :meth:`feed` does.

        In all as many samples have then come out as went in. The streamer is ready for a new one.
        """
        rest = self._step(self._nothing, last=True)
        self.reset()
        return rest

    @torch.inference_mode()
    def _step(self, block: torch.Tensor, last: bool) -> torch.Tensor:
        if not block.is_floating_point():
            raise TypeError(f"a block has type {block.dtype}; it takes floating point")
        streams = block.unsqueeze(0) if block.ndim == 1 else block
        if streams.ndim != 2 or streams.shape[0] != self.n_channels:
            raise ValueError(
                f"a block of shape {tuple(block.shape)} came to a stream of "
                f"{self.n_channels} channel(s); it takes ({self.n_channels}, samples)"
            )
        self._nothing = block[..., :0].clone()
        if self._recorded and self._recorded.takes(streams) and not last:
            restored = self._recorded(streams)
        else:
            restored = self._plain_step(streams, last)
        restored = restored.to(block.device)
        return restored[0] if block.ndim == 1 else restored

    def _plain_step(self, streams: torch.Tensor, last: bool) -> torch.Tensor:
        if streams.shape[-1] == 0 and not last:
            return streams
        if self._recorded:
            self._state, self._recorded = self._recorded.state, None
        before = self._state
        restored, self._state = self.model.step(streams, before, last)
        # One block of another length is no reason to record, two of a length are.
        again, self._last_shape = streams.shape == self._last_shape, streams.shape
        if self._recorder and not last and again and settled(before, self._state):
            try:
                self._recorded = RecordedStep(self.model, streams, self._state, self._recorder)
            except RuntimeError as error:  # too little memory for it, above all
                self._recorder = None
                reason = " ".join(str(error).split())[:120]
                warnings.warn(
                    f"the stream's steps cannot be recorded, going on without: {reason}",
                    stacklevel=2,
                )
        return restored

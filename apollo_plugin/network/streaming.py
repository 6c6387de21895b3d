"""Live restoration: blocks of any size in, restored samples out.

On a GPU the launch of a step's hundreds of small kernels takes longer than they do, so there a step
is recorded once and replayed.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from .apollo import ApolloNetwork
from .state import ApolloState

# Runs a step as often as it takes, undoes what that did, and gives back what replays it.
Recorder = Callable[[Callable[[], None], Callable[[], None]], Callable[[], None]]
_N_WARM_UPS = 3


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

    def __init__(self, model: ApolloNetwork, n_channels: int = 1):
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
        self._state: ApolloState | None = None
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


def cuda_graph(
    step: Callable[[], None], reset: Callable[[], None], device: torch.device
) -> Callable[[], None]:
    """Records a step on a CUDA device, which need not be the current one."""
    with torch.cuda.device(device):
        # Plans and workspaces have to be there before; PyTorch wants them made elsewhere.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_N_WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # The stream is named because PyTorch keeps its own on the device that recorded first;
        # other threads may allocate meanwhile.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            step()
        reset()

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay


class RecordedStep:
    """A model's step for blocks of one length, in the state that a stream settles into.

    Args:
        model: an :class:`~apollo_plugin.Apollo`.
        block: ``(streams, n)``, of the length and type of all that will come.
        state: settled, see :func:`settled`; it stays as it is.
        recorder: :func:`cuda_graph`, or what does the same.
    """

    def __init__(
        self, model: ApolloNetwork, block: torch.Tensor, state: ApolloState, recorder: Recorder
    ):
        self._alike = block.shape, block.dtype
        self._block = torch.zeros_like(block, device=next(model.parameters()).device)
        self.state = tree_map(lambda x: x.clone() if torch.is_tensor(x) else x, state)
        before = [tensor.clone() for tensor in _tensors(state)]
        self._replay = recorder(lambda: self._step(model), lambda: self._set(before))

    def takes(self, block: torch.Tensor) -> bool:
        """True if a block is of the shape and type that was recorded."""
        return (block.shape, block.dtype) == self._alike

    def __call__(self, block: torch.Tensor) -> torch.Tensor:
        """The samples that are finished, on the model's device; :attr:`state` goes with them."""
        self._block.copy_(block)
        self._replay()
        return self._restored.clone()

    def _step(self, model: ApolloNetwork) -> None:
        self._restored, state = model.step(self._block, self.state, last=False)
        self._set(_tensors(state))

    def _set(self, tensors: list[torch.Tensor]) -> None:
        for mine, new in zip(_tensors(self.state), tensors):
            mine.copy_(new)


def settled(before: ApolloState | None, after: ApolloState) -> bool:
    """True if a step left a state of the shapes that it found: from then on every step is alike."""
    return before is not None and _signature(before) == _signature(after)


def _signature(state: ApolloState) -> list[Any]:
    return [leaf.shape if torch.is_tensor(leaf) else leaf for leaf in tree_leaves(state)]


def _tensors(state: ApolloState) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(state) if torch.is_tensor(leaf)]

"""A step of a stream, recorded once and replayed: on a GPU the launch of its hundreds of small
kernels would take longer than they do."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .apollo import ApolloNetwork, ApolloState

# Runs a step as often as it takes, undoes what that did, and gives back what replays it.
Recorder = Callable[[Callable[[], None], Callable[[], None]], Callable[[], None]]
_N_WARM_UPS = 3


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
    """:meth:`Apollo.step` for blocks of one length, in the state that a stream settles into.

    Args:
        model: an :class:`~apollo_plugin.Apollo`.
        block: ``(streams, n)``, of the length and type of all that will come.
        state: settled, see :func:`settled`; it stays as it is.
        recorder: :func:`cuda_graph`, or what does the same.
    """

    def __init__(
        self, model: "ApolloNetwork", block: torch.Tensor, state: "ApolloState", recorder: Recorder
    ):
        self._alike = block.shape, block.dtype
        self._block = torch.zeros_like(block, device=next(model.parameters()).device)
        self.state = _rebuilt(state, iter([t.clone() for t in _tensors(state)]))
        before = [tensor.clone() for tensor in _tensors(state)]
        self._replay = recorder(lambda: self._step(model), lambda: self._set(before))

    def takes(self, block: torch.Tensor) -> bool:
        """Whether a block is of the shape and type that was recorded."""
        return (block.shape, block.dtype) == self._alike

    def __call__(self, block: torch.Tensor) -> torch.Tensor:
        """The samples that are finished, on the model's device; :attr:`state` goes with them."""
        self._block.copy_(block)
        self._replay()
        return self._restored.clone()

    def _step(self, model: "ApolloNetwork") -> None:
        self._restored, state = model.step(self._block, self.state, last=False)
        self._set(_tensors(state))

    def _set(self, tensors: list[torch.Tensor]) -> None:
        for mine, new in zip(_tensors(self.state), tensors):
            mine.copy_(new)


def settled(before: "ApolloState | None", after: "ApolloState") -> bool:
    """Whether a step left a state of the shapes that it found: from then on every step is alike."""
    if before is None or before.analysis.n_seen <= after.analysis.samples.shape[-1]:
        return False
    return _signature(before) == _signature(after)


def _signature(state: Any) -> Any:
    if torch.is_tensor(state):
        return tuple(state.shape)
    if isinstance(state, tuple) and hasattr(state, "n_seen"):
        # It grows, and matters no more once more was seen than is kept.
        state = state._replace(n_seen=0)
    return [_signature(part) for part in state] if isinstance(state, (tuple, list)) else state


def _tensors(state: Any) -> list[torch.Tensor]:
    if torch.is_tensor(state):
        return [state]
    if isinstance(state, (tuple, list)):
        return [tensor for part in state for tensor in _tensors(part)]
    return []


def _rebuilt(state: Any, tensors: Any) -> Any:
    """A state with other tensors in the same places."""
    if torch.is_tensor(state):
        return next(tensors)
    if isinstance(state, list):
        return [_rebuilt(part, tensors) for part in state]
    if isinstance(state, tuple):
        return type(state)(*(_rebuilt(part, tensors) for part in state))
    return state

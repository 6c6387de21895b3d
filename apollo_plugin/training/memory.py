"""Memory of a training step: its estimate, and recomputation of activations.

A band-sequence module stores some 75 N numbers for each band and frame, 20 GB for the published
size on 3 s of stereo. :func:`recomputed` stores the input of each layer and recomputes the rest in
the backward pass. Frames are independent in a Roformer, and bands in a TCN: on a CPU both passes go
piece by piece, so that a piece stays in the cache. The results are the same.
"""

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from .. import memory
from ..model import Apollo, RestorationModel

# Size of a piece's input on a CPU. The widest layer has eight times as much.
_PIECE_BYTES = 1 << 20
# Size of all activations of a layer relative to its input.
_LAYER_SIZES = 40
# Length of the signal on which a forward pass is measured; activations grow with length.
_PROBE_SECONDS = 0.25


@contextlib.contextmanager
def recomputed(model: Apollo) -> Iterator[None]:
    """Make forward passes store only the input of each layer for the backward pass.

    Args:
        model: any Apollo, on whole signals; streams are not for training.
    """
    layers = [
        (module, wrapper)
        for layer in model.layers
        for module, wrapper in [(layer.roformer, _run_by_frames)]
        + [(block, _run_by_bands) for block in layer.tcn]
    ]
    with contextlib.ExitStack() as stack:
        for module, wrapper in layers:
            own = {k: v for k, v in vars(module).items() if k == "forward"}  # if compiled
            stack.callback(vars(module).update, own)
            stack.callback(vars(module).pop, "forward")
            vars(module)["forward"] = partial(wrapper, module.forward)
        yield


def _run_by_frames(forward, x, rotation):
    rows = x.flatten(0, 1).unsqueeze(0)
    pieces = rows.split(_piece_size(rows, 1), 1)
    return torch.cat([_checkpoint(forward, piece, rotation) for piece in pieces], 1).view(x.shape)


def _run_by_bands(forward, x, state, last):
    size = _piece_size(x, 2)
    pieces = [
        _checkpoint(forward, piece, piece_state, last)
        for piece, piece_state in zip(x.split(size, 2), state.split(size, 2))
    ]
    return tuple(torch.cat(parts, 2) for parts in zip(*pieces))


def _piece_size(x: torch.Tensor, axis: int) -> int:
    if x.device.type != "cpu":
        return x.shape[axis]
    return max(1, _PIECE_BYTES * x.shape[axis] // (x.element_size() * x.numel()))


def _checkpoint(forward, *args):
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False)


def training_bytes(
    model: RestorationModel,
    batch_size: int,
    seconds: float,
    recompute: bool = False,
    device: torch.device | None = None,
    critic: torch.nn.Module | None = None,
) -> int:
    """Estimate the memory of a training step: weights, gradients, AdamW's two moments, a running
    average, and the activations, measured on a short signal and scaled.

    Args:
        model: model to train; it computes a few frames.
        batch_size: number of audio channels, over all items of a batch.
        seconds: length of an item.
        recompute: True if the step runs under :func:`recomputed`.
        device: device of the training; by default that of the model.
        critic: critic whose structure is that of the model, such as SR-GAN's.
    """
    weight = next(model.parameters())
    stored: dict[int, int] = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    wav = torch.zeros(1, int(_PROBE_SECONDS * model.sample_rate), device=weight.device)
    held = []
    context = recomputed(model) if recompute else contextlib.nullcontext()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), context:
        held.append(model(wav))
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    activations = sum(size for address, size in stored.items() if address not in own)

    def frames(seconds):
        return seconds * model.sample_rate / model.filterbank.stride + 2 * model.filterbank.margin

    activations *= batch_size * frames(seconds) / frames(_PROBE_SECONDS)
    # Gradients of activations, and a layer's activations while it is recomputed.
    flow = batch_size * frames(seconds) * model.frame_bytes * weight.element_size() / 4
    again = min(flow, _PIECE_BYTES) if (device or weight.device).type == "cpu" else flow
    of_critic = 0
    if critic is not None:
        # It stores as much as the model for each of estimate, original, and the point between
        # them, twice for its gradient; the model's own are stored meanwhile.
        of_critic = 4 * _weight_bytes(critic) + 4 * activations
    return int(
        5 * _weight_bytes(model)
        + activations
        + 4 * flow
        + recompute * _LAYER_SIZES * again
        + of_critic
    )


def _weight_bytes(network: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in network.parameters())


def available_bytes(device: torch.device) -> int | None:
    """Free memory of a device in bytes; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return memory.available_bytes()

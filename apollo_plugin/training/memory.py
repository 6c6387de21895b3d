"""Memory of a training step: what it will take, and activations computed anew in place of kept.

A band-sequence module keeps some 75 N numbers for each band and frame, 20 GB for the published
size on 3 s of stereo. :func:`recomputed` keeps what goes into each layer and computes the rest a
second time, on the way back. Frames do not see each other in a Roformer, nor bands in a TCN: on a
CPU both passes go piece by piece, so that a piece stays in the cache. The numbers are the same.
"""

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from .. import memory
from ..losses import SRGANCritic
from ..model import Apollo, RestorationModel

# What a piece's input takes on a CPU. Its widest layer has eight times as much.
_PIECE_BYTES = 1 << 20
# All that a layer keeps over its input.
_LAYER_SIZES = 40
# Length of the signal that a forward pass is measured with; activations grow with length.
_PROBE_SECONDS = 0.25


@contextlib.contextmanager
def recomputed(model: Apollo) -> Iterator[None]:
    """Forward passes in this context keep only the input of each layer for the way back.

    Args:
        model: any Apollo; a whole signal is one step, streams are not for training.
    """
    layers = [
        (module, wrapper)
        for layer in model.layers
        for module, wrapper in [(layer.roformer, _by_frames)]
        + [(block, _by_bands) for block in layer.tcn]
    ]
    with contextlib.ExitStack() as stack:
        for module, wrapper in layers:
            own = {k: v for k, v in vars(module).items() if k == "forward"}  # a compiled one
            stack.callback(vars(module).update, own)
            stack.callback(vars(module).pop, "forward")
            module.forward = partial(wrapper, module.forward)
        yield


def _by_frames(forward, x, rotation):
    rows = x.flatten(0, 1).unsqueeze(0)
    pieces = rows.split(_piece_size(rows, 1), 1)
    return torch.cat([_checkpoint(forward, piece, rotation) for piece in pieces], 1).view(x.shape)


def _by_bands(forward, x, state, last):
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
    critic: SRGANCritic | None = None,
) -> int:
    """About what a training step of a model takes: weights, gradients, AdamW's two moments, a
    running average, and the activations, measured on a short signal and scaled.

    Args:
        model: it computes a few frames.
        batch_size: audio channels, over all items of a batch.
        seconds: length of an item.
        recompute: whether the step runs under :func:`recomputed`.
        device: where it will run; where the model is unless given.
        critic: of SR-GAN, which is built as its model is.
    """
    weight = next(model.parameters())
    kept: dict[int, int] = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    wav = torch.zeros(1, int(_PROBE_SECONDS * model.sample_rate), device=weight.device)
    held = []
    context = recomputed(model) if recompute else contextlib.nullcontext()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), context:
        held.append(model(wav))
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    activations = sum(size for address, size in kept.items() if address not in own)

    def frames(seconds):
        return seconds * model.sample_rate / model.filterbank.stride + 2 * model.filterbank.margin

    activations *= batch_size * frames(seconds) / frames(_PROBE_SECONDS)
    # What flows back, and a layer's activations while it is computed anew.
    flow = batch_size * frames(seconds) * model.frame_bytes * weight.element_size() / 4
    again = min(flow, _PIECE_BYTES) if (device or weight.device).type == "cpu" else flow
    of_critic = 0
    if critic is not None:
        # It keeps what the model does for estimate, original, and what lies between, twice for its
        # slope; of that the model keeps one, while the critic judges.
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
    """Memory that is free on a device; None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return memory.available_bytes()

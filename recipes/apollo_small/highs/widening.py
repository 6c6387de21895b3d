"""Wider envelope paths with longer convolutions that do at first what narrower ones do (Net2Net;
Chen, Goodfellow and Shlens, 2016)."""

import math

import torch
import torch.nn.functional as F

from apollo_plugin.errors import CheckpointError
from apollo_plugin.network.highs.envelope import EnvelopePath

# Of the random weights that new features start from.
SCALE = 0.3


def widened(state: dict[str, torch.Tensor], path: EnvelopePath) -> dict[str, torch.Tensor]:
    """The weights of ``path``, random ones, with those of a narrower path in their place.

    New features are made by the encoder and heard by nobody: convolutions and what leads from them
    to the old features and to the output start from zero. Norms go over all features, so old gains
    make up for those that are silent.

    Args:
        state: of a path with as many blocks, no more features, and kernels no longer.
        path: whose shapes the result has.

    Raises:
        CheckpointError: where it has other blocks, is wider or has longer kernels.
    """
    new = {name: weight.clone() for name, weight in path.state_dict().items()}
    fits = state.keys() == new.keys() and all(
        old.ndim == new[name].ndim and all(a <= b for a, b in zip(old.shape, new[name].shape))
        for name, old in state.items()
    )
    if not fits:
        raise CheckpointError("weights to start from are no narrower path of as many blocks")
    n_old, n_new = len(state["encoder.bias"]), len(new["encoder.bias"])
    for name, weight in new.items():
        old = state[name].float().to(weight)
        if name.endswith(
            ("conv.weight", "conv.bias", "mlp_out.weight", "mlp_out.bias", "decoder.weight")
        ):
            weight.zero_()
        elif name.endswith("norm.weight"):
            old = old * math.sqrt(n_old / n_new)
        else:
            weight *= SCALE
        if name.endswith("conv.weight"):  # the newest frame stays that
            more = weight.shape[-1] - old.shape[-1]
            ahead = more // 2 if path.ahead else 0
            old = F.pad(old, (more - ahead, ahead))
        weight[tuple(map(slice, old.shape))] = old
    return new

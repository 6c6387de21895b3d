"""Layers that models with ``excitation`` or ``envelope_dim`` once had and that nobody trained."""

import re
from collections.abc import Mapping

import torch

_GONE = re.compile(r"(early_guide|late_guide|excitation\.heads)\.(.*)")
TONALITY = "excitation.tonality"


def without_older_layers(
    state: Mapping[str, torch.Tensor], prefix: str = ""
) -> dict[str, torch.Tensor]:
    """A state dict without them. What the heads of the excitation said of the tonality, the same
    for all bands, becomes the parameter that stands for it now.

    Args:
        state: of an Apollo, any version's.
        prefix: of its keys.

    Raises:
        ValueError: where they are trained.
    """
    kept, tonality = {}, []
    for key, value in state.items():
        gone = _GONE.match(key.removeprefix(prefix)) if key.startswith(prefix) else None
        if gone is None:
            kept[key] = value
            continue
        if gone[1] == "excitation.heads":
            if gone[2].endswith(".0.weight"):  # of a norm, whose output was multiplied by zeros
                continue
            if gone[2].endswith(".bias"):
                level, share, lack = value.unflatten(-1, (3, -1)).unbind(-2)
                tonality.append(share.flatten())
                value = torch.cat((level, lack), -1)
        if value.any():
            raise ValueError(f"{gone[0]} is trained, and this version has no such layer")
    if tonality:
        values = torch.cat(tonality).unique()
        if len(values) != 1:
            raise ValueError("excitation.heads are trained, and this version has no such layers")
        kept[prefix + TONALITY] = values[0].clone()
    return kept

"""Names that layers had in older versions, and layers of theirs that nobody trained."""

import re
from collections.abc import Mapping

import torch

_GONE = re.compile(r"(early_guide|late_guide|excitation\.heads)\.(.*)")
_MOVED = {"envelope_path.": "highs.path.", "excitation.": "highs.excitation."}
TONALITY = "highs.excitation.tonality"


def in_todays_names(state: Mapping[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """A state dict of any version as today's. What the heads of the excitation said of the
    tonality, the same for all bands, becomes the parameter that stands for it now.

    Args:
        state: of an Apollo, any version's.
        prefix: of its keys.

    Raises:
        ValueError: where layers are trained that this version does not have.
    """
    kept, tonality = {}, []
    for key, value in state.items():
        name = key.removeprefix(prefix)
        gone = _GONE.match(name) if key.startswith(prefix) else None
        if gone is None:
            old = next((old for old in _MOVED if key.startswith(prefix + old)), "")
            kept[prefix + _MOVED[old] + name.removeprefix(old) if old else key] = value
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

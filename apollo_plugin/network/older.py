"""Names of arguments and layers in older versions, and layers of theirs that nobody trained."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

import torch

from ..errors import SettingError

# Arguments that laid out bands; of several the first one did.
OLDER_BANDS = ("band_bins", "band_width_hz", "n_bands")
_NOTHING = ("none", "null", "~")
_Parameters = ParamSpec("_Parameters")

_GONE = re.compile(r"(early_guide|late_guide|excitation\.heads)\.(.*)")
_MOVED = {"envelope_path.": "highs.path.", "excitation.": "highs.excitation."}
TONALITY = "highs.excitation.tonality"


def in_todays_arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """A model's arguments of any version as today's: ``band_bins``, ``band_width_hz`` or else
    ``n_bands`` become ``bands``, and replace one beside them.

    Raises:
        SettingError: where the first two both lay out bands, or a width is no number.
    """
    kept = dict(args)
    given = {name: kept.pop(name) for name in OLDER_BANDS if name in kept}
    given = {name: value for name, value in given.items() if str(value).lower() not in _NOTHING}
    if {"band_bins", "band_width_hz"} <= given.keys():
        raise SettingError("band_bins and band_width_hz both lay out bands; give one of them")
    bins = given.get("band_bins")
    if isinstance(bins, int) or (isinstance(bins, str) and not bins.strip().startswith("[")):
        raise SettingError(f"band_bins {bins} has to be a list, the bins of each band")
    for name, value in given.items():
        kept["bands"] = _in_hertz(value) if name == "band_width_hz" else value
        break
    return kept


def _in_hertz(width: Any) -> str:
    try:
        return f"{float(width):.15g} Hz"
    except (TypeError, ValueError) as error:
        raise SettingError(f"band_width_hz is {width!r}; it has to be a number of Hz") from error


def older_arguments(begin: Callable[_Parameters, None]) -> Callable[_Parameters, None]:
    """Make an ``__init__`` that takes arguments of older versions too."""

    @functools.wraps(begin)
    def wrapped(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> None:
        begin(*args, **in_todays_arguments(kwargs))

    return wrapped


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

"""Conversion between the published implementation's layout of weights and this package's.

Theirs: one module per band, 1x1 convolutions, queries, keys and values interleaved by head. Ours:
equal bands stacked, linear layers, queries before keys before values.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch

State = dict[str, torch.Tensor]


# Rates in use, to choose between two windows with the same number of bins.
_RATES = (44100, 48000, 16000, 24000, 32000, 22050, 11025, 8000, 88200, 96000, 192000)
_USUAL_MS = 20
# Names of the tables of rotations, which layers may share.
COMPUTED = re.compile(r"net\.\d+\.band_net\.(cos|sin)_freq")


def convert(state: State, settings: Sequence[tuple[Any, Any]] = ()) -> tuple[dict[str, Any], State]:
    """Convert a published state dict to this package's layout.

    Args:
        state: tensors by the published names (``BN.*``, ``net.*``, ``output.*``).
        settings: sample rates in Hz and windows in ms found beside it, either may be None; the
            first pair that agrees with the tensors is used.

    Returns:
        arguments of :class:`~apollo_plugin.Apollo`, inferred from the shapes, and its state dict.

    Raises:
        KeyError: with the name of a missing tensor.
        ValueError: for tensors that are not those of a plain Apollo.
    """
    args, widths = _infer(state)
    state = {key: value.float() for key, value in state.items() if not COMPUTED.fullmatch(key)}
    args |= _rate_and_window(sum(widths), settings)
    renamed = _rename(state, args, widths)
    if state:
        raise ValueError(f"it also holds {min(state)}")
    return args, renamed


def _infer(state: State) -> tuple[dict[str, Any], list[int]]:
    """Infer the arguments of the model and the bins of each band from the shapes."""

    def count(pattern: str) -> int:
        found = [re.match(pattern, key) for key in state]
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    n_bands, n_layers = count(r"output\.(\d+)\."), count(r"net\.(\d+)\.")
    widths = [len(state[f"output.{band}.1.bias"]) // 4 for band in range(n_bands)]
    if len(set(widths[:-1])) > 1:
        raise ValueError(f"its bands have {sorted(set(widths))} bins; only the last may differ")
    feature_dim = state["BN.0.1.weight"].shape[0]
    block = "net.0.seq_net.blocks.0.conv."
    rotation = state.get("net.0.band_net.cos_freq")
    n_heads = feature_dim // rotation.shape[-1] if rotation is not None else 8
    args = dict(
        bands=n_bands,
        feature_dim=feature_dim,
        n_layers=n_layers,
        n_heads=n_heads,
        kernel_size=state[block + "0.weight"].shape[-1],
        mlp_ratio=state["net.0.band_net.MLP_output.weight"].shape[1] // feature_dim,
        tcn_ratio=state[block + "2.weight"].shape[0] // feature_dim,
        tcn_blocks=count(r"net\.0\.seq_net\.blocks\.(\d+)\."),
    )
    return args, widths


def _rate_and_window(n_bins: int, settings: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """Choose sample rate and window with so many bins: from the settings, else the usual ones."""
    for rate, win_ms in settings:
        rate, win_ms = rate or _RATES[0], win_ms or _USUAL_MS
        plain = all(type(value) in (int, float) and 0 < value < 1e6 for value in (rate, win_ms))
        if plain and int(rate * win_ms / 1000) // 2 + 1 == n_bins:
            return dict(sample_rate=rate, win_ms=win_ms)
    windows = 2 * (n_bins - 1), 2 * n_bins - 1
    # 10 or 40 ms at a rate in use is as likely as 20 ms at half or twice the rate.
    others = [
        f"{win_ms} ms at {rate} Hz"
        for rate in _RATES[:2]
        for win_ms in (_USUAL_MS // 2, 2 * _USUAL_MS)
        if int(rate * win_ms / 1000) in windows
    ]
    usual = [rate for rate in _RATES if rate * _USUAL_MS // 1000 in windows]
    if usual and others and usual[0] not in _RATES[:2]:
        raise ValueError(
            f"its window of {windows[0]} samples may be {_USUAL_MS} ms at {usual[0]} Hz or "
            f"{' or '.join(others)}; pass sample_rate and win_ms"
        )
    return dict(sample_rate=usual[0] if usual else windows[0] * 1000 // _USUAL_MS)


def to_published(args: dict[str, Any], state: State) -> State:
    """Convert a state dict of this package to the published names, shapes and order of rows.

    Args:
        args: arguments of :class:`~apollo_plugin.Apollo`.
        state: its state dict.

    Raises:
        ValueError: with the options that the published network lacks.
    """
    odd = [f"{k} {args[k]}" for k, v in _PUBLISHED.items() if args.get(k, v) != v]
    window = int(args["sample_rate"] * args["win_ms"] / 1000)
    if window // 160 < 1:
        odd.append(f"win_ms {args['win_ms']}")
    if odd:
        raise ValueError(f"the published network has no {', '.join(odd)}")
    state, new = {k: v.detach().float().cpu() for k, v in state.items()}, {}
    n_bands = _PUBLISHED["bands"]
    for index, bands in enumerate((range(n_bands - 1), range(n_bands - 1, n_bands))):
        for ours, theirs in (("encoders", "BN"), ("decoders", "output")):
            for row, band in enumerate(bands):
                for part in ("0.weight", "1.weight", "1.bias"):
                    value = state[f"{ours}.{index}.{part}"][row]
                    new[f"{theirs}.{band}.{part}"] = value[..., None] if value.ndim > 1 else value
    cos, sin = _rotation(args["feature_dim"] // args["n_heads"])
    for layer in range(args["n_layers"]):
        theirs, ours = f"net.{layer}.band_net.", f"layers.{layer}.roformer."
        new |= {theirs + "cos_freq": cos.clone(), theirs + "sin_freq": sin.clone()}
        new[theirs + "weight.weight"] = _restore_qkv(state[ours + "qkv.weight"], args["n_heads"])
        for their_name, name in _ROFORMER.items():
            new[f"{theirs}{their_name}.weight"] = state[f"{ours}{name}.weight"]
        for block in range(args["tcn_blocks"]):
            theirs_of = f"net.{layer}.seq_net.blocks.{block}.conv."
            for their_name, name in _TCN.items():
                new[theirs_of + their_name] = state[f"layers.{layer}.tcn.{block}.{name}"]
    return {key: value[..., None] if _is_conv(key, value) else value for key, value in new.items()}


# Values of options that are fixed in the published network. It has 80 bands for any window.
_PUBLISHED: dict[str, Any] = dict(
    bands=80, n_heads=8, kernel_size=7, causal=False, mlp_ratio=4, tcn_ratio=4, tcn_blocks=3
)
_PUBLISHED |= dict(residual=False, band_gain=False, excitation=False, envelope_dim=0)
_PUBLISHED |= dict(gain_shape="band")
_ROFORMER = {"input_norm": "norm", "output": "out", "MLP.0": "mlp_norm", "MLP.1": "mlp_in"}
_ROFORMER |= {"MLP_output": "mlp_out"}
_TCN = {
    **{"0.weight": "conv.weight", "0.bias": "conv.bias", "1.weight": "norm.weight"},
    **{"2.weight": "mlp_in.weight", "2.bias": "mlp_in.bias"},
    **{"4.weight": "mlp_out.weight", "4.bias": "mlp_out.bias"},
}
# Rows of the published tables of cosines and sines.
_POSITIONS = 100


def _is_conv(key: str, value: torch.Tensor) -> bool:
    """Return True if a matrix is a 1x1 convolution there, unlike the tables of the rotation."""
    return value.ndim == 2 and not key.endswith("_freq")


def _plain(value: torch.Tensor) -> torch.Tensor:
    """The matrix of a 1x1 convolution; other tensors as they are."""
    return value.squeeze(-1) if value.ndim == 3 else value


def _rotation(head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute their tables, ``(positions, head_dim)``, with the members of a pair side by side."""
    half = torch.arange(0, head_dim, 2)[: head_dim // 2].float()
    frequency = 1.0 / (10000.0 ** (half / head_dim))
    angle = torch.outer(torch.arange(_POSITIONS).float(), frequency).repeat_interleave(2, -1)
    return angle.cos(), angle.sin()


def _rename(state: State, args: dict[str, Any], widths: list[int]) -> State:
    """Move all tensors from ``state``, which ends up empty, to the names of this package."""
    groups: dict[int, list[int]] = {}
    for band, width in enumerate(widths):
        groups.setdefault(width, []).append(band)
    new: State = {}

    for index, bands in enumerate(groups.values()):
        for ours, theirs in (("encoders", "BN"), ("decoders", "output")):
            for part in ("0.weight", "1.weight", "1.bias"):
                rows = [_plain(state.pop(f"{theirs}.{band}.{part}")) for band in bands]
                new[f"{ours}.{index}.{part}"] = torch.stack(rows)
    for layer in range(args["n_layers"]):
        theirs, ours = f"net.{layer}.band_net.", f"layers.{layer}.roformer."
        qkv = _plain(state.pop(theirs + "weight.weight"))
        new[ours + "qkv.weight"] = _reorder_qkv(qkv, args["n_heads"])
        for their_name, name in _ROFORMER.items():
            new[f"{ours}{name}.weight"] = _plain(state.pop(f"{theirs}{their_name}.weight"))
        for block in range(args["tcn_blocks"]):
            theirs = f"net.{layer}.seq_net.blocks.{block}.conv."
            for their_name, name in _TCN.items():
                value = state.pop(theirs + their_name)
                new[f"layers.{layer}.tcn.{block}.{name}"] = (
                    value if name == "conv.weight" else _plain(value)
                )
    return new


def _reorder_qkv(weight: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Reorder rows from ``[q | k | v]`` per head with interleaved pairs to queries, keys, values of
    all heads with the members of a pair half a head apart. Attention sums over pairs, so the
    function is unchanged."""
    heads = weight.unflatten(0, (n_heads, 3, -1)).transpose(0, 1)
    pairs = heads[:2].unflatten(2, (-1, 2)).transpose(2, 3).flatten(2, 3)
    return torch.cat((pairs, heads[2:])).flatten(0, 2)


def _restore_qkv(weight: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Invert :func:`_reorder_qkv`."""
    heads = weight.unflatten(0, (3, n_heads, -1))
    pairs = heads[:2].unflatten(2, (2, -1)).transpose(2, 3).flatten(2, 3)
    return torch.cat((pairs, heads[2:])).transpose(0, 1).flatten(0, 2)

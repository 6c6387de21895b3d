"""Search for a model's weights in the content of a file, however they are wrapped."""

import re
from typing import Any, NamedTuple

import torch

from ..errors import CheckpointError
from .published_layout import State

# Name of a tensor that identifies each model, for Apollo in either layout, after any prefix of
# wrappers.
_ANCHORS = {"Apollo": r"(?:BN|encoders)\.\d+\.[01]\.(?:weight|bias)", "SRGAN": r"spread\.weight"}
_ANCHOR = {
    name: re.compile(rf"(?P<prefix>(?:.*\.)?){anchor}", re.S) for name, anchor in _ANCHORS.items()
}
_AVERAGED = re.compile(r"(^|[._])ema([._]|$)|averaged?([._]|$)|swa([._]|$)|shadow", re.I)
_DEEPEST, _MOST_MAPPINGS = 5, 2000
# Names of tensors -> other models that have them.
_MODELS = (
    (r"tencoder\.\d|tdecoder\.\d|encoder\.\d+\.(conv|rewrite)\.|lstm\.lstm\.", "Demucs"),
    (r"band_split\.to_features\.", "a band-split Roformer"),
    (r"masker\.TCN\.|masker\.intra_RNN|masker\.net\.", "a separator of Asteroid's"),
    (r"separator\.band_split|BN\.\d+\.0\.gamma", "a band-split RNN"),
    (r"(^|\.)fc1\.weight.*|(^|\.)lstm\.weight_ih_l0", "Open-Unmix or another recurrent network"),
    (r"(^|\.)(discriminators?|disc|mpd|msd|net_d)\.", "a discriminator"),
    (r"\.weight_orig|\.parametrizations\.", "a discriminator"),
)


class Found(NamedTuple):
    """Weights of a model.

    Args:
        model: public name of its class.
        state: tensors by the names of a bare state dict.
        mappings: mappings that hold them, innermost first, perhaps with the model's arguments.
        place: path of the innermost mapping.
        prefix: of the names of its tensors, removed in ``state``.
    """

    model: str
    state: State
    mappings: list[dict[Any, Any]]
    place: str
    prefix: str


def unwrap(content: Any, name: str) -> Found:
    """Find the weights in what a checkpoint holds.

    Wrappers are nested mappings (``state_dict``, ``generator``, ``params_ema`` ...) and prefixes of
    names (``audio_model.``, ``module.``, ``_orig_mod.`` ...), of any name. Of several models an
    averaged one is preferred, then the outermost.

    Raises:
        CheckpointError: if there is none, with a description of the content, or more than one.
    """
    wrapped = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(wrapped, dict):
        raise CheckpointError(f"'{name}' holds no state dict; is it a checkpoint of Apollo?")
    candidates = _candidates(content)
    if not candidates:
        raise CheckpointError(
            f"'{name}' holds weights of another model than Apollo{_describe_other(content)}"
        )
    averaged = [one for one in candidates if _AVERAGED.search(f"{one.place}.{one.prefix}")]
    first, *others = averaged or candidates
    for other in others:
        if other.mappings[0] is first.mappings[0] and not _same(other.state, first.state):
            raise CheckpointError(
                f"'{name}' holds several models, '{_printed(first.prefix)}*' and "
                f"'{_printed(other.prefix)}*'; save one"
            )
    return first


def mappings_of(content: Any) -> list[tuple[str, list[dict[Any, Any]]]]:
    """List nested mappings, outermost first, each with its path and the mappings around it."""
    if not isinstance(content, dict):
        return []
    found, seen = [("", [content])], {id(content)}
    for place, mappings in found:
        if len(mappings) > _DEEPEST:
            continue
        for key, value in mappings[0].items():
            if not isinstance(value, dict) or not value:
                continue
            # A mapping may contain itself.
            if id(value) not in seen and len(seen) < _MOST_MAPPINGS:
                seen.add(id(value))
                found.append((f"{place}.{str(key)[:100]}", [value, *mappings]))
    return found


def _candidates(content: Any) -> list[Found]:
    found = []
    for place, mappings in mappings_of(content):
        tensors = [k for k, v in mappings[0].items() if isinstance(k, str) and torch.is_tensor(v)]
        models = {}
        for model, anchor in _ANCHOR.items():
            matches = filter(None, map(anchor.fullmatch, tensors))
            models[model] = dict.fromkeys(match["prefix"] for match in matches)
        states = _split(mappings[0], tensors, set().union(*models.values()))
        found += [
            Found(model, states[prefix], mappings, place, prefix)
            for model, prefixes in models.items()
            for prefix in prefixes
        ]
    return found


def _split(mapping: dict[Any, Any], names: list[str], prefixes: set[str]) -> dict[str, State]:
    """Group tensors by their longest prefix, and remove it.

    In sorted order a prefix is followed by the names that begin with it, and open prefixes are
    nested, so a single pass suffices."""
    states: dict[str, State] = {prefix: {} for prefix in prefixes}
    still_open: list[str] = []
    # A prefix is sorted before an equal name.
    for text, is_name in sorted([*((p, False) for p in prefixes), *((n, True) for n in names)]):
        while still_open and not text.startswith(still_open[-1]):
            still_open.pop()
        if not is_name:
            still_open.append(text)
        elif still_open:
            states[still_open[-1]][text[len(still_open[-1]) :]] = mapping[text]
    return states


def _same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(
        value.shape == other[key].shape
        and value.dtype == other[key].dtype
        and value.layout == other[key].layout == torch.strided
        and value.data_ptr() == other[key].data_ptr()
        and value.stride() == other[key].stride()
        for key, value in one.items()
    )


def _describe_other(content: dict[Any, Any]) -> str:
    """Describe the content of a file without an Apollo, as the end of a sentence."""
    model = content.get("model_name")
    if isinstance(model, str) and model != "Apollo":
        return f": it is a {_printed(model)}"
    if "param_groups" in content and "state" in content:
        return ": it is an optimizer's state"
    names = [
        key
        for _, mappings in mappings_of(content)
        for key, value in mappings[0].items()
        if isinstance(key, str) and torch.is_tensor(value)
    ]
    for pattern, model in _MODELS:
        if any(re.search(pattern, key[:200]) for key in names):
            return f": its names are those of {model}"
    return f": its first tensor is {_printed(names[0])}" if names else ""


def _printed(key: str) -> str:
    """Escape and shorten a name from a file to one line."""
    return ascii(key)[1:-1][:80]

"""Model arguments and state dicts from checkpoints of every layout, without executing anything.

Known layouts: this package's own (``Apollo.serialize``, or safetensors with the arguments in its
metadata), the authors' ``{model_name, state_dict, model_args, infos}``, Lightning checkpoints
(``audio_model.`` beside ``discriminator.``), a ``model.`` prefix, and bare state dicts, each as
pickle or safetensors. In foreign files, tensors take precedence: shapes are derived from them, and
sample rate and window come from the settings beside them if these agree with the tensors.
"""

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch

from ..bundled import BUNDLED, WEIGHTS
from ..errors import CheckpointError, one_line
from ..files import atomic_write, sha256
from ..memory import available_bytes
from ..network.base import RestorationNetwork
from ..network.older import in_todays_arguments, in_todays_names
from . import arguments
from . import published_layout as published
from .claims import UNPLAIN
from .download import HUB_FILES, download, n_bytes, read_any
from .published_layout import State
from .reading import read_json
from .unwrapping import Found, mappings_of, unwrap

_FILE_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
_MOST_CONFIG = 1 << 20
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
# With larger weights the squares of activations overflow float32.
_LARGEST_WEIGHT = 1e6
_RATE_NAMES = ("sample_rate", "sr", "sampling_rate", "samplerate", "fs")
_WINDOW_NAMES = ("win_ms", "win", "window_ms")
Model = TypeVar("Model", bound=torch.nn.Module)


def load(
    source: str | os.PathLike | dict[str, Any],
    requested: tuple[float | None, float | None] = (None, None),
    **hub: Any,
) -> dict[str, Any]:
    """Find and read a checkpoint.

    Args:
        source: bundled name, path, Hub id (``owner/name`` or ``owner/name/file``), or a package
            made by ``Apollo.serialize``.
        requested: sample rate in Hz and window in ms for files in the published layout.
        **hub: see :data:`~.download.OPTIONS`.

    Returns:
        ``{"model": name of the class, "model_args": ..., "state_dict": ..., "source": name for
        messages, "origin": name and digest for marks}`` in this package's own layout. Arguments are
        those of the file, unchecked; :func:`build` checks them.

    Raises:
        CheckpointError: for whatever prevents it, in one line.
    """
    if isinstance(source, dict):
        content, name, path, origin = source, "the given package", None, ""
    else:
        options = {key: value for key, value in hub.items() if value is not None}
        path, name = _find(source, options), str(source)
        _require_memory(n_bytes(path, name), name)
        content = read_any(path, name)
        # Only the last part of a path, for the user's privacy.
        public_name = path.name if os.path.exists(name) else name
        origin = f"{public_name} (sha256 {sha256(path)[:16]})"
    found = unwrap(content, name)
    _check(found.state, name)
    args, state = _to_our_layout(found, path, name, requested)
    names = {"source": name, "origin": origin}
    return {"model": found.model, "model_args": args, "state_dict": state, **names}


def build(cls: type[Model], conf: dict[str, Any], *args, **kwargs) -> Model:
    """Build a model from the result of :func:`load`, with every tensor used, in eval mode.

    Args:
        cls: class of the model.
        conf: result of :func:`load`.
        *args, **kwargs: arguments that override the checkpoint's.

    Raises:
        CheckpointError: if the checkpoint is for another class, or arguments and tensors do not
            fit; no memory is allocated for them before.
    """
    name, state = conf["source"], conf["state_dict"]
    settings = {**conf["model_args"], **in_todays_arguments(kwargs)}
    if conf["model"] not in {base.__name__ for base in cls.__mro__}:
        raise CheckpointError(
            f"'{name}' holds an {conf['model']}, not an {cls.__name__}; load it with "
            f"{conf['model']}.from_pretrained"
        )
    try:
        arguments.verify(cls, args, settings, state)
        _require_memory(4 * sum(value.numel() for value in state.values()), name)
        model = cls(*args, **settings)
        model.load_state_dict(state)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = one_line(error)
        raise CheckpointError(f"'{name}' does not fit {cls.__name__}: {reason}") from error
    return model.eval()


def _require_memory(n_bytes: int, name: str) -> None:
    free = available_bytes()
    if free is not None and n_bytes > free:
        raise CheckpointError(
            f"'{name}' needs {n_bytes / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free"
        )


def save(model: RestorationNetwork, path: str | os.PathLike, half: bool = False) -> None:
    """Write a model as safetensors, with its arguments as metadata, completely or not at all.

    Args:
        model: an Apollo, or an SRGAN.
        path: file to write.
        half: store tensors in half precision; they load as float32.
    """
    dtype = torch.float16 if half else None
    state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in model.state_dict().items()}
    # Through bytes, as save_file makes a file that only its owner can read. huggingface_hub and
    # transformers refuse files without a format.
    metadata = {"format": "pt", "model_args": json.dumps(model.get_model_args())}
    with atomic_write(path) as beside:
        beside.write_bytes(safetensors.torch.save(state, metadata=metadata))


def _find(source: str | os.PathLike, options: dict[str, Any]) -> Path:
    name = str(source)
    if name in BUNDLED:
        file, digest = BUNDLED[name]
        path = WEIGHTS / file
        if not path.is_file():
            raise CheckpointError(f"bundled checkpoint '{path}' is missing; reinstall the package")
        if sha256(path) != digest:
            raise CheckpointError(f"'{path}' is not the published file: its sha256 differs")
        return path
    path = Path(source)
    if os.path.isfile(path):
        return path
    if name and os.path.isdir(path):
        for file in HUB_FILES:
            if (path / file).is_file():
                return path / file
        raise CheckpointError(f"folder '{name}' holds none of {', '.join(HUB_FILES)}")
    hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(/[\w./-]+)?", name)
    # owner/name.pth is a misspelt path.
    if hub_id and (hub_id[1] or path.suffix not in _FILE_SUFFIXES):
        return download(name, options)
    raise CheckpointError(f"no checkpoint '{name}': no such file; bundled are {', '.join(BUNDLED)}")


def _check(state: State, name: str) -> None:
    """Check that weights are dense floats of 16, 32 or 64 bits, each with memory of its own, and
    of plausible size."""
    n_bytes, storages = 0, {}
    learnt = {key: value for key, value in state.items() if not published.COMPUTED.fullmatch(key)}
    for key, value in learnt.items():
        kind = _unsupported_kind(value)
        if kind:
            raise CheckpointError(f"'{name}' holds {kind} ({ascii(key)[1:-1][:80]}); {UNPLAIN}")
        n_bytes += value.numel() * value.element_size()
        storage = value.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    if n_bytes > sum(storages.values()) + 2**20:
        raise CheckpointError(f"'{name}' is refused: its tensors share their memory")
    for key, value in learnt.items():
        least, most = map(float, value.detach().aminmax() if value.numel() else (0, 0))
        if not (least >= -_LARGEST_WEIGHT and most <= _LARGEST_WEIGHT):
            values = "NaN" if math.isnan(least) else f"numbers from {least:g} to {most:g}"
            raise CheckpointError(
                f"'{name}' is damaged: {ascii(key)[1:-1][:80]} holds {values}; weights are real "
                f"numbers within {_LARGEST_WEIGHT:,.0f}"
            )


def _unsupported_kind(value: torch.Tensor) -> str:
    """Kind of a tensor that cannot be weights; empty if it can."""
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        return f"tensors of {type(value).__name__}"
    if value.is_nested:
        return "nested tensors"
    if value.layout != torch.strided:
        return f"tensors of {value.layout}"
    if value.is_meta:
        return "meta tensors, which have no values"
    if value.dtype not in _FLOATS:
        return f"tensors of {value.dtype}"
    # Expanded or overlapping axes step over memory that a smaller stride already covers.
    reach = 1
    for step, n in sorted((s, n) for s, n in zip(value.stride(), value.shape) if n > 1):
        if step < reach:
            return "expanded tensors"
        reach = step * n
    return ""


def _to_our_layout(
    found: Found, path: Path | None, name: str, requested: tuple[float | None, float | None]
) -> tuple[dict[str, Any], State]:
    """Convert to the model's arguments and its state dict in our layout."""
    state = found.state
    if any(key.startswith("BN.") for key in state):
        try:
            settings = list(_settings(found.mappings))
            if any(requested):
                settings.insert(0, requested)
            return published.convert(state, settings)
        except KeyError as error:
            raise CheckpointError(f"'{name}' is an incomplete Apollo: it lacks {error}") from error
        except (LookupError, ValueError, RuntimeError, ArithmeticError, TypeError) as error:
            raise CheckpointError(f"'{name}' is no plain Apollo: {one_line(error, 200)}") from error
    args: Any = next((m["model_args"] for m in found.mappings if "model_args" in m), None)
    if args is None and path:
        args = _config_beside(path)
    if not isinstance(args, dict):
        raise CheckpointError(f"'{name}' does not hold its model's arguments")
    if not all(isinstance(key, str) for key in args):
        raise CheckpointError(f"'{name}' is damaged: its model's arguments have no names")
    try:
        return in_todays_arguments(args), in_todays_names(state)
    except (ValueError, RuntimeError, LookupError) as error:
        raise CheckpointError(f"'{name}' cannot be used: {one_line(error, 200)}") from error


def _settings(mappings: list[dict[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Find sample rates in Hz and windows in ms beside the weights, by any of their names."""
    for mapping in mappings:
        for _, (inner, *_) in mappings_of(mapping):
            rate = next((inner[key] for key in _RATE_NAMES if key in inner), None)
            win_ms = next((inner[key] for key in _WINDOW_NAMES if key in inner), None)
            if rate is not None or win_ms is not None:
                yield rate, win_ms


def _config_beside(path: Path) -> Any:
    """Read the model's arguments from a ``config.json`` in the same folder."""
    config = path.with_name("config.json")
    try:
        size = config.stat().st_size
        # Not from a pipe or a device, which may have no end.
        if not config.is_file() or size > _MOST_CONFIG:
            return None
        with config.open("rb") as file:
            return read_json(file.read(size))["model_args"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None

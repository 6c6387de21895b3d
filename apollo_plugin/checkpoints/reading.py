"""A checkpoint file's content, of any model; nothing of it is executed."""

import collections
import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError

# Pickled settings beside the weights are skipped if they are of these kinds; any other name in a
# pickle is refused. Neither is ever imported or called.
_SKIPPED_MODULES = {"omegaconf", "hydra", "pytorch_lightning", "lightning", "lightning_fabric"}
_SKIPPED_MODULES |= {"typing", "collections", "pathlib", "enum", "numpy", "argparse", "look2hear"}
_SKIPPED_BUILTINS = {"dict", "list", "set", "tuple", "int", "float", "str", "bool", "object"}

# What safetensors, zipfile and torch's unpickler raise on files that are broken or something else.
_DAMAGE = (SafetensorError, zipfile.BadZipFile, EOFError, OSError, RuntimeError, AttributeError)
_DAMAGE += (IndexError, KeyError, TypeError, ValueError)


def read(path: Path, name: str) -> Any:
    """What a checkpoint of any model holds; nothing of it is executed.

    Args:
        path: of the file.
        name: for messages.

    Raises:
        CheckpointError: where it is damaged, or pickles more than tensors and plain values.
    """
    if path.stat().st_size == 0:
        raise CheckpointError(f"'{name}' is empty")
    try:
        if _is_safetensors(path):
            with safe_open(path, "pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                args = json.loads((file.metadata() or {}).get("model_args", "null"))
            return {"state_dict": state, "model_args": args}
        skipped = _skippable(path, name)
        stand_ins = [(_Skipped, unsafe) for unsafe in skipped]
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|Unsupported global:|function) `?([\w.]+\.[\w.]+)", str(error))
        what = f"its pickle names {named[1]}" if named else "its pickle holds more than tensors"
        raise CheckpointError(f"'{name}' is refused: {what}, or it is no checkpoint") from error
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise CheckpointError(f"'{name}' is truncated, damaged or no checkpoint") from error


def _is_safetensors(path: Path) -> bool:
    """By content: eight bytes of length and a JSON object."""
    with path.open("rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or head[8:9] == b"{"


def _skippable(path: Path, name: str) -> list[str]:
    """Names in a pickle that stand for settings, to be replaced by :class:`_Skipped`."""
    if not zipfile.is_zipfile(path):
        return []
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    for unsafe in names:
        module, _, attribute = unsafe.partition(".")
        builtin = module in ("builtins", "__builtin__") and attribute in _SKIPPED_BUILTINS
        # Asteroid pickles torch's version.
        version = unsafe == "torch.torch_version.TorchVersion"
        if module not in _SKIPPED_MODULES and not builtin and not version:
            raise CheckpointError(
                f"'{name}' is refused: its pickle names {unsafe}, which no weights need"
            )
    return names


class _Skipped:
    """Stands in for the class of pickled settings: whatever is made of it is an empty mapping that
    takes what the pickle puts in, and is thrown away. (torch's unpickler fills no other types.)"""

    def __new__(cls, *args, **kwargs):
        return collections.OrderedDict()

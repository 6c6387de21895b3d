"""Every checkpoint layout in use -> (model arguments, state dict). Nothing in a file is executed.

Known layouts: this package's own (``Apollo.serialize``, or safetensors with the arguments in its
metadata), the authors' ``{model_name, state_dict, model_args, infos}``, Lightning checkpoints
(``audio_model.`` beside ``discriminator.``), a ``model.`` prefix, and bare state dicts, each as
pickle or safetensors. Of foreign files only the tensors are believed: shapes come from them.
"""

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..errors import CheckpointError
from ..files import atomic_write
from . import published_layout as published
from .published_layout import State
from .reading import read

_WEIGHTS = Path(__file__).parents[1] / "weights"
# name: (file, sha256)
BUNDLED: dict[str, tuple[str, str]] = {
    "apollo-small": (
        "apollo-small.safetensors",
        "b20faf2017f4cf539cd4e01bfde929222d59b00d90720f8ed3b7903e7dec6913",
    ),
    "apollo-small-streaming": (
        "apollo-small-streaming.safetensors",
        "e5993f454fd6fde87195206975a0f40be6589ecc3edaa31c6f3721ae494f6cb4",
    ),
}
# Files that a model's repository on the Hub may hold, best first.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin", "model.pth", "best_model.pth")
_FILE_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
_PREFIXES = ("audio_model.", "model.", "generator.", "module.", "_orig_mod.")


def load(source: str | os.PathLike | dict[str, Any]) -> dict[str, Any]:
    """Finds and reads a checkpoint.

    Args:
        source: bundled name, path, Hub id (``owner/name`` or ``owner/name/file``), or a package as
            ``Apollo.serialize`` gives it.

    Returns:
        ``{"model_args": ..., "state_dict": ..., "source": name for messages}`` in this package's
        own layout.

    Raises:
        CheckpointError: in one line, whatever is wrong.
    """
    if isinstance(source, dict):
        content, name, path = source, "the given package", None
    else:
        path, name = _find(source), str(source)
        content = read(path, name)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise CheckpointError(f"'{name}' holds no state dict; is it a checkpoint of Apollo?")
    state = {str(key): value for key, value in state.items() if torch.is_tensor(value)}
    state = _strip_prefix(state)
    for key, value in state.items():
        if not value.is_floating_point() or not torch.isfinite(value).all():
            raise CheckpointError(f"'{name}' is damaged: {key} holds NaN or no real numbers")
    if any(key.startswith("BN.") for key in state):
        try:
            args, state = published.convert(state)
        except KeyError as error:
            raise CheckpointError(f"'{name}' is no complete Apollo: it lacks {error}") from error
        except (IndexError, ValueError, RuntimeError, ZeroDivisionError, TypeError) as error:
            raise CheckpointError(f"'{name}' is no plain Apollo: {str(error)[:200]}") from error
    elif any(key.startswith("encoders.") for key in state):
        args = content.get("model_args")
        if args is None and path:
            args = _config_beside(path)
        if not isinstance(args, dict):
            raise CheckpointError(f"'{name}' says nothing of its model's arguments")
        largest = max(value.numel() for value in state.values())
        for argument, value in args.items():
            # Built first and compared afterwards, such a model would fill the memory.
            bound = len(state) if argument in ("n_layers", "tcn_blocks") else largest
            if argument != "sample_rate" and isinstance(value, int) and value > bound:
                raise CheckpointError(f"'{name}' is damaged: its {argument} is {value}")
    else:
        raise CheckpointError(f"'{name}' holds weights of another model than Apollo")
    return {"model_args": dict(args), "state_dict": state, "source": name}


def build(cls: type[torch.nn.Module], conf: dict[str, Any], *args, **kwargs) -> torch.nn.Module:
    """Makes the model of :func:`load`'s answer, every tensor accounted for, in eval mode.

    Raises:
        CheckpointError: where arguments and tensors do not fit.
    """
    name = conf["source"]
    try:
        model = cls(*args, **{**conf["model_args"], **kwargs})
        model.load_state_dict(conf["state_dict"])
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"'{name}' does not fit {cls.__name__}: {reason[:300]}") from error
    return model.eval()


def save(model: torch.nn.Module, path: str | os.PathLike, half: bool = False) -> None:
    """Writes a model as safetensors, arguments in the metadata; whole or not at all.

    Args:
        model: an Apollo.
        path: file to write.
        half: store tensors in half precision (they load as float32).
    """
    dtype = torch.float16 if half else None
    state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in model.state_dict().items()}
    # Through bytes: save_file would make a file that only its owner can read.
    metadata = {"model_args": json.dumps(model.get_model_args())}
    with atomic_write(path) as beside:
        beside.write_bytes(safetensors.torch.save(state, metadata=metadata))


# ----------------------------------------------------------------------------- finding and reading


def _find(source: str | os.PathLike) -> Path:
    name = str(source)
    if name in BUNDLED:
        file, digest = BUNDLED[name]
        path = _WEIGHTS / file
        if not path.is_file():
            raise CheckpointError(f"bundled checkpoint '{path}' is missing; reinstall the package")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise CheckpointError(f"'{path}' is not what was published: its sha256 differs")
        return path
    path = Path(source)
    if os.path.isfile(path):
        return path
    if name and os.path.isdir(path):
        for file in _HUB_FILES:
            if (path / file).is_file():
                return path / file
        raise CheckpointError(f"folder '{name}' holds none of {', '.join(_HUB_FILES)}")
    hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(/[\w./-]+)?", name)
    # owner/name.pth is a path that was misspelt.
    if hub_id and (hub_id[1] or path.suffix not in _FILE_SUFFIXES):
        return _download(name)
    raise CheckpointError(
        f"no checkpoint '{name}': no such file, and bundled: {', '.join(BUNDLED)}"
    )


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download, logging
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    logging.set_verbosity_error()  # its retries say nothing that the one line below does not
    owner, model, *file = name.split("/", 2)
    for candidate in file or _HUB_FILES:
        try:
            path = Path(hf_hub_download(f"{owner}/{model}", candidate))
            if candidate == "model.safetensors":  # whose arguments may stand in config.json only
                with contextlib.suppress(EntryNotFoundError, HfHubHTTPError, OSError):
                    hf_hub_download(f"{owner}/{model}", "config.json")
            return path
        except LocalEntryNotFoundError as error:  # no network, and not in the cache
            raise CheckpointError(
                f"'{name}' is no file here, and the Hugging Face Hub cannot be reached"
            ) from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError, ValueError) as error:
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"'{name}' cannot be had from the Hub: {first_line}") from error
    raise CheckpointError(
        f"'{name}' has none of {', '.join(file or _HUB_FILES)} on the Hugging Face Hub"
    )


def _config_beside(path: Path) -> Any:
    """The model's arguments from a ``config.json`` in the same folder."""
    try:
        return json.loads(path.with_name("config.json").read_bytes())["model_args"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _strip_prefix(state: State) -> State:
    for _ in range(len(_PREFIXES)):
        for prefix in _PREFIXES:
            inner = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
            if inner:
                state = inner
    return state

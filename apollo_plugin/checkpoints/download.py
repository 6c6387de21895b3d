"""Checkpoints on the Hugging Face Hub, and checkpoints of several files."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .reading import read

# Files of a model's repository on the Hub, best first.
INDEX = "model.safetensors.index.json"
HUB_FILES = ("model.safetensors", INDEX, "pytorch_model.bin", "model.pth", "best_model.pth")
# Download options of huggingface_hub's from_pretrained.
OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
_MOST_INDEX = 16 << 20


def download(name: str, options: dict[str, Any]) -> Path:
    """Download the checkpoint of a repository on the Hub to the Hub's cache.

    Args:
        name: ``owner/name`` or ``owner/name/file``.
        options: the :data:`OPTIONS` that are not None.

    Raises:
        CheckpointError: for whatever prevents it, in one line.
    """
    from huggingface_hub import hf_hub_download, logging
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    logging.set_verbosity_error()  # the error below says all that its retries would
    owner, model, *file = name.split("/", 2)
    repo, local = f"{owner}/{model}", bool(options.get("local_files_only"))
    for candidate in file or HUB_FILES:
        try:
            path = Path(hf_hub_download(repo, candidate, **options))
            if path.name.endswith(INDEX):
                for shard in shards(path, name):
                    hf_hub_download(repo, str(Path(candidate).with_name(shard)), **options)
            if candidate in ("model.safetensors", INDEX):
                # The arguments may be in config.json only.
                with contextlib.suppress(EntryNotFoundError, HfHubHTTPError, OSError):
                    hf_hub_download(repo, "config.json", **options)
            return path
        except (EntryNotFoundError, HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
            # Without a network, huggingface_hub 1 may try again with a client that it has closed.
            is_offline = "client has been closed" in str(error)
            is_offline = is_offline or isinstance(error, LocalEntryNotFoundError)
            if is_offline and not local:
                raise CheckpointError(
                    f"'{name}' is not a local file, and the Hugging Face Hub cannot be reached"
                ) from error
            if not (is_offline or isinstance(error, EntryNotFoundError)):
                first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise CheckpointError(f"download of '{name}' failed: {first_line}") from error
    where = "in the cache (local_files_only)" if local else "on the Hugging Face Hub"
    raise CheckpointError(f"'{name}' has none of {', '.join(file or HUB_FILES)} {where}")


def shards(index: Path, name: str) -> list[str]:
    """List the files of an index of safetensors, which are beside it.

    Args:
        index: ``model.safetensors.index.json`` as huggingface_hub writes it.
        name: for messages.

    Raises:
        CheckpointError: if it is no such index.
    """
    try:
        if index.stat().st_size > _MOST_INDEX:
            raise ValueError
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        # Plain names only, so that all files are beside the index.
        if not names or not all(re.fullmatch(r"[\w-][\w.-]*\.safetensors", n) for n in names):
            raise ValueError
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"'{name}' is damaged, or not an index of safetensors") from error
    return names


def read_any(path: Path, name: str) -> Any:
    """Read a checkpoint of one file, or of an index and its files.

    Raises:
        CheckpointError: if a file is missing or damaged.
    """
    if not path.name.endswith(".index.json"):
        return read(path, name)
    content: dict[str, Any] = {"state_dict": {}, "model_args": None}
    for shard in shards(path, name):
        file = path.with_name(shard)
        if not file.is_file():
            raise CheckpointError(f"'{name}' lists '{shard}', which is missing")
        part = read(file, str(file))
        content["state_dict"] |= part["state_dict"]
        content["model_args"] = part["model_args"] or content["model_args"]
    return content


def n_bytes(path: Path, name: str) -> int:
    """Size of a checkpoint on disk, of all its files together, in bytes."""
    if not path.name.endswith(".index.json"):
        return path.stat().st_size
    files = [path.with_name(shard) for shard in shards(path, name)]
    return sum(file.stat().st_size for file in files if file.is_file())

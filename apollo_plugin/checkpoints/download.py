"""Checkpoints on the Hugging Face Hub, and those that are spread over several files."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .reading import read

# Files that a model's repository on the Hub may hold, best first.
INDEX = "model.safetensors.index.json"
HUB_FILES = ("model.safetensors", INDEX, "pytorch_model.bin", "model.pth", "best_model.pth")
# Keywords of huggingface_hub's own from_pretrained that say how a file is had.
OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
_MOST_INDEX = 16 << 20


def download(name: str, options: dict[str, Any]) -> Path:
    """The checkpoint of a repository on the Hub, in the cache there is for them.

    Args:
        name: ``owner/name`` or ``owner/name/file``.
        options: those of :data:`OPTIONS` that are not None.

    Raises:
        CheckpointError: in one line, whatever is wrong.
    """
    from huggingface_hub import hf_hub_download, logging
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    logging.set_verbosity_error()  # its retries say nothing that the one line below does not
    owner, model, *file = name.split("/", 2)
    repo, local = f"{owner}/{model}", bool(options.get("local_files_only"))
    for candidate in file or HUB_FILES:
        try:
            path = Path(hf_hub_download(repo, candidate, **options))
            if path.name.endswith(INDEX):
                for shard in shards(path, name):
                    hf_hub_download(repo, str(Path(candidate).with_name(shard)), **options)
            if candidate in ("model.safetensors", INDEX):
                # Whose arguments may stand in config.json only.
                with contextlib.suppress(EntryNotFoundError, HfHubHTTPError, OSError):
                    hf_hub_download(repo, "config.json", **options)
            return path
        except LocalEntryNotFoundError as error:  # no network, and not in the cache
            if local:  # which holds other files perhaps
                continue
            raise CheckpointError(
                f"'{name}' is no file here, and the Hugging Face Hub cannot be reached"
            ) from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError, ValueError) as error:
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"'{name}' cannot be had from the Hub: {first_line}") from error
    where = "in the cache (local_files_only)" if local else "on the Hugging Face Hub"
    raise CheckpointError(f"'{name}' has none of {', '.join(file or HUB_FILES)} {where}")


def shards(index: Path, name: str) -> list[str]:
    """Names of the files that an index of safetensors lists, which lie beside it.

    Args:
        index: ``model.safetensors.index.json`` as huggingface_hub writes it.
        name: for messages.

    Raises:
        CheckpointError: where it is no such index.
    """
    try:
        if index.stat().st_size > _MOST_INDEX:
            raise ValueError
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        # Files beside it, and nowhere else.
        if not names or not all(re.fullmatch(r"[\w-][\w.-]*\.safetensors", n) for n in names):
            raise ValueError
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"'{name}' is damaged, or no index of safetensors") from error
    return names


def read_any(path: Path, name: str) -> Any:
    """What a checkpoint holds, be it one file or an index and the files that it lists.

    Raises:
        CheckpointError: where a file is missing or damaged.
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
    """Size of a checkpoint on disk, those of its shards together."""
    if not path.name.endswith(".index.json"):
        return path.stat().st_size
    files = [path.with_name(shard) for shard in shards(path, name)]
    return sum(file.stat().st_size for file in files if file.is_file())

"""Models as folders, and on the Hugging Face Hub: weights, configuration and model card."""

import io
import os
import tempfile
from pathlib import Path

import torch
import yaml

from .. import __version__
from ..errors import CheckpointError
from ..files import atomic_write, write_json
from ..network.base import RestorationNetwork
from .cards import model_card
from .loading import save
from .published_layout import to_published


def save_pretrained(
    model: RestorationNetwork,
    folder: str | os.PathLike,
    card: str | os.PathLike | None = None,
    license: str | None = None,
    name: str | None = None,
) -> Path:
    """Write ``model.safetensors``, ``config.json`` and the card, ``README.md``, each atomically.

    Args:
        model: an Apollo.
        folder: created if missing. An existing card is kept unless ``card`` is given.
        card: path of the model card; by default one is written.
        license: license in a written card.
        name: name in a written card; by default the folder's name.

    Returns:
        the folder, which :meth:`Apollo.from_pretrained` takes.

    Raises:
        CheckpointError: if a file cannot be read or written.
    """
    folder = Path(folder)
    try:
        text = Path(card).read_text(encoding="utf-8") if card else None
        folder.mkdir(parents=True, exist_ok=True)
        save(model, folder / "model.safetensors")
        config = {
            "model_type": "apollo",
            "architectures": [type(model).__name__],
            "apollo_plugin_version": __version__,
            "model_args": model.get_model_args(),
        }
        write_json(folder / "config.json", config)
        readme = folder / "README.md"
        if text is not None or not readme.exists():
            with atomic_write(readme) as beside:
                beside.write_text(
                    text or model_card(model, name or folder.name, license), encoding="utf-8"
                )
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        place = getattr(error, "filename", None) or card or folder
        raise CheckpointError(f"'{place}': {reason}") from error
    return folder


def save_published(model: RestorationNetwork, path: str | os.PathLike) -> tuple[Path, Path]:
    """Write a model in the layout of the authors' implementation, with a configuration for
    Music-Source-Separation-Training, which takes the same file (``--model_type apollo``).

    Args:
        model: an Apollo without options that the published network lacks.
        path: file of the weights; the configuration has the suffix ``.yaml``.

    Returns:
        both paths.

    Raises:
        CheckpointError: for other models, with their options; or if a file cannot be written.
    """
    args, path = model.get_model_args(), Path(path)
    if type(model).__name__ != "Apollo":
        raise CheckpointError(f"an {type(model).__name__} has no published layout; an Apollo has")
    try:
        state = to_published(args, model.state_dict())
    except ValueError as error:
        raise CheckpointError(f"this model does not fit the published layout: {error}") from error
    network = dict(
        sr=args["sample_rate"],
        win=args["win_ms"],
        feature_dim=args["feature_dim"],
        layer=args["n_layers"],
    )
    # Settings that MSST reads for inference; chunks of 3 s, the length of training items.
    audio = dict(
        chunk_size=round(3 * args["sample_rate"]),
        num_channels=2,
        sample_rate=args["sample_rate"],
        min_mean_abs=0.0,
    )
    config = dict(
        audio=audio,
        model=network,
        training=dict(
            instruments=["restored", "addition"], target_instrument="restored", use_amp=False
        ),
        inference=dict(batch_size=4, num_overlap=4),
    )
    package = dict(
        model_name="Apollo",
        state_dict=state,
        model_args=network,
        infos=dict(software_versions=dict(apollo_plugin=__version__)),
    )
    buffer = io.BytesIO()
    torch.save(package, buffer)
    beside = path.with_suffix(".yaml")
    try:
        with atomic_write(path) as place:
            place.write_bytes(buffer.getbuffer())
        with atomic_write(beside) as place:
            place.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be written: {error.strerror or error}") from error
    return path, beside


def push_to_hub(
    model: RestorationNetwork,
    repo_id: str,
    *,
    card: str | os.PathLike | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Apollo model",
) -> str:
    """Upload the files of :func:`save_pretrained` in one commit.

    Args:
        model: an Apollo.
        repo_id: ``owner/name``; created if missing.
        card: path of the model card. By default an existing card is kept, otherwise one is written.
        license: license in a written card.
        private: visibility of a created repository.
        token: access token; by default the one stored by ``hf auth login``.
        commit_message: message of the commit.

    Returns:
        URL of the commit.

    Raises:
        CheckpointError: for whatever prevents it, in one line.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        if repo_id.count("/") != 1:
            raise ValueError("a model's id is owner/name")
        api = HfApi(token=token, library_name="apollo-plugin", library_version=__version__)
        with tempfile.TemporaryDirectory() as folder:
            save_pretrained(model, folder, card, license, name=repo_id)
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            keep = card is None and api.file_exists(repo_id, "README.md")
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                ignore_patterns=["README.md"] if keep else None,
            )
        return str(commit.commit_url)
    except CheckpointError:
        raise
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"'{repo_id}' cannot be pushed to the Hub: {reason}") from error

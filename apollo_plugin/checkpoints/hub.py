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
    """Writes ``model.safetensors``, ``config.json`` and the card, ``README.md``; each is whole.

    Args:
        model: an Apollo.
        folder: made where it is missing. A card that lies there is kept unless one is given.
        card: path of the model card; one is made unless given.
        license: for a card that is made.
        name: likewise; the folder's name unless given.

    Returns:
        the folder, which :meth:`Apollo.from_pretrained` takes.

    Raises:
        CheckpointError: where a file cannot be read or written.
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
    """Writes a model in the layout of the authors' implementation, and beside it the configuration
    of Music-Source-Separation-Training, which takes the same file (``--model_type apollo``).

    Args:
        model: an Apollo whose options the published network has.
        path: of the weights; the configuration has its name and ``.yaml``.

    Returns:
        both paths.

    Raises:
        CheckpointError: for other models, with the options; and where a file cannot be written.
    """
    args, path = model.get_model_args(), Path(path)
    if type(model).__name__ != "Apollo":
        raise CheckpointError(f"an {type(model).__name__} has no published layout; an Apollo has")
    try:
        state = to_published(args, model.state_dict())
    except ValueError as error:
        raise CheckpointError(f"this model cannot be written in that layout: {error}") from error
    network = dict(
        sr=args["sample_rate"],
        win=args["win_ms"],
        feature_dim=args["feature_dim"],
        layer=args["n_layers"],
    )
    # What MSST reads of it when it restores; chunks of 3 s, as the model was trained on.
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
    card: str | os.PathLike | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Apollo model",
) -> str:
    """Uploads what :func:`save_pretrained` writes, in one commit.

    Args:
        model: an Apollo.
        repo_id: ``owner/name``; made where it is missing.
        card: path of the model card. Unless given, a card that is there is kept, else one is made.
        license: for a card that is made.
        private: of a repository that is made.
        token: of the account; the one that ``hf auth login`` stored unless given.
        commit_message: says what it is.

    Returns:
        the commit's address.

    Raises:
        CheckpointError: in one line, whatever is wrong.
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

"""Which class a checkpoint is of: the one place where that is decided for the evaluation."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from .. import checkpoints

# By the ``model_name`` that packages carry: module and class. A file that names none is an Apollo.
MODELS = {"Apollo": ("apollo_plugin.model", "Apollo")}


def load_model(checkpoint: str | os.PathLike) -> Any:
    """A model in eval mode, with ``sample_rate`` and ``restore``, by its class's own
    ``from_pretrained``.

    Args:
        checkpoint: file of the model.

    Raises:
        CheckpointError: where the file cannot be read, or is no model of that class.
    """
    content = checkpoints.read(Path(checkpoint), str(checkpoint))
    name = content.get("model_name") if isinstance(content, dict) else None
    module, cls = MODELS.get(str(name), MODELS["Apollo"])
    return getattr(import_module(module), cls).from_pretrained(checkpoint)

"""Stage 6: publish a trained model as an Asteroid package and safetensors, with a model card."""

import contextlib
import io
import json
import os
import pickle
import shlex
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from asteroid.models.publisher import save_publishable

from .. import checkpoints
from ..checkpoints.cards import model_card
from ..data.dataset import MOISESDB_LICENSE, MUSDB_LICENSE, OWN_LICENSE
from ..errors import CheckpointError, DataError
from ..evaluation.experiment import CHECKPOINT, DIGEST, is_finished, require_finished
from ..files import atomic_write, sha256
from ..model import RestorationModel

RECIPE = "musdb18hq_moises"
_UNKNOWN_DATA = dict(
    dataset="MUSDB18-HQ and MoisesDB",
    task="restoration",
    licenses=[MUSDB_LICENSE, MOISESDB_LICENSE],
)


def publish(exp_dir: str | os.PathLike, allow_partial: bool = False) -> tuple[Path, list[str]]:
    """Make ``publish_dir`` of an experiment, completely or not at all; nothing is uploaded.

    Args:
        exp_dir: result of stages 4 and 5: ``best_model.pth``, ``conf.yml``,
            ``final_metrics.json`` and ``table2.md``.
        allow_partial: publish an unfinished training too; the card says so.

    Returns:
        the folder, and lines that explain its upload.

    Raises:
        CheckpointError: if the model is missing or damaged, or its training is not finished.
        DataError: if it was not evaluated, a file is damaged, or the metrics are another file's.
    """
    exp_dir = Path(exp_dir)
    require_finished(exp_dir, allow_partial)
    package = _read_package(exp_dir / CHECKPOINT)
    metrics = _read_json(exp_dir / "final_metrics.json")
    _check_figures(metrics, exp_dir)
    config = _read_yaml(exp_dir / "conf.yml")
    # Scalars only, as Asteroid lists them.
    flat = {key: value for key, value in metrics.items() if not isinstance(value, (dict, list))}
    model = RestorationModel.from_pretrained(package)
    recipe = f"{RECIPE}/{type(model).__name__}"
    target = exp_dir / "publish_dir"
    with atomic_write(target) as beside:
        beside.mkdir()
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the temporary folder
            save_publishable(beside, package, metrics=flat, train_conf=config, recipe=recipe)
        (beside / "recipe_name.txt").write_text(recipe + "\n")
        checkpoints.save(model, beside / "model.safetensors")
        table = exp_dir / "table2.md"
        figures = table.read_text("utf-8") if table.is_file() else ""
        card = model_card(
            model,
            f"OWNER/{exp_dir.resolve().name}",
            _license_id(package["licenses"]),
            figures or "See final_metrics in model.pth.",
            f"{package['dataset']}, with the recipe `{recipe}` of apollo_plugin."
            + ("" if is_finished(exp_dir) else " The training is unfinished."),
            package["licenses"],
        )
        (beside / "README.md").write_text(card, "utf-8")
        _verify(beside, model)
    return target, [
        "To upload it to the Hugging Face Hub, after `hf auth login`:",
        f"  hf upload OWNER/{shlex.quote(exp_dir.resolve().name)} {shlex.quote(str(target))} .",
        "OWNER is your account there. Mind the licences of the training data in its README.md.",
    ]


def _license_id(licenses: Sequence[dict[str, Any]]) -> str | None:
    """Identifier on the Hub of the strictest licence of the training data; None if unknown."""
    if any(entry.get("license") == MOISESDB_LICENSE["license"] for entry in licenses):
        return "cc-by-nc-sa-4.0"
    if any(entry.get("non_commercial") for entry in licenses):
        return "other"
    return None if OWN_LICENSE in licenses else "mit"


def _read_package(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"'{path}' is missing; run stage 4 to its end")
    try:
        package = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"'{path}' is damaged, or not a model package") from error
    if not isinstance(package, dict) or not {"state_dict", "model_args"} <= set(package):
        raise CheckpointError(f"'{path}' is no model package: state_dict or model_args is missing")
    package.setdefault("infos", {})
    for key, value in _UNKNOWN_DATA.items():
        package.setdefault(key, value)
    return package


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"'{path}' is missing; run stage 5: only evaluated models are published")
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise DataError(f"'{path}' is damaged; run stage 5 again") from error


def _check_figures(metrics: dict[str, Any], exp_dir: Path) -> None:
    """Check that the metrics were measured on this very file."""
    if metrics.get(DIGEST) != sha256(exp_dir / CHECKPOINT):
        of = "of another file" if DIGEST in metrics else "perhaps of another file"
        raise DataError(
            f"the metrics in '{exp_dir / 'final_metrics.json'}' are {of} than "
            f"'{exp_dir / CHECKPOINT}'; run stage 5 again"
        )


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(yaml.safe_load(path.read_text()) or {})
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise DataError(f"'{path}' is not a configuration in YAML") from error


def _verify(folder: Path, model: RestorationModel) -> None:
    """Check that the published files load without executing anything, and hold the model."""
    torch.load(folder / "model.pth", weights_only=True)
    for name in ("model.pth", "model.safetensors"):
        state = RestorationModel.from_pretrained(folder / name).state_dict()
        wrong = [k for k, v in model.state_dict().items() if not torch.equal(state[k], v)]
        if wrong:
            raise CheckpointError(f"'{folder / name}' does not hold the model: {wrong[0]} differs")

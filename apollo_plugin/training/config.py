"""Configurations of two levels: read, checked, typed on a command line, compared with a run's."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import TrainingError

Conf = dict[str, dict[str, Any]]


def load_conf(path: str | os.PathLike, base: str | os.PathLike | None = None) -> Conf:
    """Reads a configuration of two levels.

    Args:
        path: YAML file.
        base: file with every key there is; ``path`` then holds only what differs from it.

    Raises:
        ValueError: for keys that ``base`` does not have, and files that are no configuration.
    """
    try:
        conf = yaml.safe_load(Path(path).read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"'{path}' is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(conf, dict) or not all(isinstance(group, dict) for group in conf.values()):
        raise ValueError(f"'{path}' has to hold groups of keys, as local/conf.yml does")
    if base is None:
        return conf
    merged = load_conf(base)
    for name, group in conf.items():
        _require(name, merged, f"'{path}' has no group")
        for key, value in group.items():
            _require(key, merged[name], f"'{path}': {name} has no key")
            merged[name][key] = value
    return merged


def _require(name: str, known: Mapping[str, Any], complaint: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(str(name), known, 1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        raise ValueError(f"{complaint} '{name}'; {hint}")


def compare(conf: Conf, before: Conf, exp_dir: Path) -> None:
    """A run goes on with the networks it has; everything else may change."""
    if conf["main_args"].get("init_from"):
        conf["model"] = before["model"]
    for name in ("model", "discriminator"):
        for key in {**conf[name], **before.get(name, {})}:
            old, new = before.get(name, {}).get(key), conf[name].get(key)
            if old != new:
                raise TrainingError(
                    f"'{exp_dir}' was trained with {key} {old}, not {new}; pass --{key} {old} or "
                    "train anew under another --tag"
                )
    conf["main_args"]["init_from"] = None

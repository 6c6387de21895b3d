"""Configurations of two levels: reading, checking, command-line options, comparison with a run."""

import argparse
import difflib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import SettingError, TrainingError
from ..network.older import OLDER_BANDS, in_todays_arguments
from .models import MODELS, model_name, trainable
from .schema import Conf, Key, convert_types, key_like, keys_of


def load_conf(path: str | os.PathLike, base: str | os.PathLike | None = None) -> Conf:
    """Read a configuration of two levels, and convert its values to the types of their keys.

    Args:
        path: YAML file.
        base: file with all keys; ``path`` then holds only the keys that differ from it.

    Raises:
        ValueError: for keys that are not in ``base``, invalid values, and files that are no
            configuration.
    """
    try:
        conf = yaml.safe_load(Path(path).read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(conf, dict) or not all(isinstance(group, dict) for group in conf.values()):
        raise SettingError(f"'{path}' has to hold groups of keys, as local/conf.yml does")
    conf = in_todays_groups(conf)
    if base is None:
        return convert_types(conf, trainable(conf).groups, f"'{path}': ")
    merged = load_conf(base)
    keys = keys_in(merged)
    for name, group in conf.items():
        _require(name, merged, f"'{path}' has no group")
        for key, value in group.items():
            _require(key, merged[name], f"'{path}': {name} has no key")
            merged[name][key] = keys[name][key].convert(value, f"'{path}': {name}.{key}")
    return merged


def in_todays_groups(conf: Mapping[str, Mapping[str, Any]]) -> Conf:
    """A configuration of any version with today's keys."""
    model = {"model": in_todays_arguments(conf["model"])} if "model" in conf else {}
    return {name: dict(group) for name, group in conf.items()} | model


def keys_in(conf: Conf) -> dict[str, dict[str, Key]]:
    """Return the keys of a configuration, by group and name."""
    groups = {name: keys_of(group) for name, group in trainable(conf).groups.items()}
    return {
        name: {key: groups.get(name, {}).get(key) or key_like(group[key]) for key in group}
        for name, group in conf.items()
    }


def _require(name: str, names: Mapping[str, Any], complaint: str) -> None:
    if name not in names:
        close = difflib.get_close_matches(str(name), names, 1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}"
        raise SettingError(f"{complaint} '{name}'; {hint}")


def parse_conf(parser: argparse.ArgumentParser, base: str | os.PathLike) -> Conf:
    """Parse a configuration from the command line: ``--conf FILE``, and an option for every key.

    Args:
        parser: parser with the script's own options, which go to ``main_args``; it is not changed.
        base: file with all keys.

    Raises:
        SettingError: as :func:`load_conf` does.
    """
    conf_option = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    conf_option.add_argument("--conf", default=base, help=f"changes to {Path(base).name}")
    conf = load_conf(conf_option.parse_known_args()[0].conf, base)
    whole = argparse.ArgumentParser(
        description=parser.description,
        allow_abbrev=False,
        parents=[conf_option, parser],
        conflict_handler="resolve",
    )
    keys, groups = keys_in(conf), trainable(conf).groups
    for name, group in keys.items():
        about = groups[name].__doc__ if name in groups else None
        options = whole.add_argument_group(name, about)
        for key, definition in group.items():
            text = f"{definition.about}; " if definition.about else ""
            text += f"{definition.allowed} ({conf[name][key]})"
            options.add_argument(
                f"--{key}", metavar="X", default=argparse.SUPPRESS, help=text.replace("%", "%%")
            )
    for name in OLDER_BANDS if "bands" in keys.get("model", {}) else ():
        whole.add_argument(f"--{name}", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    args = vars(whole.parse_args())
    older = in_todays_arguments({name: args.pop(name) for name in OLDER_BANDS if name in args})
    args = older | args
    for name, group in keys.items():
        for key, definition in group.items():
            if key in args:
                conf[name][key] = definition.convert(args.pop(key), f"--{key}")
    args.pop("conf")
    return {**conf, "main_args": args}


def parse_model_conf(parser: argparse.ArgumentParser, folder: Path) -> Conf:
    """Parse by :func:`parse_conf`, with the base configuration of the model named by ``--model``.

    Args:
        parser: as in :func:`parse_conf`; ``--model`` is added to it.
        folder: folder of the base configurations.
    """
    parser.add_argument("--model", default="apollo", choices=MODELS, help="model to train")
    model_option = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    model_option.add_argument("--model", default="apollo")
    name = model_option.parse_known_args()[0].model
    return parse_conf(parser, folder / MODELS.get(name, MODELS["apollo"]).base)


def compare(conf: Conf, before: Conf, exp_dir: Path) -> None:
    """Check that a configuration describes the networks of the run it resumes; all else may change.

    Args:
        conf: new configuration; its ``init_from`` is dropped in favour of the run's model.
        before: configuration of the run.
        exp_dir: folder of the run, for messages.

    Raises:
        TrainingError: if the networks differ.
    """
    wanted, trained = model_name(conf), model_name(before)
    if wanted != trained:
        raise TrainingError(
            f"'{exp_dir}' holds a run of {trained}, not of {wanted}; set model {trained}, or "
            "train in another folder"
        )
    if conf["main_args"].get("init_from"):
        conf["model"] = before.get("model", conf["model"])
    arguments = inspect.signature(MODELS[trained].network).parameters
    defaults = {key: argument.default for key, argument in arguments.items()}
    # The level at which recordings are restored is not part of the network.
    keys = {**conf["model"], **before.get("model", {})}.keys() - {"input_peak"}
    networks = [("model", key) for key in sorted(keys)]
    networks += [
        ("discriminator", key)
        for key in {**conf["discriminator"], **before.get("discriminator", {})}
    ]
    if conf["discriminator"]["adversarial_training"]:
        networks.append(("data", "mono"))  # channels that the discriminators take
    for name, key in networks:
        # A key that the run did not know yet had its default, or nothing.
        old = before.get(name, {}).get(key, defaults.get(key) if name == "model" else None)
        new = conf[name].get(key)
        if (old or None) != (new or None):
            raise TrainingError(
                f"'{exp_dir}' was trained with {key} {old}, not {new}; set {key} {old}, or start "
                "a new training in another folder"
            )
    conf["main_args"]["init_from"] = None

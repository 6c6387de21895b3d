"""Defaults of the package and its commands, and ranges of configurations' keys: programs, scripts
and files of users rely on them.

``python tests/test_defaults.py`` writes ``tests/golden/defaults.txt`` anew, for a change that is
meant; the CHANGELOG then tells it.
"""

import argparse
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

import apollo_plugin
from apollo_plugin.memory import n_cores
from apollo_plugin.training.keys import APOLLO, SRGAN
from apollo_plugin.training.schema import keys_of

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden" / "defaults.txt"
COMMANDS = {
    "apollo-restore": "apollo_plugin.cli",
    "apollo-stream": "apollo_plugin.cli.stream",
    "apollo-export": "apollo_plugin.cli.export",
    "apollo-demo": "apollo_plugin.cli.demo",
    "benchmark": "apollo_plugin.benchmark",
}


class Parsed(BaseException):
    """Raised where a command would look at its arguments."""


def value(default) -> str:
    if inspect.isroutine(default) or inspect.isclass(default):
        return default.__qualname__
    if isinstance(default, Path):
        return str(default.relative_to(ROOT) if default.is_absolute() else default)
    return repr(default)


def signatures() -> Iterator[str]:
    """A line for each public function and class that has defaults."""
    for module in pkgutil.walk_packages(apollo_plugin.__path__, "apollo_plugin."):
        for name, member in vars(importlib.import_module(module.name)).items():
            if name.startswith("_") or getattr(member, "__module__", "") != module.name:
                continue
            functions = {name: member} if inspect.isfunction(member) else {}
            if inspect.isclass(member):
                functions = {
                    f"{name}.{key}": function
                    for key, function in vars(member).items()
                    if inspect.isfunction(function)
                    and (key == "__init__" or not key.startswith("_"))
                }
            for key, function in functions.items():
                given = inspect.signature(function).parameters.values()
                told = [f"{p.name}={value(p.default)}" for p in given if p.default is not p.empty]
                if told:
                    yield f"{module.name}.{key}: {', '.join(told)}"


def options() -> Iterator[str]:
    """A line for each option of the commands."""
    for command, module in COMMANDS.items():
        with (
            mock.patch.object(argparse.ArgumentParser, "parse_args", autospec=True) as parse,
            mock.patch.object(argparse.ArgumentParser, "parse_known_args", autospec=True) as known,
        ):
            parse.side_effect = known.side_effect = Parsed
            with mock.patch("sys.argv", [command]), pytest.raises(Parsed):
                importlib.import_module(module).main()
        (parser,) = {id(c.args[0]): c.args[0] for c in parse.mock_calls + known.mock_calls}.values()
        for action in parser._actions:
            if action.dest == "processes":  # as many as cores
                assert action.default == n_cores()
                continue
            told = map(value, (action.nargs, action.const, action.default, action.choices))
            yield f"{command} {' '.join(action.option_strings) or action.dest}: {' '.join(told)}"


def ranges() -> Iterator[str]:
    """A line for each key of the recipe's configurations."""
    for name, groups in (("conf.yml", APOLLO), ("conf_srgan.yml", SRGAN)):
        for group, keys in groups.items():
            for key, about in keys_of(keys).items():
                yield f"{name} {group}.{key}: {about.allowed}"


def table() -> str:
    return "\n".join([*sorted(signatures()), *options(), *ranges(), ""])


def test_defaults_are_what_users_rely_on():
    assert table().splitlines() == GOLDEN.read_text().splitlines()


if __name__ == "__main__":
    GOLDEN.write_text(table())

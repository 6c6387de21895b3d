"""Schema of a configuration: type, range, default and meaning of every key.

``train.py --help`` is generated from it, and by ``tools/make_conf.py`` the recipe's
``local/conf.yml`` and ``conf_srgan.yml``.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ..errors import SettingError
from ..network.bands import parse_hertz

Conf = dict[str, dict[str, Any]]
_YES, _NO = ("yes", "y", "true", "on", "1"), ("no", "n", "false", "off", "0")
# Larger whole numbers do not fit the integers of libraries.
_LARGEST = 2**31 - 1


class Hertz(str):
    """Type of a frequency with its unit, such as ``160 Hz``."""


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
_KINDS[Hertz] = "a width such as '160 Hz'"


@dataclasses.dataclass(frozen=True)
class Key:
    """Definition of a key.

    Args:
        kinds: types of the value, such as ``int`` or ``list[float]``.
        default: the paper's value.
        about: meaning, in a few words.
        low, high: range of a number, or of the numbers in a list, ends included.
        above, below: likewise, ends excluded.
        infinite: accept infinity, which is a mistake in most keys.
        length: length of a list.
        meant: alternative spellings of values -> their meaning.
    """

    kinds: tuple[Any, ...]
    default: Any
    about: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    infinite: bool = False
    length: int | None = None
    meant: Mapping[Any, Any] = dataclasses.field(default_factory=dict)

    def convert(self, value: Any, name: str) -> Any:
        """Convert a value to its type; text and whole floats are accepted for numbers.

        Args:
            value: value from YAML, a command line or Python.
            name: name of the key, for messages.

        Raises:
            SettingError: with name, value and the allowed values.
        """
        for kind in self.kinds:
            try:
                if isinstance(value, (str, int)) and value in self.meant:
                    return self.meant[value]
                converted = _convert(value, kind)
            except (ValueError, TypeError, OverflowError, yaml.YAMLError):
                continue
            if self._is_inside(converted):
                return converted
        raise SettingError(f"{name} is {value!r}; it has to be {self.allowed}")

    def _is_inside(self, value: Any) -> bool:
        numbers = value if isinstance(value, list) else [value]
        if isinstance(value, list) and len(value) != (self.length or len(value) or 1):
            return False
        return all(
            isinstance(x, (bool, str, type(None)))
            or (
                (self.infinite or math.isfinite(x))
                and (isinstance(x, float) or abs(x) <= _LARGEST)
                and (self.low is None or x >= self.low)
                and (self.high is None or x <= self.high)
                and (self.above is None or x > self.above)
                and (self.below is None or x < self.below)
            )
            for x in numbers
        )

    @property
    def allowed(self) -> str:
        """Description of types and range."""
        text = " or ".join([*map(_kind_name, self.kinds), *map(str, self.meant)])
        if self.length:
            text = text.replace("a list of", f"a list of {self.length}")
        if self.low is not None and self.high is not None:
            return f"{text}, {self.low:g} to {self.high:g}"
        if self.low is not None:
            text += f", {self.low:g} or more"
        if self.above is not None:
            text += f", above {self.above:g}"
            text += f" and up to {self.high:g}" if self.high is not None else ""
        if self.below is not None:
            text += f" and below {self.below:g}"
        return text


def _kind_name(kind: Any) -> str:
    if kind is type(None):
        return "null"
    if typing.get_origin(kind) is list:
        return f"a list of {_KINDS[typing.get_args(kind)[0]].removeprefix('a ')}s"
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(typing.get_args(kind))
    return _KINDS[kind]


def _convert(value: Any, kind: Any) -> Any:
    """Convert a value to a type; raise ValueError or TypeError if that is impossible."""
    if kind is type(None):
        if value is None or (isinstance(value, str) and value.lower() in ("null", "none", "~")):
            return None
        raise ValueError
    if typing.get_origin(kind) is typing.Literal:
        if value in typing.get_args(kind):
            return value
        raise ValueError
    if typing.get_origin(kind) is list:
        value = yaml.safe_load(value) if isinstance(value, str) else value
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise TypeError
        return [_convert(x, typing.get_args(kind)[0]) for x in value]
    if kind is bool:
        word = str(value).lower()
        if isinstance(value, (bool, int, str)) and word in (*_YES, *_NO):
            return word in _YES
        raise ValueError
    if kind is Hertz:
        return f"{parse_hertz(value):.15g} Hz"
    if kind is str:
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise TypeError
        return str(value)
    # Numbers. YAML reads 1e-3 as text, and writes infinity as .inf.
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError
    number = float(value.replace(".inf", "inf")) if isinstance(value, str) else value
    if math.isnan(number):
        raise ValueError
    if kind is int or (isinstance(value, str) and value.lstrip("+-").isdigit()):
        if number != int(number):
            raise ValueError
        return int(number)
    return number


def key(default: Any, about: str = "", **limits: Any) -> Any:
    """Define a field of a group; arguments are those of :class:`Key`."""
    return dataclasses.field(
        default_factory=lambda: default, metadata=dict(about=about, default=default, **limits)
    )


def keys_of(group: type) -> dict[str, Key]:
    """List the keys of a group, by name."""
    hints = typing.get_type_hints(group)
    found = {}
    for field in dataclasses.fields(group):
        hint = hints[field.name]
        union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        kinds = typing.get_args(hint) if union else (hint,)
        # None is tried first, so that null is not read as text.
        kinds = tuple(sorted(kinds, key=lambda kind: kind is not type(None)))
        found[field.name] = Key(kinds, **field.metadata)
    return found


def key_like(value: Any) -> Key:
    """Define a key that is in no group by the type of its default."""
    if value is None:
        return Key((type(None), int, float, bool, list[float], str), None)
    if isinstance(value, list):
        whole = all(isinstance(x, int) for x in value)
        words = any(isinstance(x, str) for x in value)
        return Key((list[str] if words else list[int] if whole else list[float],), value)
    return Key((type(value),), value)


def convert_types(
    conf: Mapping[str, Mapping[str, Any]], groups: Mapping[str, type], where: str = ""
) -> dict[str, dict[str, Any]]:
    """Convert the values of a configuration to the types of their keys.

    Args:
        conf: groups of keys; keys that are not in ``groups`` stay unchanged.
        groups: ``APOLLO`` or ``SRGAN`` of :mod:`.keys`.
        where: name of the file, for messages.

    Raises:
        SettingError: for an invalid value, with its key and the allowed values.
    """
    converted = {name: dict(group) for name, group in conf.items()}
    for name, group in groups.items():
        keys = keys_of(group)
        for each, value in converted.get(name, {}).items():
            if each in keys:
                converted[name][each] = keys[each].convert(value, f"{where}{name}.{each}")
    return converted


def render(groups: Mapping[str, type], head: str) -> str:
    """Write a configuration with every key, its default and its meaning as text.

    Args:
        groups: ``APOLLO`` or ``SRGAN`` of :mod:`.keys`.
        head: first lines, without ``#``.
    """
    lines = [f"# {line}" for line in head.splitlines()]
    for name, group in groups.items():
        lines += ["", *(f"# {line.strip()}" for line in (group.__doc__ or "").splitlines())]
        lines.append(f"{name}:")
        for each, about in keys_of(group).items():
            value = yaml.safe_dump(about.default, default_flow_style=True, width=10**6)
            text = f"  {each}: {value.splitlines()[0]}"
            lines.append(f"{text:<23} # {about.about}" if about.about else text)
    return "\n".join(lines) + "\n"

"""Cures that errors name."""

import socket
from importlib.metadata import PackageNotFoundError

import pytest

from apollo_plugin import errors

CLONE = "pip install '.[demo]' in the clone of apollo-plugin"


@pytest.mark.parametrize(
    "told, command",
    [
        ('{"url": "file:///home/a/clone", "dir_info": {"editable": true}}', CLONE),
        ('{"url": "file:///home/a/clone", "dir_info": {}}', CLONE),
        ('{"url": "file:///a/apollo_plugin-1.whl", "archive_info": {}}', None),
        (None, None),
        (PackageNotFoundError("apollo-plugin"), CLONE),
    ],
)
def test_how_an_extra_is_installed(monkeypatch, told, command):
    """By what pip wrote (PEP 610); what nobody installed runs in its clone."""

    class Distribution:
        def read_text(self, name):
            assert name == "direct_url.json"
            return told

    def distribution(name):
        if isinstance(told, Exception):
            raise told
        return Distribution()

    monkeypatch.setattr(errors, "distribution", distribution)
    assert errors.install("demo") == (command or "pip install 'apollo-plugin[demo]'")


def test_a_temporary_folder_whose_path_is_too_long_for_sockets(tmp_path):
    place = tmp_path / ("x" * 120)
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError) as caught:
        one.bind(str(place))
    assert errors.one_line(caught.value).endswith("; set TMPDIR to a folder with a shorter path")

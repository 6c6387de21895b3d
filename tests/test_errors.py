"""Cures that errors name."""

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
